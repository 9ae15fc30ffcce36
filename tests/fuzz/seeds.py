"""Small valid inputs of every kind that a command reads, made by the makers of the other tests."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.numpy import save_file
from scipy.io import savemat

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / room) for room in (".", "cli", "data", "data/formats", "encoders", "report")]

import report_samples  # noqa: E402
import routed_samples  # noqa: E402
import test_csitool  # noqa: E402
import test_deepbeam  # noqa: E402
import test_deepmimo  # noqa: E402
import test_icarus  # noqa: E402
import test_matlab  # noqa: E402
import test_ntu_fi  # noqa: E402
import test_owl  # noqa: E402
import test_powder  # noqa: E402
import test_radcom  # noqa: E402
import test_rml2018  # noqa: E402
import test_torchsig  # noqa: E402
import test_ut_har  # noqa: E402
import test_uwb_indoor  # noqa: E402
import test_wavesfm_caches  # noqa: E402
from bundles import STANDARDIZE, small_shufflenet, task, write  # noqa: E402
from laboratory import Lab  # noqa: E402
from python2_pickles import protocol0, protocol2  # noqa: E402
from tiny import tiny_encoder, write_hdf5  # noqa: E402
from wavesfm_reference import published_state  # noqa: E402

from offramp.data.dataset import load_dataset  # noqa: E402
from offramp.data.splits import make_split, save_split  # noqa: E402
from offramp.encoders.lwm import LWM  # noqa: E402
from offramp.encoders.registry import random_encoder  # noqa: E402
from offramp.encoders.storage import save_encoder  # noqa: E402
from offramp.policies import Policy  # noqa: E402
from offramp.schema.tasks import DataSpec, SplitSpec  # noqa: E402

RNG = np.random.default_rng(0)
N, SHAPE = 12, (2, 1, 128)
OUT = "out"
"""Where commands write, below the folder of an input."""

Commands = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Seed:
    """A valid input.

    Attributes:
        kind: What it is.
        folder: All that its commands read, alone.
        mutated: Patterns below ``folder``, of the files that are changed.
        commands: Command lines that read it; ``{}`` stands for the folder, ``{word}`` for a value of an option that is drawn.
    """

    kind: str
    folder: Path
    mutated: tuple[str, ...]
    commands: Commands

    def targets(self, folder: Path) -> list[Path]:
        """The files to change in a copy of the folder."""
        return sorted(path for pattern in self.mutated for path in folder.glob(pattern) if path.is_file())


def make_seeds(root: Path) -> tuple[Seed, ...]:
    """Every kind, each in a folder of its own below ``root``."""
    encoder = small_shufflenet()
    tasks = (
        task(encoder, "shape", "conv5", SHAPE, ("x", "y")),
        task(encoder, "device", "stem", SHAPE, ("a", "b"), STANDARDIZE),
    )
    write(root / "bundle", encoder, *tasks)
    makers = [_data, _suites, _bundles, _encoders, _checkpoints, _results, _options]
    return tuple(seed for make in makers for seed in make(root))


def _data(root: Path) -> Iterator[Seed]:
    for kind, (name, make, options) in DATA.items():
        folder = root / kind
        folder.mkdir()
        make(folder / name)
        (folder / "bundle").symlink_to(root / "bundle")
        path = f"{{}}/{name}"
        window = ("--window", "16") if "window" in options else ()
        yield Seed(
            kind,
            folder,
            (name, f"{name}/**/*") if (folder / name).is_dir() else (f"{name.split('.')[0]}*",),
            (
                ("inspect", path),
                ("inspect", path, "--json"),
                ("data", "convert", path, "--out", f"{{}}/{OUT}/cache.h5", *window),
                ("predict", "{}/bundle", path, "--task", "shape"),
                ("predict", "{}/bundle", path, "--task", "device", "--format", "jsonl", "--out", f"{{}}/{OUT}/a.jsonl"),
            ),
        )


def _hdf5(path: Path) -> None:
    write_hdf5(path, sample=_windows(), label=np.arange(N) % 3, place=RNG.random((N, 2)), session=_words())


def _hdf5_pairs(path: Path) -> None:
    """Complex windows, chunks, compression, text of any length and attributes."""
    windows = (RNG.standard_normal((N, 128)) + 1j * RNG.standard_normal((N, 128))).astype(np.complex64)
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("sample", data=windows, chunks=(4, 128), compression="gzip", shuffle=True)
        file["label"] = np.array(["a", "b", "c"] * 4, dtype=object)
        file.attrs["labels"] = json.dumps(["x", "y"])


def _wavesfm(path: Path) -> None:
    arrays, attributes, _ = test_wavesfm_caches.CACHES["radcom"]
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        file.attrs.update(attributes)


def _npz(path: Path) -> None:
    np.savez(path, sample=_windows(), label=np.arange(N) % 3, session=_words())


def _npz_compressed(path: Path) -> None:
    np.savez_compressed(path, sample=_windows()[:, :, 0].astype(np.int16), label=np.arange(N)[:, None] % 3)


def _npy(path: Path) -> None:
    test_deepmimo.save(path, test_deepmimo.users(20))


def _matlab(path: Path) -> None:
    savemat(path, {"sample": _windows(), "label": np.arange(N) % 3, "names": _words()}, do_compression=True)


def _matlab_plain(path: Path) -> None:
    test_matlab.write_v5(path, sample=test_matlab.WAVES, label=test_matlab.LABEL)


def _matlab_73(path: Path) -> None:
    test_matlab.write_v73(path, sample=test_matlab.WAVES, label=test_matlab.LABEL, names=_words())


def _sigmf(path: Path, datatype: str = "cf32_le", count: int = 1000) -> None:
    """A recording with two captures and annotations; ``path`` is its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (RNG.standard_normal(count) + 1j * RNG.standard_normal(count)).astype("<c8")
    meta = {
        "global": {
            "core:datatype": datatype,
            "core:version": "1.2.0",
            "core:sample_rate": 1000.0,
            "core:num_channels": 1,
        },
        "captures": [
            {"core:sample_start": 0, "core:frequency": 1e9, "core:datetime": "2024-01-01T00:00:00Z"},
            {"core:sample_start": 500, "core:frequency": 1e9},
        ],
        "annotations": [
            {"core:sample_start": start, "core:sample_count": 130, "core:label": label}
            for start, label in ((10, "a"), (200, "b"), (600, "a"))
        ],
    }
    path.write_text(json.dumps(meta))
    path.with_suffix(".sigmf-data").write_bytes(samples.tobytes())


