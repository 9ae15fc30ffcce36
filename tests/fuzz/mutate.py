"""Changes to a valid file: of its bytes, or of what it says where its structure is known."""

from __future__ import annotations

import contextlib
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

LARGEST = 1 << 22
"""Bytes of a changed file."""
HEADER = 4096
DEEP, LONG = "@@deep@@", "@@long@@"
INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")),
    *(2**31, 2**53 + 1, 2**63, 10**15, 10**30, 10**400, -(10**18), [], {}, [[]], [0], {"a": 1}, [1, "a", None], DEEP, LONG),
    *("", " ", "a", "0", "1e999", "nan", "true", "x" * 5000, "\ud800", "\x00", "\x1b[31mred", "one\ntwo", "é" * 300, "\u202e"),
    *("../../../etc/passwd", "/dev/zero", "/dev/stdin", "nowhere", ".", "~", "*", "[", "{}", "%s", "iq-resnet", "lwm", "conv5"),
)  # fmt: skip
"""What takes the place of a value in JSON and YAML."""
SNIPPETS = (
    b"\x00" * 64,
    b"\xff" * 64,
    b"[" * 20_000,
    b"{" * 5_000,
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"\r\n",
    b'"',
)
"""What is put into a file."""

Edit = Callable[[bytes, random.Random], bytes]


def mutate(path: Path, rng: random.Random) -> None:
    """Change a file in place: one change that knows the format, or some that do not, or both."""
    data = path.read_bytes()
    edit = _edit_for(path, data)
    structured = edit is not None and rng.random() < 0.6
    if structured and edit is not None:
        data = edit(data, rng)
    if not structured or rng.random() < 0.15:
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            data = mutate_bytes(data, rng)
    path.write_bytes(data[:LARGEST])


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One change that any file can suffer."""
    at = _place(len(data), rng)
    size = rng.choice((1, 2, 4, 8, 64, 512))
    step = rng.randrange(9)
    if step == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if at < len(data) else data
    if step == 1:
        return data[:at] + rng.randbytes(size) + data[at:]
    if step == 2:
        return data[:at] + data[at + size :]
    if step == 3:
        return data[: rng.choice((at, at, len(data) - min(size, len(data)), 0))]
    if step == 4:
        other = _place(len(data), rng)
        return data[:at] + data[other : other + size] + data[at:]
    if step == 5:
        other = _place(len(data), rng)
        return data[:at] + data[other : other + size] + data[at + size :]
    if step == 6:
        kind = rng.choice(("<B", "<H", "<I", "<Q", ">H", ">I", ">Q"))
        width = struct.calcsize(kind)
        value = (rng.choice(INTEGERS) + rng.choice((-1, 0, 0, 1))) % (1 << 8 * width)
        return data[:at] + struct.pack(kind, value) + data[at + width :]
    if step == 7:
        return data[:at] + rng.choice(SNIPPETS) + data[at:]
    return data[:at] + rng.randbytes(size) + data[at + size :]


def _place(size: int, rng: random.Random) -> int:
    """Where headers are, more often than elsewhere."""
    near = min(size, HEADER)
    return rng.choice(
        (rng.randint(0, near), rng.randint(0, near), rng.randint(0, size), rng.randint(size - near, size))
    )


def _edit_for(path: Path, data: bytes) -> Edit | None:
    if data[:1] == b"{":
        return mutate_json
    if path.suffix == ".yaml":
        return mutate_yaml
    if data[:2] == b"PK":
        return mutate_zip
    if data[:6] == b"\x93NUMPY":
        return mutate_npy
    if path.suffix == ".safetensors":
        return mutate_safetensors
    if data[:8] == b"\x89HDF\r\n\x1a\n" or data[512:520] == b"\x89HDF\r\n\x1a\n":
        return mutate_hdf5
    return None


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Values, keys and nesting."""
    return _filled(json.dumps(mutate_tree(json.loads(data), rng)), rng)


