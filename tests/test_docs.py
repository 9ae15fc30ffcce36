"""What the pages say is done: their commands are run, their Python is executed, their suites are validated, in a folder with small stand-ins.

Per page and in order: ``yaml`` blocks whose first line is ``# NAME.yaml`` become that file, other ``yaml`` blocks are validated as
parts of a suite; ``bash`` blocks are run line by line, in this process; ``python`` blocks share one namespace, and become a file too if their
first line is ``# NAME.py``; ``console`` blocks are an ``offramp`` command and what it says on standard error; of ``text`` blocks those that begin with
``$ offramp serve`` and say what it prints are started, and end with the page. Scripts of the repository are
not run: they must exist and know the options that they are given.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import sigmf
import torch
import typer
import yaml
from pydantic import BaseModel
from scipy.io import savemat

from offramp import cli, costs
from offramp.cli.app import app
from offramp.encoders import registry
from offramp.encoders.base import StagedEncoder
from offramp.encoders.iq_resnet import IQResNet, IQResNetSmall
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.registry import load_encoder, random_encoder
from offramp.encoders.storage import save_encoder
from offramp.export import bench as benching
from offramp.runtime.engine import load_slices
from offramp.schema.policies import CostSpec, GuaranteeSpec, PoliciesSpec
from offramp.schema.suite import EncoderSpec, SelectionSpec, Suite, load_suite
from offramp.schema.tasks import (
    BlockSpec,
    ChannelSpec,
    DataSpec,
    DegradeSpec,
    HeadSpec,
    LabelSpec,
    SpectrogramSpec,
    SplitSpec,
    SyntheticSpec,
    TaskSpec,
)
from offramp.training.pretrain import PretrainingConfig

ROOT = Path(__file__).parents[1]
WRITTEN = ("results.md", "policy_results.md")
"""Pages that a script writes, with commands that take minutes to hours."""
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in WRITTEN)]
LAB = "/lab"
"""The pages' name for the folder in which they are executed."""

CHANGED = {
    "offramp run --out runs/demo": ["--dry-run"],  # the embedded suite takes minutes: `make demo` runs it
    "offramp pretrain --out runs/pretrain --steps 4500": ["--steps", "2", "--batch", "4"],  # an hour
    "offramp pretrain --encoder iq-resnet-small --objective mixed --labels general --out runs/mixed --steps 6000": [
        *("--steps", "2", "--batch", "4")
    ],
}
"""Options that are added to a page's command because it would take too long as it stands."""
EXAMPLE = re.compile(r"offramp run (examples/\S+\.yaml)\b")
"""The examples need recordings that the repository does not hold: their suites are validated, not run."""
SCRIPT = re.compile(r"\bpython (\w+/[\w/]+\.py)([^`\n]*)")
"""A script of the repository and its arguments, in a code block or in the text."""
QUICK = {"encoder": "encoder", "seeds": [0], "controls": ["constant"]}
"""What the stand-ins' suites have in place of the pages' encoder, seeds and controls."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    content: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w+)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text[: match.start()].count("\n") + 1) for match in found]


def commands(block: Block) -> list[str]:
    """A line each, without comments, continued lines joined."""
    lines = block.content.replace("\\\n", " ").splitlines()
    return [line for line in (shlex.join(shlex.split(line, comments=True)) for line in lines) if line]


# --- stand-ins


def quickstart(language: str, holding: str) -> str:
    """The first such block of the quickstart."""
    return next(
        block.content for block in blocks(ROOT / "docs" / "quickstart.md")
        if block.language == language and holding in block.content
    )  # fmt: skip


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages after the quickstart take for granted: its data file, suite and run."""
    folder = tmp_path_factory.mktemp("lab")
    save_encoder(narrow_encoder(), folder / "shipped" / "iq-resnet")
    save_encoder(random_encoder(IQResNetSmall, NARROW, 0), folder / "shipped" / "iq-resnet-small")
    save_encoder(
        random_encoder(IQShuffleNet, {"channels": [8, 8, 16, 16, 32]}, 0), folder / "shipped" / "iq-shufflenet"
    )
    save_encoder(narrow_encoder(repeats=[1, 1, 1]), folder / "encoder")
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        stand_in(patch, folder)
        exec(quickstart("python", "mine.h5"), {})
        suite = yaml.safe_load(quickstart("yaml", "# mine.yaml"))
        Path("mine.yaml").write_text(yaml.safe_dump(suite | QUICK))
        assert cli.run(["run", "mine.yaml", "--out", "runs/mine"]) == 0
    return folder


