"""The main job on a tiny suite: what it leaves, that it repeats itself, and that it never looks at the test labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score
from tiny import noise, stopped_at, tiny_encoder, tones, write_hdf5

from offramp import costs
from offramp.bundle import load_bundle, load_examples
from offramp.data.dataset import load_dataset
from offramp.data.splits import load_split
from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import save_encoder
from offramp.errors import DataError, EncoderError, OfframpError
from offramp.experiment import pipeline
from offramp.experiment.pipeline import run_suite
from offramp.schema.results import Results
from offramp.schema.suite import load_suite

COUNT, GROUPS = 240, 24
EXITS = ["stem", "stage2.0", "stage3.0", "stage4.0", "conv5"]
TEST = [f"city_{number:02}" for number in range(9)]

ROW = {"exit", "macs", "macs_saved_fraction", "val", "test"}
SCORE = {"mean", "std", "per_seed"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stopwatch and no pictures: they have tests of their own."""
    latency = {name: costs.Latency(p50=0.1 * n, p95=0.2 * n, p99=0.3 * n) for n, name in enumerate(EXITS, start=1)}
    monkeypatch.setattr(costs, "exit_latencies", lambda *_, **__: latency)
    monkeypatch.setattr(pipeline, "write_report", lambda runs, path: path.write_text("report"))


