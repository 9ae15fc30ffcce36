import json
from pathlib import Path

import pytest
from bundles import IQ_SHAPE, small_shufflenet, token_task, write
from rich.console import Console

from offramp.bundle import load_bundle
from offramp.costs import exit_costs
from offramp.errors import BundleError, OfframpError
from offramp.export.bench import bench_bundle, bench_encoder
from offramp.heads.modules import head_module


def test_bundle(iq_folder: Path):
    bench = bench_bundle(iq_folder, "modulation", batches=(3,))
    assert [(run.backend, run.batch) for run in bench.runs] == [("torch", 3), ("onnxruntime", 3)]
    exits = [exit.name for exit in small_shufflenet().exits]
    for run in bench.runs:
        assert [exit.exit for exit in run.exits] == exits
        assert all(exit.latency_ms.p50 > 0 for exit in run.exits)
        assert run.exits[-1].time_saved_fraction == run.exits[-1].macs_saved_fraction == 0
        assert run.exits[0].time_saved_fraction > 0.3
    stored = json.loads(json.dumps(bench.to_dict()))
    assert (stored["task"], stored["threads"], stored["input_shape"]) == ("modulation", 1, [2, 2, 96])
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(bench.table())
    text = console.export_text()
    assert all(name in text for name in (*exits, "onnxruntime", "MACs saved"))


def test_heads_on_tokens(tmp_path: Path):
    encoder = small_shufflenet()
    folder = write(tmp_path, encoder, token_task(encoder, "channel", "stage2.1", IQ_SHAPE, (2, 3, 48)))
    heads = {exit: head_module(head) for exit, head in load_bundle(folder).task("channel").heads.items()}
    macs = [cost.macs for cost in exit_costs(encoder, IQ_SHAPE, heads, measure=False, pooling="tokens").values()]
    bench = bench_bundle(folder, batches=(3,))
    for run in bench.runs:
        assert [exit.macs_saved_fraction for exit in run.exits] == [1 - m / macs[-1] for m in macs]
        assert all(exit.latency_ms.p50 > 0 for exit in run.exits)
    assert bench.task == "channel"


def test_encoder_alone_in_torch():
    encoder = small_shufflenet()
    bench = bench_encoder(encoder, (2, 1, 64), (1,), fold=False, backends=("torch",), repeats=2)
    macs = [cost.macs for cost in exit_costs(encoder, (2, 1, 64), measure=False).values()]
    assert [exit.macs_saved_fraction for exit in bench.runs[0].exits] == [1 - m / macs[-1] for m in macs]
    assert bench.task is None


def test_bad_input(iq_folder: Path):
    with pytest.raises(BundleError, match="unknown task 'x'"):
        bench_bundle(iq_folder, "x")
    with pytest.raises(OfframpError, match="each 1 or more"):
        bench_bundle(iq_folder, batches=(0,))
