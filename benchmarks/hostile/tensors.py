"""Inference requests in JSON and with the binary tensor extension: valid ones, changed in one to three ways, then framed and compressed somehow."""

from __future__ import annotations

import copy
import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from .pools import documents, in_json, integers, nested, numbers, paths, said, scalars, shapes, texts
from .target import HEADER_LENGTH, PATIENCE_S, Target, exchange, request
from .trials import Trials, each

Draw = Callable[[st.SearchStrategy[Any]], Any]
DATATYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES")
INFER = (b"infer", b"infer", b"infer", b"infer_stream")
BOMB = 80_000_000
"""Bytes behind a compression: more than is taken."""


@dataclass
class Draft:
    """A request that is being made.

    Attributes:
        document: JSON.
        tail: Binary tensors.
        model: As it stands in the path.
        head_length: What the header says; None without it.
        headers: Further ones.
        raw: JSON that no library would write, instead of the document.
    """

    document: dict[str, Any]
    tail: bytes
    model: bytes
    head_length: bytes | None = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    raw: bytes | None = None

    @property
    def first(self) -> dict[str, Any]:
        """The first input, or something else that may be changed without effect."""
        inputs = self.document.get("inputs")
        return inputs[0] if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) else {}


def _start(draw: Draw, target: Target) -> Draft:
    windows = target.windows[: draw(st.integers(1, 3))]
    entry: dict[str, Any] = {"name": "windows", "datatype": "FP32", "shape": list(windows.shape)}
    document: dict[str, Any] = {"inputs": [entry]}
    model = draw(st.sampled_from(target.models)).encode()
    if draw(st.booleans()):
        entry["parameters"] = {"binary_data_size": windows.nbytes}
        return Draft(document, windows.tobytes(), model)
    entry["data"] = windows.ravel().tolist() if draw(st.booleans()) else windows.tolist()
    return Draft(document, b"", model, None)


def _shape(draft: Draft, draw: Draw) -> None:
    draft.first["shape"] = draw(shapes | st.lists(scalars, max_size=4) | documents)


def _datatype(draft: Draft, draw: Draw) -> None:
    draft.first["datatype"] = draw(st.sampled_from(DATATYPES) | scalars)


def _many_texts(draft: Draft, draw: Draw) -> None:
    draft.first.update(datatype="BYTES", shape=[draw(st.sampled_from((2**20, 2**28, 2**40)))])


def _name(draft: Draft, draw: Draw) -> None:
    draft.first["name"] = draw(scalars | st.just("\ud800") | st.just("n" * 300_000))


def _size(draft: Draft, draw: Draw) -> None:
    parameters = draft.first.setdefault("parameters", {})
    if isinstance(parameters, dict):
        near = st.integers(len(draft.tail) - 8, len(draft.tail) + 8)
        parameters["binary_data_size"] = draw(near | integers | scalars | st.lists(integers, max_size=2))


def _head_length(draft: Draft, draw: Draw) -> None:
    length = len(in_json(draft.document))
    near = st.integers(length - 8, length + 8).map(lambda n: b"%d" % n)
    odd = st.sampled_from((b"0", b"-1", b"1e3", b" 12 ", b"0x10", b"9" * 30, b"\xb2", b"", b"+5", b"12, 12", b"1_0"))
    draft.head_length = draw(near | odd | st.none())


def _twice(draft: Draft, draw: Draw) -> None:
    if draft.first:
        draft.document["inputs"] *= 2
        draft.document["inputs"] += [{"name": "windows"}] * draw(st.sampled_from((0, 0, 2000)))


def _others(draft: Draft, draw: Draw) -> None:
    if draft.first:
        draft.document["inputs"].insert(draw(st.integers(0, 1)), draw(documents))


def _data(draft: Draft, draw: Draw) -> None:
    values = draft.first.get("data")
    change = draw(st.sampled_from(("one", "text", "ragged", "all", "short", "numbers")))
    if not isinstance(values, list) or not values or change == "all":
        draft.first["data"] = draw(documents)
    elif change == "one":
        values[draw(st.integers(0, len(values) - 1))] = draw(scalars)
    elif change == "text":
        values[0] = "x" * 100_000
    elif change == "ragged":
        values[-1] = [values[-1], [values[-1]]]
    elif change == "short":
        del values[draw(st.integers(0, len(values) - 1)) :]
    else:
        draft.first["data"] = [draw(numbers)] * len(values)


