"""Recordings as one set: what changes inside one, rates, labels from names, what cannot be used, and several folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.data.containers.rates import same_rate
from offramp.data.dataset import load_dataset
from offramp.data.formats import format_named, open_table
from offramp.data.inspection import inspect_file
from offramp.data.table import NoWindowsError, SampleRatesError, Table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

Write = Callable[..., Path]


def ramp(count: int) -> np.ndarray:
    """I = sample index."""
    return np.arange(count).astype("<c8")


def edit(meta: Path, **parts: Any) -> Path:
    """Replace captures, or add to the global part."""
    content = json.loads(meta.read_text())
    content["global"] |= parts.pop("information", {})
    meta.write_text(json.dumps(content | parts))
    return meta


def shown(table: Table) -> list[list[int]]:
    """I of every window of the first channel, without the zeros of a ramp that begins later."""
    return table.windows.read(np.arange(table.windows.count))[:, 0, 0].astype(int).tolist()


class TestSettings:
    def captures(self, *settings: dict[str, Any], starts: tuple[int, ...] = (10, 40)) -> list[dict[str, Any]]:
        return [{"core:sample_start": start, **setting} for start, setting in zip(starts, settings, strict=True)]

    @pytest.mark.parametrize(
        ("settings", "starts"),
        [
            (({"core:frequency": 1e9}, {"core:frequency": 2e9}), [10, 20, 30, 40, 50, 60, 70, 80, 90]),
            (({"core:frequency": 1e9}, {"core:frequency": 1e9}), [10, 20, 30, 40, 50, 60, 70, 80, 90]),
            (({"x:gain_db": 3}, {"x:gain_db": 20}), [10, 20, 30, 40, 50, 60, 70, 80, 90]),
        ],
    )
    def test_nothing_from_before_the_first_capture(self, write_sigmf: Write, settings: Any, starts: list[int]) -> None:
        meta = edit(write_sigmf(ramp(100), "cf32_le"), captures=self.captures(*settings))
        table = open_table(DataSpec(path=meta, window=10, cut="all"))
        assert table.positions is not None
        assert table.positions.starts.tolist() == starts

    @pytest.mark.parametrize(
        ("first", "second", "changes"),
        [
            ({"core:frequency": 1e9}, {"core:frequency": 2e9}, True),
            ({"core:frequency": 1e9}, {"core:frequency": 1e9}, False),
            ({"core:frequency": 1e9}, {}, True),
            ({"x:gain_db": 3}, {"x:gain_db": 20}, True),
            ({"core:datetime": "2024-01-01T00:00:00Z"}, {"core:datetime": "2024-01-01T00:00:01Z"}, False),
            ({"core:global_index": 1010}, {"core:global_index": 1040}, False),
            ({"core:global_index": 1010}, {"core:global_index": 1041}, True),
        ],
    )
    @pytest.mark.parametrize("cut", ["all", "annotations", "unannotated"])
    def test_no_window_holds_samples_of_two_settings(
        self, write_sigmf: Write, first: dict[str, Any], second: dict[str, Any], changes: bool, cut: str
    ) -> None:
        annotation = [(0, 100, "a")] if cut == "annotations" else []
        meta = edit(write_sigmf(ramp(100), "cf32_le", annotation), captures=self.captures(first, second))
        table = open_table(DataSpec(path=meta, window=20, hop=7, cut=cut))
        assert table.positions is not None
        whole = table.positions.stops - table.positions.starts == 20
        over = (table.positions.starts < 40) & (table.positions.stops > 40)
        assert over.any() == (not changes)
        assert whole.sum() > 5
        assert table.positions.starts.min() == 10

    def test_another_setting_is_another_fingerprint(self, write_sigmf: Write) -> None:
        """Features on disk are found by it: those of windows that are cut otherwise are not these."""
        plain = open_table(DataSpec(path=write_sigmf(ramp(100), "cf32_le"), window=10, cut="all"))
        meta = edit(
            write_sigmf(ramp(100), "cf32_le"), captures=self.captures({"core:frequency": 1}, {"core:frequency": 2})
        )
        assert open_table(DataSpec(path=meta, window=10, cut="all")).windows.fingerprint != plain.windows.fingerprint

    def test_times(self, write_sigmf: Write) -> None:
        captures = self.captures(
            {"core:datetime": "2024-02-29T23:59:59.999Z"},
            {"core:datetime": "when it rained"},
            {"core:datetime": "2024-03-01T00:00:00.123456789Z"},
            starts=(0, 20, 40),
        )
        meta = edit(write_sigmf(ramp(60), "cf32_le"), captures=captures)
        table = open_table(DataSpec(path=meta, window=10, cut="all"))
        assert table.positions is not None
        assert [str(time) for time in table.positions.times] == [
            "2024-02-29T23:59:59.999000000",
            "2024-03-01T00:00:00.009000000",  # ten samples at 1 kHz later
            "NaT",
            "NaT",
            "2024-03-01T00:00:00.123456789",
            "2024-03-01T00:00:00.133456789",
        ]


class TestRates:
    def tone(self, rate: float, count: int = 4000, frequency: float = 60.0) -> np.ndarray:
        return np.exp(2j * np.pi * frequency * np.arange(count) / rate).astype("<c8")

    def test_several_rates_are_refused_with_a_file_of_each(self, write_sigmf: Write) -> None:
        write_sigmf(ramp(99), "cf32_le", name="set/slow", sample_rate=1e6)
        write_sigmf(ramp(99), "cf32_le", name="set/unknown", sample_rate=None)
        path = write_sigmf(ramp(99), "cf32_le", name="set/fast", sample_rate=20e6).parent
        for meta in path.glob("unknown.sigmf-meta"):
            content = json.loads(meta.read_text())
            del content["global"]["core:sample_rate"]
            meta.write_text(json.dumps(content))
        with pytest.raises(SampleRatesError) as caught:
            open_table(DataSpec(path=path, window=10, cut="all"))
        for word in ("slow.sigmf-meta", "fast.sigmf-meta", "1000000 Hz", "20000000 Hz", "data.resample: 1000000"):
            assert word in str(caught.value)
        (path / "fast.sigmf-meta").unlink()
        (path / "fast.sigmf-data").unlink()
        assert open_table(DataSpec(path=path, window=10, cut="all")).sample_rate is None

    @pytest.mark.parametrize("rate", [800.0, 1000.0, 2500.0, 333.0, 48_000 / 44.1])
    def test_a_tone_keeps_its_frequency_and_its_phase(self, write_sigmf: Write, rate: float) -> None:
        """Against the tone itself: a window begins on a sample of the recording, and goes on at the new rate."""
        path = write_sigmf(self.tone(1000), "cf32_le", [(101, 3500, "a")])
        table = open_table(DataSpec(path=path, window=256, hop=100, resample=rate))
        assert table.positions is not None
        assert same_rate(table.sample_rate or 0, rate)
        assert table.windows.count == (int(3500 * rate / 1000) - 256) // 100 + 1
        read = table.windows.read(np.arange(table.windows.count))
        for number, start in enumerate(table.positions.starts.tolist()):
            assert start == 101 + int(number * 100 * 1000 / rate + 1e-6)
            assert abs(table.positions.stops[number] - start - 256 * 1000 / rate) < 1
            expected = np.exp(2j * np.pi * 60 * (start / 1000 + np.arange(256) / rate))
            np.testing.assert_allclose(read[number, 0, 0] + 1j * read[number, 1, 0], expected, atol=2e-3)

    def test_rates_become_one(self, write_sigmf: Write) -> None:
        write_sigmf(self.tone(1000), "cf32_le", name="set/slow", sample_rate=1000)
        path = write_sigmf(self.tone(2000), "cf32_le", name="set/fast", sample_rate=2000).parent
        table = open_table(DataSpec(path=path, window=200, cut="all", resample=1000))
        assert table.columns["recording"].tolist() == ["fast"] * 10 + ["slow"] * 20
        middle = table.windows.read(np.array([5, 15]))
        spectrum = np.abs(np.fft.fft(middle[:, 0, 0] + 1j * middle[:, 1, 0]))
        assert spectrum.argmax(axis=1).tolist() == [12, 12]  # 60 Hz in bins of 5

    def test_a_short_annotation_is_padded_at_the_new_rate(self, write_sigmf: Write) -> None:
        path = write_sigmf(self.tone(1000), "cf32_le", [(200, 50, "a")])
        table = open_table(DataSpec(path=path, window=40, resample=500))
        window = table.windows.read(np.arange(1))[0]
        assert np.flatnonzero(np.abs(window).sum(axis=(0, 1))).tolist() == list(range(8, 33))
        assert table.notes == (
            "1 of 1 windows are padded with zeros, 0 of them by more than half: their annotations are shorter than 40 samples",
        )

    def test_no_filter_looks_over_a_change(self, write_sigmf: Write) -> None:
        samples = np.where(np.arange(400) < 200, 1, 1000).astype("<c8")
        captures = [{"core:sample_start": 0, "core:frequency": 1}, {"core:sample_start": 200, "core:frequency": 2}]
        meta = edit(write_sigmf(samples, "cf32_le"), captures=captures)
        table = open_table(DataSpec(path=meta, window=50, cut="all", resample=500))
        assert np.abs(table.windows.read(np.arange(2))).max() < 2

    @pytest.mark.parametrize(
        ("own", "asked", "words"),
        [(1000.0, 1e6, "more than a factor of 100 apart"), (1000.0, 1000.05, "not in a ratio of whole numbers")],
    )
    def test_limits(self, write_sigmf: Write, own: float, asked: float, words: str) -> None:
        path = write_sigmf(ramp(999), "cf32_le", sample_rate=own)
        with pytest.raises(DataError, match=f"{words}.*choose another data.resample"):
            open_table(DataSpec(path=path, window=10, cut="all", resample=asked))

    @pytest.mark.parametrize("rate", [0, -1])
    def test_no_rate_at_all(self, write_sigmf: Write, rate: float) -> None:
        with pytest.raises(DataError, match=r"correct core:sample_rate"):
            open_table(DataSpec(path=write_sigmf(ramp(9), "cf32_le", sample_rate=rate), window=4))


class TestLabels:
    @pytest.fixture
    def plain(self, write_sigmf: Write) -> Path:
        for name in ("wifi/day1_03", "wifi/day2_04", "lora/day1_05"):
            write_sigmf(ramp(60), "cf32_le", name=f"set/{name}")
        return write_sigmf(ramp(60), "cf32_le", [(20, 20, "own")], name="set/lora/day2_06").parents[1]

    def test_from_the_folder(self, plain: Path) -> None:
        spec = DataSpec.model_validate({"path": plain, "window": 20, "target": "label", "label": {"from": "folder"}})
        dataset = load_dataset(spec, "classification")
        assert dataset.label_names == ("lora", "wifi")
        assert dataset.targets.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
        assert dataset.group_names == ("lora/day1_05", "lora/day2_06", "wifi/day1_03", "wifi/day2_04")

    @pytest.mark.parametrize(
        ("label", "expected"),
        [
            ({"from": "file", "pattern": r"(day\d)"}, {"day1": 6, "day2": 4}),
            ({"from": "folder", "pattern": "^(.)"}, {"l": 4, "w": 6}),
        ],
    )
    def test_a_part_of_a_name(self, plain: Path, label: dict[str, str], expected: dict[str, int]) -> None:
        table = open_table(DataSpec.model_validate({"path": plain, "window": 20, "label": label}))
        names, counts = np.unique(table.columns["label"], return_counts=True)
        assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == expected

    def test_a_name_without_a_label(self, plain: Path) -> None:
        label = {"from": "file", "pattern": r"^(day1)_"}
        with pytest.raises(
            DataError, match=r"2 of 4 recordings cannot be used: .*day2_06, .*finds no label in 'day2_06'"
        ):
            open_table(DataSpec.model_validate({"path": plain, "window": 20, "label": label}))

    def test_only_where_there_are_recordings(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", sample=np.zeros((3, 2, 1, 8), np.float32))
        for key, value in (("label", {"from": "folder"}), ("resample", 5.0)):
            with pytest.raises(DataError, match=rf"layout npz, which has no data\.{key}: leave it out"):
                open_table(DataSpec.model_validate({"path": tmp_path / "a.npz", key: value}))


class TestEachByItself:
    @pytest.fixture
    def mixed(self, write_sigmf: Write) -> Path:
        write_sigmf(ramp(60), "cf32_le", name="set/plain")
        write_sigmf(ramp(9), "cf32_le", name="set/tiny")
        return write_sigmf(ramp(60), "cf32_le", [(10, 20, "a"), (40, 4, "b")], name="set/annotated").parent

    def test_auto(self, mixed: Path) -> None:
        table = open_table(DataSpec(path=mixed, window=20, cut="auto"))
        assert table.columns["recording"].tolist() == ["annotated"] * 2 + ["plain"] * 3
        assert table.silent == ("tiny",)
        assert table.notes == (
            "1 of 3 recordings give no windows: tiny",
            "1 of 5 windows are padded with zeros, 1 of them by more than half: their annotations are shorter than 20 samples",
        )

    def test_annotations_alone(self, mixed: Path) -> None:
        table = open_table(DataSpec(path=mixed, window=20))
        assert table.silent == ("plain", "tiny")
        assert table.notes[0] == "2 of 3 recordings give no windows: plain, tiny"

    def test_nothing_is_annotated(self, mixed: Path) -> None:
        with pytest.raises(NoWindowsError, match=r"gives no windows of 20 .*nothing is annotated.*data\.cut: all"):
            open_table(DataSpec(path=mixed / "plain.sigmf-meta", window=20))

    def test_nothing_to_note(self, write_sigmf: Write) -> None:
        table = open_table(DataSpec(path=write_sigmf(ramp(60), "cf32_le", [(0, 40, "a")]), window=20))
        assert (table.notes, table.silent) == ((), ())


class TestUnusable:
    def test_all_are_named_at_once(self, write_sigmf: Write) -> None:
        for number in range(30):
            write_sigmf(ramp(99), "cf32_le", name=f"set/{'long-name' * 9}{number}").write_text("{broken")
        path = write_sigmf(ramp(99), "cf32_le", name="set/good").parent
        with pytest.raises(DataError) as caught:
            open_table(DataSpec(path=path, window=20, cut="all"))
        message = str(caught.value)
        assert "30 of 31 recordings cannot be used" in message
        assert "data.skip_bad: true" in message
        assert len(message) < 500
        table = open_table(DataSpec(path=path, window=20, cut="all", skip_bad=True))
        assert set(table.columns["recording"].tolist()) == {"good"}
        assert table.notes[0].startswith("30 of 31 recordings cannot be used and are passed over: ")
        assert len(table.notes[0]) < 500

    def test_every_one(self, write_sigmf: Write) -> None:
        for name in ("a", "b"):
            path = write_sigmf(ramp(99), "cf32_le", name=f"set/{name}").parent
            (path / f"{name}.sigmf-data").unlink()
        with pytest.raises(DataError, match=r"2 of 2 recordings cannot be used: a, b; .*no samples.*; correct them$"):
            open_table(DataSpec(path=path, window=20, cut="all", skip_bad=True))

    def test_samples_without_metadata(self, write_sigmf: Write) -> None:
        path = write_sigmf(ramp(99), "cf32_le", name="set/a").parent
        write_sigmf(ramp(99), "cf32_le", name="set/b").unlink()
        with pytest.raises(DataError, match=r"1 of 2 recordings cannot be used: b; .*b\.sigmf-meta is missing"):
            open_table(DataSpec(path=path, window=20, cut="all"))

    def test_what_macos_leaves_behind(self, write_sigmf: Write) -> None:
        path = write_sigmf(ramp(99), "cf32_le", name="set/a").parent
        for suffix in ("meta", "data"):
            (path / f"._a.sigmf-{suffix}").write_bytes(b"\x00\x05\x16\x07")
        assert open_table(DataSpec(path=path, window=20, cut="all")).windows.count == 4
        assert open_table(DataSpec(path=path / "*", window=20, cut="all")).windows.count == 4
        assert inspect_file(path).count == 1

    def test_a_byte_order_mark(self, write_sigmf: Write) -> None:
        meta = write_sigmf(ramp(99), "cf32_le", [(10, 40, "ä")])
        meta.write_bytes(b"\xef\xbb\xbf" + meta.read_bytes())
        assert open_table(DataSpec(path=meta, window=20)).columns["label"].tolist() == ["ä", "ä"]

    def test_metadata_only(self, write_sigmf: Write) -> None:
        path = write_sigmf(ramp(99), "cf32_le", name="set/a").parent
        bare = edit(write_sigmf(ramp(99), "cf32_le", name="set/b"), information={"core:metadata_only": True})
        bare.with_suffix(".sigmf-data").unlink()
        table = open_table(DataSpec(path=path, window=20, cut="all"))
        assert table.windows.count == 4
        assert table.notes == ("1 of 2 recordings hold no samples by design (core:metadata_only): b",)
        assert inspect_file(path).note == table.notes[0]
        with pytest.raises(DataError, match=r"no samples by design .*: put the .* beside"):
            open_table(DataSpec(path=bare, window=20))


class TestSeveralPlaces:
    @pytest.fixture
    def days(self, write_sigmf: Write) -> Path:
        for name in ("day1/a", "day1/b", "day2/a"):
            path = write_sigmf(ramp(40), "cf32_le", [(0, 40, name[-1])], name=f"all/{name}")
        return path.parents[1]

    @pytest.mark.parametrize(
        "paths",
        [
            ["day1", "day2"],
            ["day*"],
            ["day*/*.sigmf-meta"],
            ["day?/*"],  # metadata and samples: each recording once
            ["**/*.sigmf-data"],
            ["day1", "day1/a.sigmf-meta", "day2"],
        ],
    )
    def test_one_set(self, days: Path, paths: list[str]) -> None:
        table = open_table(DataSpec(path=tuple(days / path for path in paths), window=20))
        assert table.columns["recording"].tolist() == ["day1/a"] * 2 + ["day1/b"] * 2 + ["day2/a"] * 2
        assert table.columns["label"].tolist() == ["a", "a", "b", "b", "a", "a"]

    def test_a_list_of_one_is_that_one(self, days: Path) -> None:
        one, listed = (open_table(DataSpec(path=path, window=20)) for path in (days / "day1", (days / "day1",)))
        assert one.windows.fingerprint == listed.windows.fingerprint
        assert listed.columns["recording"].tolist() == ["a", "a", "b", "b"]

    def test_another_layout_among_them(self, days: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", sample=np.zeros((3, 2, 1, 8), np.float32))
        with pytest.raises(DataError, match=r"x\.npz is of the layout npz and .*day1 of sigmf"):
            open_table(DataSpec(path=(days / "day1", tmp_path / "x.npz"), window=20))


def test_formats_by_the_names_of_their_modules() -> None:
    from offramp.data.formats import rml_pickle, sigmf
    from offramp.tasks import DataSpec as Earlier

    assert (rml_pickle, sigmf) == (format_named("rml-pickle"), format_named("sigmf"))
    assert Earlier is DataSpec
    with pytest.raises(ImportError):
        from offramp.data.formats import nothing  # noqa: F401
