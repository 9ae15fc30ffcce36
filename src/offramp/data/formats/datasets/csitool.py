"""Wi-Fi channels of an Intel 5300 as the linux-80211n-csitool logs them: one ``.dat`` file, or a folder searched to the bottom.

Source: ``netlink/log_to_file.c``, ``matlab/read_bf_file.m``, ``read_bfee.c`` and ``get_scaled_csi.m`` of
github.com/dhalperi/linux-80211n-csitool-supplementary (Halperin, Hu, Sheth, Wetherall, "Tool Release: Gathering 802.11n Traces with Channel State
Information", ACM SIGCOMM CCR 2011). A file is a sequence of records::

    length   uint16, BIG endian, of what follows
    code     uint8; 0xBB is a channel, all others are skipped
    header   20 bytes, little endian: uint32 time in microseconds, uint16 count, uint16, uint8 receive antennas, uint8 transmit
             streams, uint8 RSSI of antennas A, B, C, int8 noise in dBm (-127: unknown), uint8 gain control in dB, uint8 antenna
             selection, uint16 bytes of payload, uint16 rate and flags
    payload  bits, lowest first: for each of 30 subcarriers 3 bits to skip, then for each receive antenna, for each transmit
             stream, int8 real and int8 imaginary part

Bits 0-1, 2-3 and 4-5 of the antenna selection say at which antenna the first, second and third receive chain is; rows are put back into the order of
antennas A, B, C, except where the selection is no permutation. Scaled by RSSI, gain and noise, channels are in units of sqrt(SNR), -92 dBm standing in for
unknown noise and 4.5 dB for the factor of three streams, as in the tool.

A window is float32 ``(2, receive antennas x 30, window)``: I and Q, antenna by antenna its 30 subcarriers, ``window`` packets in a row. Packets come when
they come: time steps are no equal. Of several transmit streams the first is taken, since packets of one recording differ in how many they have;
packets with fewer receive antennas than others are refused. Windows start every ``hop`` packets (``window`` if not set) and are read on demand.

Columns: ``label``: the folder of a file, below the folder that was given; for a file that lies in that folder itself, or alone, its name without the number
at its end (``walk_3.dat`` is ``walk``). ``recording`` (path below the folder without suffix; the group if none is named), ``rssi_dbm`` (received power, mean in
dB over the window). A last record that is cut off is left out: logging is stopped at any time.
"""

from __future__ import annotations

import io
import re
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.data.formats.windows import digest, file_bytes, name_below, numbered, one_by_one, spread
from offramp.data.places import open_each, silent_note
from offramp.data.summary import FileSummary, summarise_column
from offramp.data.table import NoWindowsError, Positions, Table, WindowSource
from offramp.errors import DataError, OfframpError
from offramp.opening import open_file
from offramp.schema.tasks import DataSpec

CHANNEL = 0xBB
CODES = (CHANNEL, 0xC0, 0xC1, 0xC3, 0xC5, 0xD0, 0xD1, 0xD2, 0x1C)
"""All codes of the tool's ``iwl_structs.h``."""
HEADER = struct.Struct("<IHHBBBBBbBBHH")
LONGEST_RECORD = 4096
"""Bytes that the tool's logger takes in at a time."""
SUBCARRIERS = 30
MOST_CHAINS = 3
UNKNOWN_NOISE, TYPICAL_NOISE = -127, -92
STREAMS_DB = np.array([0, 0, 10 * np.log10(2), 4.5])
"""Power of one, two, three transmit streams over that of one; no stream is index 0."""
DECIBEL = [0.0, *(10 ** (level / 10) for level in range(1, 256))]
"""Power of an RSSI of so many dB; 0 says that the antenna measured none."""
LOOKED_AT = 100
"""Files of a folder that are looked at to tell what it holds: one may be damaged."""
END_NUMBER = re.compile(r"[ _-]*\d+$")


class Packet(NamedTuple):
    """A channel record: its first byte, the byte after it, header fields, payload."""

    start: int
    end: int
    antennas: int
    streams: int
    rssi: tuple[int, int, int]
    noise: int
    gain: int
    selection: int
    payload: bytes

    @property
    def power(self) -> float:
        """Received power in mW."""
        return sum(DECIBEL[level] for level in self.rssi) / 10 ** ((44 + self.gain) / 10)


@dataclass(frozen=True)
class PacketFile:
    """A file: packets in it, and first byte, end and mean power in mW of every window, each ``(windows,)``."""

    path: Path
    name: str
    label: str
    packets: int
    antennas: int
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    power: NDArray[np.float64]


def recognise(path: Path) -> bool:
    """A ``.dat`` file that begins with a record, or a folder with such a file among the first that are found."""
    found = islice(path.rglob("*.dat"), LOOKED_AT) if path.is_dir() else [path]
    return any(file.suffix.lower() == ".dat" and _begins_with_record(file) for file in found)


