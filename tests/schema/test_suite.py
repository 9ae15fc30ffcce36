"""Suite files: what is accepted, and one line that names the key for everything else."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import noise, write_hdf5

from offramp.data.places import find_places
from offramp.errors import SuiteError
from offramp.schema.suite import DEFAULT_SUITE, LoadedSuite, Suite, load_suite

DESIGN = """
encoder: iq-shufflenet            # registered name | encoder folder | {name: lwm, checkpoint: path}
tasks:
  - name: los
    kind: classification          # classification | regression
    shift: unknown
    data: {path: data.h5, input: sample, target: label_los, group: scenario}   # format by suffix or `format:`; `window:`, `hop:` in samples
    split: {test: [city_12_fortworth]}            # groups by name | a fraction (default .25) | a saved split file
    transform: none               # none | standardize | spectrogram | ...
    shots: 500                    # labels per class, training and validation together; leave out for all
    metric: accuracy              # accuracy | balanced_accuracy | top3_accuracy | nmse_db | mean_error | ...
    head: {kind: linear, pooling: default}
selection: {rule: non-inferior, tolerance: 0.01}  # | {rule: best} | {rule: budget, macs: 1e6} | {rule: budget, latency_ms: 1}
controls: [constant, random_encoder, raw_input]
seeds: [0, 1, 2, 3, 4]
"""
"""As DESIGN.md has it, to the letter."""


def minimal(**changes: Any) -> dict[str, Any]:
    return {"encoder": "iq-shufflenet", "tasks": [task()]} | changes


def task(**changes: Any) -> dict[str, Any]:
    return {"name": "los", "data": {"path": "data.h5", "target": "y"}} | changes


def load(tmp_path: Path, content: Any) -> LoadedSuite:
    path = tmp_path / "suite.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_suite(path)


def refused(tmp_path: Path, content: Any) -> str:
    """The message, which must be one line that names the file."""
    with pytest.raises(SuiteError) as caught:
        load(tmp_path, content)
    message = str(caught.value)
    assert "\n" not in message
    assert "suite.yaml" in message
    return message


class TestDesign:
    def test_the_example_is_accepted(self, tmp_path: Path) -> None:
        write_hdf5(
            tmp_path / "data.h5", sample=noise(4), label_los=[0, 1, 0, 1], scenario=["city_12_fortworth", "b", "c", "d"]
        )
        loaded = load(tmp_path, DESIGN)
        (los,) = loaded.tasks
        assert los.data.path == tmp_path / "data.h5"
        assert los.data.path.exists()
        assert (los.split.test, los.shots, los.metric_name) == (("city_12_fortworth",), 500, "accuracy")
        assert (loaded.suite.selection.rule, loaded.suite.selection.tolerance) == ("non-inferior", 0.01)
        assert loaded.suite.controls == ("constant", "random_encoder", "raw_input")
        assert loaded.suite.seeds == (0, 1, 2, 3, 4)
        assert loaded.encoder.name == "iq-shufflenet"

    @pytest.mark.parametrize(
        ("selection", "field", "value"),
        [
            ("{rule: best}", "rule", "best"),
            ("{rule: budget, macs: 1e6}", "macs", 1e6),
            ("{rule: budget, latency_ms: 1}", "latency_ms", 1.0),
            ('{rule: non-inferior, tolerance: "1%"}', "tolerance", "1%"),
            ("{tolerance: 1e-2}", "tolerance", 0.01),
            ("{tolerance: 0}", "tolerance", 0.0),
        ],
    )
    def test_its_other_selection_rules(self, tmp_path: Path, selection: str, field: str, value: Any) -> None:
        content = DESIGN.replace("{rule: non-inferior, tolerance: 0.01}", selection)
        found = getattr(load(tmp_path, content).suite.selection, field)
        assert (found, type(found)) == (value, type(value))

    @pytest.mark.parametrize(
        "split", [{"test": 0.2}, {"test": [1, 2]}, {"file": "splits/los.json"}, {"test": ["a"], "validation": 0.1}]
    )
    def test_its_other_splits(self, tmp_path: Path, split: dict[str, Any]) -> None:
        loaded = load(tmp_path, minimal(tasks=[task(split=split)]))
        found = loaded.tasks[0].split
        if "file" in split:
            assert found.file == tmp_path / "splits/los.json"
        elif split["test"] == [1, 2]:
            assert found.test == ("1", "2"), "groups may be numbers"

    def test_its_other_encoders(self, tmp_path: Path) -> None:
        checkpoint = load(tmp_path, minimal(encoder={"name": "lwm", "checkpoint": "weights/lwm.pth"})).encoder
        assert (checkpoint.name, checkpoint.checkpoint) == ("lwm", tmp_path / "weights/lwm.pth")
        (tmp_path / "mine").mkdir()
        assert load(tmp_path, minimal(encoder="mine")).encoder.name == "mine"  # it may be the name of an encoder
        (tmp_path / "mine" / "config.json").write_text("{}")
        assert load(tmp_path, minimal(encoder="mine")).encoder.name == str(tmp_path / "mine")
        assert load(tmp_path, minimal(encoder="not-there")).encoder.name == "not-there"

    @pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "top3_accuracy", "nmse_db", "mean_error"])
    def test_its_metrics(self, tmp_path: Path, metric: str) -> None:
        kind = "regression" if metric in ("nmse_db", "mean_error") else "classification"
        loaded = load(tmp_path, minimal(tasks=[task(metric=metric, kind=kind)]))
        assert loaded.tasks[0].metric_name == metric

    @pytest.mark.parametrize("shift", ["id", "label", "domain", "both", "unknown"])
    @pytest.mark.parametrize("transform", ["none", "standardize", "spectrogram"])
    def test_its_shifts_and_transforms(self, tmp_path: Path, shift: str, transform: str) -> None:
        load(tmp_path, minimal(tasks=[task(shift=shift, transform=transform)]))

    def test_the_defaults(self, tmp_path: Path) -> None:
        suite = load(tmp_path, minimal()).suite
        assert suite.tasks[0].split.test == 0.25
        assert (suite.tasks[0].kind, suite.tasks[0].shift, suite.tasks[0].metric_name) == (
            "classification",
            "unknown",
            "accuracy",
        )
        assert suite.controls == ("constant", "random_encoder", "raw_input")
        assert load(tmp_path, minimal(tasks=[task(kind="regression")])).tasks[0].metric_name == "mean_error"


def test_absolute_paths_stay(tmp_path: Path) -> None:
    loaded = load(tmp_path, minimal(tasks=[task(data={"path": "/elsewhere/data.h5", "target": "y"})]))
    assert loaded.tasks[0].data.path == Path("/elsewhere/data.h5")


def test_the_embedded_default() -> None:
    assert load_suite(None) == load_suite(DEFAULT_SUITE)
    assert load_suite(None).encoder.name == "iq-resnet-small"
    assert {task.name: task.shift for task in load_suite(None).tasks} == {
        "modulation": "id",
        "direction_sector": "id",
        "direction": "id",
        "rml2016": "domain",
        "fingerprint": "label",
        "interference": "both",
        "beam": "both",
    }


def test_a_suite_can_be_stored_as_json_and_read_again(tmp_path: Path) -> None:
    suite = load(tmp_path, DESIGN).suite
    assert Suite.model_validate(suite.model_dump(mode="json")) == suite


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (minimal(encodr="x"), ["'encodr'", "did you mean 'encoder'"]),
        (minimal(selection={"rule": "best", "tolerence": 1}), ["selection.tolerence", "did you mean 'tolerance'"]),
        (minimal(tasks=[task(trasform="none")]), ["tasks.0.trasform", "did you mean 'transform'"]),
        (minimal(tasks=[task(), task(name="b", zzz=1)]), ["tasks.1.zzz", "known are", "metric"]),
        (
            minimal(tasks=[task(data={"pth": "d.h5", "target": "y"})]),
            ["tasks.0.data.pth", "did you mean 'path'"],
        ),
        (minimal(tasks=[task(head={"knd": "mlp"})]), ["tasks.0.head.knd", "did you mean 'kind'"]),
        (minimal(tasks=[task(split={"tests": 0.2})]), ["tasks.0.split.tests", "did you mean 'test'"]),
        (
            minimal(tasks=[task(data={"synthetic": {"windws": 5}, "target": "y"})]),
            ["tasks.0.data.synthetic.windws", "did you mean 'windows'"],
        ),
        (minimal(encoder={"name": "lwm", "chekpoint": "x"}), ["encoder.chekpoint", "did you mean 'checkpoint'"]),
        ({"tasks": [task()]}, ["encoder", "add it"]),
        ({"encoder": "lwm"}, ["tasks", "add it"]),
        (minimal(tasks=[]), ["tasks", "at least 1"]),
        (minimal(tasks=[{"data": {"path": "d.h5", "target": "y"}}]), ["tasks.0.name", "add it"]),
        (minimal(tasks=[{"name": "a"}]), ["tasks.0.data", "add it"]),
        (minimal(tasks=[task(name="a b")]), ["tasks.0.name", "a b"]),
        (minimal(tasks=[task(name="../up")]), ["tasks.0.name"]),
        (minimal(tasks=[task(name="")]), ["tasks.0.name"]),
        (minimal(tasks=[task(metric="acuracy")]), ["tasks.0", "metric", "'acuracy'", "balanced_accuracy"]),
        (minimal(tasks=[task(metric="nmse_db")]), ["tasks.0", "nmse_db", "regression"]),
        (minimal(tasks=[task(kind="clustering")]), ["tasks.0.kind", "classification", "clustering"]),
        (minimal(tasks=[task(shift="ood")]), ["tasks.0.shift", "domain"]),
        (minimal(tasks=[task(transform="fft")]), ["tasks.0.transform", "spectrogram"]),
        (minimal(tasks=[task(shots=0)]), ["tasks.0.shots"]),
        (minimal(tasks=[task(shots="many")]), ["tasks.0.shots"]),
        (minimal(tasks=[task(shots=5, kind="regression")]), ["tasks.0", "shots", "regression"]),
        (minimal(tasks=[task(head={"kind": "cnn"})]), ["tasks.0.head.kind", "mlp"]),
        (minimal(tasks=[task(head={"pooling": "max"})]), ["tasks.0.head.pooling", "tokens"]),
        (minimal(tasks=[task(head={"pooling": "tokens"})]), ["tasks.0", "pooling: tokens is for regression"]),
        (
            minimal(tasks=[task(kind="regression", head={"kind": "mlp", "pooling": "tokens"})]),
            ["tasks.0.head", "pooling: tokens takes kind: linear"],
        ),
        (minimal(tasks=[task(data={"target": "y"})]), ["tasks.0.data", "path", "synthetic"]),
        (minimal(tasks=[task(data={"path": "a", "synthetic": {}, "target": "y"})]), ["tasks.0.data", "path"]),
        (minimal(tasks=[task(data={"path": "data.h5"})]), ["tasks.0", "data.target"]),
        (minimal(tasks=[task(data={"path": "d", "target": "y", "window": 0})]), ["tasks.0.data.window"]),
        (minimal(tasks=[task(), task()]), ["task", "'los'", "twice"]),
        (minimal(seeds=[0, 1, 1]), ["seed", "twice"]),
        (minimal(seeds=[]), ["seeds", "at least 1"]),
        (minimal(seeds=[-1]), ["seeds.0"]),
        (minimal(seeds=["a"]), ["seeds.0"]),
        (minimal(controls=["constant", "constant"]), ["control", "twice"]),
        (minimal(controls=["constnt"]), ["controls.0", "constant"]),
        (minimal(selection={"rule": "cheapest"}), ["selection.rule", "best"]),
        (minimal(selection={"rule": "budget"}), ["selection", "macs", "latency_ms"]),
        (minimal(selection={"rule": "budget", "macs": 1, "latency_ms": 1}), ["selection", "macs", "latency_ms"]),
        (minimal(selection={"rule": "best", "macs": 1e6}), ["selection", "macs", "budget"]),
        (minimal(selection={"rule": "budget", "macs": -5}), ["selection.macs"]),
        (minimal(selection={"rule": "budget", "macs": "lots"}), ["selection.macs"]),
        (minimal(selection="best"), ["selection"]),
        (minimal(tasks="los"), ["tasks"]),
        (minimal(tasks=["los"]), ["tasks.0"]),
        (minimal(encoder=5), ["encoder"]),
        (minimal(encoder=None), ["encoder"]),
        (minimal(encoder={"checkpoint": "x"}), ["encoder.name"]),
        (minimal() | {1: 2}, ["1"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_off_is_named(tmp_path: Path, content: dict[Any, Any], words: list[str]) -> None:
    message = refused(tmp_path, content)
    for word in words:
        assert word in message


@pytest.mark.parametrize("tolerance", [-0.01, "a bit", "-1%", "%", "1 point", float("nan"), "nan%", [0.01], None])
def test_a_wrong_tolerance(tmp_path: Path, tolerance: Any) -> None:
    message = refused(tmp_path, minimal(selection={"rule": "non-inferior", "tolerance": tolerance}))
    assert "selection.tolerance" in message


@pytest.mark.parametrize("test", [0, 1, 1.5, -0.2, "city", {}, None])
def test_a_wrong_test_set_is_named_by_the_user_s_key(tmp_path: Path, test: Any) -> None:
    message = refused(tmp_path, minimal(tasks=[task(split={"test": test})]))
    assert "tasks.0.split.test:" in message, "no internals of the schema in the key"


class TestFile:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(SuiteError, match=r"none\.yaml.*No such file") as caught:
            load_suite(tmp_path / "none.yaml")
        assert "\n" not in str(caught.value)

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SuiteError) as caught:
            load_suite(tmp_path)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "line"), [("encoder: a\ntasks:\n  - name: [x\n", 4), ("a: b: c\n", 1), ("a: 1\n\tb: 2\n", 2)]
    )
    def test_broken_yaml_is_named_by_its_line(self, tmp_path: Path, text: str, line: int) -> None:
        assert f"line {line}" in refused(tmp_path, text)

    @pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just text", "5", "null"])
    def test_yaml_that_is_not_a_mapping(self, tmp_path: Path, text: str) -> None:
        assert "encoder and tasks" in refused(tmp_path, text)

    @pytest.mark.parametrize("content", [b"\x89HDF\r\n\x1a\n\xff\xfe", b"\x00\x01\x02", bytes(range(1, 128))])
    def test_binary(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "suite.yaml").write_bytes(content)
        with pytest.raises(SuiteError) as caught:
            load_suite(tmp_path / "suite.yaml")
        assert "\n" not in str(caught.value)
        assert "suite.yaml" in str(caught.value)

    def test_no_code_is_run(self, tmp_path: Path) -> None:
        refused(tmp_path, "encoder: !!python/object/apply:os.system ['touch hacked']\ntasks: []\n")

    @pytest.mark.parametrize("text", ["a: 2024-13-45\n", "a: 12:99:99x\n? [b]\n: c\n", "a: &x [*x]\n"])
    def test_odd_yaml(self, tmp_path: Path, text: str) -> None:
        refused(tmp_path, text)

    def test_a_key_given_twice(self, tmp_path: Path) -> None:
        """YAML forbids it; taking the last one silently drops half of what the user wrote."""
        text = yaml.safe_dump(minimal()) + "seeds: [0]\nseeds: [1]\n"
        assert "seeds" in refused(tmp_path, text)


class TestPathsAndLabels:
    def paths(self, tmp_path: Path, path: Any) -> Any:
        return load(tmp_path, minimal(tasks=[task(data={"path": path, "target": "y"})])).tasks[0].data.path

    def test_relative_to_the_suite(self, tmp_path: Path) -> None:
        """Also where the suite's own folder looks like a pattern."""
        folder = tmp_path / "[ab]*"
        (folder / "day1").mkdir(parents=True)
        (folder / "day1" / "x.h5").touch()
        (folder / "[y].h5").touch()
        assert self.paths(folder, "day1/x.h5") == folder / "day1" / "x.h5"
        assert self.paths(folder, "[y].h5") == folder / "[y].h5"
        assert find_places(self.paths(folder, ["day*/*.h5", "day1"])) == [
            folder / "day1" / "x.h5",
            folder / "day1",
        ]
        assert find_places(self.paths(tmp_path / "elsewhere", f"{tmp_path}/*/*/x.h5")) == [folder / "day1" / "x.h5"]

    @pytest.fixture(autouse=True)
    def folders(self, tmp_path: Path) -> None:
        (tmp_path / "[ab]*").mkdir()
        (tmp_path / "elsewhere").mkdir()

    @pytest.mark.parametrize("path", [[], 5, ["a.h5", 5]])
    def test_what_is_no_path(self, tmp_path: Path, path: Any) -> None:
        assert "tasks.0.data.path" in refused(tmp_path, minimal(tasks=[task(data={"path": path, "target": "y"})]))

    @pytest.mark.parametrize(
        ("label", "words"),
        [
            ({"from": "folder"}, ""),
            ({"from": "file", "pattern": "^([a-z]+)_"}, ""),
            ({"from": "file"}, "needs a pattern"),
            ({"from": "file", "pattern": "^[a-z]+_"}, "has 0 groups"),
            ({"from": "file", "pattern": "(a)(b)"}, "has 2 groups"),
            ({"from": "file", "pattern": "("}, "is not a regular expression"),
            ({"from": "moon"}, "tasks.0.data.label.from"),
            ({"pattern": "(a)"}, "missing key 'tasks.0.data.label.from'"),
            ({"from_": "folder"}, "unknown key 'tasks.0.data.label.from_'"),
        ],
    )
    def test_labels_from_names(self, tmp_path: Path, label: dict[str, str], words: str) -> None:
        content = minimal(tasks=[task(data={"path": "d", "target": "y", "label": label})])
        if words:
            assert words in refused(tmp_path, content)
        else:
            suite = load(tmp_path, content).suite
            assert Suite.model_validate(suite.model_dump(mode="json")) == suite


