"""Named sources: the Hub's cache without a network, local folders, and pickles at every door."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bundles import iq_bundle
from hugging_face_models import MODELS, save
from tiny import tiny_encoder

import offramp
from offramp.cli.inspection import inspect_target
from offramp.encoders import from_module
from offramp.encoders.hub import is_source
from offramp.encoders.registry import load_encoder
from offramp.errors import EncoderError
from offramp.experiment import pipeline
from offramp.schema.suite import load_suite

hub = pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "home" / "hub"


def remember(cache: Path, repository: str, folder: Path, revision: str = "main", commit: str = COMMIT) -> Path:
    """Lay a folder into the cache as a download would: blobs by hash, a snapshot of links, and a ref to it."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for part in (root / "blobs", root / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(commit)
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = root / "blobs" / f"{commit}{number}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def refused(name: str | Path, **options: object) -> str:
    with pytest.raises(EncoderError) as caught:
        load_encoder(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestTheHub:
    def test_an_encoder_of_ours_comes_from_the_cache(self, cache: Path, tmp_path: Path) -> None:
        encoder = tiny_encoder(3)
        encoder.save(tmp_path / "e")
        remember(cache, "lab/tiny", tmp_path / "e")
        assert load_encoder("hf-hub:lab/tiny").fingerprint() == encoder.fingerprint()
        assert load_encoder("hf-hub:lab/tiny@main").fingerprint() == encoder.fingerprint()
        assert load_encoder(f"hf-hub:lab/tiny@{COMMIT}").fingerprint() == encoder.fingerprint()

    def test_a_model_of_the_library_comes_from_the_cache(self, cache: Path, tmp_path: Path) -> None:
        model = MODELS["vit with a head"]()
        remember(cache, "lab/vit", save(model, tmp_path / "m"))
        assert load_encoder("hf-hub:lab/vit").fingerprint() == from_module(model).fingerprint()
        assert load_encoder("hf-hub:lab/vit", weights="random", seed=1).architecture == "huggingface"

    def test_a_revision_is_its_own(self, cache: Path, tmp_path: Path) -> None:
        for seed, revision in ((1, "main"), (2, "v2")):
            tiny_encoder(seed).save(tmp_path / revision)
            remember(cache, "lab/tiny", tmp_path / revision, revision, f"{seed}" * 40)
        assert load_encoder("hf-hub:lab/tiny@v2").fingerprint() == tiny_encoder(2).fingerprint()
        assert load_encoder("hf-hub:lab/tiny").fingerprint() == tiny_encoder(1).fingerprint()

    def test_what_is_not_in_the_cache_says_how_to_get_it(self, cache: Path) -> None:
        message = refused("hf-hub:lab/absent")
        assert message.startswith(
            "hf-hub:lab/absent is not in the cache, and HF_HUB_OFFLINE is set: go online once, or put"
        )
        assert "local-dir:FOLDER" in message

    def test_a_hub_that_cannot_be_reached_says_so(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        httpx = sys.modules.get("httpx2") or pytest.importorskip("httpx")

        def unreachable(*arguments: object, **options: object) -> None:
            raise httpx.ConnectError("Name or service not known\nand more")

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.HfApi.repo_info", unreachable)
        assert "is not in the cache, and the Hub cannot be reached" in refused("hf-hub:lab/absent")
        encoder = tiny_encoder(3)
        encoder.save(tmp_path / "e")
        remember(cache, "lab/tiny", tmp_path / "e")
        assert load_encoder("hf-hub:lab/tiny").fingerprint() == encoder.fingerprint()

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (OSError("proxy refuses\nthe rest"), "hf-hub:lab/x cannot be fetched: OSError proxy refuses"),
            (ValueError("odd"), "hf-hub:lab/x cannot be fetched: ValueError odd"),
        ],
    )
    def test_whatever_the_network_raises_is_one_line(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
    ) -> None:
        def fails(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
        assert refused("hf-hub:lab/x") == message

    def test_nothing_but_configuration_and_weights_is_fetched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []
        tiny_encoder(3).save(tmp_path)

        def download(repository: str, **options: object) -> str:
            asked.append((repository, options))
            return str(tmp_path)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        load_encoder("hf-hub:lab/tiny@v1")
        files = ["config.json", "model.safetensors"]
        assert asked == [("lab/tiny", {"revision": "v1", "allow_patterns": files})]

    @pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:a/b/c", "hf-hub:a//b", "hf-hub:..", "hf-hub:@main"])
    def test_a_name_that_no_repository_can_have(self, cache: Path, name: str) -> None:
        assert "the form is hf-hub:org/name" in refused(name)

    def test_the_package_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        assert "needs the package huggingface_hub: pip install offramp[hub]" in refused("hf-hub:lab/tiny")

    def test_a_checkpoint_beside_it_is_refused(self) -> None:
        assert "unknown encoder 'hf-hub:lab/tiny'" in refused("hf-hub:lab/tiny", checkpoint="x.pth")

    def test_a_process_of_its_own_without_network(self, cache: Path, tmp_path: Path) -> None:
        tiny_encoder(3).save(tmp_path / "e")
        remember(cache, "lab/tiny", tmp_path / "e")
        code = "from offramp import load_encoder; print(load_encoder('hf-hub:lab/tiny').fingerprint())"
        environment = {**os.environ, "HF_HOME": str(cache.parent), "HF_HUB_OFFLINE": "1"}
        environment.pop("HF_HUB_CACHE", None)
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == tiny_encoder(3).fingerprint()


class TestLocalFolders:
    def test_an_encoder_and_a_model_of_the_library(self, tmp_path: Path) -> None:
        encoder, model = tiny_encoder(3), MODELS["bert"]()
        encoder.save(tmp_path / "e")
        save(model, tmp_path / "m")
        assert load_encoder(f"local-dir:{tmp_path / 'e'}").fingerprint() == encoder.fingerprint()
        assert load_encoder(f"local-dir:{tmp_path / 'm'}").fingerprint() == from_module(model).fingerprint()

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        name = f"local-dir:{tmp_path / 'absent'}"
        assert refused(name) == f"{name}: there is no folder {tmp_path / 'absent'}"

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        assert "is not an encoder folder: it has no config.json" in refused(f"local-dir:{tmp_path}")

    def test_names_of_sources(self) -> None:
        assert is_source("hf-hub:a/b")
        assert is_source("local-dir:a")
        assert not is_source("iq-resnet")
        assert not is_source("folder/hf-hub:a")


class Hostile:
    """Makes a folder when it is unpickled freely."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


DOORS = ["folder", "local-dir", "hf-hub", "library folder", "library hub", "checkpoint", "suite", "bundle", "inspect"]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pth"])
@pytest.mark.parametrize("format", ["zip", "legacy", "pickle"])
def test_no_door_runs_a_pickle(cache: Path, tmp_path: Path, door: str, name: str, format: str) -> None:
    folder, mark = tmp_path / "f", tmp_path / "mark"
    if "library" in door:
        save(MODELS["vit"](), folder)
    else:
        tiny_encoder(3).save(folder)
    (folder / "model.safetensors").unlink()
    content: object = {"model": {"a": torch.zeros(2), "b": Hostile(mark)}}
    if format == "pickle":
        (folder / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, folder / name, _use_new_zipfile_serialization=format == "zip")
    remember(cache, "lab/x", folder)
    if door == "checkpoint":
        refused("lwm", checkpoint=folder / name)
        refused("iq-resnet", checkpoint=folder / name)
    elif door == "suite":
        task = {"name": "t", "data": {"path": "absent.h5", "target": "y"}}
        suite = {"encoder": {"name": "lwm", "checkpoint": f"f/{name}"}, "tasks": [task]}
        (tmp_path / "suite.yaml").write_text(json.dumps(suite))
        with pytest.raises(EncoderError, match=r"could run code|not a readable checkpoint"):
            pipeline.load(load_suite(tmp_path / "suite.yaml"), "cpu")
    elif door == "bundle":
        path = iq_bundle(tmp_path / "bundle") / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"encoder_path": str(folder / name)}))
        with pytest.raises(EncoderError, match=r"could run code|not a readable checkpoint"):
            offramp.load(tmp_path / "bundle")
    elif door == "inspect":
        with pytest.raises(EncoderError, match=r"could run code|not a readable checkpoint"):
            inspect_target("lwm", checkpoint=folder / name)
    else:
        refused({"local-dir": f"local-dir:{folder}"}.get(door, "hf-hub:lab/x" if "hub" in door else folder))
    assert not mark.exists()


def test_code_beside_weights_is_not_run(cache: Path, tmp_path: Path) -> None:
    folder, mark = save(MODELS["vit"](), tmp_path / "f"), tmp_path / "mark"
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}, "trust_remote_code": True}
    for model_type in ("vit", "mine"):
        (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
        (folder / "code.py").write_text(f"import os; os.mkdir({str(mark)!r})")
        remember(cache, f"lab/{model_type}", folder)
    assert load_encoder("hf-hub:lab/vit").architecture == "huggingface"
    assert "type 'mine' is not cut as a whole" in refused("hf-hub:lab/mine")
    assert not mark.exists()
