"""Fixtures that several rooms share. That this file is here also puts ``tests/`` on the path, for ``bundles.py``."""

import os
from pathlib import Path

import pytest
from bundles import iq_bundle

os.environ.pop("COLUMNS", None)  # tables are as wide as they are where nobody says otherwise


@pytest.fixture(scope="session")
def iq_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to read, not to change."""
    return iq_bundle(tmp_path_factory.mktemp("iq") / "bundle")
