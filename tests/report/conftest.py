from __future__ import annotations

import pytest
import report_samples

from offramp.results import Results


@pytest.fixture(scope="session")
def demo() -> Results:
    return report_samples.demo()
