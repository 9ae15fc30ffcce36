"""The fake of ``fake_server`` as far as it reads: what it serves, and what it takes for an input."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

KINDS = {
    "BOOL": np.bool_,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class FakeModel:
    inputs: dict[str, tuple[str, list[int]]]
    outputs: dict[str, tuple[str, list[int]]]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Weighted sums along rows, so that every element of every input matters, and its place."""
        numbers = [np.vectorize(len)(x) if x.dtype == object else x.astype(np.float32) for x in inputs.values()]
        flat = [x.reshape(len(x), prod(x.shape[1:])) for x in numbers]
        rows = sum(x @ np.arange(1, x.shape[1] + 1) for x in flat)
        found: dict[str, np.ndarray] = {}
        for place, (name, (kind, shape)) in enumerate(self.outputs.items()):
            wide = rows.reshape([-1] + [1] * (len(shape) - 1)) + np.ones([1, *shape[1:]]) * (place + 1)
            found[name] = wide.astype(KINDS[kind]) if kind != "BYTES" else _texts(wide)
        return found


def _texts(numbers: np.ndarray) -> np.ndarray:
    found = np.empty(numbers.shape, object)
    found.flat = [f"<{number:g}>".encode() for number in numbers.flat]
    return found


MODELS = {
    "sum": FakeModel(
        {"x": ("FP32", [-1, 3]), "word": ("BYTES", [-1])}, {"total": ("FP32", [-1, 2]), "label": ("BYTES", [-1])}
    ),
    "narrow": FakeModel({"x": ("FP16", [2, 2])}, {"total": ("FP16", [2, 2])}),
    "writer": FakeModel({"text_input": ("BYTES", [1])}, {"text_output": ("BYTES", [1])}),
}


