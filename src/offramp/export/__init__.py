"""Turns one task of a bundle into one static ONNX graph: transform, encoder up to the exit, head, softmax."""

from offramp.export.folding import fold_batchnorm
from offramp.export.graph import ExportReport, export_onnx, onnx_bytes, open_session
from offramp.export.modules import DeployedTask

__all__ = ["DeployedTask", "ExportReport", "export_onnx", "fold_batchnorm", "onnx_bytes", "open_session"]
