from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from offramp.data.formats import open_table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)


def ramp(count: int) -> np.ndarray:
    """I = sample index, Q = -1."""
    return (np.arange(count) - 1j).astype("<c8")


@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("kind", ["f32", "f64", "i32", "i16", "u32", "u16", "i8", "u8"])
@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_datatype(write_sigmf, order: str, kind: str, is_complex: bool, channels: int) -> None:
    bits = int(kind[1:])
    dtype = np.dtype(f"{'<' if order == 'le' else '>'}{kind[0]}{bits // 8}")
    values = RNG.uniform(-0.9, 0.9, (32, channels, 2 if is_complex else 1))
    if kind[0] == "f":
        raw, expected = values.astype(dtype), values
    else:
        half = 2 ** (bits - 1)
        integers = np.round(values * half).astype(np.int64)
        raw, expected = (integers + (half if kind[0] == "u" else 0)).astype(dtype), integers / half
    suffix = "" if bits == 8 else f"_{order}"
    path = write_sigmf(raw, f"{'c' if is_complex else 'r'}{kind}{suffix}", num_channels=channels)
    windows = open_table(DataSpec(path=path, window=16, cut="all")).windows
    assert (windows.count, windows.shape) == (2, (2, channels, 16))
    read = windows.read(np.array([1, 0]))
    for position, first in ((0, 16), (1, 0)):
        np.testing.assert_allclose(read[position, 0], expected[first : first + 16, :, 0].T, atol=1e-6)
        imaginary = expected[first : first + 16, :, 1].T if is_complex else 0
        np.testing.assert_allclose(read[position, 1], np.broadcast_to(imaginary, (channels, 16)), atol=1e-6)


def test_windows_inside_annotations(write_sigmf) -> None:
    path = write_sigmf(
        ramp(1000), "cf32_le", [(100, 50, "a"), (300, 15, "b"), (400, 64, "a"), (990, None, None), (500, 0, "z")]
    )
    table = open_table(DataSpec(path=path, window=20, hop=10))
    assert table.positions is not None
    starts = [100, 110, 120, 130, 300, 400, 410, 420, 430, 440, 990]
    assert table.positions[1].tolist() == starts
    assert table.positions[0].tolist() == ["one"] * 11
    assert table.columns["label"].tolist() == ["a"] * 4 + ["b"] + ["a"] * 6
    assert (table.default_target, table.default_group) == ("label", "recording")
    windows = table.windows.read(np.arange(11))
    for row, start in zip(windows[[0, 1, 9]], (100, 110, 440), strict=True):
        np.testing.assert_array_equal(row[0, 0], np.arange(start, start + 20))
    # 15 samples in the middle of 20: zeros before and behind, though the recording goes on
    np.testing.assert_array_equal(windows[4, 0, 0], [0, 0, 0, *range(300, 315), 0, 0])
    np.testing.assert_array_equal(windows[4, 1, 0], [0, 0, 0, *[-1] * 15, 0, 0])
    np.testing.assert_array_equal(windows[10, 0, 0], [0] * 5 + list(range(990, 1000)) + [0] * 5)


def test_unannotated_windows_keep_away_from_annotations(write_sigmf) -> None:
    annotations = [(200, 100, "a"), (250, 100, "b"), (260, 10, "b"), (600, 10, "b")]
    path = write_sigmf(ramp(1000), "cf32_le", annotations)
    table = open_table(DataSpec(path=path, window=50, hop=25, cut="unannotated"))
    assert table.positions is not None
    covered = np.zeros(1000, dtype=bool)
    for start, count, _ in annotations:
        covered[start - 50 : start + count + 50] = True
    starts = table.positions[1].tolist()
    assert starts
    assert not any(covered[start : start + 50].any() for start in starts)
    assert starts == [*range(0, 101, 25), *range(400, 501, 25), *range(660, 951, 25)]
    assert set(table.columns["label"].tolist()) == {"b"}


def test_labels_fall_back_to_the_collection(write_sigmf) -> None:
    write_sigmf(ramp(100), "cf32_le", name="set/first", collection="session 1")
    write_sigmf(ramp(100), "cf32_le", name="set/deep/second")
    path = write_sigmf(ramp(100), "cf32_le", [(0, 60, "x")], name="set/third").parent
    table = open_table(DataSpec(path=path, window=50, cut="all"))
    assert table.columns["label"].tolist() == ["none", "none", "session 1", "session 1", "x", "x"]
    assert table.columns["recording"].tolist() == ["deep/second"] * 2 + ["first"] * 2 + ["third"] * 2
    assert table.columns["collection"].tolist() == ["deep/second"] * 2 + ["session 1"] * 2 + ["third"] * 2


def test_at_most_so_many_windows_of_a_recording(write_sigmf) -> None:
    write_sigmf(ramp(1100), "cf32_le", name="set/long")
    path = write_sigmf(ramp(25), "cf32_le", name="set/short").parent
    table = open_table(DataSpec(path=path, window=10, cut="all", windows_per_recording=4))
    assert table.positions is not None
    assert table.positions[1].tolist() == [0, 360, 730, 1090, 0, 10]


def test_indices_count_from_the_offset(write_sigmf) -> None:
    path = write_sigmf(ramp(100), "cf32_le", [(1040, 10, "a")], offset=1000)
    windows = open_table(DataSpec(path=path, window=10)).windows
    np.testing.assert_array_equal(windows.read(np.array([0]))[0, 0, 0], np.arange(40, 50))


def test_archive_and_data_file_give_the_same_windows(write_sigmf, tmp_path: Path) -> None:
    meta = write_sigmf(ramp(100), "cf32_le", [(10, 40, "a")])
    archive = tmp_path / "one.sigmf"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(meta, "one/one.sigmf-meta")
        tar.add(meta.with_suffix(".sigmf-data"), "one/one.sigmf-data")
    tables = [
        open_table(DataSpec(path=path, window=20))
        for path in (meta, meta.with_suffix(".sigmf-data"), meta.parent, archive)
    ]
    for table in tables:
        np.testing.assert_array_equal(table.windows.read(np.array([1]))[0, 0, 0], np.arange(30, 50))
        assert table.columns["recording"].tolist() == ["one", "one"]


def test_fingerprint_follows_content_and_cut(write_sigmf) -> None:
    path = write_sigmf(ramp(100), "cf32_le", [(10, 40, "a")])
    spec = DataSpec(path=path, window=20)
    variants = [spec, spec.model_copy(update={"hop": 10}), spec.model_copy(update={"cut": "all"})]
    prints = [open_table(variant).windows.fingerprint for variant in variants]
    data = path.with_suffix(".sigmf-data")
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    prints.append(open_table(spec).windows.fingerprint)
    assert len(set(prints)) == 4


def check_message(path: Path, *words: str, window: int | None = 20) -> None:
    with pytest.raises(DataError) as caught:
        open_table(DataSpec(path=path, window=window))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_bad_recordings(write_sigmf, tmp_path: Path) -> None:
    good = write_sigmf(ramp(100), "cf32_le", [(10, 40, "a")])
    check_message(good, "data.window", window=None)
    check_message(write_sigmf(ramp(49), "cf32_le", [(10, 40, "a")], name="b/short"), "short.sigmf-meta", "50", "49")
    check_message(write_sigmf(ramp(99), "cf99_le", name="b/type"), "type.sigmf-meta")
    check_message(write_sigmf(ramp(99), "weird8", name="b/weird"), "weird.sigmf-meta", "unknown datatype 'weird8'")
    check_message(write_sigmf(ramp(0), "cf32_le", name="b/empty"), "empty.sigmf-meta")
    check_message(write_sigmf(ramp(99), "cf32_le", [(-5, 10, "a")], name="b/negative"), "negative.sigmf-meta")
    check_message(write_sigmf(ramp(99), "cf32_le", [("x", 10, "a")], name="b/words"), "words.sigmf-meta")
    check_message(write_sigmf(ramp(9), "cf32_le", name="b/tiny"), "tiny.sigmf-meta", "no windows")
    lonely = write_sigmf(ramp(99), "cf32_le", name="b/lonely")
    lonely.with_suffix(".sigmf-data").unlink()
    check_message(lonely, "lonely.sigmf-meta", "no samples")
    headless = write_sigmf(ramp(99), "cf32_le", name="b/headless")
    headless.unlink()
    check_message(headless.with_suffix(".sigmf-data"), "headless.sigmf-meta is missing")
    for number, content in enumerate(["{broken", "[]", "{}", '{"global": {"core:datatype": 3}}', "\x00\xff"]):
        broken = write_sigmf(ramp(99), "cf32_le", name=f"b/broken{number}")
        broken.write_text(content, encoding="latin1")
        check_message(broken, f"broken{number}.sigmf-meta")
    shutil.copy(good, tmp_path / "false.sigmf")
    check_message(tmp_path / "false.sigmf", "false.sigmf")
    (tmp_path / "nothing").mkdir()
    check_message(tmp_path / "nothing", "nothing", "no SigMF")
    write_sigmf(ramp(100), "cf32_le", name="mixed/a")
    check_message(write_sigmf(ramp(100), "cf32_le", name="mixed/b", num_channels=2).parent, "2 channels")


def test_real_recordings(real: Path) -> None:
    table = open_table(DataSpec(path=real / "rtl433-sigmf", window=2048))
    assert table.positions is not None
    assert table.windows.shape == (2, 1, 2048)
    assert len(np.unique(table.columns["label"])) == 13
    assert len(np.unique(table.columns["recording"])) == 124
    whole = open_table(DataSpec(path=real / "rtl433-sigmf", window=2048, cut="all"))
    assert whole.positions is not None
    for index in (0, 1000, whole.windows.count - 1):
        name, start = whole.positions[0][index], int(whole.positions[1][index])
        raw = np.fromfile(real / "rtl433-sigmf" / f"{name}.sigmf-data", np.uint8)[2 * start : 2 * (start + 2048)]
        expected = (raw.reshape(2048, 1, 2).transpose(2, 1, 0).astype(np.float32) - 128) / 128
        np.testing.assert_allclose(whole.windows.read(np.array([index]))[0], expected, atol=1e-6)
