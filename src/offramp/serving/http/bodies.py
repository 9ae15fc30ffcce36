"""Bodies of requests and answers: how much is read, and compression."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from offramp.serving.protocol.faults import BadRequest, BodyLate, ServingFault, TooLarge, TooMuch, Unavailable

HEADER_LENGTH = "Inference-Header-Content-Length"
WORTH_COMPRESSING = 4096
"""Bytes; a client that accepts one encoding has asked for it, whatever the size."""
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


@dataclass(eq=False)
class BodyRoom:
    """Memory for bodies that have not come to their end, of all requests together.

    Attributes:
        most: Bytes.
        taken: Bytes.
    """

    most: int
    taken: int = 0

    def take(self, size: int) -> None:
        """Raise :class:`~offramp.serving.protocol.faults.TooMuch` if there is none left."""
        if self.taken + size > self.most:
            raise TooMuch(f"{self.most:,} bytes of unfinished bodies are held already: ask again", retry_after=1.0)
        self.taken += size


async def read_body(request: Request, most: int, seconds: float, room: BodyRoom | None = None) -> bytes:
    """The body, decompressed.

    Args:
        request: Whose it is.
        most: Bytes, before and behind its compression.
        seconds: In which it must have come.
        room: That several requests share while their bodies come.

    Raises:
        TooLarge: It has more bytes.
        TooMuch: There is no room for it.
        BodyLate: It did not come in time.
        BadRequest: Its compression is unknown or broken.
        Unavailable: Nobody is there to be answered any more.
    """
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > most:
        raise TooLarge(f"a body of {int(said):,} bytes: at most {most:,} are taken")
    room = BodyRoom(most) if room is None else room
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if size + len(chunk) > most:
                    raise TooLarge(f"a body of more than {most:,} bytes")
                room.take(len(chunk))
                size += len(chunk)
                parts.append(chunk)
    except TimeoutError:
        raise BodyLate(f"the body took more than {seconds:g} s to arrive: send less, or send it at once") from None
    except ClientDisconnect:
        raise Unavailable("the client left before its body was there") from None
    finally:
        room.taken -= size
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return content
    if encoding not in _WINDOW_BITS:
        raise BadRequest(f"Content-Encoding {encoding[:40]!r}: choose gzip, deflate or none")
    return await asyncio.to_thread(_decompressed, content, encoding, most)


def _decompressed(content: bytes, encoding: str, most: int) -> bytes:
    machine = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        found = machine.decompress(content, most + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is no {encoding}: {error}") from None
    if len(found) > most:
        raise TooLarge(f"a body of more than {most:,} bytes behind its compression")
    if not machine.eof or machine.unused_data:
        raise BadRequest(f"the body is no whole {encoding} stream")
    return found


def respond(request: Request, content: bytes, header_length: int | None) -> Response:
    """An answer, compressed where the client wants that and it is worth it."""
    headers = {}
    if header_length is not None:
        headers[HEADER_LENGTH] = str(header_length)
    accepted = {each.partition(";")[0].strip() for each in request.headers.get("accept-encoding", "").split(",")}
    if len(content) >= WORTH_COMPRESSING or len(accepted) == 1:
        for encoding in ("gzip", "deflate"):
            if encoding in accepted:
                headers["Content-Encoding"] = encoding
                content = gzip.compress(content, 1) if encoding == "gzip" else zlib.compress(content, 1)
                break
    kind = "application/json" if header_length is None else "application/octet-stream"
    return Response(content, media_type=kind, headers=headers)


def fault_headers(fault: ServingFault) -> dict[str, str]:
    """What a refusal says beside its message: whole seconds after which to ask again, and how to give a key."""
    headers = {}
    if fault.retry_after is not None:
        headers["Retry-After"] = str(max(1, int(-(-fault.retry_after // 1))))
    if fault.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