def _sigmf_folder(path: Path) -> None:
    for name in ("one", "two"):
        _sigmf(path / f"{name}.sigmf-meta")


def _icarus(path: Path) -> None:
    for name, kind in (("lte", "<f4"), ("psk", "<i2")):
        test_icarus.write(path, name, test_icarus.ramp(300, kind), No_of_Samples=300)


def _ntu_fi(path: Path) -> None:
    for name in ("train_amp/box/a.mat", "test_amp/walk/b.mat"):
        test_ntu_fi.write(path / name, do_compression=name.startswith("train"))


def _powder(path: Path) -> None:
    test_powder.write(path, "day1/bes_1", test_powder.ramp(300))
    test_powder.write(path, "day2/meb_1", test_powder.ramp(200), "meb")


def _ut_har(path: Path) -> None:
    for part, count in test_ut_har.COUNTS.items():
        test_ut_har.save(path / "data" / f"X_{part}.csv", RNG.normal(size=(count, 250, 90)).astype(np.float32))
        test_ut_har.save(path / "label" / f"y_{part}.csv", np.arange(count).astype(np.float64))


def _uwb_indoor(path: Path) -> None:
    tree: dict[str, Any] = {}
    for place in test_uwb_indoor.PLACES:
        for anchor in test_uwb_indoor.ANCHORS:
            taps = [test_uwb_indoor.measurement(place, test_uwb_indoor.response()) for _ in range(2)]
            tree.setdefault(place, {}).setdefault(anchor, {})["ch2"] = taps
    test_uwb_indoor.write(path, tree)


def _pickle(writer: Callable[[Any], bytes]) -> Callable[[Path], None]:
    content = {
        (word, snr): RNG.standard_normal((3, 2, 128)).astype(np.float32)
        for word in ("QPSK", "8PSK")
        for snr in (-20, 18)
    }
    return lambda path: path.write_bytes(writer(content)) and None


