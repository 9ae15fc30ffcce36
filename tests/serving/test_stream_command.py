"""``offramp stream`` as a user runs it: the same answers as predict, whatever the output; ends by signals and closed pipes; refusals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigmf
import zmq
from streaming import RATE, free_port, free_tcp_port, noise, radio_bundle, record, wait_until

from offramp import cli
from offramp.cli.stream import _LiveLine
from offramp.export.segments import export_segments
from offramp.serving.stream import Slot, StreamStatus, write_slots
from offramp.serving.stream.formats import SampleFormat

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of tasks on one antenna; the bundle is beside them."""
    bundle = radio_bundle(tmp_path_factory.mktemp("one") / "bundle")
    export_segments(bundle, bundle.parent / "segments", [])
    return bundle.parent / "segments"


@pytest.fixture(scope="module")
def two_antennas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return radio_bundle(tmp_path_factory.mktemp("two") / "bundle", channels=2)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Exit code, standard output and standard error of a command line."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts command lines in processes of their own."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "offramp", *map(str, arguments)]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        running.append(subprocess.Popen(command, **options))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def without(rows: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in keys} for row in rows]


def check_like_predict(call: Call, bundle: Path, recording: Path, task: str, *options: object) -> list[dict[str, Any]]:
    code, said, _ = call("predict", bundle, recording, "--task", task, "--format", "jsonl")
    assert code == 0
    wanted = lines(said)
    code, said, told = call("stream", bundle, "--from", recording, "--task", task, *options)
    assert (code, f"{len(wanted):,} windows answered" in told) == (0, True), told
    found = lines(said)
    # predict takes batches of other sizes, between which answers may differ by rounding
    assert without(found, "confidence", "time") == without(wanted, "confidence", "recording", "time")
    np.testing.assert_allclose([row["confidence"] for row in found], [row["confidence"] for row in wanted], atol=1e-5)
    known = [row for row in wanted if row["time"] is not None]
    assert [row["time"] for row in found if isinstance(row["time"], str)] == [row["time"] for row in known]
    return found


def test_a_recording_as_predict_answers_it(tmp_path: Path, segments: Path, call: Call):
    recording = record(tmp_path / "a", noise(6000), [{"core:datetime": "2026-01-02T03:04:05.25Z"}])
    found = check_like_predict(call, segments, recording, "modulation")
    assert found[1]["time"] == "2026-01-02T03:04:05.250064000Z"
    check_like_predict(call, segments.parent / "bundle", recording, "modulation", "--pace", "--buffer", 1000)


@pytest.mark.parametrize("datatype", ["ci16_le", "ci16_be", "cu8", "cf64_le", "ci32_le"])
def test_antennas_datatypes_and_captures_as_predict_has_them(
    tmp_path: Path, two_antennas: Path, call: Call, datatype: str
):
    """A receiver that is set anew, and one that lost samples; what lies before the first capture is in no window."""
    component = SampleFormat(datatype).component
    values = np.random.default_rng(0).standard_normal((3000, 2, 2)) * (1 if "f" in datatype else 40)
    values = (np.clip(values, -100, 100) + (128 if "u" in datatype else 0)).astype(component)
    captures = [
        {"core:sample_start": 30, "core:frequency": 1e9, "core:datetime": "2026-01-02T03:04:05Z"},
        {"core:sample_start": 700, "core:frequency": 1e9},
        {"core:sample_start": 1500, "core:frequency": 2e9, "core:datetime": "2026-01-02T03:04:06Z"},
        {"core:sample_start": 2200, "core:frequency": 2e9, "core:global_index": 9000},
    ]
    recording = record(tmp_path / "a", values, captures, datatype=datatype, num_channels=2)
    found = check_like_predict(call, two_antennas, recording, "modulation")
    assert found[0]["sample"] == 30
    assert all(not start < edge < start + 64 for row in found for start in [row["sample"]] for edge in (1500, 2200))


def test_a_pipe_answers_as_the_recording_does_for_several_tasks(
    tmp_path: Path, segments: Path, call: Call, started: Any
):
    samples = noise(5000)
    recording = record(tmp_path / "a", samples)
    _, said, _ = call("stream", segments, "--from", recording)
    process = started(
        *("stream", segments, "--from", "stdin", "--datatype", "cf32_le", "--sample-rate", RATE, "--frequency", 2.4e9),
        stdin=subprocess.PIPE,
    )
    out, told = process.communicate(samples.tobytes() + b"odd")
    assert process.returncode == 0
    found = lines(out.decode())
    assert without(found, "frequency") == lines(said)
    assert {row["frequency"] for row in found} == {2.4e9}
    assert [(row["index"], row["task"]) for row in found[:3]] == [(0, "modulation"), (0, "angle"), (1, "modulation")]
    assert b"ends with 3 bytes that are no whole sample" in told


