"""Traces of E3 agents: the layout, byte by byte; slots with their ages; damaged files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.errors import DataError
from offramp.serving.stream import Slot, StopFlag, read_slots, write_slots
from offramp.serving.stream.chunks import StreamGap
from offramp.serving.stream.sources.slots import SlotSource


def grid(seed: int, antennas: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((antennas, 14, 3276, 2)).astype(np.float16)


def pusch(number: int, content: bytes, antennas: int = 4, users: int = 0, estimates: bytes = b"") -> bytes:
    """A record as its published header describes it, field by field."""
    slot = struct.pack("<Q", 1_700_000_000_000_000_000 + 500_000 * number)  # timestamp_ns
    slot += struct.pack("<Q", 1_700_000_037_000_000_000 + 500_000 * number)  # timestamp_tai_ns
    slot += struct.pack("<H", 512 + number // 20) + struct.pack("<H", number % 20)  # sfn, slot
    slot += struct.pack("<HHHH", 41, antennas, 4, 1)  # cell_id, n_rx_ant, n_rx_ant_srs, n_cells
    slot += struct.pack("<BBH", 4, 0, users)  # n_bs_ants, reserved, n_ue
    assert len(slot) == 32
    body = slot + bytes(73) * users
    body += struct.pack("<I", len(content)) + content + struct.pack("<I", len(estimates)) + estimates
    return struct.pack("<HHI", 1, 0, len(body)) + body


def srs() -> bytes:
    """A record of sounding, of one user, which holds no slot for us."""
    body = bytes(32 + 65) + struct.pack("<I", 8) + bytes(8) + struct.pack("<I", 0) * 2
    return struct.pack("<HHI", 2, 0, len(body)) + body


def trace(path: Path, records: Sequence[bytes], magic: bytes = b"E3RT", version: int = 0x010100) -> Path:
    path.write_bytes(magic + struct.pack("<III", version, 0x010100, 0) + b"".join(records))
    return path


def test_what_is_written_by_the_published_header_is_read(tmp_path: Path):
    grids = [grid(0), grid(1)]
    path = trace(
        tmp_path / "a.trace",
        [
            pusch(0, grids[0].tobytes(), users=3, estimates=bytes(64)),
            srs(),
            pusch(1, b""),
            pusch(23, grids[1].tobytes(), antennas=2),
        ],
    )
    first, second = read_slots(path)
    assert (first.frame, first.slot, first.cell, first.time_ns) == (512, 0, 41, 1_700_000_000_000_000_000)
    assert (second.frame, second.slot, second.tai_ns) == (513, 3, 1_700_000_037_011_500_000)
    np.testing.assert_array_equal(first.grid, grids[0])
    np.testing.assert_array_equal(second.grid, grids[1][:2])


def test_what_we_write_is_what_the_header_describes(tmp_path: Path):
    slot = Slot(600, 7, 41, 1_700_000_000_000_000_000, 1_700_000_037_000_000_000, grid(3, 2))
    write_slots(tmp_path / "a.trace", [slot])
    content = (tmp_path / "a.trace").read_bytes()
    assert content[:16] == b"E3RT" + struct.pack("<III", 0x010100, 0x010100, 0)
    assert struct.unpack_from("<HHI", content, 16) == (1, 0, len(content) - 24)
    assert struct.unpack_from("<QQHHHHHHBBH", content, 24)[2:6] == (600, 7, 41, 2)
    assert struct.unpack_from("<I", content, 56) == (4 * 14 * 3276 * 4,)
    row = np.frombuffer(content, "<f2", 4 * 14 * 3276 * 2, 60).reshape(4, 14, 3276, 2)
    np.testing.assert_array_equal(row[:2], slot.grid)
    assert not row[2:].any()
    (back,) = read_slots(tmp_path / "a.trace")
    np.testing.assert_array_equal(back.grid, slot.grid)
    with pytest.raises(DataError, match="14, 3276"):
        write_slots(tmp_path / "b.trace", [Slot(0, 0, 0, 0, 0, np.zeros((1, 14, 12, 2), np.float16))])
    assert not (tmp_path / "b.trace").exists()


def test_each_slot_is_a_stretch_of_its_own(tmp_path: Path):
    grids = [grid(number, 1) for number in range(3)]
    write_slots(tmp_path / "a.trace", [Slot(9, n, 1, 10**18 + n, 0, g) for n, g in enumerate(grids)])
    source = SlotSource(tmp_path / "a.trace", numerology=2)
    assert (source.channels, source.slot_seconds) == (1, 0.25e-3)
    chunks = list(source.chunks(StopFlag()))
    assert [chunk.first for chunk in chunks] == [0, 45_864, 91_728]
    assert all(chunk.gaps == (StreamGap("slot"),) for chunk in chunks)
    assert chunks[1].about == {"time": "2001-09-09T01:46:40.000000001Z", "frame": 9, "slot": 1, "cell": 1}
    # symbols one after the other, subcarriers within
    samples = chunks[2].samples
    assert (samples.shape, samples.dtype) == ((2, 1, 45_864), np.float32)
    assert samples[1, 0, 3276 * 5 + 77] == grids[2][0, 5, 77, 1]


def test_slots_keep_their_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from offramp.serving.stream.sources import pacing

    slept: list[float] = []
    clock = [100.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(pacing.time, "sleep", sleep)
    monkeypatch.setattr(pacing.time, "monotonic", lambda: clock[0])
    tai = [10**18, 10**18 + 500_000, 10**18 + 60 * 10**9, 10**18 + 60 * 10**9 + 500_000]
    write_slots(tmp_path / "a.trace", [Slot(0, n, 1, 0, at, grid(0, 1)) for n, at in enumerate(tai)])
    chunks = list(SlotSource(tmp_path / "a.trace", 1, pace=True).chunks(StopFlag()))
    assert len(chunks) == 4
    assert sum(slept) == pytest.approx(0.0005 + 1.0 + 0.0005)  # a pause of a minute is shortened to a second
    assert chunks[0].about["time"] is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: trace(path, [], magic=b"RIFF"), "no trace"),
        (lambda path: trace(path, [], version=0x020000), "version 0x020000"),
        (lambda path: path.write_bytes(b"E3"), "no trace"),
        (lambda path: trace(path, []), "stream fh"),
        (lambda path: trace(path, [pusch(0, b"")]), "stream fh"),
        (lambda path: trace(path, [pusch(0, bytes(100))]), "record 0 has a row of 100 bytes"),
        (lambda path: trace(path, [srs(), pusch(0, grid(0).tobytes())[:-9]]), "record 1 is cut off"),
        (lambda path: trace(path, [struct.pack("<HHI", 1, 0, 2**31)]), "record 0 is cut off"),
        (lambda path: trace(path, [b"\x01\x00"]), "record 0 is cut off"),
        (lambda path: trace(path, [struct.pack("<HHI", 1, 0, 5) + bytes(5)]), "record 0 is cut off"),
    ],
)
def test_files_that_are_none(tmp_path: Path, make: Callable[[Path], object], words: str):
    make(tmp_path / "a.trace")
    with pytest.raises(DataError, match=words):
        SlotSource(tmp_path / "a.trace", 1)


@given(st.binary(max_size=120))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_gives_any_other_error(tmp_path: Path, content: bytes):
    (tmp_path / "a.trace").write_bytes(b"E3RT" + struct.pack("<III", 0x010100, 0x010100, 0) + content)
    try:
        found = list(read_slots(tmp_path / "a.trace"))
    except DataError:
        return
    assert found == []


def test_another_number_of_antennas_on_the_way(tmp_path: Path):
    write_slots(tmp_path / "a.trace", [Slot(0, 0, 1, 0, 0, grid(0, 2)), Slot(0, 1, 1, 0, 0, grid(0, 1))])
    with pytest.raises(DataError, match="slot 1 of frame 0 has 1 antennas"):
        list(SlotSource(tmp_path / "a.trace", 1).chunks(StopFlag()))
