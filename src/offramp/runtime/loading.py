"""From a folder to a predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from offramp.bundle import load_bundle
from offramp.errors import BundleError
from offramp.runtime.predictor import Predictor
from offramp.runtime.segment_files import MANIFEST, load_manifest

BackendName = Literal["torch", "torch-compiled", "onnxruntime"]


def load(
    folder: str | Path, device: str = "cpu", backend: BackendName | None = None, threads: int | None = None
) -> Predictor:
    """Load a bundle, or segments that were exported from one, so that it can predict.

    Args:
        folder: A bundle, which torch runs; or a folder of ``offramp export --what segments``, which ONNX Runtime runs, without torch.
        device: Of torch, as torch names it.
        backend: ``torch``; ``torch-compiled``, which takes some seconds for every stage when that first runs; or ``onnxruntime``. The
            folder's own if None, which for a bundle is ``torch``.
        threads: That the back end computes with; its own choice if None, which for ONNX Runtime is one.

    Raises:
        BundleError: The folder is not whole, its encoder is missing or has other weights than the heads were fitted on, or it is not
            of this back end.
        EncoderError: The encoder cannot be read, or ``device`` cannot be used.
        OfframpError: ONNX Runtime is not installed.
    """
    folder = Path(folder)
    if backend not in (None, *get_args(BackendName)):
        raise BundleError(f"unknown back end {backend!r}: choose {', '.join(get_args(BackendName))}")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise BundleError(f"threads={threads!r}: give a whole number of at least 1")
    segments = (folder / MANIFEST).exists()
    if backend == "onnxruntime" and not segments:
        raise BundleError(
            f"{folder} holds no segments for ONNX Runtime: make them with offramp export {folder} --what segments --out DIR"
        )
    if backend in ("torch", "torch-compiled") and segments:
        raise BundleError(
            f"{folder} holds segments for ONNX Runtime and no encoder for torch: give the bundle they are from"
        )
    bundle = load_bundle(folder)
    if segments:
        from offramp.runtime.onnx_backend import OnnxBackend

        if device != "cpu":
            raise BundleError(f"segments run on the processor: leave out the device {device!r}")
        return Predictor(bundle, OnnxBackend(load_manifest(folder, bundle), folder, threads or 1))
    import torch

    from offramp.runtime.torch_backend import TorchBackend, load_bundle_encoder

    if threads is not None:
        torch.set_num_threads(threads)
    encoder = load_bundle_encoder(bundle, folder, device)
    return Predictor(bundle, TorchBackend(bundle, encoder, compiled=backend == "torch-compiled"))
