"""What ``offramp inspect`` says: an encoder's exits and costs, a bundle's tasks, or what a data file holds."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from offramp.bundle import Bundle, load_bundle
from offramp.data.inspection import inspect_file
from offramp.data.summary import ColumnSummary, FileSummary
from offramp.errors import EncoderError, OfframpError
from offramp.opening import read_json, regular_file
from offramp.schema.bundle import MOST_VALUES

DEFAULT_SIZES = {"antennas": 4, "time": 256}
SHOWN_VALUES = 12
"""Values of a column that the terminal shows."""


class Inspection(Protocol):
    """What can be shown as JSON and in the terminal."""

    def to_dict(self) -> dict[str, Any]: ...

    def table(self) -> RenderableType: ...


@dataclass(frozen=True)
class EncoderInspection:
    """An encoder with the cost of every exit for one input shape."""

    name: str
    params: int
    sha256: str
    input: str
    input_shape: tuple[int, ...]
    exits: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON prints it; MACs for one window, latency in ms of torch on one thread."""
        return {"kind": "encoder", **asdict(self)}

    def table(self) -> RenderableType:
        """For the terminal."""
        title = f"{self.name}: {self.params:,} parameters, takes {self.input}; costs at {self.input_shape}"
        table = Table()
        for column in ("exit", "width", "parameters", "MACs", "MACs saved", "ms (median)"):
            table.add_column(column, justify="left" if column == "exit" else "right")
        full = self.exits[-1]["macs"]
        for row in self.exits:
            saved = 1 - row["macs"] / full if full else 0.0
            cells = (f"{row['width']:,}", f"{row['params']:,}", f"{row['macs']:,}", f"{saved:.1%}")
            table.add_row(row["name"], *cells, f"{row['latency_ms']['p50']:.2f}")
        return Group(Text(title), table)


@dataclass(frozen=True)
class BundleInspection:
    """A bundle's encoder and tasks."""

    bundle: Bundle

    def to_dict(self) -> dict[str, Any]:
        """As JSON prints it."""
        tasks = [
            {
                "name": task.name,
                "kind": task.kind,
                "metric": task.metric,
                "exit": task.exit,
                "window_shape": list(task.window_shape),
                "transform": task.transform.name,
                "labels": list(task.label_names),
                "val": task.val,
                "policies": {
                    name: {"criterion": policy.get("criterion"), "exits": policy["exits"]}
                    for name, policy in task.policies.items()
                },
            }
            for task in self.bundle.tasks.values()
        ]
        return {"kind": "bundle", "encoder": self.bundle.encoder, "tasks": tasks}

    def table(self) -> RenderableType:
        """For the terminal."""
        encoder = self.bundle.encoder
        title = Text(f"bundle on {encoder['architecture']} {encoder['sha256'][:16]}")
        table = Table()
        policies = ["policies"] if any(task.policies for task in self.bundle.tasks.values()) else []
        for column in ("task", "predicts", "windows", "transform", "leaves at", "validation", *policies):
            table.add_column(column, overflow="fold")
        for task in self.bundle.tasks.values():
            number = task.heads[task.exit].outputs
            what = f"{number} classes" if task.kind == "classification" else f"{number} value{'s' * (number > 1)}"
            score = f"{task.metric} {task.val[task.exit]:.3g}"
            cells = [task.name, what, str(task.window_shape), task.transform.name, task.exit, score]
            table.add_row(*map(escape, cells + [", ".join(task.policies) for _ in policies]))
        return Group(title, table)


@dataclass(frozen=True)
class FileInspection:
    """A data file's windows, columns, classes and groups."""

    summary: FileSummary

    def to_dict(self) -> dict[str, Any]:
        """As JSON prints it."""
        return {"kind": "data", **self.summary.to_dict()}

    def table(self) -> RenderableType:
        """For the terminal."""
        file = self.summary
        rows = "" if file.count is None else f", {file.count:,} {file.rows}{'s' * (file.count != 1)}"
        shape = "" if file.shape is None else f" of shape {file.shape}"
        title = Text(f"{file.path}: {file.format}{rows}{shape}")
        defaults = [f"{what} {name}" for what, name in (("target", file.target), ("group", file.group)) if name]
        if defaults:
            title.append(f"; if none is named: {', '.join(defaults)}")
        columns = Table()
        for name in ("column", "per", "type", "distinct", "values"):
            columns.add_column(name, justify="right" if name == "distinct" else "left", overflow="fold")
        for column in file.columns:
            distinct = "" if column.distinct is None else f"{column.distinct:,}"
            columns.add_row(escape(column.name), column.rows, column.dtype, distinct, escape(_values(column)))
        note = [Text(file.note)] if file.note else []
        others = [array for array in file.arrays if array.name not in {column.name for column in file.columns}]
        arrays = Table()
        for name in ("array", "shape", "type"):
            arrays.add_column(name, overflow="fold")
        for array in others:
            arrays.add_row(escape(array.name), str(array.shape), array.dtype)
        return Group(title, *note, *([columns] if file.columns else []), *([arrays] if others else []))


def _values(column: ColumnSummary) -> str:
    """The most frequent values with their counts, else the range."""
    if column.counts:
        alike = max(column.counts.values()) == 1
        shown = [name if alike else f"{name} ({number:,})" for name, number in column.counts.items()]
        more = [f"{len(shown) - SHOWN_VALUES} more"] if len(shown) > SHOWN_VALUES else []
        return ", ".join(shown[:SHOWN_VALUES] + more)
    if column.range is None:
        return ""
    low, high = column.range
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def inspect_target(
    target: str,
    checkpoint: Path | None = None,
    shape: str | None = None,
    modality: str | None = None,
    format_name: str | None = None,
) -> Inspection:
    """Find out what a target is and look into it.

    Args:
        target: An encoder folder, a bundle, a data file or folder; or, where no such path exists, a registered encoder's name,
            ``hf-hub:org/name`` or ``local-dir:PATH``.
        checkpoint: A foreign checkpoint of a named encoder.
        shape: Input shape without batch to cost an encoder for, e.g. ``"2,4,256"``.
        modality: Which input of a checkpoint that knows several.
        format_name: Layout of a data file that does not tell it.

    Raises:
        OfframpError: The target is none of these, or cannot be read.
    """
    path = Path(target)
    if os.path.exists(path) and checkpoint is None:
        keys = _config_keys(path)
        if "tasks" in keys or os.path.lexists(path / "bundle" / "config.json"):
            return BundleInspection(load_bundle(path))
        if not keys & {"architecture", "model_type"}:
            return FileInspection(inspect_file(path, format_name))
    # torch takes seconds to import, and only encoders need it
    from offramp.encoders.hub import is_source
    from offramp.encoders.registry import known_names

    if target not in known_names() and not os.path.exists(path) and not is_source(target):
        known = ", ".join(known_names())
        raise OfframpError(f"{target} is neither a file nor a folder nor an encoder's name ({known})")
    return _inspect_encoder(target, checkpoint, shape, {} if modality is None else {"modality": modality})


def _config_keys(path: Path) -> set[str]:
    described = path / "config.json"
    if not os.path.lexists(described):
        return set()
    regular_file(described)
    try:
        content = read_json(described)
    except OfframpError:
        if any(path.glob("*.safetensors")):  # it was to be an encoder or a bundle
            raise
        return set()
    return set(content) if isinstance(content, dict) else set()


def _inspect_encoder(
    target: str, checkpoint: Path | None, shape: str | None, options: dict[str, Any]
) -> EncoderInspection:
    from offramp.costs import exit_costs
    from offramp.encoders.hub import is_source
    from offramp.encoders.registry import load_encoder, packaged_weights

    shipped = (
        checkpoint is not None or Path(target).is_dir() or is_source(target) or packaged_weights(target) is not None
    )
    encoder = load_encoder(target, checkpoint=checkpoint, weights="pretrained" if shipped else "random", **options)
    sizes = encoder.input.shape
    names = encoder.input.layout[1:]
    input_shape = (
        _parse_shape(shape)
        if shape is not None
        else tuple(
            size or max(least, DEFAULT_SIZES.get(name, 64))
            for name, size, least in zip(names, sizes, encoder.input.minimum, strict=True)
        )
    )
    costs = exit_costs(encoder, input_shape, seconds=0.1)
    exits = [
        {**asdict(exit), "macs": costs[exit.name].macs, "latency_ms": latency.model_dump()}
        for exit in encoder.exits
        if (latency := costs[exit.name].latency_ms) is not None
    ]
    return EncoderInspection(
        name=target if shipped else f"{target} (random weights)",
        params=encoder.exits[-1].params,
        sha256=encoder.fingerprint(),
        input=encoder.input.describe(),
        input_shape=input_shape,
        exits=exits,
    )


def _parse_shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise EncoderError(f"--shape {text!r}: give sizes separated by commas, e.g. 2,4,256") from None
    if math.prod(shape) > MOST_VALUES:
        raise EncoderError(f"--shape {text!r}: a window has at most {MOST_VALUES:,} values")
    return shape