def read(spec: DataSpec) -> Table:
    """Find the records of all files and cut them into windows.

    Raises:
        DataError: ``data.window`` is missing; a file is damaged, has no channels or another number of receive antennas than the
            first; nothing is as long as a window.
    """
    assert isinstance(spec.path, Path)
    if spec.window is None:
        raise DataError(f"{spec.path} holds recordings of Wi-Fi packets: set data.window to the packets per window")
    window, hop = spec.window, spec.hop or spec.window
    recordings, notes = _recordings(spec.path, window, hop, spec.skip_bad)
    kept = [spread(len(recording.starts), spec.windows_per_recording) for recording in recordings]
    origin = np.repeat(np.arange(len(recordings)), [len(windows) for windows in kept])
    place = np.concatenate(kept)
    if len(origin) == 0:
        raise NoWindowsError(f"{spec.path} gives no windows of {window} packets: choose a shorter data.window")
    shape = (2, recordings[0].antennas * SUBCARRIERS, window)
    labels, names = numbered([recording.label for recording in recordings])
    power = np.concatenate([recording.power[windows] for recording, windows in zip(recordings, kept, strict=True)])
    with np.errstate(divide="ignore"):
        rssi = 10 * np.log10(power)

    def load(index: int) -> NDArray[np.float64]:
        recording, number = recordings[origin[index]], place[index]
        return _window(recording.path, int(recording.starts[number]), int(recording.ends[number]))

    known = [recording.name for recording in recordings]
    silent = tuple(name for name, windows in zip(known, kept, strict=True) if not len(windows))
    about = [window, hop, spec.windows_per_recording, known]
    return Table(
        windows=WindowSource(
            name=str(spec.path),
            count=len(origin),
            shape=shape,
            fingerprint=digest(about, [recording.path for recording in recordings]),
            fetch=one_by_one(load, shape),
        ),
        columns={"label": labels[origin], "recording": origin, "rssi_dbm": rssi},
        label_names={"label": names, "recording": tuple(recording.name for recording in recordings)},
        default_target="label",
        default_group="recording",
        positions=Positions.of(known, origin, hop * place, window),
        silent=silent,
        notes=(*notes, *silent_note(silent, len(known))),
    )


def summarise(path: Path) -> FileSummary:
    """Recordings, before any window is cut."""
    # no more than one window of each, whose places would have to be held
    recordings, _ = _recordings(path, 1, sys.maxsize, skip_bad=False)
    columns = {
        "label": np.array([recording.label for recording in recordings]),
        "recording": np.array([recording.name for recording in recordings]),
        "packets": np.array([recording.packets for recording in recordings]),
        "antennas": np.array([recording.antennas for recording in recordings]),
    }
    summaries = tuple(summarise_column(name, "recording", values) for name, values in columns.items())
    return FileSummary(
        str(path), "csitool", len(recordings), "recording", None, summaries, target="label", group="recording"
    )


def unpack(payload: NDArray[np.uint8], antennas: int, streams: int) -> NDArray[np.int8]:
    """Real and imaginary parts, int8 ``(packets, 30, antennas, streams, 2)``, of payloads ``(packets, bytes)``."""
    numbers = 2 * antennas * streams
    bit = (3 + 8 * numbers) * np.arange(SUBCARRIERS)[:, None] + 3 + 8 * np.arange(numbers)
    byte, shift = bit // 8, bit % 8
    padded = np.pad(payload, ((0, 0), (0, 1))).astype(np.uint16)
    parts = (padded[:, byte] | padded[:, byte + 1] << 8) >> shift
    return parts.astype(np.uint8).view(np.int8).reshape(len(payload), SUBCARRIERS, antennas, streams, 2)


def _window(path: Path, start: int, end: int) -> NDArray[np.float64]:
    """I and Q, ``(2, antennas x 30, packets)``, of the records from byte ``start`` to ``end``."""
    try:
        with open_file(path, DataError) as file:
            file.seek(start)
            packets = list(_packets(path, io.BytesIO(file.read(end - start)), end - start))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; copy it again") from error
    antennas = packets[0].antennas
    window = np.empty((2, antennas, SUBCARRIERS, len(packets)))
    for streams in {packet.streams for packet in packets}:
        places = [place for place, packet in enumerate(packets) if packet.streams == streams]
        chosen = [packets[place] for place in places]
        payload = np.stack([np.frombuffer(packet.payload, np.uint8) for packet in chosen])
        parts = unpack(payload, antennas, streams).astype(np.float64)
        parts *= np.sqrt(_scale(parts, chosen))[:, None, None, None, None]
        for place, packet, of_packet in zip(places, chosen, parts[:, :, :, 0], strict=True):
            window[..., place][:, _order(packet)] = of_packet.transpose(2, 1, 0)
    return window.reshape(2, antennas * SUBCARRIERS, len(packets))


