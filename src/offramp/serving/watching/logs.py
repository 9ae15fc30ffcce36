"""Structured logs: one JSON object a line, or plain text, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time

from offramp.errors import one_line
from offramp.serving.service import RequestOutcome
from offramp.serving.settings import LogForm

LOG = logging.getLogger("offramp.serving")
_FIELDS = ("model", "slice", "status", "milliseconds", "windows", "worker")


def start_logging(form: LogForm, level: int = logging.INFO) -> None:
    """Send what a server says to standard error; libraries stay as quiet as they are."""
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(logging.CRITICAL)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine() if form == "json" else _TextLine())
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(level)


def log_outcome(outcome: RequestOutcome) -> None:
    """Requests that were not answered, and at DEBUG all of them."""
    level = logging.DEBUG if outcome.fault is None else logging.INFO
    if outcome.fault is not None and outcome.fault.status >= 500 and outcome.fault.status not in (503, 504):
        level = logging.ERROR
    if LOG.isEnabledFor(level):
        said = {
            "model": outcome.model,
            "slice": str(outcome.parameters.get("slice", ""))[:100],
            "status": 200 if outcome.fault is None else outcome.fault.status,
            "milliseconds": round(1e3 * outcome.seconds, 3),
            "windows": outcome.windows,
        }
        LOG.log(level, "%s", "answered" if outcome.fault is None else str(outcome.fault), extra=said)


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": one_line(record.getMessage()),
        }
        said |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said)


class _TextLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={one_line(str(getattr(record, name)))}" for name in _FIELDS if hasattr(record, name))
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.levelname.lower()} {one_line(record.getMessage())}"
        line = f"{line} | {fields}" if fields else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
