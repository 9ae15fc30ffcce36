"""What the user did wrong, and the mend, in one line.

Every error that a user can cause is an :class:`OfframpError`. The command line prints its message on one
line and leaves with exit code 2; anything else is our fault and leaves with exit code 1.
"""

from __future__ import annotations


class OfframpError(Exception):
    """Base of all errors that the user can mend. The message names the input and the mend."""


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