DATA: dict[str, tuple[str, Callable[[Path], Any], tuple[str, ...]]] = {
    "hdf5": ("a.h5", _hdf5, ()),
    "hdf5-latest": ("a.h5", _hdf5_pairs, ()),
    "hdf5-wavesfm": ("a.h5", _wavesfm, ()),
    "npz": ("a.npz", _npz, ()),
    "npz-compressed": ("a.npz", _npz_compressed, ()),
    "matlab": ("a.mat", _matlab, ()),
    "matlab-plain": ("a.mat", _matlab_plain, ()),
    "matlab-7.3": ("a.mat", _matlab_73, ()),
    "sigmf": ("a.sigmf-meta", _sigmf, ("window",)),
    "sigmf-folder": ("recordings", _sigmf_folder, ("window",)),
    "csitool": ("a.dat", lambda path: test_csitool.write(path, list(test_csitool.packets(40))), ("window",)),
    "deepbeam": (
        "a.h5",
        lambda path: test_deepbeam.write(path, frames=1, blocks=2, per=test_deepbeam.BLOCK),
        (),
    ),
    "deepmimo": ("city_1_x_ant4_sub8_bs1.npy", _npy, ()),
    "icarus": ("icarus", _icarus, ("window",)),
    "ntu-fi": ("har", _ntu_fi, ()),
    "owl": ("owl", lambda path: test_owl.write(path), ()),
    "powder": ("powder", _powder, ("window",)),
    "radcom": ("a.hdf5", test_radcom.write, ()),
    "rml2018": ("a.hdf5", test_rml2018.write, ()),
    "rml-pickle-0": ("a.pkl", _pickle(protocol0), ()),
    "rml-pickle-2": ("a.dat", _pickle(protocol2), ()),
    "rml-pickle-5": ("a.pkl", _pickle(pickle.dumps), ()),
    "torchsig": ("a.h5", test_torchsig.write, ()),
    "torchsig-2.0": ("a.h5", test_torchsig.write_2_0, ()),
    "ut-har": ("ut", _ut_har, ()),
    "uwb-indoor": ("environment0/data.json", _uwb_indoor, ()),
}
"""Kind -> name of the file or folder, its maker, and ``window`` where windows are cut."""


def _suites(root: Path) -> Iterator[Seed]:
    dry = (("run", "{}/suite.yaml", "--dry-run", "--out", f"{{}}/{OUT}/run"),)
    for kind, changes in SUITES.items():
        folder = root / kind
        folder.mkdir()
        Lab(folder).suite(**changes)
        mutated = "suite.yaml"
        if kind == "split":
            data = load_dataset(DataSpec(path=folder / "data.h5", target="los", group="city"), "classification")
            save_split(make_split(data, SplitSpec(), "classification", None, [0, 1], 0), data, folder / "los.json")
            Lab(folder).suite(
                {
                    "name": "los",
                    "data": {"path": "data.h5", "target": "los", "group": "city"},
                    "split": {"file": "los.json"},
                }
            )
            mutated = "los.json"
        yield Seed(kind, folder, (mutated,), dry)
        if kind == "suite":
            yield Seed("suite-data", folder, ("data.h5",), dry)
            yield Seed("suite-encoder", folder, ("encoder/*",), dry)


_TASK = {"name": "los", "data": {"path": "data.h5", "target": "los", "group": "city"}}
SUITES: dict[str, dict[str, Any]] = {
    "suite": {},
    "suite-full": {
        "tasks": [
            _TASK
            | {
                "kind": "classification",
                "shift": "unknown",
                "split": {"test": 0.25, "calibration": 0.2},
                "transform": "standardize",
                "shots": 5,
                "metric": "accuracy",
                "head": {"kind": "linear", "pooling": "default"},
            },
            _TASK | {"name": "angle", "kind": "regression", "data": {"path": "data.h5", "target": "angle", "input": "sample"}},
        ],
        "selection": {"rule": "non-inferior", "tolerance": "1%"},
        "controls": ["constant", "random_encoder", "raw_input"],
        "policies": {"criteria": ["confidence", "entropy"]},
    },
    "suite-synthetic": {
        "tasks": [
            {
                "name": "modulation",
                "shift": "id",
                "data": {
                    "synthetic": {"scenario": "signals", "windows": 300, "samples": 64, "snr_db": [-6, 18], "seed": 7},
                    "target": "modulation",
                    "snr": "snr_db",
                },
            }
        ],
        "selection": {"rule": "budget", "macs": 1e6},
    },
    "split": {},
}  # fmt: skip


def _bundles(root: Path) -> Iterator[Seed]:
    folder = root / "bundle-files"
    folder.mkdir()
    encoder = small_shufflenet()
    ones = (1.0, 1.0, 1.0)
    policy = Policy("classification", "confidence", ("stem", "stage2.1", "conv5"), (0.9, 0.8), ones, ones).to_dict()
    tasks = (
        task(encoder, "shape", "stage2.1", SHAPE, ("x", "y")),
        task(encoder, "angle", "conv5", SHAPE, hidden=(7,)),
    )
    write(folder / "bundle", encoder, replace(tasks[0], policies={"early": policy}), tasks[1])
    _hdf5(folder / "a.h5")
    predict = ("predict", "{}/bundle", "{}/a.h5", "--task")
    commands = (
        ("inspect", "{}/bundle"),
        ("inspect", "{}/bundle", "--json"),
        (*predict, "shape"),
        (*predict, "shape", "--policy", "early"),
        (*predict, "angle", "--format", "jsonl"),
    )
    parts = {
        "config": "bundle/config.json",
        "heads": "bundle/heads.safetensors",
        "encoder-config": "bundle/encoder/config.json",
        "encoder-weights": "bundle/encoder/model.safetensors",
    }
    for part, path in parts.items():
        yield Seed(f"bundle-{part}", folder, (path,), commands[2:] if part == "encoder-weights" else commands)
    yield Seed("bundle-examples", folder, ("bundle/examples.safetensors",), (("inspect", "{}/bundle"),))