def stand_in(patch: pytest.MonkeyPatch, lab: Path) -> None:
    """Narrow random encoders in place of the weights that ship, and no patience with the stop-watch."""
    shipped = {folder.name: folder for folder in (lab / "shipped").iterdir()}
    patch.setattr(registry, "packaged_weights", shipped.get)
    patch.setattr(costs, "measure_latency", lambda calls, *_: real_latency(calls, 0.0, 2))
    patch.setattr(benching, "time_interleaved", partial(costs.time_interleaved, seconds=0.0))


real_latency = costs.measure_latency


def narrow_encoder(seed: int = 0, **config: Any) -> StagedEncoder:
    """iq-resnet with a third of its channels and less; ``repeats`` leaves out exits."""
    return random_encoder(IQResNet, NARROW | config, seed)


NARROW: dict[str, Any] = {"channels": [8, 8, 12, 16, 24]}


@pytest.fixture
def here(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the lab to work in."""
    stand_in(monkeypatch, lab)
    shutil.copytree(lab, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.syspath_prepend(tmp_path)  # as for a script in this folder
    monkeypatch.setattr(registry, "REGISTERED", dict(registry.REGISTERED))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


# --- the pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, here: Path, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest):
    found = blocks(page)
    whole = "\n".join(block.content for block in found)
    if page.stem == "errors":
        make_mistakes(here)
    if "SUITE.yaml" in whole:
        make_placeholders(here)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in found:
        where = f"{page.name}, line {block.line}"
        if block.language in ("bash", "sh"):
            for command in commands(block):
                run_command(command, where, capfd)
        elif block.language == "python":
            if name := re.match(r"# (\S+\.py)\n", block.content):
                Path(name[1]).write_text(block.content)
            exec(compile(block.content, where, "exec"), namespace)
        elif block.language == "console":
            check_console(block, where, here, capfd)
        elif block.language == "yaml":
            take_suite(block, where)
        elif block.language == "text" and block.content.startswith("$ offramp serve "):
            request.addfinalizer(started_server(block, where))
    assert not (here / "hostile-code-ran").exists()


def run_command(command: str, where: str, capfd: pytest.CaptureFixture[str]) -> None:
    if command.startswith("make "):
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert command.split()[1] in targets, f"{where}: {command}: the Makefile has {targets}"
    elif command.startswith("pip install"):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = re.findall(r"\[([\w,]+)\]", command)
        assert set(",".join(named).split(",")) - {""} <= set(extras), f"{where}: {command}"
    elif example := EXAMPLE.match(command):
        load_suite(ROOT / example[1])
        parse(command, where)
    elif command.startswith("offramp "):
        capfd.readouterr()
        code = cli.run([*shlex.split(command)[1:], *CHANGED.get(command, [])])
        said = capfd.readouterr().err
        assert code == 0, f"{where}: {command}: exit code {code}: {said}"


def started_server(block: Block, where: str) -> Callable[[], object]:
    """Start it, wait for what the page says that it prints, and give what ends it."""
    command, *expected = block.content.splitlines()
    if not expected:
        return lambda: None
    words = [sys.executable, "-m", "offramp", *shlex.split(command)[2:]]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    said = server.stdout.readline().strip()

    def end() -> None:
        server.terminate()
        assert server.wait(30) == 0, where

    if said != expected[0]:
        server.kill()
        raise AssertionError(f"{where}: {said}")
    return end


def check_console(block: Block, where: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command, *expected = block.content.splitlines()
    assert command.startswith("$ offramp "), where
    capfd.readouterr()
    code = cli.run(shlex.split(command)[2:])
    said = capfd.readouterr().err.replace(str(here.resolve()), LAB).replace(str(here), LAB)
    pattern = ".+".join(map(re.escape, "\n".join(expected).split(" ...")))
    assert code == 2, f"{where}: {command}: exit code {code}: {said}"
    assert re.fullmatch(pattern, said.strip()), f"{where}: {command}: {said}"


def take_suite(block: Block, where: str) -> None:
    """Write a suite that has a name; validate a part that has none."""
    content = yaml.safe_load(block.content)
    name = re.match(r"# (\S+\.yaml)\n", block.content)
    if name:
        Path(name[1]).write_text(block.content)
        (load_slices if "slices" in content else load_suite)(Path(name[1]))
    else:
        assert set(content) <= set(Suite.model_fields) | set(TaskSpec.model_fields), where
        Suite.model_validate(suite_with(content))


def parse(command: str, where: str) -> None:
    """Only that the command line takes it."""
    try:
        typer.main.get_command(app).make_context("offramp", shlex.split(command)[1:], resilient_parsing=False)
    except Exception as error:
        raise AssertionError(f"{where}: {command}: {error}") from error


def suite_with(part: dict[str, Any]) -> dict[str, Any]:
    """A small suite, with some top-level keys or keys of its task replaced."""
    task: dict[str, Any] = {"name": "t", "data": {"path": "a.h5", "target": "label"}}
    task |= {key: value for key, value in part.items() if key in TaskSpec.model_fields}
    if "guarantee" in part.get("policies", {}):
        task["split"] = {"calibration": 0.2}
    suite = {"encoder": "iq-resnet", "tasks": [task]}
    return suite | {key: value for key, value in part.items() if key in Suite.model_fields}


# --- suite.md against the schema


MODELS: dict[str, type[BaseModel]] = {
    "": Suite,
    "encoder.": EncoderSpec,
    "selection.": SelectionSpec,
    "task ": TaskSpec,
    "head.": HeadSpec,
    "data.": DataSpec,
    "data.block.": BlockSpec,
    "data.label.": LabelSpec,
    "data.synthetic.": SyntheticSpec,
    "split.": SplitSpec,
    "policies.": PoliciesSpec,
    "policies.budget.": CostSpec,
    "policies.service_level.": CostSpec,
    "policies.guarantee.": GuaranteeSpec,
}
SETTINGS: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "data.synthetic.models": (ChannelSpec, {"scenario": "channels"}),
    "transform.name": (DegradeSpec, {"snr_db": 0}),
    "transform.snr_db": (DegradeSpec, {"name": "degrade"}),
    "transform.antennas": (DegradeSpec, {"name": "degrade"}),
    "transform.frames": (SpectrogramSpec, {"name": "spectrogram"}),
}
"""Keys of mappings that stand in place of another, and what each cannot do without."""


def key_rows() -> dict[str, list[str]]:
    """Rows of the tables of keys in suite.md: key, type, default, example, meaning."""
    text = (ROOT / "docs" / "suite.md").read_text()
    rows = (re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `"))
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 5}


def keys() -> Iterator[tuple[str, type[BaseModel], str]]:
    for prefix, model in MODELS.items():
        for field, info in model.model_fields.items():
            yield ("" if prefix == "task " else prefix) + (info.alias or field), model, field
    for key, (model, _) in SETTINGS.items():
        yield key, model, key.rsplit(".", 1)[1]


@pytest.mark.parametrize(("key", "model", "field"), keys(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_key_of_a_suite_is_described(key: str, model: type[BaseModel], field: str):
    _, default, example, meaning = key_rows()[key]
    info = model.model_fields[field]
    if info.is_required():
        assert default == "required"
    elif default == "none":
        assert info.default is None
    elif default == "all seven":
        assert len(info.default) == 7
    else:
        written = yaml.safe_load(default.strip("`"))
        expected = info.default
        if isinstance(expected, BaseModel):
            assert type(expected).model_validate(written) == expected
        else:
            assert (list(expected) if isinstance(expected, tuple) else expected) == written
    assert meaning
    Suite.model_validate(suite_with(part_with(key, yaml.safe_load(example.strip("`")))))


def test_no_other_key_is_described():
    assert set(key_rows()) == {key for key, _, _ in keys()}


def part_with(key: str, value: Any) -> dict[str, Any]:
    """Part of a suite with one key, and what this key cannot do without."""
    first, *rest = key.split(".")
    for name in reversed(rest):
        value = {name: value}
    if key.startswith("encoder."):
        value = {"name": "lwm"} | value
    if key in SETTINGS:
        within = value["synthetic"] if first == "data" else value
        within |= {name: setting for name, setting in SETTINGS[key][1].items() if name not in within}
    if key in ("selection.macs", "selection.latency_ms"):
        value["rule"] = "budget"
    if key == "selection.rule" and value["rule"] == "budget":
        value["macs"] = 1
    if key == "data.synthetic.mismatch":
        value["synthetic"]["scenario"] = "fingerprint"
    if first == "policies" and rest[:1] == ["guarantee"] and "level" not in value["guarantee"]:
        value["guarantee"]["level"] = 0.1
    if key == "data.block.size":
        value["block"]["columns"] = ["location"]
    if key == "data.label.pattern":
        value["label"]["from"] = "file"
    if first == "data":
        value = {"target": "label"} | ({} if "synthetic" in value else {"path": "a.h5"}) | value
    return {first: value}


# --- the tables of exits in encoders.md


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(
            (name, (2, 4, 256))
            for name in ("iq-resnet", "iq-resnet-small", "iq-resnet-base", "iq-shufflenet", "amc-ssl")
        ),
        ("lwm", (2, 32, 32)),
    ],
)
def test_exit_tables_hold_what_inspect_says(name: str, shape: tuple[int, ...]):
    encoder = load_encoder(name, weights="random")
    cost = costs.exit_costs(encoder, shape, measure=False)
    full = cost[encoder.exits[-1].name].macs
    text = (ROOT / "docs" / "encoders.md").read_text()
    for exit in encoder.exits:
        macs = cost[exit.name].macs
        row = f"| {exit.name} | {exit.width:,} | {exit.params:,} | {macs:,} | {1 - macs / full:.1%} |"
        assert row in text


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem
)
def test_scripts_exist_and_know_their_options(page: Path):
    for script, arguments in SCRIPT.findall(page.read_text(encoding="utf-8").replace("\\\n", " ")):
        assert (ROOT / script).is_file(), f"{page.name}: {script}"
        source = (ROOT / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[\w-]+", arguments):
            argument = option[2:].replace("-", "_")  # argparse has the option itself, typer a parameter of its name
            assert re.search(rf'"{option}"|\b{argument}: Annotated\[', source), f"{page.name}: {script} has no {option}"


# --- what the README and errors.md speak of


def make_placeholders(folder: Path) -> None:
    """``SUITE.yaml`` with a task ``los`` and policies, and ``new.h5``."""
    suite = yaml.safe_load((folder / "mine.yaml").read_text())
    los = {"tasks": [suite["tasks"][0] | {"name": "los"}], "policies": {"criteria": ["confidence"]}}
    (folder / "SUITE.yaml").write_text(yaml.safe_dump(suite | los))
    shutil.copy(folder / "mine.h5", folder / "new.h5")


def make_mistakes(folder: Path) -> None:
    """The files that the commands of errors.md stumble over."""
    good = yaml.safe_load((folder / "mine.yaml").read_text()) | {"controls": ["constant"]}
    data = {"path": "mine.h5", "target": "label", "group": "recording"}

    def suite(name: str, data_changes: dict[str, Any] | None = None, **changes: Any) -> None:
        task = {"name": "band", "data": data | (data_changes or {})}
        task |= {key: value for key, value in changes.items() if key not in Suite.model_fields}
        whole = good | {"tasks": [task]} | {key: value for key, value in changes.items() if key in Suite.model_fields}
        (folder / name).write_text(yaml.safe_dump(whole))

    rng = np.random.default_rng(0)
    windows = rng.standard_normal((60, 2, 1, 64)).astype(np.float32)
    label, recording = np.arange(60) % 3, np.arange(60) // 6

    def file(name: str, **arrays: Any) -> None:
        with h5py.File(folder / name, "w") as opened:
            for key, values in ({"sample": windows, "label": label, "recording": recording} | arrays).items():
                opened[key] = values

    suite("typo.yaml", spilt={"test": 0.2})
    suite("metric.yaml", metric="acuracy")
    suite("tolerance.yaml", {"target": "frequency"}, kind="regression", selection={"tolerance": 0.01})
    suite("budget.yaml", policies={"budget": {"macs": 1}})
    suite("guarantee.yaml", policies={"guarantee": {"level": 0.05}}, split={"calibration": 0.2})
    suite("unseen.yaml", policies={"unseen_class": "loud"})
    (folder / "broken.yaml").write_text("encoder: iq-resnet\ntasks: [\n")
    suite("encoder.yaml", encoder="resnet")
    suite("missing.yaml", {"path": "nothing.h5"})
    suite("target.yaml", {"target": "labels"})
    (folder / "notes.h5").write_text("not HDF5 at all, just some words\n" * 40)
    suite("notes.yaml", {"path": "notes.h5"})
    (folder / "half.h5").write_bytes((folder / "mine.h5").read_bytes()[:100_000])
    suite("half.yaml", {"path": "half.h5"})
    file("uneven.h5", label=label[:50])
    suite("uneven.yaml", {"path": "uneven.h5"})
    file("one-room.h5", recording=np.zeros(60, dtype=int))
    suite("one-room.yaml", {"path": "one-room.h5"})
    file("rare.h5", label=np.where(recording == 0, 1, np.where(label == 1, 0, label)))
    suite("rare.yaml", {"path": "rare.h5"})
    file("short.h5", sample=windows[..., :32])
    suite("short.yaml", {"path": "short.h5"})
    suite("shots.yaml", shots=500)
    bad = windows.copy()
    bad[17, 0, 0, 5] = np.nan
    file("nan.h5", sample=bad)
    bad[17, 0, 0, 5] = 3e38
    file("loud.h5", sample=bad)
    savemat(
        folder / "square.mat", {"sample": np.zeros((64, 2, 64)), "label": np.arange(64) % 2, "recording": np.arange(64)}
    )
    suite("square.yaml", {"path": "square.mat"})
    cells = np.array([["low"], ["high"]] * 30, dtype=object)
    savemat(folder / "cells.mat", {"sample": windows, "label": cells, "recording": recording[:, None]})
    suite("cells.yaml", {"path": "cells.mat"})

    recordings = folder / "recordings"
    recordings.mkdir()
    np.zeros(1000, dtype=np.complex64).tofile(recordings / "burst.sigmf-data")
    meta = sigmf.SigMFFile(global_info={"core:datatype": "cf32_le", "core:sample_rate": 1e6, "core:version": "1.2.0"})
    meta.add_capture(0)
    meta.add_annotation(900, 400, metadata={"core:label": "sensor"})
    (recordings / "burst.sigmf-meta").write_text(meta.dumps())
    suite("sigmf.yaml", {"path": "recordings", "group": "recording"})
    suite("annotation.yaml", {"path": "recordings", "group": "recording", "window": 64})

    (folder / "outside").mkdir()
    outside = json.loads(meta.dumps())
    outside["global"]["core:dataset"] = "../recordings/burst.sigmf-data"
    (folder / "outside" / "burst.sigmf-meta").write_text(json.dumps(outside))
    suite("outside.yaml", {"path": "outside", "group": "recording", "window": 64})
    layout = h5py.VirtualLayout(windows.shape, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "sample", windows.shape)
    with h5py.File(folder / "joined.h5", "w") as joined:
        joined.create_virtual_dataset("sample", layout)
    os.mkfifo(folder / "pipe.h5")

    for name, rate in (("plain/a", 1e6), ("rates/a", 1e6), ("rates/b", 20e6), ("damaged/a", 1e6), ("damaged/c", 1e6)):
        (folder / name).parent.mkdir(exist_ok=True)
        np.zeros(1000, dtype=np.complex64).tofile(folder / f"{name}.sigmf-data")
        meta = sigmf.SigMFFile(
            global_info={"core:datatype": "cf32_le", "core:sample_rate": rate, "core:version": "1.2.0"}
        )
        meta.add_capture(0)
        (folder / f"{name}.sigmf-meta").write_text(meta.dumps())
    shutil.copy(folder / "damaged" / "a.sigmf-meta", folder / "damaged" / "b.sigmf-meta")
    suite("plain.yaml", {"path": "plain", "window": 64})
    suite("rates.yaml", {"path": "rates", "window": 64, "cut": "all"})
    file("even.h5")
    suite("several.yaml", {"path": ["even.h5", "short.h5"]})

    shutil.copytree(folder / "runs" / "mine" / "bundle", folder / "swapped")
    save_encoder(narrow_encoder(seed=9, repeats=[1, 1, 1]), folder / "swapped" / "encoder")
    torch.save({"model": Hostile()}, folder / "hostile.pth")
    torch.save({"embedding.proj.weight": torch.ones(64, 16).to_sparse()}, folder / "sparse.pth")

    def changed(name: str, copied: Path, old: str, new: str) -> None:
        config = (shutil.copytree(copied, folder / name) / "config.json").read_text()
        (folder / name / "config.json").write_text(re.sub(old, new, config, count=1))

    changed("own", folder / "encoder", '"iq-resnet"', '"my-resnet"')
    changed("words", folder / "encoder", r'"channels": \[\s*8', '"channels": ["8"')
    changed("wide", folder / "encoder", r'"channels": \[\s*8', '"channels": [60000')
    changed("retyped", folder / "runs" / "mine" / "bundle", r'"window_shape": \[\s*2', '"window_shape": ["two"')
    (folder / "runs" / "started").mkdir()
    torch.save(
        {"config": asdict(PretrainingConfig(steps=50)), "step": 1, "log": []},
        folder / "runs" / "started" / "checkpoint.pt",
    )


class Hostile:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch hostile-code-ran",)
