"""Files that are replayed as fast as they were recorded."""

from __future__ import annotations

import time

from offramp.serving.stream.chunks import StopFlag


class Pace:
    """Waits until it is time for the next samples; who is late does not hurry afterwards more than samples are due."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def wait(self, seconds: float, stop: StopFlag) -> None:
        """Until so many seconds after the beginning, or until ``stop`` is asked for."""
        while not stop.asked and (left := self._began + seconds - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
