"""Channel prediction by speed and by exit, against predictors without a foundation model; part of docs/results.md.

python examples/channel_prediction.py RUN OUT.json OUT.svg

RUN is what ``offramp run examples/channels.yaml`` left. All predictors answer the same test windows; what has to be fitted is fitted on
the first seed's training windows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from predictors.linear import fit_wiener, linear_prediction, persistence
from predictors.recurrent import GRUPredictor, fit_gru, predict

from offramp import runtime
from offramp.bundle import load_bundle
from offramp.costs import exit_costs, measure_latency
from offramp.data.formats import open_table
from offramp.experiment.prepare import Prepared, load, prepare
from offramp.files import atomic_path, write_text
from offramp.heads.modules import head_module
from offramp.runtime.torch_backend import TorchBackend, load_bundle_encoder
from offramp.schema.suite import load_suite
from offramp.scoring.beams import as_complex, genie_efficiency, spectral_efficiency
from offramp.scoring.metrics import METRICS

HERE = Path(__file__).resolve().parent
TASK = "prediction"
SPEEDS_KMH = (3.0, 10.0, 30.0, 60.0, 120.0)
"""Edges of the classes of speed."""
SNR_DB = 10.0
"""At which precoders are compared."""
BATCH = 128

Parts = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Windows:
    """Channels of some windows: past with noise and future without, float32 ``(N, 2, slots, antennas, subcarriers)``."""

    past: Parts
    future: Parts
    speed_kmh: NDArray[np.float32]
    snr_db: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Predictor:
    """A way to predict: answers ``(N, 2, 4, antennas, subcarriers)``, MACs of one window, and the median time of one call in ms."""

    name: str
    answers: Parts
    macs: int | None
    milliseconds: float


def main() -> None:
    """Predict, score, and write a table and a picture."""
    run, table_path, picture_path = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    loaded = load_suite(HERE / "channels.yaml")
    prepared = prepare(next(task for task in loaded.tasks if task.name == TASK), loaded, load(loaded, "cpu"))
    train, val = prepared.problem.split.draws[0].folds[0]
    test = read(prepared, prepared.problem.split.test)
    predictors = [*exits(run, test), *simple(read(prepared, train), read(prepared, val), test)]
    rows = [scores(predictor, test) for predictor in predictors]
    genie = by_speed(test, lambda part: float(genie_efficiency(as_complex(part.future), SNR_DB).mean()))
    result = {"speeds_kmh": SPEEDS_KMH, "snr_db": SNR_DB, "genie": genie, "predictors": rows}
    write_text(table_path, json.dumps(result, indent=1) + "\n")
    draw(rows, picture_path)


def read(prepared: Prepared, indices: NDArray[np.int64]) -> Windows:
    """Windows by index, with their targets in the shape of channels."""
    dataset = prepared.dataset
    columns = open_table(prepared.task.data).columns
    future = dataset.targets[indices].reshape(len(indices), *dataset.target_shape)
    speed, snr = (np.asarray(columns[name], dtype=np.float32)[indices] for name in ("speed_kmh", "snr_db"))
    return Windows(dataset.windows.read(indices), future, speed, snr)


def simple(train: Windows, val: Windows, test: Windows) -> list[Predictor]:
    """Persistence, linear prediction, the Wiener filter (for all speeds, and for each class of speeds), a recurrent network."""
    slots = test.future.shape[2]
    wiener = fit_wiener(train.past, train.future, train.snr_db)
    informed = np.empty_like(test.future)
    for rows, fitted_on in zip(classes(test), classes(train), strict=True):
        part = subset(train, fitted_on)
        own = fit_wiener(part.past, part.future, part.snr_db)
        informed[rows] = own(test.past[rows], test.snr_db[rows])
    gru = fit_gru((train.past, train.future), (val.past, val.future))
    one, snr = test.past[:1], test.snr_db[:1]
    return [
        Predictor("persistence", persistence(test.past, slots), 0, timed(lambda: persistence(one, slots))),
        Predictor(
            "linear prediction", linear_prediction(test.past, slots), None, timed(lambda: linear_prediction(one, slots))
        ),
        Predictor("Wiener", wiener(test.past, test.snr_db), None, timed(lambda: wiener(one, snr))),
        Predictor("Wiener per class of speed", informed, None, timed(lambda: wiener(one, snr))),
        Predictor("GRU", predict(gru, test.past), gru_macs(gru, test.past.shape), timed(lambda: predict(gru, one))),
    ]


def exits(run: Path, test: Windows) -> list[Predictor]:
    """Every exit with its head of the first seed."""
    bundle = load_bundle(run / "bundle")
    task, encoder = bundle.task(TASK), load_bundle_encoder(bundle, run / "bundle")
    heads = {name: head_module(head) for name, head in task.heads.items()}
    costs = exit_costs(encoder, test.past.shape[1:], heads, seconds=0.3, pooling="tokens")
    found = []
    for name in task.heads:
        alone = replace(bundle, tasks={TASK: replace(task, exit=name, policies={})})
        answers = runtime.Predictor(alone, TorchBackend(alone, encoder)).predict(test.past, [TASK], BATCH)[TASK]
        latency = costs[name].latency_ms
        milliseconds = latency.p50 if latency else float("nan")
        found.append(Predictor(name, answers.outputs.reshape(test.future.shape), costs[name].macs, milliseconds))
    return found


def scores(predictor: Predictor, test: Windows) -> dict[str, Any]:
    """NMSE in dB and spectral efficiency of maximum-ratio transmission, overall and by speed."""

    def nmse(part: Windows, answers: Parts) -> float:
        flat = (len(answers), -1)
        return METRICS["nmse_db"](answers.reshape(flat), part.future.reshape(flat))

    def efficiency(part: Windows, answers: Parts) -> float:
        return float(spectral_efficiency(as_complex(part.future), as_complex(answers), SNR_DB).mean())

    rows = classes(test)
    return {
        "name": predictor.name,
        "macs": predictor.macs,
        "milliseconds": round(predictor.milliseconds, 3),
        "nmse_db": [nmse(subset(test, part), predictor.answers[part]) for part in rows],
        "nmse_db_overall": nmse(test, predictor.answers),
        "efficiency": [efficiency(subset(test, part), predictor.answers[part]) for part in rows],
        "efficiency_overall": efficiency(test, predictor.answers),
        "windows": [len(part) for part in rows],
    }


def by_speed(windows: Windows, score: Callable[[Windows], float]) -> list[float]:
    """A score within each class of speeds."""
    return [score(subset(windows, rows)) for rows in classes(windows)]


def classes(windows: Windows) -> list[NDArray[np.int64]]:
    """Rows of each class of speeds."""
    number = np.clip(np.digitize(windows.speed_kmh, SPEEDS_KMH) - 1, 0, len(SPEEDS_KMH) - 2)
    return [np.flatnonzero(number == part) for part in range(len(SPEEDS_KMH) - 1)]


def subset(windows: Windows, rows: NDArray[np.int64]) -> Windows:
    """Some of the windows."""
    return Windows(windows.past[rows], windows.future[rows], windows.speed_kmh[rows], windows.snr_db[rows])


def gru_macs(model: GRUPredictor, shape: tuple[int, ...]) -> int:
    """By hand: three gates on input and memory per slot and antenna, and the output layer per antenna."""
    _, _, slots, antennas, _ = shape
    inputs, hidden = model.recurrent.input_size, model.recurrent.hidden_size
    return antennas * (slots * 3 * hidden * (inputs + hidden) + hidden * model.output.out_features)


def timed(call: Callable[[], object]) -> float:
    """Median time of one window on one thread, ms."""
    return measure_latency({"call": call}, seconds=0.3)["call"].p50


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """NMSE against speed: simple predictors dashed, exits from light to dark."""
    with matplotlib.rc_context({"svg.hashsalt": "offramp", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        centres = np.sqrt(np.multiply(SPEEDS_KMH[:-1], SPEEDS_KMH[1:]))
        deep = [row for row in rows if row["name"] == "embedding" or row["name"].startswith("block")]
        colours = matplotlib.colormaps["viridis_r"]
        for row in rows:
            if row in deep:
                shade = colours(0.1 + 0.9 * deep.index(row) / max(1, len(deep) - 1))
                axes.plot(centres, row["nmse_db"], ".-", color=shade, label=row["name"])
            else:
                axes.plot(centres, row["nmse_db"], "--", linewidth=1, label=row["name"])
        axes.set(
            xscale="log", xlabel="speed, km/h", ylabel="NMSE, dB", title="Four slots ahead of sixteen, SNR 0 to 25 dB"
        )
        axes.set_xticks(SPEEDS_KMH, [f"{speed:g}" for speed in SPEEDS_KMH])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