def mutate_yaml(data: bytes, rng: random.Random) -> bytes:
    """As JSON, and what YAML alone knows."""
    tree = mutate_tree(yaml.safe_load(data), rng)
    if rng.random() < 0.5:
        return _filled(json.dumps(tree), rng)
    text = _filled(yaml.safe_dump(tree), rng).decode(errors="surrogatepass")
    lines = text.split("\n")
    extra = rng.choice(
        (
            "",
            "",
            "x: !!python/object/apply:os.getcwd []",
            "a: &a [*a]",
            "\tb: 1",
            "? [1, 2]",
            "---",
            "seeds: [0]",
            "<<: *b",
        )
    )
    lines.insert(rng.randint(0, len(lines)), extra)
    return "\n".join(lines).encode(errors="surrogatepass")


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """A copy of a tree of dictionaries and lists with one to three places changed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = _places(tree)
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        step = rng.randrange(7)
        if step <= 2:
            holder[key] = rng.choice(VALUES)
        elif step == 3:
            del holder[key]
        elif step == 4:
            other, name = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[name])) if _within(other, name) else None
        elif step == 5:
            holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
        elif isinstance(holder, dict):
            holder[str(rng.choice(VALUES))[:300]] = holder[key]
        elif isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * rng.choice((-1, 10, 1e9, 0.1))
        else:
            holder += [holder[key]] * rng.choice((1, 1000))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        found += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    return found


def _within(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _filled(text: str, rng: random.Random) -> bytes:
    depth = rng.choice((100, 2_000, 50_000))
    nested = rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth))
    for mark, value in ((DEEP, nested), (LONG, "9" * 5_000)):
        text = text.replace(f'"{mark}"', value).replace(f"'{mark}'", value).replace(mark, value)
    return text.encode(errors="surrogatepass")


def mutate_zip(data: bytes, rng: random.Random) -> bytes:
    """Members of a zip archive changed, renamed, left out, doubled or compressed in another way."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        names = source.namelist()
        chosen = rng.choice(names)
        step = rng.randrange(5)
        for name in names:
            content, told = source.read(name), source.getinfo(name)
            if name == chosen:
                if step == 0:
                    continue
                if step == 1:
                    name = rng.choice(("", "../a.npy", "x" * 300, name.replace(".npy", ""), "\u202e.npy"))
                if step == 2:
                    content = mutate_npy(content, rng) if content[:6] == b"\x93NUMPY" else mutate_bytes(content, rng)
                if step == 3:
                    told.compress_type = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
                if step == 4:
                    content = rng.choice((b"", b"text", b"\x00" * (1 << 20)))
            told.filename = name
            target.writestr(told, content)
    return out.getvalue()


