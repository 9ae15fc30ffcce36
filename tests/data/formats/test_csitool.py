"""Against bytes that are packed here bit by bit, and against the formulas of the tool, written out."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.dataset import load_dataset
from offramp.data.formats import open_table
from offramp.data.formats.datasets import csitool
from offramp.data.inspection import inspect_file
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)


@dataclass
class Packet:
    """What a packet says: ``values`` are int8 ``(30, antennas, streams, 2)``, by receive chain."""

    values: np.ndarray
    rssi: tuple[int, int, int] = (30, 35, 0)
    noise: int = -90
    gain: int = 40
    selection: int = 0b100100

    def record(self) -> bytes:
        """One bit after the other, the lowest first, as the firmware packs them."""
        bits: list[int] = []
        for subcarrier in self.values.reshape(30, -1):
            bits += [1, 0, 1]
            for value in subcarrier:
                bits += [int(value) >> place & 1 for place in range(8)]
        bits += [0] * (-len(bits) % 8)
        payload = bytes(
            sum(bit << place for place, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8)
        )
        _, antennas, streams, _ = self.values.shape
        body = struct.pack("<IHH", 123_456, 7, 0) + bytes([antennas, streams, *self.rssi])
        body += struct.pack("<bBBHH", self.noise, self.gain, self.selection, len(payload), 0x1101) + payload
        return struct.pack(">HB", len(body) + 1, 0xBB) + body

    def scaled(self) -> np.ndarray:
        """As the tool's get_scaled_csi does: complex ``(30, antennas, streams)`` in units of sqrt(SNR)."""
        channel = self.values[..., 0].astype(float) + 1j * self.values[..., 1]
        _, antennas, streams = channel.shape
        power = sum(10 ** (level / 10) for level in self.rssi if level) / 10**4.4 / 10 ** (self.gain / 10)
        scale = power / ((abs(channel) ** 2).sum() / 30)
        noise = 10 ** ((-92 if self.noise == -127 else self.noise) / 10)
        factor = {1: 1.0, 2: 2.0, 3: 10**0.45}[streams]
        return channel * math.sqrt(scale / (noise + scale * antennas * streams) * factor)


def packets(count: int, streams: int = 1, antennas: int = 3, **fields: object) -> list[Packet]:
    return [Packet(RNG.integers(-128, 128, (30, antennas, streams, 2)), **fields) for _ in range(count)]


def write(path: Path, stream: list[Packet | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(part if isinstance(part, bytes) else part.record() for part in stream))
    return path


def record(code: int, body: bytes) -> bytes:
    return struct.pack(">HB", len(body) + 1, code) + body


@pytest.mark.parametrize("antennas", [1, 2, 3])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_every_bit(antennas: int, streams: int) -> None:
    made = packets(4, streams, antennas)
    payload = np.stack([np.frombuffer(packet.record()[23:], np.uint8) for packet in made])
    np.testing.assert_array_equal(csitool.unpack(payload, antennas, streams), [packet.values for packet in made])


def test_windows_are_scaled_and_in_the_order_of_antennas(tmp_path: Path) -> None:
    made = [
        *packets(3, rssi=(33, 38, 40)),
        *packets(2, streams=2, noise=-127, rssi=(20, 0, 0), selection=0b000110),
        *packets(2, streams=3, gain=33, selection=0b011000),
        *packets(1, selection=0b000000),
    ]
    table = opened(write(tmp_path / "walk_3.dat", made), "csitool", tmp_path, window=4, hop=2)
    assert table.windows.shape == (2, 90, 4)
    chain_of_antenna = [[0, 1, 2]] * 3 + [[2, 1, 0]] * 2 + [[0, 2, 1]] * 2 + [[0, 1, 2]]
    windows = table.windows.read(np.arange(3))
    for number, window in enumerate(windows):
        for step in range(4):
            packet = 2 * number + step
            channel = made[packet].scaled()[:, chain_of_antenna[packet], 0]
            expected = channel.T.reshape(90)
            np.testing.assert_allclose(window[0, :, step] + 1j * window[1, :, step], expected, rtol=1e-5)
    assert table.label_names == {"label": ("walk",), "recording": ("walk_3",)}
    assert table.columns["recording"].tolist() == [0, 0, 0]
    loud = 10 ** (33 / 10) + 10 ** (38 / 10) + 10 ** (40 / 10)
    power = (3 * loud / 10**8.4 + 10**2 / 10**8.4) / 4
    assert table.columns["rssi_dbm"][0] == pytest.approx(10 * math.log10(power))


def test_other_records_are_skipped_and_a_last_one_may_be_cut_off(tmp_path: Path) -> None:
    made = packets(4)
    mixed = [record(0xC1, b"frame" * 9), made[0], made[1], record(0xD0, b""), made[2], made[3]]
    whole = open_table(DataSpec(path=write(tmp_path / "whole.dat", list(made)), window=4)).windows
    for number, end in enumerate((b"", b"\x00", record(0xC1, b"frame")[:5], made[0].record()[:-1])):
        path = write(tmp_path / f"mixed{number}.dat", [*mixed, end])
        windows = open_table(DataSpec(path=path, window=4)).windows
        assert windows.count == 1
        np.testing.assert_array_equal(windows.read(np.array([0])), whole.read(np.array([0])))


def test_labels_are_folders_or_names_without_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name in ("walk/one.dat", "deep/fall/1.dat", "sit-12.dat", "7.dat"):
        write(folder / name, packets(5))
    write(folder / "walk" / "short.dat", packets(2))
    data = load_dataset(DataSpec(path=folder, window=2, windows_per_recording=1), "classification")
    table = opened(folder, "csitool", tmp_path, window=2, windows_per_recording=1)
    assert table.label_names["label"] == ("7", "fall", "sit", "walk")
    assert [data.label_names[label] for label in data.targets] == ["7", "fall", "sit", "walk", "walk"]
    assert data.group_names == ("7", "deep/fall/1", "sit-12", "walk/one", "walk/short")


def test_inspect_shows_recordings(tmp_path: Path) -> None:
    write(tmp_path / "set" / "walk" / "a.dat", packets(5))
    write(tmp_path / "set" / "sit" / "b.dat", packets(3, streams=2))
    summary = inspect_file(tmp_path / "set")
    found = {column.name: column for column in summary.columns}
    assert (summary.format, summary.rows, summary.count) == ("csitool", "recording", 2)
    assert found["packets"].range == (3, 5)
    assert found["label"].counts == {"sit": 1, "walk": 1}


def test_silent_packets(tmp_path: Path) -> None:
    """No signal, or no RSSI: zeros, not NaN."""
    nothing = Packet(np.zeros((30, 3, 1, 2), int))
    unheard = packets(1, rssi=(0, 0, 0))
    windows = open_table(DataSpec(path=write(tmp_path / "a.dat", [nothing, *unheard]), window=1)).windows
    assert not windows.read(np.arange(2)).any()


def test_files_of_another_kind_are_not_taken(tmp_path: Path) -> None:
    for number, content in enumerate(
        [b"", b"\x00", b"\x80\x02}q\x00", b"(dp0\nS'x'", b"\x00\x00\xbb", b"\xff\xff\xbb"]
    ):
        path = tmp_path / f"{number}.dat"
        path.write_bytes(content)
        assert not csitool.recognise(path)
    assert not csitool.recognise(tmp_path / "absent.dat")
    assert csitool.recognise(write(tmp_path / "good.dat", packets(1)))


def test_bad_files(tmp_path: Path) -> None:
    made = packets(3)
    good = write(tmp_path / "good.dat", made)
    check_refused(good, "good.dat", "data.window")
    check_refused(good, "good.dat", "no windows of 4 packets", window=4)
    one = len(made[0].record())
    for number, (wrong, word) in enumerate(
        [
            (b"\x12" * 40, "no record begins there"),
            (struct.pack(">HB", 0, 0xBB), "no record begins there"),
            (struct.pack(">HB", 5000, 0xC1), "no record begins there"),
            (record(0xBB, b"short"), "length"),
            (record(0xBB, made[0].record()[3:-2]), "length"),
            (record(0xBB, made[0].record()[3:11] + b"\x09\x09" + made[0].record()[13:]), "length"),
            (record(0xBB, made[0].record()[3:11] + b"\x00\x01" + made[0].record()[13:]), "length"),
        ]
    ):
        path = write(tmp_path / f"bad{number}.dat", [made[0], wrong, made[1]])
        check_refused(path, f"bad{number}.dat is damaged at byte {one}", word, window=1)
    mixed = write(tmp_path / "mixed.dat", [made[0], *packets(1, antennas=2)])
    check_refused(mixed, f"byte {one} has 2 receive antennas and the first has 3", window=1)
    write(tmp_path / "set" / "a.dat", packets(1))
    write(tmp_path / "set" / "b.dat", packets(1, antennas=1))
    check_refused(tmp_path / "set", "b.dat has 1 receive antennas", "a.dat has 3", window=1)
    empty = write(tmp_path / "empty.dat", [record(0xC1, b"frame")])
    check_refused(empty, "empty.dat holds no channels", window=1)
    (tmp_path / "nothing").mkdir()
    check_refused(tmp_path / "nothing", "no .dat files", format="csitool", window=1)
    windows = open_table(DataSpec(path=good, window=2)).windows
    good.unlink()
    with pytest.raises(Exception, match=r"good\.dat cannot be read: No such file"):
        windows.read(np.array([0]))


def test_where_windows_were_and_what_cannot_be_used(tmp_path: Path) -> None:
    """Also where each file is named by itself."""
    for name, count in (("a/walk1", 7), ("a/walk2", 2), ("b/walk1", 5)):
        write(tmp_path / f"{name}.dat", packets(count))
    table = open_table(DataSpec(path=tmp_path, window=3, hop=2))
    assert table.positions is not None
    assert table.positions.names.tolist() == ["a/walk1"] * 3 + ["b/walk1"] * 2
    assert table.positions.starts.tolist() == [0, 2, 4, 0, 2]
    assert table.silent == ("a/walk2",)
    write(tmp_path / "b" / "walk2.dat", [])
    with pytest.raises(DataError, match="1 of 4 recordings cannot be used: b/walk2"):
        open_table(DataSpec(path=tmp_path, window=3))
    assert open_table(DataSpec(path=tmp_path, window=3, hop=2, skip_bad=True)).windows.count == 5
    joined = open_table(DataSpec(path=tmp_path / "*" / "walk1.dat", window=3, hop=2))
    assert joined.positions is not None
    assert joined.positions.starts.tolist() == [0, 2, 4, 0, 2]
    assert [name.split("/")[-2] for name in joined.positions.names.tolist()] == ["a", "a", "a", "b", "b"]
    indices = np.array([4, 0, 2])
    np.testing.assert_array_equal(joined.windows.read(indices), table.windows.read(indices))
