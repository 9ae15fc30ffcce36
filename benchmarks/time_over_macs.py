"""Time saved over MACs saved at every exit: ONNX Runtime, one thread, batch 1 and 64, before and after folding BatchNorm.

Prints one JSON line. Times are CPU time of the one thread, so that other processes distort them less; saved time is the
median over pairs of calls, exit and full depth, that alternated. The minimum is over exits that save at least 5% of the MACs.
"""

import json
import time
from pathlib import Path

from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import load_encoder
from offramp.export.bench import bench_encoder

CHECKPOINT = Path(__file__).parents[2] / "shared" / "data" / "lwm-v1.0.pth"
ROUNDS = {1: 150, 64: 9}
LEAST_SAVED = 0.05


def ratios(encoder: StagedEncoder, shape: tuple[int, ...], batch: int, fold: bool) -> dict[str, float]:
    bench = bench_encoder(encoder, shape, (batch,), fold, ("onnxruntime",), ROUNDS[batch], time.thread_time)
    return {
        exit.exit: round(exit.time_saved_fraction / exit.macs_saved_fraction, 3)
        for exit in bench.runs[0].exits
        if exit.macs_saved_fraction >= LEAST_SAVED
    }


def main() -> None:
    lwm = load_encoder("lwm", checkpoint=CHECKPOINT) if CHECKPOINT.exists() else load_encoder("lwm", weights="random")
    shufflenet = load_encoder("iq-shufflenet", weights="random")
    # lwm has no BatchNorm: there is nothing to fold.
    cases = {
        "lwm": (lwm, (2, 32, 32), True),
        "iq-resnet folded": (load_encoder("iq-resnet", weights="random"), (2, 4, 256), True),
        "iq-shufflenet before folding": (shufflenet, (2, 4, 256), False),
        "iq-shufflenet folded": (shufflenet, (2, 4, 256), True),
    }
    result = {
        f"{name}, batch {batch}": ratios(encoder, shape, batch, fold)
        for name, (encoder, shape, fold) in cases.items()
        for batch in ROUNDS
    }
    minimum = {name: min(of_exits.values()) for name, of_exits in result.items()}
    print(json.dumps({"benchmark": "time_over_macs", "lwm_target": 0.90, "minimum": minimum, "exits": result}))


if __name__ == "__main__":
    main()
