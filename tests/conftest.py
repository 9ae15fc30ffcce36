"""Fixtures that several rooms share. That this file is here also puts ``tests/`` on the path, for ``bundles.py``."""

from pathlib import Path

import pytest
from bundles import iq_bundle


@pytest.fixture(scope="session")
def iq_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to read, not to change."""
    return iq_bundle(tmp_path_factory.mktemp("iq") / "bundle")
