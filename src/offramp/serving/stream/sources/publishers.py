"""Where the messages of a publisher belong, and what is missing between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from offramp.errors import DataError
from offramp.serving.stream.chunks import Gaps, StreamGap, joined
from offramp.serving.stream.formats import SampleFormat
from offramp.serving.stream.sources.tags import Pmt, StreamTag, read_tagged

AGREES = 1.5
"""A time that differs by fewer samples from what was expected agrees with it."""
HEARD = ("rx_time", "rx_rate", "rx_freq")
"""What the tags of a receiver tell: when an item was taken, Hz, and Hz."""


@dataclass(frozen=True)
class PlacedPart:
    """Part of a message.

    Attributes:
        first: Number of its first sample since the stream began, lost ones counted.
        content: Its samples, as bytes.
        gaps: Before it.
        time: When its first sample was taken; None where nothing new is known.
        about: What tags say of its samples.
    """

    first: int
    content: memoryview
    gaps: Gaps
    time: np.datetime64 | None
    about: Mapping[str, Any]


class MessageOrder:
    """Places one message after the other.

    With tags each message says which item is its first: what the publisher dropped is counted, and one that began anew is known by a number
    that is too low. ``rx_time`` tells the time; where that runs ahead of the count of samples, the receiver lost some. Another
    ``rx_freq`` is another setting. Without tags each message follows the one before it.
    """

    def __init__(
        self,
        form: SampleFormat,
        tagged: bool,
        sample_rate: float | None,
        about: Mapping[str, Any],
        on_rate: Callable[[float], object],
    ) -> None:
        """Take the form of items, whether messages have tags, the rate in Hz if it is known, what to say of samples until tags say more, and
        what to call with a rate that is told."""
        self.sample_rate = sample_rate
        self._sample_bytes, self._tagged, self._on_rate = form.sample_bytes, tagged, on_rate
        self._about = about
        self._first = 0
        """Of the next message, if nothing is missing before it."""
        self._item: int | None = None
        """What its first item is then."""
        self._pending: Gaps = ()
        self._known: tuple[int, np.datetime64] | None = None
        """A sample and its time."""

    def place(self, message: memoryview) -> list[PlacedPart]:
        """The parts of a message, which is divided where a tag says something new.

        Raises:
            DataError: It is no whole number of samples, or its header of tags cannot be read.
        """
        content, item = message, 0
        tags: Sequence[StreamTag] = ()
        if self._tagged:
            tagged = read_tagged(message)
            content, item, tags = tagged.content, tagged.first, tagged.tags
        count, odd = divmod(len(content), self._sample_bytes)
        if odd:
            raise DataError(
                f"a message with {len(content)} bytes, which are no whole number of samples of {self._sample_bytes} bytes"
            )
        if self._tagged:
            self._expect(item)
            self._item = item + count
        return self._divided(content, count, item, tags)

    def reconnected(self) -> None:
        """What comes next is of another connection; with tags its numbers will say what is missing."""
        if self._item is None:
            self._break(StreamGap("reconnected", None))

    def spoiled(self) -> None:
        """A message could not be placed."""
        self._item = None
        self._break(StreamGap("malformed", None))

    def _expect(self, item: int) -> None:
        if self._item is None or item == self._item:
            return
        if item > self._item:
            self._break(StreamGap("lost", item - self._item))
        else:
            self._break(StreamGap("restarted", None))

    def _break(self, gap: StreamGap) -> None:
        if self._first == 0:
            return
        self._pending = joined(self._pending, (gap,))
        if gap.lost is None:
            self._known = None
        else:
            self._first += gap.lost

    def _divided(self, content: memoryview, count: int, item: int, tags: Sequence[StreamTag]) -> list[PlacedPart]:
        marks: dict[int, dict[str, Pmt]] = {0: {}}
        for tag in tags:
            if tag.key in HEARD and 0 <= tag.item - item < count:
                marks.setdefault(tag.item - item, {})[tag.key] = tag.value
        parts = []
        for begin, end in pairwise([*sorted(marks), count] if count else []):
            time = self._noted(marks[begin])
            held = content[begin * self._sample_bytes : end * self._sample_bytes]
            parts.append(PlacedPart(self._first, held, self._pending, time, self._about))
            self._pending = ()
            self._first += end - begin
        return parts

    def _noted(self, told: Mapping[str, Pmt]) -> np.datetime64 | None:
        """Take note of what the tags at one item say; when it was taken, if they do."""
        rate, frequency = told.get("rx_rate"), told.get("rx_freq")
        if isinstance(rate, float) and rate > 0:
            self._on_rate(rate)
            self.sample_rate = rate
        if isinstance(frequency, float) and frequency != self._about.get("frequency"):
            if "frequency" in self._about:
                self._break(StreamGap("setting"))
            self._about = {"frequency": frequency}
        time = _time(told.get("rx_time"))
        if time is not None:
            if self._known is not None and self.sample_rate is not None:
                since, then = self._known
                passed = (time - then) / np.timedelta64(1, "s")
                ahead = passed * self.sample_rate - (self._first - since)
                if abs(ahead) > AGREES:
                    self._break(StreamGap("overflow", round(ahead) if ahead > 0 else None))
            self._known = (self._first, time)
        return time


def _time(value: Pmt) -> np.datetime64 | None:
    """``rx_time``: whole seconds and the fraction of one since 1970."""
    if not isinstance(value, tuple) or len(value) != 2:
        return None
    whole, fraction = value
    if not isinstance(whole, int) or not isinstance(fraction, float) or not (whole < 2**33 and 0 <= fraction < 1):
        return None
    return np.datetime64(whole * 10**9 + round(fraction * 1e9), "ns")
