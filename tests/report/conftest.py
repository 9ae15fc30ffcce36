from __future__ import annotations

import pytest
import report_samples

from offramp.schema.results import Results


@pytest.fixture(scope="session")
def demo() -> Results:
    return report_samples.demo()
