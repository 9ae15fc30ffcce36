"""The folder that a suite leaves for deployment: read and written with numpy alone, so that a server starts without torch.

::

    config.json            schema, encoder, tasks; written last, so that a folder that has it is complete
    heads.safetensors      TASK/EXIT/LAYER/weight and TASK/EXIT/LAYER/bias, float32; of heads on tokens TASK/EXIT/positions, int64, or
                           TASK/EXIT/query, float32
    examples.safetensors   optional: some raw windows per task, to compare an exported graph with the bundle
    statistics.safetensors optional: SET/BUFFER, float32: BatchNorm's statistics of tasks that do not use the encoder's own
    reference.safetensors  optional: what held-out windows looked like, see :mod:`offramp.bundle.reference`
    README.md              the model card
    encoder/               the encoder folder, unless ``encoder_path`` points elsewhere
"""

from offramp.bundle.folder import (
    CARD,
    CONFIG,
    ENCODER,
    EXAMPLES,
    HEADS,
    MAX_EXAMPLES,
    SCHEMA,
    STATISTICS,
    change_task,
    load_bundle,
    load_examples,
    save_bundle,
    save_examples,
)
from offramp.bundle.parts import Bundle, BundleTask, Head, Layer, is_permutation
from offramp.bundle.reference import REFERENCE, TaskReference, load_reference, save_reference

__all__ = [
    "CARD",
    "CONFIG",
    "ENCODER",
    "EXAMPLES",
    "HEADS",
    "MAX_EXAMPLES",
    "REFERENCE",
    "SCHEMA",
    "STATISTICS",
    "Bundle",
    "BundleTask",
    "Head",
    "Layer",
    "TaskReference",
    "change_task",
    "is_permutation",
    "load_bundle",
    "load_examples",
    "load_reference",
    "save_bundle",
    "save_examples",
    "save_reference",
]
