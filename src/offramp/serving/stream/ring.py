"""A bounded store of samples between the thread that takes them in and the one that cuts windows; what happens when it is full."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from typing import Literal

from offramp.serving.stream.chunks import Gaps, SampleChunk, StopFlag, StreamGap, joined

WhenBehind = Literal["block", "drop-oldest", "drop-newest"]


class SampleRing:
    """Chunks in the order of their samples, for one thread that puts and one that takes.

    ``block`` lets the source wait. ``drop-oldest`` makes room, so that answers stay fresh. ``drop-newest`` lets what comes in go, so that
    what is there is answered. What was dropped is a gap before the samples that follow.
    """

    def __init__(self, capacity: int, when_behind: WhenBehind, news: threading.Event) -> None:
        """Take a capacity in samples, what to do when it is full, and an event that is set when there is something to look at."""
        self._capacity, self._when_behind, self._news = capacity, when_behind, news
        self._chunks: deque[SampleChunk] = deque()
        self._room = threading.Condition()
        self.lost: Gaps = ()
        """Dropped at the end, with nothing behind it yet."""
        self.waiting = 0
        """Samples in it."""
        self.taken_in = 0
        """Samples that were put, whatever became of them."""
        self.finished = False
        """Whether nothing more will be put."""
        self.error: BaseException | None = None
        """What ended the source, if not its end."""

    def put(self, chunk: SampleChunk, stop: StopFlag) -> None:
        """Take in a chunk. One that does not fit waits for room until ``stop`` is asked for, or something is dropped; an empty ring takes any."""
        with self._room:
            self.taken_in += chunk.count
            while self._when_behind == "block" and self._full(chunk) and not stop.asked:
                self._room.wait(0.1)
            if self._when_behind == "drop-newest" and self._full(chunk):
                self.lost = joined(self.lost, _dropped(chunk))
                return
            lost: Gaps = ()
            while self._when_behind == "drop-oldest" and self._full(chunk):
                oldest = self._chunks.popleft()
                self.waiting -= oldest.count
                lost = joined(lost, _dropped(oldest))
            if lost and self._chunks:
                self._chunks[0], lost = _behind(lost, self._chunks[0]), ()
            self._chunks.append(_behind(joined(self.lost, lost), chunk))
            self.lost = ()
            self.waiting += chunk.count
        self._news.set()

    def take(self, most: int) -> SampleChunk | None:
        """At most so many of the oldest samples that follow each other; None if there are none."""
        with self._room:
            if not self._chunks:
                return None
            taken = self._chunks.popleft()
            if taken.count > most:
                taken, rest = taken.split(most)
                self._chunks.appendleft(rest)
            self.waiting -= taken.count
            self._room.notify()
            return taken

    def finish(self, error: BaseException | None = None) -> None:
        """Nothing more will be put."""
        self.error, self.finished = error, True
        self._news.set()

    def _full(self, chunk: SampleChunk) -> bool:
        return bool(self._chunks) and self.waiting + chunk.count > self._capacity


def _dropped(chunk: SampleChunk) -> Gaps:
    return joined(chunk.gaps, (StreamGap("behind", chunk.count),))


def _behind(lost: Gaps, chunk: SampleChunk) -> SampleChunk:
    return replace(chunk, gaps=joined(lost, chunk.gaps)) if lost else chunk
