"""What an administrator changes while the server runs: slices and models. Several processes of one server share a folder that tells them.

Who is asked writes the change there first and then carries it out; the others look at the folder a few times a second.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from offramp.errors import OfframpError
from offramp.files import write_text
from offramp.runtime.engine import Engine, ServiceLevel
from offramp.runtime.engine.levels import level_problem
from offramp.serving.models.repository import Repository
from offramp.serving.protocol.faults import BadRequest, NotFound
from offramp.serving.watching.shadow import SLICE

LOOK_S = 0.25
MOST_SLICES = 256


class Control:
    """Changes of one process of a server."""

    def __init__(
        self,
        repository: Repository,
        engine: Engine | None,
        folder: Path | None,
        on_load: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what is changed, and the folder that processes share; None for one process alone. ``on_load`` is called when a model was loaded anew."""
        self._repository, self._engine, self._folder, self._on_load = repository, engine, folder, on_load
        self._lock, self._seen = threading.RLock(), 0

    def slices(self) -> dict[str, dict[str, Any]]:
        """Service levels by name, each with the ``steps`` that load moves it now."""
        if self._engine is None:
            return {}
        steps = self._engine.steps
        return {
            name: {**level.model_dump(), "steps": steps.get(name, 0)}
            for name, level in self._engine.slices.items()
            if name != SLICE
        }

    def put_slice(self, name: str, said: dict[str, Any]) -> None:
        """Add or replace a service level.

        Raises:
            BadRequest: It is none, or no task can keep it.
        """
        engine = self._needs_engine()
        if name == SLICE:
            raise BadRequest(f"slice {SLICE!r} is the server's own: choose another name")
        try:
            level = ServiceLevel.model_validate({key: value for key, value in said.items() if key != "steps"})
        except ValidationError as error:
            raise BadRequest(f"slice {name!r}: {level_problem(error)}") from None
        if name not in engine.slices and len(engine.slices) >= MOST_SLICES:
            raise BadRequest(f"there are {MOST_SLICES} slices already: take one away first")
        self._change(lambda: _as_bad_request(lambda: engine.set_slice(name, level)), {"slice": name, "level": said})

    def delete_slice(self, name: str) -> None:
        """Take a service level away. Raises :class:`BadRequest` for ``default``."""
        engine = self._needs_engine()
        self._change(lambda: _as_bad_request(lambda: engine.set_slice(name, None)), {"slice": name, "level": None})

    def load(self, name: str) -> None:
        """Make a model ready, anew. Raises :class:`~offramp.serving.protocol.faults.ServingFault` if that fails."""
        self._change(lambda: self._load(name), {"load": name})

    def unload(self, name: str) -> None:
        """Let a model go. Raises :class:`~offramp.serving.protocol.faults.NotFound` if there is none."""
        self._change(lambda: self._repository.unload(name), {"unload": name})

    def look(self) -> None:
        """Carry out what other processes were told."""
        if self._folder is None:
            return
        with self._lock:
            for path in sorted(self._folder.glob("change-*.json")):
                number = int(path.stem.rpartition("-")[2])
                if number > self._seen:
                    self._seen = number
                    self._carry_out(json.loads(path.read_text(encoding="utf-8")))

    def _load(self, name: str) -> None:
        self._repository.load(name)
        self._on_load()

    def _needs_engine(self) -> Engine:
        if self._engine is None:
            raise NotFound("this server has no slices")
        return self._engine

    def _change(self, what: Callable[[], None], told: dict[str, Any]) -> None:
        with self._lock:
            self.look()
            what()
            if self._folder is not None:
                self._tell(self._folder, told)

    def _tell(self, folder: Path, told: dict[str, Any]) -> None:
        draft = folder / f"draft-{os.getpid()}"
        write_text(draft, json.dumps(told))
        try:
            while True:
                self._seen += 1
                try:
                    os.link(
                        draft, folder / f"change-{self._seen:09d}.json"
                    )  # whole at once, unless another process has the number
                except FileExistsError:
                    continue
                return
        finally:
            draft.unlink()

    def _carry_out(self, told: dict[str, Any]) -> None:
        try:
            if "load" in told:
                self._load(told["load"])
            elif "unload" in told:
                self._repository.unload(told["unload"])
            elif self._engine is not None:
                level = told["level"]
                said = (
                    None
                    if level is None
                    else ServiceLevel.model_validate({k: v for k, v in level.items() if k != "steps"})
                )
                self._engine.set_slice(told["slice"], said)
        except OfframpError:
            return  # whoever was asked has said so


def _as_bad_request(what: Callable[[], None]) -> None:
    try:
        what()
    except OfframpError as error:
        raise BadRequest(str(error)) from None
