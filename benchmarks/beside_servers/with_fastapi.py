"""FastAPI as one would write it by hand: no batches, each request computed where it is received. Raw bytes in and out."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI, Request, Response
from tasks import PORT, ServedTasks, taken

app = FastAPI()
served = ServedTasks()


@app.post("/infer")
async def infer(request: Request) -> Response:
    task, window = taken(await request.body())
    return Response(served.answer([task], window[None]).tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", access_log=False)
