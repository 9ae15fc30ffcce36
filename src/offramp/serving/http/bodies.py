"""Bodies of requests and answers: how much is read, and compression."""

from __future__ import annotations

import gzip
import zlib

from starlette.requests import Request
from starlette.responses import Response

from offramp.serving.protocol.faults import BadRequest, ServingFault, TooLarge

HEADER_LENGTH = "Inference-Header-Content-Length"
WORTH_COMPRESSING = 4096
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


async def read_body(request: Request, most: int) -> bytes:
    """The body, decompressed.

    Raises:
        TooLarge: It has more than ``most`` bytes, before or behind its compression.
        BadRequest: Its compression is unknown or broken.
    """
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > most:
        raise TooLarge(f"a body of {int(said):,} bytes: at most {most:,} are taken")
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise TooLarge(f"a body of more than {most:,} bytes")
        parts.append(chunk)
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return content
    if encoding not in _WINDOW_BITS:
        raise BadRequest(f"Content-Encoding {encoding[:40]!r}: choose gzip, deflate or none")
    return _decompressed(content, encoding, most)


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
    if len(content) >= WORTH_COMPRESSING:
        accepted = {each.partition(";")[0].strip() for each in request.headers.get("accept-encoding", "").split(",")}
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
