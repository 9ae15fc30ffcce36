"""Encoder folders and foreign checkpoints: what goes in comes out, and a bad file is one line and runs nothing."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import CONFIG, tiny_encoder

from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import fill, read_config, read_shapes, read_tensors, save_encoder
from offramp.errors import EncoderError


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in tiny_encoder(1).state_dict().items()}


def refused(path: Path) -> str:
    with pytest.raises(EncoderError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_folder_gives_back_the_encoder(tmp_path: Path) -> None:
    encoder = tiny_encoder(5)
    encoder.stages[0][1].running_mean.normal_()  # type: ignore[index, union-attr]
    save_encoder(encoder, tmp_path / "e", {"data": "simulated"})
    loaded = load_encoder(tmp_path / "e")
    assert loaded.fingerprint() == encoder.fingerprint()
    assert loaded.exits == encoder.exits
    config = read_config(tmp_path / "e")
    assert config["config"] == CONFIG
    assert config["sha256"] == encoder.fingerprint()
    assert config["provenance"] == {"data": "simulated"}
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["config.json", "model.safetensors"]


def test_an_encoder_saves_itself(tmp_path: Path) -> None:
    encoder = tiny_encoder(5)
    encoder.save(str(tmp_path / "a" / "e"), {"data": "simulated"})
    save_encoder(encoder, tmp_path / "b", {"data": "simulated"})
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / "e" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_stages_that_share_tensors_are_saved(tmp_path: Path) -> None:
    encoder = tiny_encoder(5)
    encoder.stages[2] = encoder.stages[1] = encoder.stages[2]
    encoder.save(tmp_path)
    read = read_tensors(tmp_path / "model.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in encoder.state_dict().items())


def test_saving_again_replaces_the_old_one(tmp_path: Path) -> None:
    for seed in (1, 2):
        save_encoder(tiny_encoder(seed), tmp_path)
    assert load_encoder(tmp_path).fingerprint() == tiny_encoder(2).fingerprint()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pytorch_checkpoint_is_read_and_unwrapped(
    tmp_path: Path, tensors: dict[str, torch.Tensor], wrapped: bool
) -> None:
    path = tmp_path / "c.pth"
    torch.save({"model": tensors, "epoch": 3} if wrapped else tensors, path)
    read = read_tensors(path)
    assert list(read) == list(tensors)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


class Hostile:
    """Makes a file when it is unpickled freely."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("format", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, format: str, wrapped: bool) -> None:
    path, mark = tmp_path / "hostile.pth", tmp_path / "mark"
    content: object = {"model": {"a": torch.zeros(2), "b": Hostile(mark)}} if wrapped else Hostile(mark)
    if format == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=format == "zip")
    assert "could run code, and was not loaded" in refused(path)
    assert "could run code" in _load_error("iq-shufflenet", path)
    assert not mark.exists()
    with suppress(RuntimeError):  # a bare pickle is no checkpoint, but torch finds out too late
        torch.load(path, weights_only=False)
    assert mark.exists(), "the test's pickle is not hostile"


def _load_error(name: str, path: Path) -> str:
    with pytest.raises(EncoderError) as caught:
        load_encoder(name, checkpoint=path)
    return str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"Not a checkpoint.\n", b"hello, world", b"\x80\x02", b"\x80\x02}.", bytes(500)]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_truncated_file_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], kind: str, kept: float) -> None:
    path = tmp_path / ("t.safetensors" if kind == "safetensors" else "t.pth")
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_flipped_bytes_are_refused_or_read_but_never_crash(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("f.safetensors" if kind == "safetensors" else "f.pth")
    if kind == "safetensors":
        save_file({"a": torch.zeros(3)}, path)
    else:
        torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=kind == "zip")
    content, rng = path.read_bytes(), random.Random(0)
    outcomes = set()
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_tensors(path)
            outcomes.add("read")
        except EncoderError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("content", [[1, 2], {"a": torch.zeros(2), "epoch": 3}, {"model": 3}, torch.zeros(2)])
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "c.pt"
    torch.save(content, path)
    assert "is not a state dict: expected names with tensors" in refused(path)