def mutate_npy(data: bytes, rng: random.Random) -> bytes:
    """Shape, type or order in the header of an ``.npy`` file; its length fits."""
    size = struct.unpack("<H", data[8:10])[0]
    header = data[10 : 10 + size].decode("latin1").strip()
    shape = header[header.index("(") : header.index(")") + 1]
    descr = header[header.index("'descr':") + 8 : header.index(", 'fortran_order'")]
    step = rng.randrange(3)
    if step == 0:
        sizes = [
            rng.choice((0, 1, -1, 2, 12, 2**31, 2**62, 10**20, "a", 1.5, "True")) for _ in range(rng.randint(0, 5))
        ]
        header = header.replace(shape, "(" + "".join(f"{size}, " for size in sizes) + ")")
    elif step == 1:
        kinds = (
            "'<f2'",
            "'>c16'",
            "'|O'",
            "'|S0'",
            "'<U5'",
            "'<M8[s]'",
            "'|V8'",
            "[('r', '<i2'), ('i', '<i2')]",
            "'bogus'",
            "[]",
            "'<f4'" * 90,
        )
        header = header.replace(descr, rng.choice(kinds))
    else:
        header = rng.choice((header.replace("False", "True"), header[:-1], "(" * 500, header.replace("descr", "x"), ""))
    text = header.encode("latin1") + b"\n"
    return data[:8] + struct.pack("<H", len(text)) + text + data[10 + size :]


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header, with its length as it is or not."""
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    step = rng.randrange(4)
    if step == 0:
        text = _filled(json.dumps(mutate_tree(header, rng)), rng)
        return struct.pack("<Q", len(text)) + text + body
    if step == 1:
        return struct.pack("<Q", rng.choice((0, 1, 7, size - 1, size + 1, 2**31, 2**63, 2**64 - 1))) + data[8:]
    name = rng.choice([name for name in header if name != "__metadata__"])
    if step == 2:
        header[name]["dtype"] = rng.choice(("F16", "BF16", "F64", "I64", "BOOL", "U8", "C64", "F8_E4M3", "X", ""))
        sizes = {"F16": 2, "BF16": 2, "F64": 8, "I64": 8}
        width = sizes.get(header[name]["dtype"])
        if width is not None and rng.random() < 0.7:
            return _one_tensor_of_type(header, body, name, header[name]["dtype"], width)
    else:
        start, stop = header[name]["data_offsets"]
        words = (stop - start) // 4
        header[name]["shape"] = rng.choice(([words], [1, words], [words, 1], [], [0], [2**40, 2**40], [1] * 80, [-1]))
        if rng.random() < 0.4:
            body = (
                body[:start]
                + rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f")) * words
                + body[stop:]
            )
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _one_tensor_of_type(header: dict[str, Any], body: bytes, name: str, dtype: str, width: int) -> bytes:
    """A file that is whole, with one tensor of another type."""
    out, parts, at = {}, [], 0
    for each, told in header.items():
        if each == "__metadata__":
            out[each] = told
            continue
        start, stop = told["data_offsets"]
        content = body[start:stop]
        if each == name:
            content = b"\x01" * ((stop - start) // 4 * width)
        out[each] = {"dtype": told["dtype"], "shape": told["shape"], "data_offsets": [at, at + len(content)]}
        parts.append(content)
        at += len(content)
    out[name]["dtype"] = dtype
    text = json.dumps(out).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def mutate_hdf5(data: bytes, rng: random.Random) -> bytes:
    """Datasets and attributes of other shapes and types, links that lead elsewhere, sizes that no file holds."""
    store = io.BytesIO(data)
    with h5py.File(store, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for _ in range(rng.choice((1, 1, 2))):
            with contextlib.suppress(
                ValueError, TypeError, OSError, RuntimeError, KeyError
            ):  # what h5py does not write
                _change_hdf5(file, rng.choice(names), rng)
    return store.getvalue()


def _change_hdf5(file: h5py.File, name: str, rng: random.Random) -> None:
    holder = rng.choice((file, file[name])) if name in file else file
    step = rng.randrange(4)
    if step == 0:
        value = rng.choice(
            (*VALUES[:16], "\x00", "a" * 5000, b"\xff\xfe", np.zeros(0), np.full(3, np.nan), h5py.Empty("f4"))
        )
        key = rng.choice([*holder.attrs, "labels", "mean", "std", "MATLAB_class", "created_by", "format"])
        holder.attrs[key] = "null" if value is None else value
    elif step == 1 and name in file:
        length = file[name].shape[0] if file[name].shape else 1
        del file[name]
        file[name] = rng.choice(
            (
                np.zeros((length, 0)),
                np.full(length, np.nan),
                np.full((length, 2, 1, 128), 3e38, np.float32),
                np.zeros((length, 2, 1, 128), complex),
                np.arange(length) * 10**15,
                np.array([b"\xff\xfe"] * length),
                np.array(["x" * 5000] * length, dtype=object),
                np.zeros(length, [("r", "i2"), ("i", "i2")]),
                np.zeros(length, bool),
                np.zeros((length, 2, 1, 128), np.float16),
                np.zeros(max(length - 1, 0)),
                7,
            )
        )
    elif step == 2:
        if name in file:
            del file[name]
        _add_giant_or_link(file, name, rng)
    else:
        file[rng.choice(("x" * 300, "a/" * 60 + "b", "\u202e", "line\nbreak", "_index_x"))] = rng.choice(
            (1, np.zeros(12), "text")
        )


def _add_giant_or_link(file: h5py.File, name: str, rng: random.Random) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        file.create_dataset(name, shape=(2**40,), dtype="f4", chunks=(1024,))
    elif kind == 1:
        file.create_dataset(name, shape=(12, 2, 1, 2**33), dtype="f4", chunks=(1, 2, 1, 1024))
    elif kind == 2:
        file[name] = h5py.SoftLink(rng.choice((f"/{name}", "/", "/nowhere")))
    elif kind == 3:
        file[name] = h5py.ExternalLink(rng.choice(("nowhere.h5", "/dev/zero", "a.h5")), "/")
    elif kind == 4:
        layout = h5py.VirtualLayout(shape=(12, 2, 1, 128), dtype="f4")
        layout[:] = h5py.VirtualSource(rng.choice((".", "nowhere.h5", "/dev/zero")), name, shape=(12, 2, 1, 128))
        file.create_virtual_dataset(name, layout)
    else:
        file[name] = file["/"]