def _keys(draft: Draft, draw: Draw) -> None:
    part = draw(st.sampled_from((draft.document, draft.first)))
    if part and draw(st.booleans()):
        del part[draw(st.sampled_from(sorted(part)))]
    else:
        part[draw(texts | st.sampled_from(("id", "outputs", "inputs", "parameters", "data")))] = draw(documents)


def _anything(draft: Draft, draw: Draw) -> None:
    """Something else in any place of the document."""
    place: Any = draft.document
    for _ in range(draw(st.integers(0, 4))):
        inner = [
            each for each in (place.values() if isinstance(place, dict) else place) if isinstance(each, dict | list)
        ]
        place = draw(st.sampled_from(inner)) if inner else place
    keys = list(place) if isinstance(place, dict) else range(len(place))
    if keys:
        place[draw(st.sampled_from(keys))] = draw(documents)


def _outputs(draft: Draft, draw: Draw) -> None:
    names = st.sampled_from(("probabilities", "label", "exit", "reason", "values")) | texts
    hints = st.dictionaries(st.sampled_from(("classification", "binary_data", "shared_memory_region")), scalars)
    output = st.fixed_dictionaries({"name": names}, optional={"parameters": hints | scalars})
    draft.document["outputs"] = draw(st.lists(output, max_size=4) | documents)


def _parameters(draft: Draft, draw: Draw) -> None:
    draft.document["parameters"] = draw(said | documents)


def _id(draft: Draft, draw: Draw) -> None:
    draft.document["id"] = draw(documents | st.just("\ud83d"))


def _cut(draft: Draft, draw: Draw) -> None:
    draft.tail = draft.tail[: draw(st.integers(0, max(0, len(draft.tail) - 1)))]


def _more(draft: Draft, draw: Draw) -> None:
    draft.tail += draw(st.binary(min_size=1, max_size=64))