def test_segments_stream_without_torch(tmp_path: Path, segments: Path):
    recording = record(tmp_path / "a", noise(640))
    code = (
        "import sys; from offramp import cli\n"
        "assert cli.run(sys.argv[1:]) == 0\n"
        "assert 'torch' not in sys.modules"
    )  # fmt: skip
    command = [
        sys.executable,
        "-c",
        code,
        "stream",
        segments,
        "--from",
        recording,
        "--to",
        "sigmf",
        "--out",
        tmp_path / "b.sigmf-meta",
    ]
    subprocess.run(command, check=True, capture_output=True)


def test_annotations_of_a_recording(tmp_path: Path, segments: Path, call: Call):
    recording = record(tmp_path / "a", noise(1000), offset=500)
    meta = json.loads(recording.read_text())
    meta["captures"] = [{"core:sample_start": 500, "core:frequency": 1e9}]
    recording.write_text(json.dumps(meta))
    _, said, _ = call("stream", segments, "--from", recording, "--task", "modulation")
    rows = lines(said)
    out = tmp_path / "answers.sigmf-meta"
    assert call("stream", segments, "--from", recording, "--task", "modulation", "--to", "sigmf", "--out", out)[0] == 0
    written = json.loads(out.read_text())
    sigmf.SigMFFile(metadata=written).validate()
    assert [each["core:label"] for each in written["annotations"]] == [row["prediction"] for row in rows]
    assert [each["core:sample_start"] for each in written["annotations"]] == [row["sample"] + 500 for row in rows]
    assert written["captures"] == meta["captures"]
    assert written["global"]["core:sample_rate"] == RATE
    code, _, told = call("stream", segments, "--from", recording, "--to", "sigmf", "--out", recording)
    assert (code, "choose another --out" in told) == (2, True)
    assert json.loads(recording.read_text()) == meta


def test_annotations_of_a_radio(tmp_path: Path, segments: Path, started: Any):
    port, out = free_port(), tmp_path / "b.sigmf-meta"
    process = started(
        *("stream", segments, "--from", f"udp://127.0.0.1:{port}", "--datatype", "cf32_le", "--counter", "samples"),
        *(
            "--sample-rate",
            RATE,
            "--frequency",
            5e9,
            "--task",
            "modulation",
            "--to",
            "sigmf",
            "--out",
            out,
            "--stop-after",
            6,
        ),
    )
    assert process.stderr.readline().startswith(b"listening at udp://")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in (0, 1, 2, 3, 10, 11, 12, 13):
            sender.sendto((64 * number).to_bytes(8, "little") + noise(64).tobytes(), ("127.0.0.1", port))
    assert process.wait(20) == 0
    written = json.loads(out.read_text())
    sigmf.SigMFFile(metadata=written).validate()
    assert [each["core:sample_start"] for each in written["annotations"]] == [64 * n for n in (0, 1, 2, 3, 10, 11)]
    assert [each["core:sample_start"] for each in written["captures"]] == [0, 640]
    assert [each["core:frequency"] for each in written["captures"]] == [5e9, 5e9]
    assert all("core:datetime" in each for each in written["captures"])
    assert (written["global"]["core:metadata_only"], written["global"]["core:datatype"]) == (True, "cf32_le")


def test_json_to_subscribers(segments: Path, started: Any):
    """From a publisher of samples to subscribers of answers."""
    port, answers = free_tcp_port(), free_tcp_port()
    with zmq.Context() as context, context.socket(zmq.XPUB) as radio, context.socket(zmq.SUB) as reader:
        for each in (radio, reader):
            each.setsockopt(zmq.LINGER, 0)
            each.setsockopt(zmq.RCVTIMEO, 20_000)
        radio.bind(f"tcp://127.0.0.1:{port}")
        reader.setsockopt(zmq.SUBSCRIBE, b"")
        reader.setsockopt(zmq.RECONNECT_IVL, 20)
        reader.connect(f"tcp://127.0.0.1:{answers}")
        process = started(
            *("stream", segments, "--from", f"zmq://127.0.0.1:{port}", "--datatype", "cf32_le", "--to", "zmq"),
            *("--out", f"zmq://127.0.0.1:{answers}", "--task", "modulation"),
        )
        assert radio.recv() == b"\x01"
        time.sleep(0.5)
        radio.send(noise(64 * 10).tobytes())
        found = [reader.recv_json() for _ in range(10)]
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
    assert [row["index"] for row in found] == list(range(10))
    assert (process.returncode, b"10 windows answered" in told) == (0, True)


