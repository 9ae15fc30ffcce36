"""A bundle's encoder run by torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.bundle import ENCODER, Bundle, BundleTask
from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import checkpoint_options, load_encoder
from offramp.errors import BundleError
from offramp.heads.modules import head_module
from offramp.runtime.backends import SharedPass
from offramp.runtime.compiled_segments import CompiledSegments
from offramp.runtime.execution import RunHead
from offramp.runtime.torch_segments import TorchSegments
from offramp.runtime.views import TaskViews, sharing_a_pass


class TorchBackend:
    """See :class:`~offramp.runtime.backends.Backend`."""

    version: str = torch.__version__
    folder: Path | None = None

    def __init__(self, bundle: Bundle, encoder: StagedEncoder, compiled: bool = False) -> None:
        """Take a bundle and the encoder that belongs to it; the encoder is frozen in evaluation mode.

        Args:
            bundle: Tasks.
            encoder: Theirs.
            compiled: Whether stages are compiled by ``torch.compile``.

        Raises:
            BundleError: Heads do not take what the encoder gives.
            EncoderError: The encoder does not take a task's windows.
        """
        self.name = "torch-compiled" if compiled else "torch"
        self._made = CompiledSegments if compiled else TorchSegments
        self.encoder = encoder.eval().requires_grad_(False)
        self.device = next(encoder.parameters()).device
        self.threads = torch.get_num_threads()
        views = TaskViews(bundle, self.encoder)
        self._views = {task.name: views.of(task) for task in bundle.tasks.values()}

    def together(self, tasks: Sequence[str]) -> SharedPass:
        views = sharing_a_pass(self._views[task] for task in tasks)
        segments = self._made(views[0], {view.seen: view for view in views})
        return SharedPass(segments, tuple(view.seen for view in views))

    def head(self, task: BundleTask, exit: str) -> RunHead:
        return head_module(task.heads[exit]).requires_grad_(False).to(self.device)

    def inputs(self, windows: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(windows).to(self.device)


def load_bundle_encoder(bundle: Bundle, folder: Path, device: str = "cpu") -> StagedEncoder:
    """The encoder of a bundle that was read from ``folder``, in evaluation mode; its hash is checked."""
    path = folder / (bundle.encoder_path or ENCODER)
    if not path.exists():
        raise BundleError(
            f"the bundle's encoder is missing: {path} does not exist; if this was to be an export of segments, it is not whole: export again"
        )
    if path.is_dir():
        encoder = load_encoder(path, device=device)
    else:
        name, config = bundle.encoder["architecture"], bundle.encoder["config"]
        options = {option: config[option] for option in checkpoint_options(name) if option in config}
        encoder = load_encoder(name, checkpoint=path, device=device, **options)
    found, expected = encoder.fingerprint(), bundle.encoder["sha256"]
    if found != expected:
        raise BundleError(
            f"{path} is another encoder: its hash is {found}, the bundle's heads were fitted on {expected}"
        )
    described = [(exit["name"], exit["width"]) for exit in bundle.encoder["exits"]]
    if described != [(exit.name, exit.width) for exit in encoder.exits]:
        raise BundleError(f"{folder} describes other exits than {path} has: save the bundle again")
    return encoder.eval().requires_grad_(False)
