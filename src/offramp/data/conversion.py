"""``offramp data convert``: any file that can be read becomes one cache of ours."""

from __future__ import annotations

from pathlib import Path

from offramp.data.cache import write_cache
from offramp.data.formats import open_table
from offramp.errors import DataError
from offramp.progress import OnProgress, silent
from offramp.schema.tasks import DataSpec


def convert(
    path: Path,
    out: Path,
    format_name: str | None = None,
    window: int | None = None,
    hop: int | None = None,
    on_progress: OnProgress = silent,
) -> None:
    """Write the windows and columns of a file or folder as an HDF5 cache, block by block.

    Args:
        path: Of any layout of :func:`offramp.data.formats.known_formats`.
        out: The cache; replaced only when it is complete.
        format_name: Name of the layout; recognised by the file itself if None.
        window: Samples per window, where windows are cut from recordings.
        hop: Samples between the starts of such windows; ``window`` if None.
        on_progress: Called with windows written and windows in all.

    Raises:
        DataError: The file is of no known layout, damaged, or the cache would replace it.
        OfframpError: The cache cannot be written.
    """
    if out.resolve() == path.resolve():
        raise DataError(f"{out} is what is to be converted: choose another --out")
    spec = DataSpec(path=path, format=format_name, window=window, hop=hop)
    write_cache(open_table(spec), out, on_progress)