def test_slots_with_their_age(tmp_path: Path, call: Call, segments: Path):
    grids = np.random.default_rng(0).standard_normal((5, 1, 14, 3276, 2)).astype(np.float16)
    slots = [Slot(800, 4 + n, 7, 10**18 + 500_000 * n, 10**18 + 500_000 * n, grid) for n, grid in enumerate(grids)]
    write_slots(tmp_path / "a.trace", slots)
    code, said, told = call(
        "stream", segments, "--from", f"e3:{tmp_path / 'a.trace'}", "--task", "modulation", "--pace"
    )
    assert (code, "5 windows answered" in told) == (0, True)
    rows = lines(said)
    assert [(row["frame"], row["slot"], row["cell"]) for row in rows] == [(800, 4 + n, 7) for n in range(5)]
    assert [row["sample"] for row in rows] == [14 * 3276 * n for n in range(5)]
    assert rows[1]["time"] == "2001-09-09T01:46:40.000500000Z"
    assert all(row["age_slots"] > 0 for row in rows)
    # a slot of 1 ms is older in slots of 1/8 ms
    _, said, _ = call(
        "stream",
        segments,
        "--from",
        f"e3:{tmp_path / 'a.trace'}",
        "--task",
        "modulation",
        "--hop",
        3276,
        "--numerology",
        3,
    )
    assert [row["slot"] for row in lines(said)] == [4 + n for n in range(5) for _ in range(14)]
    # the windows are the first subcarriers of each symbol
    windows = grids[:, 0, :, :64].reshape(70, 64, 2).astype(np.float32).transpose(0, 2, 1)[:, :, None]
    from offramp import load

    expected = load(segments).predict(windows, ["modulation"])["modulation"]
    assert [row["prediction"] for row in lines(said)] == expected.labels
    code, _, told = call(
        "stream", segments, "--from", f"e3:{tmp_path / 'a.trace'}", "--to", "sigmf", "--out", tmp_path / "b.sigmf-meta"
    )
    assert (code, "resource grids" in told) == (2, True)


