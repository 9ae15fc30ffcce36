"""What the user did wrong, and how to correct it, in one line.

Every error that a user can cause is an :class:`OfframpError`. The command line prints its message on one
line and leaves with exit code 2; anything else is our fault and leaves with exit code 1.
"""

from __future__ import annotations

LONGEST = 480
"""Letters of the longest message: with what the command line puts before it, a line stays below 500."""
GAP = "[...]"
LOOKED_AT = 100 * LONGEST
"""Letters of a text that are looked at: a name of many megabytes must not take seconds."""


class OfframpError(Exception):
    """Base of all errors that the user can correct. The message names the input and what to do.

    It is one line of at most :data:`LONGEST` printable letters, whatever the names in it hold: see :func:`one_line`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class SuiteError(OfframpError):
    """A suite file, or an option of the command line, says something that cannot be run."""


class DataError(OfframpError):
    """A data file, window, label or group cannot be used as it is."""


class EncoderError(OfframpError):
    """An encoder, a checkpoint or an input shape does not fit."""


class BundleError(OfframpError):
    """A bundle folder is incomplete or does not belong to the encoder at hand."""


class TrainingError(OfframpError):
    """A pretraining run cannot start, go on or be resumed."""


class PolicyError(OfframpError):
    """A policy, a budget or a guarantee cannot be had as it was asked for."""


class EngineError(OfframpError):
    """A request that an engine does not answer."""


class Overloaded(EngineError):
    """It came when there was more to do than can be done in time, or the queue was full."""


class BudgetTooSmall(Overloaded):
    """The request takes longer than its budget, even if nothing else is to be done: asking again changes nothing."""


class DeadlinePassed(EngineError):
    """Its time was over before the answer was there."""


class EngineClosed(EngineError):
    """The engine was closed before, or while the request waited."""


class ComputationFailed(EngineError):
    """A segment or a head failed: no fault of the request."""


class TaskRemoved(EngineError):
    """There is no such task, or not any more."""


def one_line(text: str, longest: int = LONGEST) -> str:
    """A message as one line of at most ``longest`` letters that a terminal shows as they are.

    White space becomes single spaces. What does not print (control characters, terminal escapes, marks that turn the reading
    direction, lone surrogates) is written as Python escapes it. Where that is too long, the longest words, which are names,
    lose their middle first, and then the whole line does: what to do about it stands at the end. Of a text of many thousand letters only
    both ends are looked at.
    """
    words = [printable(word) for word in _without_middle(text, LOOKED_AT).split()]
    for most in (longest // 3, longest // 6, longest // 12):
        if len(" ".join(words)) <= longest:
            break
        words = [_without_middle(word, most) for word in words]
    return _without_middle(" ".join(words), longest)


def printable(text: str) -> str:
    """Text in which every letter that does not print is escaped, a line feed too."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _without_middle(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = (most - len(GAP)) // 2
    return text[: most - len(GAP) - end] + GAP + text[-end:]
