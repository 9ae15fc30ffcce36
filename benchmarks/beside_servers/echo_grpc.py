"""What gRPC costs by itself: a service of grpc.aio that takes a message as bytes and gives the bytes of the file ANSWER, a ready message."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import grpc
from grpc import aio

ANSWER = Path(os.environ["ANSWER"]).read_bytes()


async def answer(request: bytes, context: object) -> bytes:
    return ANSWER


async def main() -> None:
    server = aio.server()
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
