"""Turns one task of a bundle into one static ONNX graph: transform, encoder up to the exit, head, softmax."""

from offramp.export.folding import fold_batchnorm
from offramp.export.graph import onnx_bytes, open_session
from offramp.export.modules import DeployedTask
from offramp.export.task import ExportReport, Int8Report, export_onnx

__all__ = ["DeployedTask", "ExportReport", "Int8Report", "export_onnx", "fold_batchnorm", "onnx_bytes", "open_session"]