# --- how it ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_radio_with_all_that_came_answered(tmp_path: Path, segments: Path, started: Any, number: int):
    port, out = free_port(), tmp_path / "answers.jsonl"
    process = started(
        *(
            "stream",
            segments,
            "--from",
            f"udp://127.0.0.1:{port}",
            "--datatype",
            "ci16_le",
            "--sample-rate",
            RATE,
            "--task",
            "modulation",
            "--out",
            out,
        )
    )
    assert process.stderr.readline().startswith(b"listening")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(20):
            sender.sendto(np.ones((200, 2), "<i2").tobytes(), ("127.0.0.1", port))
        wait_until(lambda: len(lines(out.read_text())) == 20 * 200 // 64)  # readers need not wait for the end
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"4,000 samples" in told
    assert b"62 windows answered" in told
    assert b"Traceback" not in told


def test_a_signal_amid_a_recording_leaves_whole_answers(tmp_path: Path, segments: Path, started: Any):
    """10 s of it at its own pace."""
    recording, out = record(tmp_path / "a", np.tile(noise(1_000_000), (10, 1))), tmp_path / "answers.jsonl"
    process = started("stream", segments, "--from", recording, "--task", "modulation", "--pace", "--out", out)
    wait_until(lambda: list(tmp_path.glob(".offramp-*")))
    time.sleep(1.0)
    assert not out.exists()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"was not read to its end" in told
    rows = lines(out.read_text())
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert f"{len(rows):,} windows answered".encode() in told
    assert 0 < len(rows) < 10_000_000 // 64
    assert not list(tmp_path.glob(".offramp-*"))


def test_a_closed_pipe_ends_it_quietly(segments: Path, started: Any):
    process = started(
        *("stream", segments, "--from", "stdin", "--datatype", "ci8", "--sample-rate", RATE, "--task", "modulation"),
        stdin=subprocess.PIPE,
    )
    process.stdin.write(bytes(128 * 10))
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["index"] == 0
    process.stdout.close()
    process.stdin.write(bytes(128 * 10))
    process.stdin.flush()
    assert process.wait(20) == 0
    assert process.stderr.read() == b""


def test_a_recording_that_is_cut_short_leaves_the_older_answers(
    tmp_path: Path, segments: Path, call: Call, monkeypatch: pytest.MonkeyPatch
):
    from offramp.serving.stream.sources import recordings

    recording, out = record(tmp_path / "a", noise(200_000)), tmp_path / "answers.jsonl"
    assert (
        call("stream", segments, "--from", recording, "--task", "modulation", "--out", out, "--stop-after", 3)[0] == 0
    )
    assert len(lines(out.read_text())) == 3
    real, reads = recordings.RecordingSource._read, []

    def breaking(self: Any, first: int, count: int) -> Any:
        reads.append(first)
        if len(reads) == 3:
            os.truncate(tmp_path / "a.sigmf-data", 1000)
        return real(self, first, count)

    monkeypatch.setattr(recordings.RecordingSource, "_read", breaking)
    code, _, told = call("stream", segments, "--from", recording, "--task", "modulation", "--out", out)
    assert (code, told.count("\n"), "copy its samples again" in told) == (2, 1, True)
    assert len(lines(out.read_text())) == 3


def test_a_live_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with _LiveLine() as shown:
        shown.status(StreamStatus(2.0, 5_000_000, 800, 1234, 56))
        shown.note("the publisher went\x1b away")
        shown.status(StreamStatus(3.0, 5_000_000, 800, 0, 56))
    told = capsys.readouterr().err
    assert "2 s  " in told
    assert "behind 1,234 samples  dropped 56" in told
    assert "0.000 MS/s  0 windows/s  behind 0 samples" in told
    assert "the publisher went\\x1b away\n" in told
    assert told.endswith("\r\x1b[2K")


# --- refusals


def refused(call: Call, *arguments: object) -> str:
    code, out, told = call("stream", *arguments)
    assert (code, out, told.count("\n")) == (2, "", 1), told
    assert told.startswith("offramp: ")
    return told


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, segments: Path, two_antennas: Path, call: Call):
    samples = noise(200)
    fast = record(tmp_path / "fast", samples, sample_rate=2e6)
    assert "fitted at 1000000 Hz" in refused(call, segments, "--from", fast)
    real = record(tmp_path / "real", samples, datatype="rf32_le")
    assert "hold no Q" in refused(call, segments, "--from", real)
    short = record(tmp_path / "short", samples[:50])
    assert "gives no windows of 64 samples" in refused(call, segments, "--from", short)
    assert "has 1 channel, and" in refused(call, two_antennas, "--from", record(tmp_path / "one", samples))
    fine = record(tmp_path / "fine", samples)
    assert "unknown task" in refused(call, segments, "--from", fine, "--task", "x")
    assert "cannot leave at 'x'" in refused(call, segments, "--from", fine, "--exit", "x")
    assert "has no policy 'x'" in refused(call, segments, "--from", fine, "--policy", "x")
    assert "--out zmq://127.0.0.1:PORT" in refused(call, segments, "--from", fine, "--to", "zmq")
    assert "--out FILE.sigmf-meta" in refused(call, segments, "--from", fine, "--to", "sigmf")
    assert "choose --to zmq" in refused(call, segments, "--from", fine, "--out", "zmq://127.0.0.1:5000")
    assert "choose another --out" in refused(call, segments, "--from", fine, "--out", tmp_path / "fine.sigmf-data")
    assert "core:sample_rate" in refused(
        call, segments, "--from", record(tmp_path / "bare", samples, sample_rate=None), "--pace"
    )
    (tmp_path / "gone.sigmf-meta").write_text(fine.read_text())
    assert "put the .sigmf-data file beside it" in refused(call, segments, "--from", tmp_path / "gone.sigmf-meta")


def test_somebody_elses_file_is_kept(tmp_path: Path, segments: Path, call: Call):
    recording = record(tmp_path / "a", noise(200))
    other = tmp_path / "b.sigmf-meta"
    other.write_text('{"global": {}}')
    told = refused(call, segments, "--from", recording, "--to", "sigmf", "--out", other)
    assert "move it away" in told
    assert other.read_text() == '{"global": {}}'