def _encoders(root: Path) -> Iterator[Seed]:
    lwm = random_encoder(LWM, {"layers": 1}, seed=0)
    for name, encoder in {"shufflenet": tiny_encoder(repeats=1), "lwm": lwm}.items():
        folder = root / f"encoder-{name}"
        save_encoder(encoder, folder / "encoder")
        yield Seed(f"encoder-{name}", folder, ("encoder/config.json", "encoder/*"), (("inspect", "{}/encoder"), ("inspect", "{}/encoder", "--json")))  # fmt: skip
    folder = root / "encoder-transformers"
    _transformers(folder / "encoder")
    yield Seed("encoder-transformers", folder, ("encoder/*.json", "encoder/*"), (("inspect", "{}/encoder"),))


def _transformers(folder: Path) -> None:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=16, patch_size=8, num_channels=1, **sizes)).save_pretrained(folder)


def _checkpoints(root: Path) -> Iterator[Seed]:
    state = {name: torch.as_tensor(values) for name, values in published_state("iq").items()}
    for kind, suffix in {"checkpoint": "pth", "checkpoint-safetensors": "safetensors"}.items():
        folder = root / kind
        folder.mkdir()
        path = folder / f"a.{suffix}"
        if suffix == "pth":
            torch.save({"model": state, "epoch": 3}, path)
        else:
            save_file({name: tensor.numpy() for name, tensor in state.items()}, path)
        yield Seed(kind, folder, (path.name,), (("inspect", "wavesfm", "--checkpoint", f"{{}}/{path.name}", "--shape", "2,1,64"),))  # fmt: skip


def _results(root: Path) -> Iterator[Seed]:
    folder = root / "results"
    (folder / "run").mkdir(parents=True)
    one = report_samples.results({"los": routed_samples.routed_task()})
    (folder / "run" / "results.json").write_text(one.model_dump_json(by_alias=True))
    yield Seed("results", folder, ("run/results.json",), (("report", "{}/run", "--out", f"{{}}/{OUT}/report.html"),))


def _options(root: Path) -> Iterator[Seed]:
    folder = root / "options"
    folder.mkdir()
    _sigmf(folder / "a.sigmf-meta")
    Lab(folder).suite()
    (folder / "bundle").symlink_to(root / "bundle")
    convert = ("data", "convert", "{}/a.sigmf-meta", "--out", f"{{}}/{OUT}/a.h5")
    predict = ("predict", "{}/bundle", "{}/a.sigmf-meta")
    names = (
        "format",
        "input",
        "target",
        "group",
        "snr",
        "cut",
        "windows-per-recording",
        "resample",
        "label-from",
        "labels",
    )
    commands = (
        (*convert, "--window", "{word}", "--hop", "{word}"),
        *((*convert, "--window", "64", f"--{name}", "{word}") for name in names),
        (*convert, "--window", "64", "--label-from", "file", "--label-pattern", "{word}"),
        (*predict, "--task", "{word}"),
        (*predict, "--task", "shape", "--policy", "{word}"),
        (*predict, "--task", "shape", "--resample", "{word}"),
        (*predict, "--task", "shape", "--device", "{word}"),
        ("inspect", "{}/encoder", "--shape", "{word}"),
        ("inspect", "{word}"),
        ("inspect", "wavesfm", "--modality", "{word}"),
        ("inspect", "iq-resnet", "--checkpoint", "{word}"),
        ("run", "{}/suite.yaml", "--dry-run", "--seed", "{word}"),
        ("run", "{word}", "--dry-run"),
        ("report", "{word}", "--out", f"{{}}/{OUT}/a.html"),
        ("{word}", "{word}"),
    )
    yield Seed("options", folder, (), commands)


def _windows() -> np.ndarray:
    return RNG.standard_normal((N, *SHAPE)).astype(np.float32)


def _words() -> np.ndarray:
    return np.array([f"day {number // 4}" for number in range(N)])