def standard() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows, three classes, and groups that the classes are spread over."""
    return *tones(COUNT), np.array([f"city_{number:02}" for number in np.arange(COUNT) % GROUPS])


def lay_out(folder: Path, tasks: list[dict[str, Any]] | None = None, arrays: Any = None, **suite: Any) -> Path:
    """A suite file beside its encoder and its data."""
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(tiny_encoder(repeats=1), folder / "encoder")
    if arrays is None:
        windows, labels, group = standard()
        level = np.linspace(-10, 20, COUNT)
        angle = np.stack([labels * 10.0 + 5, labels * -2.0], axis=1)
        arrays = {"sample": windows, "label_los": labels, "scenario": group, "snr": level, "angle": angle}
    write_hdf5(folder / "data.h5", **arrays)
    content = {"encoder": "encoder", "tasks": tasks or [task()], "seeds": [0, 1]} | suite
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return folder / "suite.yaml"


def task(
    name: str = "los", target: str = "label_los", group: str | None = "scenario", **changes: Any
) -> dict[str, Any]:
    data = {"path": "data.h5", "target": target} | ({"group": group} if group else {})
    return {"name": name, "data": data, "split": {"test": TEST} if group else {}} | changes


def run(suite: Path, out: str = "out", **options: Any) -> dict[str, Any]:
    """Run and read what was written."""
    run_suite(load_suite(suite), suite.parent / out, **options)
    return json.loads((suite.parent / out / "results.json").read_text())


def reproducible(results: dict[str, Any]) -> dict[str, Any]:
    """Without what DESIGN.md lets vary."""
    tasks = {
        name: {key: value for key, value in task.items() if key != "measured"}
        for name, task in results["tasks"].items()
    }
    return {key: value for key, value in results.items() if key != "environment"} | {"tasks": tasks}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """One run of everything at once, to look at from several sides."""
    with pytest.MonkeyPatch.context() as patch:
        quick.__wrapped__(patch)  # type: ignore[attr-defined]
        suite = lay_out(
            tmp_path_factory.mktemp("whole"),
            [
                task(data={"path": "data.h5", "target": "label_los", "group": "scenario", "snr": "snr"}),
                task("angle", "angle", kind="regression"),
                task("few", shots=3, metric="balanced_accuracy", head={"kind": "linear"}),
            ],
            selection={"tolerance": "5%"},
            controls=["constant", "random_encoder", "raw_input"],
        )
        yield suite, run(suite)


Whole = tuple[Path, dict[str, Any]]


class TestResults:
    def test_the_contract_of_the_design(self, whole: Whole) -> None:
        _, results = whole
        assert {"schema", "offramp", "suite", "environment", "encoder", "tasks"} <= set(results)
        assert results["schema"] == 1
        assert {"name", "params", "sha256", "exits"} <= set(results["encoder"])
        for exit in results["encoder"]["exits"]:
            assert {"name", "index", "width", "params"} <= set(exit)
        assert list(results["tasks"]) == ["los", "angle", "few"]
        for found in results["tasks"].values():
            expected = "kind metric higher_is_better shift input_shape n_train n_val n_test n_groups split_sha256 "
            expected += "exits chosen full gain_over_full controls measured sentence"
            assert set(expected.split()) <= set(found)
            for row in (*found["exits"], found["chosen"], found["full"]):
                assert set(row) >= ROW
                assert set(row["val"]) >= SCORE
                assert set(row["test"]) >= SCORE
                assert len(row["val"]["per_seed"]) == len(row["test"]["per_seed"]) == 2
            assert {"mean", "ci95"} <= set(found["gain_over_full"])
            assert len(found["gain_over_full"]["ci95"]) == 2
            assert "test" in found["controls"]["constant"]
            assert {"exits", "chosen"} <= set(found["controls"]["random_encoder"])
            assert "test" in found["controls"]["raw_input"]
            assert {"latency_ms", "threads", "batch"} <= set(found["measured"])
            assert list(found["measured"]["latency_ms"]) == EXITS
            assert set(found["measured"]["latency_ms"]["stem"]) == {"p50", "p95", "p99"}
            assert "\n" not in found["sentence"]

    def test_they_are_valid(self, whole: Whole) -> None:
        suite, results = whole
        again = Results.model_validate_json((suite.parent / "out" / "results.json").read_text())
        assert json.loads(again.model_dump_json(by_alias=True)) == results

    def test_the_numbers_belong_together(self, whole: Whole) -> None:
        for found in whole[1]["tasks"].values():
            assert [row["exit"] for row in found["exits"]] == EXITS
            assert found["full"] == found["exits"][-1]
            assert found["chosen"] in found["exits"]
            macs = [row["macs"] for row in found["exits"]]
            assert all(isinstance(value, int) for value in macs)
            assert macs == sorted(macs)
            for row in found["exits"]:
                assert row["macs_saved_fraction"] == pytest.approx(1 - row["macs"] / macs[-1])
            sign = 1 if found["higher_is_better"] else -1
            difference = sign * (found["chosen"]["test"]["mean"] - found["full"]["test"]["mean"])
            assert found["gain_over_full"]["mean"] == pytest.approx(difference)
            assert found["input_shape"] == [2, 1, 64]
            assert (found["n_groups"], found["n_test"]) == (GROUPS, 90)
            assert not found["simulated"]
            best = max(found["exits"], key=lambda row: sign * row["val"]["mean"])
            assert {name: found["best"][name] for name in best} == best
            assert found["best"]["gain_over_full"]["mean"] == pytest.approx(
                sign * (best["test"]["mean"] - found["full"]["test"]["mean"])
            )
            chosen, asked = found["chosen"]["exit"], found["selection"]
            assert asked["rule"] == "non-inferior"
            assert asked["margin"] == pytest.approx(0.05 * abs(found["full"]["val"]["mean"]))
            assert asked["non_inferior"] == chosen
            passing = [name for name in EXITS if asked["gain_lower"][name] > -asked["margin"]]
            assert passing[0] == chosen
            assert found["margin"] == pytest.approx(0.05 * abs(found["full"]["test"]["mean"]))
            above = found["gain_over_full"]["ci95"][0] > -found["margin"]
            assert found["saving_confirmed"] == (None if chosen == EXITS[-1] else above)
            assert (found["n_test_units"], found["n_val_units"]) == (9, 15)
        los, few = whole[1]["tasks"]["los"], whole[1]["tasks"]["few"]
        assert los["n_train"] + los["n_val"] == COUNT - 90
        assert few["n_train"] + few["n_val"] == 3 * 3, "the label budget holds training and validation"
        assert np.sum(los["confusion"]) == 90
        assert whole[1]["tasks"]["angle"]["confusion"] is None
        assert los["by_snr"] is not None
        assert few["by_snr"] is None

    def test_it_learned_something(self, whole: Whole) -> None:
        tasks = whole[1]["tasks"]
        reached = {name: [row["test"]["mean"] for row in found["exits"]] for name, found in tasks.items()}
        assert max(reached["los"]) > tasks["los"]["controls"]["constant"]["test"]["mean"] + 0.2
        assert min(reached["angle"]) < tasks["angle"]["controls"]["constant"]["test"]["mean"]
        assert not tasks["angle"]["higher_is_better"]

    def test_what_is_left(self, whole: Whole) -> None:
        out = whole[0].parent / "out"
        assert {path.name for path in out.iterdir()} == {"results.json", "report.html", "bundle", "splits"}
        assert {path.name for path in (out / "splits").iterdir()} == {"los.json", "angle.json", "few.json"}

    def test_the_encoder_did_not_change(self, whole: Whole) -> None:
        suite, results = whole
        for folder in (suite.parent / "encoder", suite.parent / "out" / "bundle" / "encoder"):
            assert (
                load_encoder(folder).fingerprint()
                == results["encoder"]["sha256"]
                == tiny_encoder(repeats=1).fingerprint()
            )

    def test_the_bundle_says_what_the_results_say(self, whole: Whole) -> None:
        """Heads and encoder of the bundle, on windows read straight from the file, reach the first seed's test score."""
        suite, results = whole
        bundle = load_bundle(suite.parent / "out" / "bundle")
        encoder = load_encoder(suite.parent / "out" / "bundle" / "encoder").eval()
        assert list(bundle.tasks) == ["los", "angle", "few"]
        with h5py.File(suite.parent / "data.h5") as file:
            arrays = {name: file[name][()] for name in ("sample", "label_los", "scenario", "angle")}
        test = np.isin(arrays["scenario"].astype(str), TEST)
        taps = {
            name: tap.detach().numpy() for name, tap in encoder.taps(torch.from_numpy(arrays["sample"][test])).items()
        }
        for name, found in results["tasks"].items():
            stored = bundle.tasks[name]
            assert stored.exit == found["chosen"]["exit"]
            for row in found["exits"]:
                outputs = stored.heads[row["exit"]](taps[row["exit"]])
                if name == "los":
                    score = accuracy_score(arrays["label_los"][test], outputs.argmax(1))
                elif name == "angle":
                    score = np.linalg.norm(outputs - arrays["angle"][test], axis=1).mean()
                else:
                    truth = arrays["label_los"][test]
                    score = np.mean([(outputs.argmax(1) == label)[truth == label].mean() for label in range(3)])
                assert row["test"]["per_seed"][0] == pytest.approx(score, abs=1e-4)
                assert stored.val[row["exit"]] == pytest.approx(row["val"]["mean"])
        examples = load_examples(suite.parent / "out" / "bundle")
        np.testing.assert_array_equal(examples["los"], arrays["sample"][test][: len(examples["los"])])


