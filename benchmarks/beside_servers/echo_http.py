"""What HTTP costs by itself: an application of starlette on uvicorn that takes a body, looks at nothing, and gives the bytes of the file ANSWER."""

from __future__ import annotations

import os
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = Path(os.environ["ANSWER"]).read_bytes()


async def answer(request: Request) -> Response:
    await request.body()
    return Response(ANSWER, media_type="application/octet-stream")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/{rest:path}", answer, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", access_log=False)
