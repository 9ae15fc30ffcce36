"""The models that a server has, by name: which are ready, load and unload while it runs, and how often each was asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from offramp.errors import OfframpError
from offramp.serving.protocol.faults import NotFound, ServingFault, Unavailable, fault_of
from offramp.serving.protocol.requests import Model

ModelState = Literal["READY", "UNAVAILABLE"]


class ModelSource(Protocol):
    """Where models come from."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all models that it has, loaded or not."""

    def load(self, name: str, version: int) -> Model:
        """Make a model ready, anew from where it is kept. Raises :class:`~offramp.errors.OfframpError` if that fails."""

    def unload(self, name: str) -> None:
        """Let a model go."""

    def dependents(self, name: str) -> tuple[str, ...]:
        """Models that change with it."""


@dataclass
class ModelUse:
    """How often a model was asked, and how long it took, in nanoseconds; added to while it is asked.

    Attributes:
        inferences: Windows, or rows of the first input, that were answered.
        executions: Requests that were answered.
        success_ns: From request to answer, of those.
        failures: Requests that were not answered.
        failure_ns: Of those.
        last_ms: When it last answered, milliseconds since 1970; 0 for never.
    """

    inferences: int = 0
    executions: int = 0
    success_ns: int = 0
    failures: int = 0
    failure_ns: int = 0
    last_ms: int = 0


@dataclass(frozen=True)
class ModelEntry:
    """A model as the index shows it."""

    name: str
    version: int
    state: ModelState
    reason: str = ""
    model: Model | None = None
    use: ModelUse = field(default_factory=ModelUse)


class Repository:
    """Models by name. Threads may share it."""

    def __init__(self, source: ModelSource) -> None:
        """Load every model of a source; one that cannot be loaded is in the index with the reason."""
        self._source, self._lock = source, threading.Lock()
        self._entries: dict[str, ModelEntry] = {}
        for name in source.names:
            try:
                self._load(name)
            except ServingFault:
                continue

    @property
    def index(self) -> list[ModelEntry]:
        """All models, by name."""
        return [self._entries[name] for name in sorted(self._entries)]

    @property
    def ready(self) -> bool:
        """Whether there are models and all of them are ready; what was unloaded is not asked."""
        entries = list(self._entries.values())
        failed = any(entry.state != "READY" and entry.reason != UNLOADED for entry in entries)
        return bool(entries) and not failed

    def entry(self, name: str, version: str = "") -> ModelEntry:
        """A model by name and version.

        Raises:
            NotFound: There is none; the message lists those that there are.
        """
        found = self._entries.get(name)
        if found is None:
            raise NotFound(f"there is no model {name!r}: the server has {', '.join(sorted(self._entries)) or 'none'}")
        if version and version != str(found.version):
            raise NotFound(f"model {name!r} has no version {version!r}: version {found.version} is served")
        return found

    def model(self, name: str, version: str = "") -> Model:
        """A model that is ready.

        Raises:
            NotFound: There is none.
            Unavailable: It is not loaded.
        """
        entry = self.entry(name, version)
        if entry.model is None:
            raise Unavailable(f"model {name!r} is not loaded: {entry.reason}")
        return entry.model

    def load(self, name: str) -> None:
        """Make a model ready, or put a newer one in its place while it is asked: it gets the next version.

        Raises:
            NotFound: There is none.
            ServingFault: It cannot be loaded; one that was ready stays so.
        """
        with self._lock:
            self._load(name)
            self._follow(name)

    def _load(self, name: str) -> None:
        before = self._entries.get(name)
        version = 1 if before is None else before.version + 1
        try:
            model = self._source.load(name, version)
        except OfframpError as error:
            if name in self._source.names and (before is None or before.model is None):
                self._put(ModelEntry(name, version - 1 or 1, "UNAVAILABLE", str(error)))
            raise fault_of(error) from None
        use = ModelUse() if before is None else before.use
        self._put(ModelEntry(name, version, "READY", model=model, use=use))

    def _follow(self, name: str) -> None:
        """Make those anew that change with a model."""
        for other in self._source.dependents(name):
            entry = self._entries.get(other)
            if entry is None or entry.reason == UNLOADED:
                continue
            try:
                self._load(other)
            except ServingFault as error:
                self._put(replace(entry, state="UNAVAILABLE", reason=str(error), model=None))

    def unload(self, name: str) -> None:
        """Let a model go; what was asked before is still answered.

        Raises:
            NotFound: There is none.
        """
        with self._lock:
            entry = self.entry(name)
            if entry.model is not None:
                self._source.unload(name)
            self._put(replace(entry, state="UNAVAILABLE", reason=UNLOADED, model=None))
            self._follow(name)

    def count(self, name: str, windows: int, nanoseconds: int, answered: bool) -> None:
        """Take note of a request."""
        entry = self._entries.get(name)
        if entry is None:
            return
        use = entry.use
        if answered:
            use.inferences += windows
            use.executions += 1
            use.success_ns += nanoseconds
            use.last_ms = int(1e3 * time.time())
        else:
            use.failures += 1
            use.failure_ns += nanoseconds

    def _put(self, entry: ModelEntry) -> None:
        self._entries = {**self._entries, entry.name: entry}


UNLOADED = "unloaded"


@dataclass(frozen=True)
class FixedModels:
    """A source of models that are there already, such as callables."""

    models: Mapping[str, Model]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.models)

    def load(self, name: str, version: int) -> Model:
        if name not in self.models:
            raise NotFound(f"there is no model {name!r}: the server has {', '.join(self.models)}")
        return self.models[name]

    def unload(self, name: str) -> None:
        return None

    def dependents(self, name: str) -> tuple[str, ...]:
        return ()
