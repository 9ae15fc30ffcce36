"""What a server refuses, with the status that HTTP and gRPC give it. Every message is one line that names the input and what is expected."""

from __future__ import annotations

from offramp.errors import (
    BudgetTooSmall,
    ComputationFailed,
    DataError,
    DeadlinePassed,
    EngineClosed,
    EngineError,
    OfframpError,
    Overloaded,
    TaskRemoved,
)


class ServingFault(OfframpError):
    """A request that is not answered.

    Attributes:
        status: Of HTTP.
        code: Of gRPC, by its name.
        retry_after: Seconds after which to ask again; None where that would change nothing.
    """

    status = 500
    code = "INTERNAL"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequest(ServingFault):
    """It says something that cannot be."""

    status = 400
    code = "INVALID_ARGUMENT"


class NotAuthorised(ServingFault):
    """It has no key, or one for something else."""

    status = 401
    code = "UNAUTHENTICATED"


class NotAllowed(ServingFault):
    """Its key is not for this."""

    status = 403
    code = "PERMISSION_DENIED"


class NotFound(ServingFault):
    """It names what is not there."""

    status = 404
    code = "NOT_FOUND"


class BodyLate(ServingFault):
    """It did not come in time."""

    status = 408
    code = "DEADLINE_EXCEEDED"


class TooLarge(ServingFault):
    """It is larger than what is taken."""

    status = 413
    code = "RESOURCE_EXHAUSTED"


class TooMuch(ServingFault):
    """There is more to do than can be done in time."""

    status = 429
    code = "RESOURCE_EXHAUSTED"


class Unavailable(ServingFault):
    """The server starts, drains, or has unloaded the model."""

    status = 503
    code = "UNAVAILABLE"


class Late(ServingFault):
    """The deadline passed before the answer was there."""

    status = 504
    code = "DEADLINE_EXCEEDED"


class Broken(ServingFault):
    """A model failed."""


def fault_of(error: BaseException, retry_after: float = 1.0) -> ServingFault:
    """What to answer for whatever a model raised.

    Args:
        error: Of the engine, or of any callable.
        retry_after: Seconds after which a queue that is full now will have room.
    """
    if isinstance(error, ServingFault):
        return error
    if isinstance(error, BudgetTooSmall):
        return BadRequest(str(error))
    if isinstance(error, Overloaded):
        return TooMuch(str(error), retry_after)
    if isinstance(error, DeadlinePassed):
        return Late(str(error))
    if isinstance(error, TaskRemoved):
        return NotFound(str(error))
    if isinstance(error, EngineClosed):
        return Unavailable(str(error), retry_after)
    if isinstance(error, DataError | EngineError) and not isinstance(error, ComputationFailed):
        return BadRequest(str(error))
    return Broken(str(error) if isinstance(error, OfframpError) else f"the model failed: {type(error).__name__}")