class TestReproduction:
    def test_another_folder_gives_the_same(self, whole: Whole, tmp_path: Path) -> None:
        suite, expected = whole
        moved = tmp_path / "moved"
        moved.mkdir()
        for name in ("suite.yaml", "data.h5", "encoder"):
            (moved / name).symlink_to(suite.parent / name)
        loaded = load_suite(suite)
        assert loaded.folder == suite.parent
        results = run_suite(loaded, moved / "deep" / "out")
        assert reproducible(json.loads(results.model_dump_json(by_alias=True))) == reproducible(expected)
        for name in ("heads.safetensors", "examples.safetensors", "encoder/model.safetensors"):
            ours, theirs = (folder / "bundle" / name for folder in (moved / "deep" / "out", suite.parent / "out"))
            assert ours.read_bytes() == theirs.read_bytes()

    def test_a_slower_machine_changes_measured_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Everything outside environment and measured is reproduced bit for bit, says DESIGN.md: the sentence too."""
        suite = lay_out(tmp_path, controls=["constant"], selection={"tolerance": "90%"})
        expected = run(suite)
        assert expected["tasks"]["los"]["chosen"]["exit"] != "conv5"
        monkeypatch.setattr(
            costs, "exit_latencies", lambda *_, **__: {name: costs.Latency(p50=2.0, p95=2.0, p99=2.0) for name in EXITS}
        )
        again = run(suite, "again")
        assert again["tasks"]["los"]["sentence"] == expected["tasks"]["los"]["sentence"]
        assert reproducible(again) == reproducible(expected)

    def test_killed_at_any_moment_and_started_again(self, tmp_path: Path) -> None:
        controls = ["constant", "random_encoder", "equal_width", "handmade"]
        suite = lay_out(tmp_path, [task(), task("angle", "angle", kind="regression")], controls=controls)
        moments: list[str] = []
        run_suite(load_suite(suite), tmp_path / "whole", on_progress=lambda what, done, total: moments.append(what))
        expected = json.loads((tmp_path / "whole" / "results.json").read_text())
        assert any("encoder" in what for what in moments)

        fitting = 2 * 3 * len(EXITS)  # moments that are left when all features are there
        for call in (0, 1, 3, fitting // 3, fitting // 2, fitting - 2):
            with pytest.raises(KeyboardInterrupt):
                run(suite, "cut", on_progress=stopped_at(call))
            assert not (tmp_path / "cut" / "results.json").exists()
        assert reproducible(run(suite, "cut")) == reproducible(expected)
        assert not (tmp_path / "cut" / "features").exists()
        for name in ("heads.safetensors", "config.json"):
            ours, theirs = (tmp_path / out / "bundle" / name for out in ("cut", "whole"))
            assert ours.read_bytes() == theirs.read_bytes()

    def test_killed_while_the_results_are_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        suite = lay_out(tmp_path, controls=["constant"])
        expected = run(suite, "whole")
        for name in ("write_bundle", "write_report", "write_text"):
            with monkeypatch.context() as patch:
                patch.setattr(pipeline, name, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    run(suite, "cut")
        assert reproducible(run(suite, "cut")) == reproducible(expected)

    def test_a_finished_run_can_be_repeated_in_place(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path, controls=["constant"])
        first = run(suite, keep_features=True)
        assert (tmp_path / "out" / "features").is_dir()
        assert reproducible(run(suite)) == reproducible(first)
        assert not (tmp_path / "out" / "features").exists()


def test_labels_of_the_test_set_are_not_looked_at_before_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offramp.heads.mlp.EPOCHS", 5)
    windows, labels, group = standard()
    test = np.flatnonzero(np.isin(group, TEST))
    shuffled = labels.copy()
    shuffled[test] = np.random.default_rng(0).permutation(labels[test])
    assert (shuffled != labels).any()
    found = []
    for name, target in (("true", labels), ("shuffled", shuffled)):
        arrays = {"sample": windows, "label_los": target, "scenario": group}
        tasks = [task(transform="standardize"), task("few", shots=6), task("deep", head={"kind": "mlp"})]
        suite = lay_out(tmp_path / name, tasks, arrays, controls=["raw_input"], seeds=[0])
        found.append(run(suite)["tasks"])
    for name in ("los", "few", "deep"):
        ours, theirs = found[0][name], found[1][name]
        assert ours["chosen"]["exit"] == theirs["chosen"]["exit"]
        assert [row["val"] for row in ours["exits"]] == [row["val"] for row in theirs["exits"]]
        assert ours["controls"]["raw_input"]["val"] == theirs["controls"]["raw_input"]["val"]
        assert ours["full"]["test"] != theirs["full"]["test"], "the test set itself did change"
    heads = [(tmp_path / name / "out" / "bundle" / "heads.safetensors").read_bytes() for name in ("true", "shuffled")]
    assert heads[0] == heads[1]


class TestSettings:
    def test_two_tasks_on_one_source_share_the_pass(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path, [task(), task("again")], controls=["constant"])
        batches: list[tuple[str, int, int]] = []
        run_suite(load_suite(suite), tmp_path / "out", on_progress=lambda *at: batches.append(at))
        assert [what for what, _, _ in batches if "encoder" in what and "los" in what]
        assert not [what for what, _, _ in batches if "encoder" in what and "again" in what]

    @pytest.mark.parametrize(
        ("selection", "expected"),
        [({"rule": "budget", "latency_ms": 0.15}, "stem"), ({"rule": "best"}, None), ({"tolerance": 0.9}, "stem")],
    )
    def test_the_rule_decides(self, selection: dict[str, Any], expected: str | None, tmp_path: Path) -> None:
        found = run(lay_out(tmp_path, controls=[], selection=selection))["tasks"]["los"]
        best = max(found["exits"], key=lambda row: row["val"]["mean"])["exit"]
        assert found["chosen"]["exit"] == (expected or best)

    def test_a_budget_of_macs(self, tmp_path: Path) -> None:
        every = run(lay_out(tmp_path / "a", controls=[]))["tasks"]["los"]["exits"]
        macs = every[2]["macs"]
        found = run(lay_out(tmp_path / "b", controls=[], selection={"rule": "budget", "macs": macs}))["tasks"]["los"]
        assert found["chosen"]["macs"] <= macs
        assert found["chosen"]["val"]["mean"] == max(row["val"]["mean"] for row in every[:3])
        with pytest.raises(OfframpError, match=rf"cheapest costs {every[0]['macs']:g} MACs"):
            run(lay_out(tmp_path / "c", controls=[], selection={"rule": "budget", "macs": 1}))

    def test_the_mlp(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path, [task(head={"kind": "mlp"})], controls=["constant"], seeds=[0])
        found = run(suite)["tasks"]["los"]
        assert found["full"]["test"]["mean"] > found["controls"]["constant"]["test"]["mean"]
        assert len(load_bundle(tmp_path / "out" / "bundle").tasks["los"].heads["conv5"].layers) == 2

    def test_standardize_goes_into_the_bundle(self, tmp_path: Path) -> None:
        run(lay_out(tmp_path, [task(transform="standardize")], controls=[]))
        transform = load_bundle(tmp_path / "out" / "bundle").tasks["los"].transform
        with h5py.File(tmp_path / "data.h5") as file:
            outside = ~np.isin(file["scenario"][()].astype(str), TEST)
            windows = file["sample"][()][outside].astype(np.float64)
        np.testing.assert_allclose(transform.mean, windows.mean((0, 2, 3)), atol=1e-5)
        np.testing.assert_allclose(transform.scale, 1 / windows.std((0, 2, 3)), rtol=1e-4)

    def test_a_spectrogram_of_two_antennas_fits_this_encoder(self, tmp_path: Path) -> None:
        """``(2, 64 bins, frames)`` looks like I/Q of 64 antennas to it; what counts is that shapes and bundle agree."""
        windows = noise(COUNT, (2, 2, 64 + 16 * 63))
        arrays = {
            "sample": windows,
            "label_los": np.arange(COUNT) % 2,
            "scenario": [f"city_{n % GROUPS:02}" for n in range(COUNT)],
        }
        found = run(lay_out(tmp_path, [task(transform="spectrogram")], arrays, controls=[], seeds=[0]))["tasks"]["los"]
        assert found["input_shape"] == [2, 64, 64]
        stored = load_bundle(tmp_path / "out" / "bundle").tasks["los"]
        assert (stored.transform.name, stored.window_shape) == ("spectrogram", (2, 2, 64 + 16 * 63))

    def test_a_fraction_without_groups(self, tmp_path: Path) -> None:
        windows, labels, _ = standard()  # a column of a usual name such as scenario would group them
        arrays = {"sample": windows, "label_los": labels}
        found = run(lay_out(tmp_path, [task(group=None)], arrays, controls=["constant"]))["tasks"]["los"]
        assert found["n_test"] == COUNT // 4
        assert found["n_groups"] == COUNT
        assert found["by_group"] == []

    def test_few_test_groups_are_shown_one_by_one(self, tmp_path: Path) -> None:
        found = run(lay_out(tmp_path, [task(split={"test": TEST[:3]})], controls=[]))["tasks"]["los"]
        assert [part["group"] for part in found["by_group"]] == TEST[:3]
        assert found["gain_over_full"]["unit"] == "window"
        assert not found["gain_over_full"]["significant"]

    def test_blocks_of_few_groups_are_resampled_whole(self, tmp_path: Path) -> None:
        windows, labels, group = standard()
        arrays = {"sample": windows, "label_los": labels, "scenario": group, "time": np.arange(COUNT) // GROUPS * 0.5}
        data = {"path": "data.h5", "target": "label_los", "group": "scenario"}
        data |= {"block": {"columns": ["time"], "size": 1.0}}
        found = run(lay_out(tmp_path, [task(split={"test": TEST[:3]}, data=data)], arrays, controls=[]))["tasks"]["los"]
        assert (found["n_test"], found["n_test_units"], found["n_val_units"]) == (30, 3 * 5, GROUPS - 3)
        assert found["gain_over_full"]["unit"] == "block"
        assert [part["group"] for part in found["by_group"]] == TEST[:3]
        assert load_bundle(tmp_path / "out" / "bundle").tasks["los"].data.get("block") is None

    def test_a_task_for_no_claim(self, tmp_path: Path) -> None:
        """The copy that counts for nothing changes neither the other's correction nor the summary."""
        tasks = [task(no_claim="a reason"), task("again")]
        found = run(lay_out(tmp_path, tasks, controls=[], selection={"tolerance": "20%"}))
        assert found["tasks"]["los"]["no_claim"] == "a reason"
        assert not found["tasks"]["los"]["gain_over_full"]["significant"]
        assert found["tasks"]["los"]["sentence"].endswith("Counts for no claim: a reason.")
        again, summary = found["tasks"]["again"], found["summary"]
        assert (summary["tasks"], summary["left_out"]) == (1, ["los"])
        assert summary["mean_macs_saved_fraction"] == pytest.approx(again["chosen"]["macs_saved_fraction"])
        assert summary["confirmed"] == int(again["saving_confirmed"] is True)

    def test_a_saved_split_is_used_again(self, tmp_path: Path) -> None:
        first = run(lay_out(tmp_path, [task(group=None)], controls=[]))
        saved = str(tmp_path / "out" / "splits" / "los.json")
        again = run(lay_out(tmp_path, [task(group=None, split={"file": saved})], controls=[]), "again")
        assert again["tasks"]["los"]["split_sha256"] == first["tasks"]["los"]["split_sha256"]
        data = load_dataset(load_suite(tmp_path / "suite.yaml").tasks[0].data, "classification")
        assert load_split(Path(saved), data).sha256 == first["tasks"]["los"]["split_sha256"]

    def test_by_reference(self, tmp_path: Path) -> None:
        run(lay_out(tmp_path, controls=[]), by_reference=True)
        bundle = load_bundle(tmp_path / "out" / "bundle")
        assert bundle.encoder_path == str(tmp_path / "encoder")
        assert not (tmp_path / "out" / "bundle" / "encoder").exists()

    def test_the_report_is_one_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from offramp.report.html import write_report

        monkeypatch.setattr(pipeline, "write_report", write_report)
        found = run(lay_out(tmp_path, controls=["constant"]))
        page = (tmp_path / "out" / "report.html").read_text()
        assert found["tasks"]["los"]["chosen"]["exit"] in page
        assert "<svg" in page