def _values(draft: Draft, draw: Draw) -> None:
    bad = draw(st.sampled_from((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00")))
    draft.tail = bad + draft.tail[4:] if draw(st.booleans()) else bad * (len(draft.tail) // 4)


def _deep(draft: Draft, draw: Draw) -> None:
    depth = draw(st.sampled_from((20, 40, 120, 1000, 100_000)))
    pair = draw(st.sampled_from(((b"[", b"]"), (b'{"a":', b"}"))))
    inner = nested(depth, *pair).replace(b":}", b":1}")
    where = draw(st.sampled_from((b'"data":', b'"parameters":', b'"shape":', b'"id":')))
    head = b'{"inputs":[{"name":"windows","datatype":"FP32",' if where in (b'"data":', b'"shape":') else b"{"
    draft.raw = head + where + inner + (b"}]}" if where in (b'"data":', b'"shape":') else b"}")


def _many_lists(draft: Draft, draw: Draw) -> None:
    """JSON that takes thirty times its size in memory, or long to read."""
    item = draw(st.sampled_from((b"[],", b"{},", b"0,", b'"",', b"[[0]],")))
    count = draw(st.sampled_from((1000, 100_000, 2_000_000)))
    where = draw(
        st.sampled_from((b'{"x":[', b'{"inputs":[', b'{"inputs":[{"name":"windows","datatype":"FP32","data":['))
    )
    draft.raw = where + item * count


def _bytes(draft: Draft, draw: Draw) -> None:
    whole = bytearray(in_json(draft.document))
    for _ in range(draw(st.integers(1, 6))):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    draft.raw = bytes(whole)


def _junk(draft: Draft, draw: Draw) -> None:
    odd = (b"", b"null", b"[]", b"NaN", b'{"inputs":NaN}', b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b"1e999", b"9" * 5000)
    draft.raw = draw(st.sampled_from(odd) | st.binary(max_size=60))


def _model(draft: Draft, draw: Draw) -> None:
    draft.model = draw(paths)
    if draw(st.booleans()):
        draft.model += b"/versions/" + draw(paths | st.sampled_from((b"1", b"0", b"-1", b"9" * 40)))


CHANGES = (
    *(
        _shape,
        _datatype,
        _many_texts,
        _name,
        _size,
        _head_length,
        _twice,
        _others,
        _data,
        _keys,
        _anything,
        _anything,
        _outputs,
    ),
    *(_parameters, _parameters, _id, _cut, _more, _values, _deep, _many_lists, _bytes, _junk, _model),
)


def _framed(draft: Draft, draw: Draw) -> tuple[bytes, bool]:
    """The bytes of the request, and whether the server may close the connection without an answer."""
    head = in_json(draft.document) if draft.raw is None else draft.raw
    body = head + draft.tail
    headers = list(draft.headers)
    if draft.head_length is not None:
        headers.append((HEADER_LENGTH, draft.head_length or b"%d" % len(head)))
        if draw(st.integers(0, 30)) == 0:
            headers.append((HEADER_LENGTH, b"1"))
    body = _compressed(body, headers, draw)
    path = b"/v2/models/" + draft.model + b"/" + draw(st.sampled_from(INFER))
    way = draw(st.sampled_from(("plain",) * 12 + ("chunks", "broken chunks", "longer", "shorter", "length")))
    if way == "plain":
        return request("POST", path, body, headers), False
    if way == "longer":  # the body ends before what it says
        headers.append((b"Content-Length", b"%d" % (len(body) + draw(st.integers(1, 1000)))))
    elif way == "shorter":
        headers.append((b"Content-Length", b"%d" % max(0, len(body) - draw(st.integers(1, 1000)))))
    elif way == "length":
        odd = (b"-1", b"1e3", b"99999999999999999999", b"0x10", b"", b"70000000", b"5, 5", b"+5")
        headers.append((b"Content-Length", draw(st.sampled_from(odd))))
    else:
        size = draw(st.sampled_from((1, 7, 4096)))
        parts = [body[at : at + size] for at in range(0, min(len(body), 2000 * size), size)]
        sizes = [b"%x" % len(part) for part in parts]
        if way == "broken chunks" and sizes:
            odd = (b"-1", b"zz", b"ffffffffffffffff", b"1;" + b"e" * 200, b"", b"0")
            sizes[draw(st.integers(0, len(sizes) - 1))] = draw(st.sampled_from(odd))
        headers.append((b"Transfer-Encoding", b"chunked"))
        body = b"".join(said + b"\r\n" + part + b"\r\n" for said, part in zip(sizes, parts, strict=True)) + b"0\r\n\r\n"
    return request("POST", path, body, headers), True


def _compressed(body: bytes, headers: list[tuple[bytes, bytes]], draw: Draw) -> bytes:
    way = draw(st.sampled_from(("",) * 12 + ("gzip", "deflate", "cut", "wrong", "twice", "unknown", "bomb")))
    if not way:
        return body
    named = draw(st.sampled_from((b"gzip", b"deflate")))
    if way == "bomb" and draw(st.integers(0, 4)):
        way = "twice"
    squeezed = gzip.compress(body, 1) if named == b"gzip" else zlib.compress(body, 1)
    if way == "bomb":
        squeezed = gzip.compress(b" " * BOMB, 1) if named == b"gzip" else zlib.compress(bytes(BOMB), 1)
    elif way == "cut":
        squeezed = squeezed[: draw(st.integers(0, len(squeezed) - 1))]
    elif way == "twice":
        squeezed = squeezed * 2
    elif way == "wrong":
        squeezed = body
    elif way == "unknown":
        named = draw(st.sampled_from((b"br", b"gzip, gzip", b"zstd", b"identity, gzip", b"x" * 500)))
    headers.append((b"Content-Encoding", named))
    return squeezed


def attack(target: Target, count: int, number: int, trials: Trials) -> None:
    """Send so many; one in twenty as it was."""

    @st.composite
    def requests(draw: Draw) -> tuple[str, bytes, bool]:
        draft = copy.deepcopy(_start(draw, target))
        changes = draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)) if draw(st.integers(0, 19)) else []
        for change in changes:
            change(draft, draw)
        content, closing = _framed(draft, draw)
        return " ".join(change.__name__.strip("_") for change in changes) or "valid", content, closing

    def send(made: tuple[str, bytes, bool]) -> None:
        changes, content, closing = made
        reply = exchange(target.http, content, PATIENCE_S, half=closing)
        trials.note_reply("tensors", reply, (changes, content[:600]), closing)

    each(requests(), count, number, send)
