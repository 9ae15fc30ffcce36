"""Formats of data files: one registry, one function that opens any of them.

A format recognises its files by what is in them, since many share a suffix. The first in ``FORMATS`` that recognises a path reads
it, so that special layouts stand before the general ones that they are built on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from offramp.data.formats import (
    csitool,
    deepbeam,
    deepmimo,
    hdf5,
    icarus,
    npz,
    ntu_fi,
    owl,
    powder,
    radcom,
    rml2018,
    rml_pickle,
    sigmf,
    torchsig,
    ut_har,
    uwb_indoor,
)
from offramp.data.summary import FileSummary
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec


@dataclass(frozen=True)
class Format:
    """A way to lay out windows in files.

    Attributes:
        recognise: Whether a file or folder that exists is of this layout; never raises, and reads no more than a header.
        read: Open what a suite's ``data:`` names.
        summarise: What a file holds, without knowing what to make of it.
    """

    recognise: Callable[[Path], bool]
    read: Callable[[DataSpec], Table]
    summarise: Callable[[Path], FileSummary]


FORMATS: dict[str, Format] = {
    "rml2018": Format(rml2018.recognise, rml2018.read, rml2018.summarise),
    "deepbeam": Format(deepbeam.recognise, deepbeam.read, deepbeam.summarise),
    "radcom": Format(radcom.recognise, radcom.read, radcom.summarise),
    "torchsig": Format(torchsig.recognise, torchsig.read, torchsig.summarise),
    "hdf5": Format(hdf5.recognise, hdf5.read, hdf5.summarise),
    "npz": Format(npz.recognise, npz.read, npz.summarise),
    "owl": Format(owl.recognise, owl.read, owl.summarise),
    "rml-pickle": Format(rml_pickle.recognise, rml_pickle.read, rml_pickle.summarise),
    "deepmimo": Format(deepmimo.recognise, deepmimo.read, deepmimo.summarise),
    "powder": Format(powder.recognise, powder.read, powder.summarise),
    "icarus": Format(icarus.recognise, icarus.read, icarus.summarise),
    "ut-har": Format(ut_har.recognise, ut_har.read, ut_har.summarise),
    "ntu-fi": Format(ntu_fi.recognise, ntu_fi.read, ntu_fi.summarise),
    "uwb-indoor": Format(uwb_indoor.recognise, uwb_indoor.read, uwb_indoor.summarise),
    "csitool": Format(csitool.recognise, csitool.read, csitool.summarise),
    "sigmf": Format(sigmf.recognise, sigmf.read, sigmf.summarise),
}


def format_of(spec: DataSpec) -> str:
    """Name of the format of ``spec.path``: ``spec.format``, or else the first that recognises it.

    Raises:
        DataError: The path does not exist, or no format recognises it.
    """
    path = spec.path
    if path is None:
        raise DataError("simulated windows have no file")
    if not path.exists():
        raise DataError(f"{path} does not exist: correct data.path")
    if spec.format is not None:
        return spec.format
    for name, layout in FORMATS.items():
        if layout.recognise(path):
            return name
    raise DataError(
        f"{path} is of no known layout (.h5, .npz, .sigmf-meta ...): set data.format to one of {', '.join(FORMATS)}"
    )


def open_table(spec: DataSpec) -> Table:
    """Open the windows that ``spec`` names, with their columns. Windows are read later, by index.

    Raises:
        DataError: The file is missing, of no known format, or cannot be used; the message names file and mend.
    """
    if spec.synthetic is not None:
        # torch takes seconds to import and only simulated windows need it
        from offramp.data.synthesis.source import read_synthetic

        return read_synthetic(spec.synthetic)
    return FORMATS[format_of(spec)].read(spec)
