"""Runs a bundle: ``offramp.load(BUNDLE).predict(x, tasks=[...])``."""

from offramp.runtime.outputs import rows, write_csv, write_jsonl, write_sigmf
from offramp.runtime.predictor import Prediction, Predictor, load, load_bundle_encoder

__all__ = [
    "Prediction",
    "Predictor",
    "load",
    "load_bundle_encoder",
    "rows",
    "write_csv",
    "write_jsonl",
    "write_sigmf",
]
