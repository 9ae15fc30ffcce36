"""Pickles as Python 2 wrote them, byte by byte: no Python 3 can."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

Windows = Mapping[tuple[str, int], np.ndarray]


def protocol0(content: Windows) -> bytes:
    """As ``cPickle.dump`` writes by default, which is how RML2016.10a was made: text, binary strings escaped."""
    memo = iter(range(1, 1_000_000))
    out = bytearray(b"(dp0\n")
    for (word, number), array in content.items():
        out += b"(S'%s'\np%d\nI%d\ntp%d\n" % (word.encode(), next(memo), number, next(memo))
        out += b"cnumpy.core.multiarray\n_reconstruct\np%d\n(cnumpy\nndarray\np%d\n" % (next(memo), next(memo))
        out += b"(I0\ntp%d\nS'b'\np%d\ntp%d\nRp%d\n" % (next(memo), next(memo), next(memo), next(memo))
        shape = b"".join(b"I%d\n" % size for size in array.shape)
        out += b"(I1\n(%stp%d\ncnumpy\ndtype\np%d\n" % (shape, next(memo), next(memo))
        out += b"(S'%s'\np%d\nI0\nI1\ntp%d\nRp%d\n" % (_code(array), next(memo), next(memo), next(memo))
        out += b"(I3\nS'<'\np%d\nNNNI-1\nI-1\nI0\ntp%d\nbI00\n" % (next(memo), next(memo))
        out += b"S%s\np%d\ntp%d\nbs" % (_escaped(array.tobytes()), next(memo), next(memo))
    return bytes(out + b".")


def protocol2(content: Windows) -> bytes:
    """As ``cPickle.dump(..., protocol=2)`` writes."""
    out = bytearray(b"\x80\x02}q\x00(")
    for (word, number), array in content.items():
        raw = array.tobytes()
        out += _short(word.encode()) + b"J" + struct.pack("<i", number) + b"\x86"
        out += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        out += b"(K\x01(" + b"".join(b"J" + struct.pack("<i", size) for size in array.shape) + b"t"
        out += b"cnumpy\ndtype\n" + _short(_code(array)) + b"K\x00K\x01\x87R"
        out += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", len(raw)) + raw
        out += b"tb"
    return bytes(out + b"u.")


def _code(array: np.ndarray) -> bytes:
    return f"{array.dtype.kind}{array.dtype.itemsize}".encode()


def _short(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


def _escaped(raw: bytes) -> bytes:
    """``repr`` of a string in Python 2."""
    return repr(raw)[1:].encode("ascii")
