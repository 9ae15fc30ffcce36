"""Tiny Hugging Face models made from configurations, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

COMMON = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
VIT = COMMON | {"image_size": [8, 12], "patch_size": 4, "num_channels": 2}
BERT = COMMON | {"vocab_size": 30, "max_position_embeddings": 20}
WAVEFORM = COMMON | {
    "conv_dim": [6, 8],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def make(name: str, config: dict[str, Any], seed: int = 0, **options: Any) -> nn.Module:
    """A model of the library by its class name, with biases and norms that are not at their neutral start."""
    kind = getattr(transformers, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = kind(kind.config_class(**config), **options)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


MODELS = {
    "vit": lambda: make("ViTModel", VIT),
    "vit with a head": lambda: make("ViTForImageClassification", VIT),
    "vit with a mask token": lambda: make("ViTForMaskedImageModeling", VIT | {"encoder_stride": 4}),
    "bert": lambda: make("BertModel", BERT),
    "bert without pooling layer": lambda: make("BertModel", BERT, add_pooling_layer=False),
    "bert with a head": lambda: make("BertForMaskedLM", BERT),
    "wav2vec2": lambda: make("Wav2Vec2Model", WAVEFORM),
    "wav2vec2 with its norm last": lambda: make(
        "Wav2Vec2Model", WAVEFORM | {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
    ),
    "wav2vec2 with a head": lambda: make("Wav2Vec2ForCTC", WAVEFORM | {"vocab_size": 5}),
}


def save(model: Any, folder: Path, **changes: Any) -> Path:
    """The library's own folder, with some keys of its configuration changed afterwards."""
    model.save_pretrained(folder)
    if changes:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder
