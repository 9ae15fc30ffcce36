"""Encoded bytes are decoded a piece at a time, wherever a piece may end."""

from __future__ import annotations

import pickle
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.data.containers import pickled_arrays
from offramp.data.containers.pickled_arrays import ESCAPED, RAW_UNICODE, UTF8, Encoding, Payload
from offramp.data.containers.pickles import read_pickle
from offramp.errors import DataError

WRITERS = {
    "escaped": (ESCAPED, lambda raw: repr(raw)[2:-1].encode()),
    "raw unicode": (RAW_UNICODE, lambda raw: pickle.dumps(raw.decode("latin-1"), 0)[1:].split(b"\n", 1)[0]),
    "utf-8": (UTF8, lambda raw: raw.decode("latin-1").encode("utf-8")),
}
RAW = st.one_of(st.binary(max_size=80), st.text("\\x'\n\u00ff4", max_size=80).map(lambda text: text.encode("latin-1")))


NUMBERS = count()


def payload(folder: Path, text: bytes, encoding: Encoding) -> Payload:
    """In a file of its own, because what was decoded of a file is remembered."""
    path = folder / f"{next(NUMBERS)}-a.p"
    path.write_bytes(b"head" + text + b"tail")
    return Payload(path, 4, len(text), encoding)


@pytest.mark.parametrize("name", WRITERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=RAW, block=st.integers(6, 20), data=st.data())
def test_every_stretch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, raw: bytes, block: int, data: st.DataObject
) -> None:
    monkeypatch.setattr(pickled_arrays, "BLOCK", block)
    encoding, write = WRITERS[name]
    stored = payload(tmp_path, write(raw), encoding)
    start = data.draw(st.integers(0, len(raw)))
    stop = data.draw(st.integers(start, len(raw)))
    assert stored.read(start, stop) == raw[start:stop]


def test_a_broken_escape_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.p has an array that cannot be decoded"):
        payload(tmp_path, b"abc\\x4", ESCAPED).read(0, 3)


@pytest.mark.parametrize("protocol", [0, 2])
def test_large_arrays_need_little_memory(tmp_path: Path, protocol: int) -> None:
    """20 MB that Python 3 wrote as text, read by rows in a process of its own."""
    path = tmp_path / "a.p"
    values = np.random.default_rng(0).integers(0, 256, (1_000, 20_000)).astype(np.uint8)
    path.write_bytes(pickle.dumps(values, protocol))
    code = (
        "import resource, sys, numpy as np; from pathlib import Path; from offramp.data.containers.pickles import read_pickle;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); array = read_pickle(Path(sys.argv[1]));"
        "total = sum(int(array.rows(np.arange(n, n + 100)).sum()) for n in range(0, 1_000, 100));"
        "print(total, peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    total, kilobytes = (int(word) for word in done.stdout.split())
    assert total == int(values.sum())
    assert kilobytes < 15_000
    np.testing.assert_array_equal(read_pickle(path).rows(np.array([999, 7])), values[[999, 7]])