class TestBounds:
    def test_a_byte_order_mark(self, tmp_path: Path):
        path = tmp_path / "suite.yaml"
        path.write_text("\ufeffencoder: lwm\n", encoding="utf-8")
        with pytest.raises(SuiteError, match="missing key 'tasks'"):
            load_suite(path)

    def test_a_suite_of_a_megabyte(self, tmp_path: Path):
        (tmp_path / "suite.yaml").write_text("# nothing\n" * 100_000)
        with pytest.raises(SuiteError, match=r"suite\.yaml has more than 262,144 bytes.*: a suite is YAML"):
            load_suite(tmp_path / "suite.yaml")

    def test_keys_that_are_merged_over_and_over(self, tmp_path: Path):
        lines = ["a: &a {" + ", ".join(f"k{number}: 1" for number in range(100)) + "}"]
        lines += [f"b{number}: &b{number} {{<<: [{', '.join(['*a'] * 50)}]}}" for number in range(100)]
        (tmp_path / "suite.yaml").write_text("\n".join(lines))
        with pytest.raises(SuiteError, match=r"too many keys are merged"):
            load_suite(tmp_path / "suite.yaml")

    @pytest.mark.parametrize("key", ["window", "hop", "windows_per_recording"])
    def test_more_samples_than_there_can_be(self, tmp_path: Path, key: str):
        data = {"path": "a.h5", "target": "b", key: 10**15}
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"encoder": "lwm", "tasks": [{"name": "a", "data": data}]}))
        with pytest.raises(SuiteError, match=rf"tasks\.0\.data\.{key}: "):
            load_suite(tmp_path / "suite.yaml")
