"""Training an encoder for its exits: a copy learns, together with a head per exit; the encoder given stays as it is."""

from offramp.training.exits.config import ExitTraining
from offramp.training.exits.trainer import ExitStep, TrainedExits, train_exits

__all__ = ["ExitStep", "ExitTraining", "TrainedExits", "train_exits"]
