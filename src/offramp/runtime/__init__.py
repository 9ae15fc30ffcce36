"""Runs a bundle: ``offramp.load(BUNDLE).predict(x, tasks=[...])``."""

from offramp.runtime.loading import load
from offramp.runtime.outputs import rows, write_csv, write_jsonl, write_sigmf
from offramp.runtime.predictor import Prediction, Predictor

__all__ = [
    "Prediction",
    "Predictor",
    "load",
    "rows",
    "write_csv",
    "write_jsonl",
    "write_sigmf",
]
