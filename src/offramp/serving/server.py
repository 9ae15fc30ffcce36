"""``offramp serve``: a folder of segments, cut from a bundle where there is none yet, and the processes that serve it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.bundle import load_bundle
from offramp.errors import BundleError
from offramp.progress import OnNote
from offramp.runtime.engine import load_slices
from offramp.serving.process import Place, run_process
from offramp.serving.settings import ServerSettings, check_settings
from offramp.serving.workers import run_workers

if TYPE_CHECKING:
    from offramp.serving.ray import RayOptions

SEGMENTS = "segments"
_MANIFEST, _WRITTEN_FROM = "segments.json", ("config.json", "heads.safetensors")


def serve(
    settings: ServerSettings,
    exits: Sequence[str],
    on_ready: Callable[[int, int], object],
    on_note: OnNote,
    ray: RayOptions | None = None,
) -> int:
    """Serve until a signal ends it.

    Args:
        settings: With the bundle, or segments that were exported from one.
        exits: Further ones where a bundle is cut.
        on_ready: Called with the ports of HTTP and gRPC as soon as requests are answered.
        on_note: Called with each sentence that must be said before.
        ray: How it is laid out on Ray; None to serve from this process and its workers.

    Returns:
        The signal's number.

    Raises:
        OfframpError: It cannot start.
    """
    check_settings(settings)
    if settings.backend in (None, "onnxruntime"):
        levels = {} if settings.slices is None else load_slices(settings.slices)
        wanted = [*exits, *(level.exit for level in levels.values() if level.exit is not None)]
        if settings.shadow:
            wanted += full_depth(settings.bundle)
        settings = replace(settings, folder=segments_of(settings.bundle, sorted(set(wanted)), on_note))
    if ray is not None:
        from offramp.serving.ray import run_on_ray

        return run_on_ray(settings, ray, on_ready)
    if settings.workers > 1:
        return run_workers(settings, on_ready)
    return run_process(settings, Place(), on_ready)


def full_depth(bundle: Path) -> list[str]:
    """The last exit of a bundle's encoder, where early answers are finished to; nothing for a folder that cannot be read, which is said elsewhere."""
    try:
        return [str(load_bundle(bundle).encoder["exits"][-1]["name"])]
    except BundleError:
        return []


def segments_of(bundle: Path, exits: Sequence[str], on_note: OnNote) -> Path:
    """The segments of a bundle, which are cut once and kept beside it; a folder of segments is its own.

    Another process does it, so that none that serves has ever loaded torch.

    Raises:
        BundleError: The bundle cannot be cut.
    """
    if (bundle / _MANIFEST).exists() or not (bundle / _WRITTEN_FROM[0]).exists():
        return bundle
    digest = hashlib.sha256("\0".join(exits).encode())
    for name in _WRITTEN_FROM:
        if (bundle / name).exists():
            digest.update((bundle / name).read_bytes())
    beside = bundle.resolve()
    folder = beside.with_name(f"{beside.name}-{SEGMENTS}-{digest.hexdigest()[:12]}")
    if (folder / _MANIFEST).exists():
        return folder
    on_note(f"cutting the encoder, once; the segments are kept in {folder}")
    words = [sys.executable, "-m", "offramp", "export", str(bundle), "--what", "segments", "--out", str(folder)]
    done = subprocess.run(
        [*words, *(word for exit in exits for word in ("--exit", exit))], stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        raise BundleError(f"{bundle} could not be cut: its segments are needed, or --backend torch")
    for other in beside.parent.glob(f"{beside.name}-{SEGMENTS}-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder
