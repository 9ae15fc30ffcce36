"""What every layout of files promises, and how it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.data.cache import write_cache
from offramp.data.formats import format_of, open_table
from offramp.data.inspection import inspect_file
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec


def opened(path: Path, name: str, cache: Path, **fields: Any) -> Table:
    """A table, after checks of what all layouts have in common.

    It is recognised and inspected, knows its columns by name, has windows of the shape it says in any order, is the same when it is
    opened again, and can be converted to a cache that reads back.
    """
    spec = DataSpec(path=path, **fields)
    assert format_of(spec) == name
    summary = inspect_file(path)
    assert summary.format == name
    assert summary.count
    table = open_table(spec)
    count = table.windows.count
    assert all(len(values) == count for values in table.columns.values())
    assert table.default_target in table.columns
    assert table.default_group is None or table.default_group in table.columns
    assert (summary.target, summary.group) == (table.default_target, table.default_group)
    assert len(table.windows.fingerprint) == 64
    assert open_table(spec).windows.fingerprint == table.windows.fingerprint
    everything = table.windows.read(np.arange(count))
    assert everything.shape == (count, *table.windows.shape)
    backwards = np.array([count - 1, 0, 0])
    np.testing.assert_array_equal(table.windows.read(backwards), everything[backwards])
    assert table.windows.read(np.array([], dtype=np.int64)).shape == (0, *table.windows.shape)
    write_cache(table, cache / "written.h5")
    again = open_table(DataSpec(path=cache / "written.h5"))
    np.testing.assert_array_equal(again.windows.read(np.arange(count)), everything)
    for column, values in table.columns.items():
        np.testing.assert_array_equal(again.columns[column], values)
    return table


def check_refused(path: Path, *words: str, **fields: Any) -> None:
    """Opening, or reading every window, fails in one line that holds all words."""

    def read_all() -> None:
        windows = open_table(DataSpec(path=path, **fields)).windows
        windows.read(np.arange(windows.count))

    with pytest.raises(DataError) as caught:
        read_all()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