class TestBadInput:
    """One line for each, before anything costly and without leaving a results.json."""

    def refused(self, suite: Path, kind: type[OfframpError], *words: str, out: str = "out") -> None:
        with pytest.raises(kind) as caught:
            run(suite, out)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message
        assert not (suite.parent / out / "results.json").exists()
        assert not (suite.parent / out / "features").exists()

    def arrays(self, **changes: Any) -> dict[str, Any]:
        windows, labels, group = standard()
        return {"sample": windows, "label_los": labels, "scenario": group} | changes

    def test_out_is_a_file(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path)
        (tmp_path / "file").write_text("mine")
        self.refused(suite, OfframpError, "is a file", "choose a folder", out="file")
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_single_group(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path, [task(split={})], self.arrays(scenario=["one"] * COUNT))
        self.refused(suite, DataError, "single group", "data.group")

    def test_a_class_with_too_few_groups(self, tmp_path: Path) -> None:
        labels = np.arange(COUNT) % 2
        group = np.array([f"city_{number:02}" for number in np.arange(COUNT) // 2 % GROUPS])
        labels[group == "city_05"] = 2
        suite = lay_out(tmp_path, [task(split={})], self.arrays(label_los=labels, scenario=group))
        self.refused(suite, DataError, "class '2'", "1 group")

    def test_a_test_group_that_is_not_there(self, tmp_path: Path) -> None:
        self.refused(lay_out(tmp_path, [task(split={"test": ["atlantis"]})]), DataError, "atlantis", "city_00")

    def test_more_shots_than_windows(self, tmp_path: Path) -> None:
        self.refused(lay_out(tmp_path, [task(shots=500)]), DataError, "shots is 500", "lower shots")

    def test_missing_data(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path)
        (tmp_path / "data.h5").unlink()
        self.refused(suite, DataError, "data.h5")

    def test_text_instead_of_hdf5(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path)
        (tmp_path / "data.h5").write_text("text")
        self.refused(suite, DataError, "data.h5", "not an HDF5 file")

    def test_a_missing_column(self, tmp_path: Path) -> None:
        self.refused(lay_out(tmp_path, [task(target="nothing")]), DataError, "nothing", "label_los")

    def test_labels_of_another_length(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path, arrays=self.arrays(label_los=np.arange(COUNT - 1) % 2))
        self.refused(suite, DataError, str(COUNT), str(COUNT - 1))

    def test_an_unknown_encoder(self, tmp_path: Path) -> None:
        self.refused(lay_out(tmp_path, encoder="resnet"), EncoderError, "resnet", "iq-shufflenet")

    def test_windows_too_short(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path, arrays=self.arrays(sample=noise(COUNT, (2, 1, 63))))
        self.refused(suite, EncoderError, "task los", "time >= 64")

    def test_a_tolerance_without_unit(self, tmp_path: Path) -> None:
        """Said before the encoder runs: the suite alone shows it."""
        suite = lay_out(tmp_path, [task("a", "angle", kind="regression")], selection={"tolerance": 0.01})
        self.refused(suite, OfframpError, "tolerance", '"1%"')

    def test_nan_in_a_window(self, tmp_path: Path) -> None:
        windows = tones(COUNT)[0]
        windows[17, 0, 0, 3] = np.nan
        with pytest.raises(DataError, match="window 17 holds NaN") as caught:
            run(lay_out(tmp_path, arrays=self.arrays(sample=windows)))
        assert "\n" not in str(caught.value)

    def test_a_control_that_needs_iq(self, tmp_path: Path) -> None:
        """A spectrogram is not I/Q; what the encoder sees does not matter to a control computed by hand."""
        arrays = self.arrays(sample=noise(COUNT, (2, 3, 128)))
        suite = lay_out(tmp_path, [task(transform="spectrogram")], arrays, controls=["handmade"])
        with pytest.raises(OfframpError) as caught:
            run(suite)
        assert "\n" not in str(caught.value)