def _scale(parts: NDArray[np.float64], packets: list[Packet]) -> NDArray[np.float64]:
    """Signal-to-noise ratio per squared unit of ``parts``, for every packet."""
    mean_square = np.square(parts).sum(axis=(1, 2, 3, 4)) / SUBCARRIERS
    received = np.array([packet.power for packet in packets])
    unit = np.divide(received, mean_square, out=np.zeros_like(received), where=mean_square > 0)
    noise = np.array([TYPICAL_NOISE if packet.noise == UNKNOWN_NOISE else packet.noise for packet in packets])
    # every part is off by up to half a unit, which makes one squared unit for each pair of antennas
    quantisation = unit * (packets[0].antennas * packets[0].streams)
    sent = 10 ** (STREAMS_DB[packets[0].streams] / 10)
    ratio: NDArray[np.float64] = unit * sent / (10 ** (noise / 10) + quantisation)
    return ratio


def _order(packet: Packet) -> list[int]:
    """The antenna of each receive chain."""
    order = [packet.selection >> 2 * chain & 3 for chain in range(packet.antennas)]
    return order if sorted(order) == list(range(packet.antennas)) else list(range(packet.antennas))


def _recordings(path: Path, window: int, hop: int, skip_bad: bool) -> tuple[list[PacketFile], tuple[str, ...]]:
    files = sorted(path.rglob("*.dat")) if path.is_dir() else [path]
    named = [(name_below(file, path), file) for file in files if not file.name.startswith("._")]
    if not named:
        raise DataError(f"{path} holds no .dat files of the csitool")
    recordings, notes = open_each(named, lambda _, file: _recording(file, path, window, hop), skip_bad, "recordings")
    for recording in recordings:
        if recording.antennas != recordings[0].antennas:
            raise DataError(
                f"{recording.path} has {recording.antennas} receive antennas and {recordings[0].path} has "
                f"{recordings[0].antennas}: put them into separate folders"
            )
    return recordings, notes


def _recording(path: Path, root: Path, window: int, hop: int) -> PacketFile:
    starts, ends, before, after = array("q"), array("q"), array("d"), array("d")
    packets, antennas, power = 0, 0, 0.0
    size = file_bytes(path)
    try:
        with open_file(path, DataError) as file:
            for packet in _packets(path, file, size):
                antennas = antennas or packet.antennas
                if packet.antennas != antennas:
                    raise DataError(
                        f"{path}: the packet at byte {packet.start} has {packet.antennas} receive antennas and the first "
                        f"has {antennas}: leave out one kind"
                    )
                if packets % hop == 0:
                    starts.append(packet.start)
                    before.append(power)
                power += packet.power
                packets += 1
                if packets >= window and (packets - window) % hop == 0:
                    ends.append(packet.end)
                    after.append(power)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; copy it again") from error
    if not packets:
        raise DataError(f"{path} holds no channels: log it again, or remove it")
    folder = path.parent.name if root.is_dir() and path.parent != root else END_NUMBER.sub("", path.stem)
    return PacketFile(
        path=path,
        name=name_below(path, root),
        label=folder or path.stem,
        packets=packets,
        antennas=antennas,
        starts=np.array(starts[: len(ends)], dtype=np.int64),
        ends=np.array(ends, dtype=np.int64),
        power=(np.array(after) - np.array(before[: len(ends)])) / window,
    )


def _packets(path: Path, file: BinaryIO, size: int) -> Iterator[Packet]:
    """The channel records of a stream of ``size`` bytes; one that is cut off at the end is left out."""
    start = 0
    while size - start > 2:
        length, code = struct.unpack(">HB", file.read(3))
        if code not in CODES or not 0 < length <= LONGEST_RECORD:
            raise DataError(f"{path} is damaged at byte {start}: no record begins there; copy it again")
        end = start + 2 + length
        if end > size:
            return
        body = file.read(length - 1)
        if code == CHANNEL:
            yield _packet(path, start, end, body)
        start = end


def _packet(path: Path, start: int, end: int, body: bytes) -> Packet:
    if len(body) >= HEADER.size:
        _, _, _, antennas, streams, *rssi, noise, gain, selection, length, _ = HEADER.unpack_from(body)
        expected = (SUBCARRIERS * (16 * antennas * streams + 3) + 7) // 8
        known = 1 <= antennas <= MOST_CHAINS and 1 <= streams <= MOST_CHAINS
        if known and length == expected and len(body) - HEADER.size >= length:
            payload = body[HEADER.size : HEADER.size + length]
            return Packet(start, end, antennas, streams, (rssi[0], rssi[1], rssi[2]), noise, gain, selection, payload)
    raise DataError(f"{path} is damaged at byte {start}: the length of this channel is wrong; copy it again")


def _begins_with_record(path: Path) -> bool:
    try:
        with open_file(path) as file:
            first = file.read(3)
    except (OSError, OfframpError):
        return False
    return len(first) == 3 and first[2] in CODES and 0 < int.from_bytes(first[:2]) <= LONGEST_RECORD