class TestKindsOfTensors:
    """What a tensor may be is said, and anything else names it."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_floats_come_as_float32(self, tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
        values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        path = tmp_path / f"c{suffix}"
        content = {"a": values.to(dtype), "count": torch.tensor(7)}
        save_file(content, path) if suffix == ".safetensors" else torch.save(content, path)
        read = read_tensors(path)
        assert read["a"].dtype == torch.float32
        assert torch.equal(read["a"], values.to(dtype).float())
        assert torch.equal(read["count"], torch.tensor(7))

    @pytest.mark.parametrize(
        "make",
        [
            lambda t: torch.nn.Parameter(t),
            lambda t: t.t().contiguous().t(),
            lambda t: torch.cat([t, t])[4:],
        ],
        ids=["parameter", "transposed", "part"],
    )
    def test_any_view_of_dense_values(self, tmp_path: Path, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
        values = torch.randn(4, 4)
        torch.save({"a": make(values)}, tmp_path / "c.pth")
        read = read_tensors(tmp_path / "c.pth")["a"]
        assert torch.equal(read, values)
        assert not read.requires_grad

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        ("kind", "make"),
        [
            ("complex64", lambda t: t.to(torch.complex64)),
            ("complex32", lambda t: t.to(torch.complex32)),
            ("sparse_coo", lambda t: t.to_sparse()),
            ("sparse_csr", lambda t: t.to_sparse_csr()),
            ("quantised", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
            ("on the device meta", lambda t: t.to("meta")),
            ("float8_e4m3fn", lambda t: t.to(torch.float8_e4m3fn)),
            ("uint16", lambda t: t.to(torch.uint16)),
            ("expanded from fewer values", lambda t: torch.zeros(1).expand(10**9, 64)),
        ],
    )
    def test_others_are_refused(self, tmp_path: Path, kind: str, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
        path = tmp_path / "c.pth"
        torch.save({"good": torch.zeros(2), "blocks.1.bias": make(torch.ones(4, 4))}, path)
        assert f"tensor 'blocks.1.bias' is {kind}: store a dense one of float32, " in refused(path)

    @pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.uint64])
    def test_so_they_are_in_a_header(self, tmp_path: Path, dtype: torch.dtype) -> None:
        path = tmp_path / "c.safetensors"
        save_file({"a": torch.zeros(8).to(dtype)}, path)
        assert "tensor 'a' is " in refused(path)
        with pytest.raises(EncoderError, match="tensor 'a' is "):
            read_shapes(path)

    @pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64])
    def test_integers_are_no_weights(self, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
        name = next(iter(tensors))
        with pytest.raises(
            EncoderError, match=f"c.pth does not fit iq-shufflenet: {name} is {dtype} where torch.float32"
        ):
            fill(tiny_encoder(), tensors | {name: tensors[name].to(dtype)}, "c.pth")


def test_a_packed_archive_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "c.pth")
    with (
        zipfile.ZipFile(tmp_path / "c.pth") as given,
        zipfile.ZipFile(tmp_path / "p.pth", "w", zipfile.ZIP_LZMA) as out,
    ):
        for member in given.infolist():
            out.writestr(member.filename, given.read(member))
    assert "declares 4,00" in refused(tmp_path / "p.pth")


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        {"a": {"dtype": "F32", "shape": [10**6], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}},
        {"a": 3},
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    text, path = json.dumps(header).encode(), tmp_path / "c.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    refused(path)
    with pytest.raises(EncoderError, match="not a readable checkpoint"):
        read_shapes(path)
    path.write_bytes(struct.pack("<Q", 2**60) + text)
    refused(path)


def test_shapes_come_from_the_header_alone(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "c.safetensors")
    assert read_shapes(tmp_path / "c.safetensors") == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such checkpoint" in refused(tmp_path / "absent.pth")
    assert "no such checkpoint" in refused(tmp_path)


def test_weights_that_do_not_fit_are_listed_up_to_three(tensors: dict[str, torch.Tensor]) -> None:
    encoder = tiny_encoder()
    before = encoder.fingerprint()
    names = list(tensors)
    wrong = dict(tensors)
    del wrong[names[0]], wrong[names[2]]
    wrong["extra"] = torch.zeros(1)
    wrong[names[6]] = torch.zeros(7)
    with pytest.raises(EncoderError) as caught:
        fill(encoder, wrong, "c.pth")
    assert str(caught.value) == (
        f"c.pth does not fit iq-shufflenet: {names[0]} is missing; {names[2]} is missing; extra is unknown and 1 more"
    )
    with pytest.raises(EncoderError, match=rf"{names[6]} is \(7,\) instead of \("):
        fill(encoder, tensors | {names[6]: torch.zeros(7)}, "c.pth")
    assert encoder.fingerprint() == before


def test_a_checkpoint_of_another_architecture_names_the_first_three_keys(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    torch.save({"conv1.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}, tmp_path / "resnet.pth")
    message = _load_error("iq-shufflenet", tmp_path / "resnet.pth")
    first = list(load_encoder("iq-shufflenet", weights="random").state_dict())[:3]
    assert "resnet.pth does not fit iq-shufflenet" in message
    assert all(f"{name} is missing" in message for name in first)
    assert message.count("missing") == 3
    torch.save(tensors, tmp_path / "iq.pth")
    assert "not an LWM 1.0 checkpoint: it lacks embedding.proj.weight, " in _load_error("lwm", tmp_path / "iq.pth")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"architecture": "lwm"}',
        '{"architecture": "lwm", "config": 3}',
        '{"architecture": ["lwm"], "config": {}}',
        '{"architecture": "lwm", "config": {}, "schema": 2}',
        json.dumps({"architecture": "l" * 5000, "config": {}}),
        "[" * 20_000 + "]" * 20_000,
        "\x00",
    ],
)
def test_a_broken_configuration_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(EncoderError, match="is not an encoder's configuration: it needs 'architecture' and 'config'"):
        read_config(tmp_path)


def test_a_folder_of_something_else_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"is not an encoder folder: it has no config\.json"):
        load_encoder(tmp_path)


def test_constructor_arguments_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    save_encoder(tiny_encoder(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["depth"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"iq-shufflenet cannot be built: .*'depth'"):
        load_encoder(tmp_path)