class Refused(Exception):
    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class FakeReader:
    """Reads requests, and lets one mistake pass, if any."""

    wrong: str = ""
    bare: bool = False
    """Whether it has none of the extensions, whatever it announces."""

    def allows(self, *checks: str) -> bool:
        """Whether this fake is to let such a mistake pass."""
        return self.wrong in checks

    def parsed(self, headers: dict[str, str], body: bytes) -> tuple[dict[str, Any], bytes]:
        length = None if self.bare else headers.get(LENGTH)
        head = body
        if length is not None:
            if not length.isdecimal() or int(length) > len(body):
                if not self.allows("binary.header-length"):
                    raise Refused(f"{LENGTH} {length} of {len(body)}")
                length = str(body.rindex(b"]}") + 2)
            head = body[: int(length)]
        try:
            document = json.loads(head, parse_constant=None if self.allows("errors.nan") else _no_constant)
        except RecursionError:
            raise Refused("too deep", 500 if self.allows("errors.very-deep-json") else 400) from None
        except ValueError as error:
            raise Refused(str(error), 500 if self.allows("errors.bad-json") else 400) from None
        if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
            raise Refused("no inputs", 500 if self.allows("errors.wrong-types") else 400)
        return document, body[len(head) :]

    def inputs(self, model: FakeModel, document: dict[str, Any], raw: bytes) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        place = 0
        for entry in document["inputs"]:
            name, shape, size = self._entry(model, entry, found)
            if name not in model.inputs:
                continue
            kind = model.inputs[name][0]
            if size is None:
                found[name] = self._from_json(name, kind, shape, entry.get("data"))
            else:
                if ("data" in entry or place + size > len(raw)) and not self.allows("binary.sizes"):
                    raise Refused(f"{name}: {size} bytes are not there")
                if (
                    len(document["inputs"]) > 1
                    and place == 0
                    and len(raw) == size
                    and self.allows("binary.mixed-inputs")
                ):
                    raise Refused("all or none")
                found[name] = self.from_bytes(name, kind, shape, raw[place : place + size])
                place += size
        if place < len(raw) and not self.allows("binary.sizes"):
            raise Refused(f"{len(raw) - place} bytes are left over")
        if place and self.allows("binary.inputs"):
            raise Refused("no binary inputs")
        missing = model.inputs.keys() - found.keys()
        if missing:
            if not self.allows("errors.missing-input", "errors.wrong-name"):
                raise Refused(f"no {', '.join(missing)}")
            found |= {name: np.zeros([1, *model.inputs[name][1][1:]], np.float32) for name in missing}
        return {name: found[name] for name in model.inputs}

    def _entry(self, model: FakeModel, entry: Any, found: dict[str, Any]) -> tuple[str, list[int], int | None]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise Refused("an input has no name")
        name, kind = entry["name"], entry.get("datatype")
        shape = entry.get("shape", model.inputs.get(name, ("", []))[1] if self.allows("errors.missing-field") else None)
        if name in found and not self.allows("errors.same-input-twice"):
            raise Refused(f"{name} comes twice")
        if name not in model.inputs:
            if not self.allows("errors.wrong-name", "errors.extra-input"):
                raise Refused(f"no input {name}; there are {', '.join(model.inputs)}")
            return name, [1], None
        said, sizes = model.inputs[name]
        if kind != said and not self.allows("errors.wrong-datatype" if kind in KINDS else "errors.no-datatype"):
            raise Refused(f"{name} is {said}")
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            if not (
                isinstance(shape, list) and self.allows("errors.negative-dimension", "errors.fractional-dimension")
            ):
                raise Refused(f"shape of {name}: {shape}")
            shape = [abs(int(size)) for size in shape]
        if len(shape) != len(sizes) or any(size not in (given, -1) for size, given in zip(sizes, shape, strict=True)):
            if not self.allows("errors.wrong-shape", "errors.huge-shape"):
                raise Refused(f"{name} has shape {shape}, not {sizes}")
            shape = [1 if size < 0 else size for size in sizes]
        size = (entry.get("parameters") or {}).get("binary_data_size")
        if size is not None and (type(size) is not int or size < 0):
            raise Refused(f"size of {name}")
        return name, shape, size

    def _from_json(self, name: str, kind: str, shape: list[int], data: Any) -> np.ndarray:
        if not isinstance(data, list):
            raise Refused(f"{name} has no data")
        flat, depth = data, 0
        while any(isinstance(part, list) for part in flat) and (depth < len(shape) or self.allows("errors.deep-json")):
            flat = [element for part in flat for element in (part if isinstance(part, list) else [part])]
            depth += 1
        if depth and self.allows("inference.nested"):
            flat = flat[::-1]
        if len(flat) != prod(shape):
            slack = ("errors.data-too-long", "errors.data-too-short", "errors.wrong-shape", "errors.huge-shape")
            if not self.allows(*slack):
                raise Refused(f"{name} has {len(flat)} elements for {shape}")
            flat = ((flat or ["1" if kind == "BYTES" else 1]) * prod(shape))[: prod(shape)]
        wanted = str if kind == "BYTES" else (int, float)
        if not all(isinstance(element, wanted) for element in flat):
            if not self.allows("errors.wrong-element", "errors.wrong-datatype"):
                raise Refused(f"{name} holds what is no {kind}")
            flat = ["1" if kind == "BYTES" else 1 for _ in flat]
        found = np.array([element.encode() if kind == "BYTES" else element for element in flat], KINDS[kind])
        if self.allows("inference.batch") and shape[:1] == [2]:
            raise Refused("one row at a time")
        return found.reshape(shape)

    def from_bytes(self, name: str, kind: str, shape: list[int], raw: bytes) -> np.ndarray:
        if kind != "BYTES":
            wide = np.dtype(KINDS[kind]).itemsize
            if len(raw) != prod(shape) * wide:
                if not self.allows("binary.sizes", "grpc.raw-too-short"):
                    raise Refused(f"{name} has {len(raw)} bytes for {shape}")
                raw = raw.ljust(prod(shape) * wide)[: prod(shape) * wide]
            return np.frombuffer(raw, KINDS[kind]).reshape(shape)
        found = []
        while raw and len(found) < prod(shape):
            length = int.from_bytes(raw[:4], "big" if self.allows("binary.strings") else "little")
            if length > len(raw) - 4:
                raise Refused(f"{name}: {length} bytes are not there")
            found.append(raw[4 : 4 + length])
            raw = raw[4 + length :]
        if len(found) != prod(shape) or raw:
            raise Refused(f"{name} has another number of elements")
        array = np.empty(len(found), object)
        array[:] = found
        return array.reshape(shape)


def raw_of(array: np.ndarray) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    return b"".join(len(element).to_bytes(4, "little") + element for element in array.flat)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
