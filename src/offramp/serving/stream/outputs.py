"""Where answers of a stream go: JSON lines, annotations of SigMF, or a ZeroMQ socket."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from offramp.errors import OfframpError, SuiteError
from offramp.files import check_output, is_standard_output, output_folder, text_output
from offramp.runtime.outputs import ANNOTATIONS, ROWS, annotation
from offramp.serving.stream.chunks import SampleSource
from offramp.serving.stream.run import Row, StreamOutput
from offramp.serving.stream.sources.addresses import tcp_address
from offramp.serving.stream.sources.recordings import RecordingSource
from offramp.serving.stream.sources.slots import SlotSource
from offramp.serving.stream.sources.zeromq import zeromq

OutputKind = Literal["jsonl", "sigmf", "zmq"]
ENCODE = json.JSONEncoder(ensure_ascii=False).encode
"""As ``json.dumps``, which makes an encoder for every record."""
LINGER_MS = 1000
"""How long answers that are on their way are waited for at the end."""


class JsonLines:
    """One JSON object per line; the lines of a batch are passed on together."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, records: Sequence[Row]) -> None:
        self._stream.write("".join(f"{ENCODE(record)}\n" for record in records))
        self._stream.flush()


class JsonPublisher:
    """One JSON object per message of a PUB socket; who is too slow for it misses some, and sees that in ``index``."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def write(self, records: Sequence[Row]) -> None:
        for record in records:
            self._socket.send(ENCODE(record).encode("utf-8", "backslashreplace"))


class GrowingMeta:
    """A ``.sigmf-meta`` whose annotations are written as answers come, so that a stream may last; the rest follows at the end."""

    def __init__(self, stream: IO[str], window: int, offset: int = 0) -> None:
        """Take the open file, the samples of a window, and how samples are numbered: what ``core:offset`` says."""
        self._stream, self._window, self._offset = stream, window, offset
        self._captures: list[dict[str, Any]] = [{"core:sample_start": offset}]
        self._separator = ""
        stream.write('{"annotations": [')

    def write(self, records: Sequence[Row]) -> None:
        for record in records:
            if record.get("event") == "gap":
                if record["sample"] is not None:
                    self._captures.append({"core:sample_start": record["sample"] + self._offset})
                continue
            start = record["sample"] + self._offset
            if "event" in record:
                comment = {"core:comment": f"unusable: {record['reason']}", "core:generator": "offramp"}
                found = {"core:sample_start": start, "core:sample_count": self._window, **comment}
            else:
                self._describe(self._captures[-1], start, record)
                found = annotation(record, start, self._window)
            self._stream.write(f"{self._separator}\n{json.dumps(found)}")
            self._separator = ","

    def close(self, about: Mapping[str, Any], captures: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Write ``global``, and ``captures``: those that were seen if None."""
        known = self._captures if captures is None else captures
        self._stream.write(
            f'\n],\n"captures": {json.dumps(known, indent=2)},\n"global": {json.dumps(about, indent=2)}}}\n'
        )

    def _describe(self, capture: dict[str, Any], start: int, record: Row) -> None:
        if isinstance(record["time"], str) and start == capture["core:sample_start"]:
            capture["core:datetime"] = record["time"]
        if "frequency" in record:
            capture.setdefault("core:frequency", record["frequency"])


@contextmanager
def open_output(
    kind: OutputKind, out: str | None, source: SampleSource, window: int, inputs: Sequence[Path]
) -> Iterator[StreamOutput]:
    """Where records go.

    Args:
        kind: JSON lines, a ``.sigmf-meta`` with annotations, or a PUB socket.
        out: A file, standard output if None; or ``zmq://HOST:PORT`` to bind to. A file appears when the stream has ended, and only if it
            ended well; JSON lines of a source without an end are written to it at once, line by line.
        source: Where samples come from.
        window: Samples of a window.
        inputs: Files that may not be written over.

    Raises:
        SuiteError: ``out`` does not fit.
        OfframpError: The file is of another kind, an input, or cannot be written to; pyzmq is not installed.
    """
    if kind == "zmq":
        yield from _published(out)
        return
    if out is not None and "://" in out:
        raise SuiteError(f"--out {out}: give a file for --to {kind}, or choose --to zmq")
    path = None if out is None else Path(out)
    if kind == "sigmf":
        if path is None:
            raise SuiteError("--to sigmf needs a file: give --out FILE.sigmf-meta")
        yield from _annotated(path, source, window, inputs)
        return
    if path is not None:
        check_output(path, ROWS, inputs)
    if path is not None and source.live and not is_standard_output(path) and not path.is_char_device():
        with _live_file(path) as stream:
            yield JsonLines(stream)
    else:
        with text_output(path) as stream:
            yield JsonLines(stream)


def _live_file(path: Path) -> IO[str]:
    output_folder(path.parent)
    try:
        return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise OfframpError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error


def _published(out: str | None) -> Iterator[StreamOutput]:
    if out is None or not out.startswith("zmq://"):
        raise SuiteError("--to zmq needs an address to bind to: give --out zmq://127.0.0.1:PORT")
    zmq = zeromq()
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        try:
            socket.bind(tcp_address(out))
        except zmq.ZMQError as error:
            raise SuiteError(
                f"--out {out} cannot be bound to ({error.strerror or error}): choose another port, or an address of this machine"
            ) from None
        yield JsonPublisher(socket)


def _annotated(path: Path, source: SampleSource, window: int, inputs: Sequence[Path]) -> Iterator[StreamOutput]:
    if isinstance(source, SlotSource):
        raise SuiteError("--to sigmf: slots are resource grids, and no samples in time: choose --to jsonl")
    if path.suffix != ".sigmf-meta":
        raise SuiteError(f"--out {path}: metadata of SigMF is called FILE.sigmf-meta")
    check_output(path, ANNOTATIONS, inputs)
    with text_output(path) as stream:
        if isinstance(source, RecordingSource):
            about = dict(source.metadata.get_global_info())
            growing = GrowingMeta(stream, window, int(about.get("core:offset", 0)))
            yield growing
            growing.close(about, source.metadata.get_captures())
        else:
            growing = GrowingMeta(stream, window)
            yield growing
            growing.close(_about(source))


def _about(source: SampleSource) -> dict[str, Any]:
    """Of samples that nobody keeps."""
    rate = {} if source.sample_rate is None else {"core:sample_rate": source.sample_rate}
    return {
        "core:version": "1.2.0",
        "core:datatype": source.datatype,
        "core:num_channels": source.channels,
        **rate,
        "core:metadata_only": True,
        "core:description": f"Answers for samples from {source.name}",
        "core:recorder": "offramp",
    }
