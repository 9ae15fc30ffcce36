from __future__ import annotations

import re
from xml.etree import ElementTree

from report_samples import confusion, task

from offramp.report.exits import plots
from offramp.schema.results import Results


def test_pictures_are_reproduced_and_well_formed(demo: Results) -> None:
    one = demo.tasks["modulation"]
    first = plots.score_plot(one, "a")
    assert first == plots.score_plot(one, "a")
    ElementTree.fromstring(first)
    assert "http" not in first
    assert "encoder" in first
    assert "chosen: stage3.1" in first
    assert "handmade 70.0%" in first


def test_ids_of_two_pictures_do_not_clash(demo: Results) -> None:
    one = demo.tasks["modulation"]
    pictures = [plots.score_plot(one, "a"), plots.latency_plot(one, "b"), plots.latency_plot(one, "c")]
    ids = [name for picture in pictures for name in re.findall(r'\bid="([^"]*)"', picture)]
    assert len(ids) == len(set(ids))
    for picture in pictures:
        used = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', picture))
        assert {a or b for a, b in used} <= set(re.findall(r'\bid="([^"]*)"', picture))


def test_far_controls_are_labelled_at_the_rim(demo: Results) -> None:
    assert "raw_input 240 ↑" in plots.score_plot(demo.tasks["angle_degrees"], "a")


def test_names_cannot_break_out_of_a_picture() -> None:
    evil = "<script>$x$"
    picture = plots.confusion_plot(confusion(2), [evil, "b"], "a")
    ElementTree.fromstring(picture)
    assert "<script>" not in picture
    assert "&lt;script&gt;$x$" in picture


def test_thirty_two_classes_are_all_named() -> None:
    picture = plots.confusion_plot(confusion(32), [f"class-{i}" for i in range(32)], "a")
    assert all(picture.count(f">class-{i}<") == 2 for i in range(32))


def test_one_exit_and_missing_classes_can_be_drawn() -> None:
    one = task()
    lone = one.model_copy(update={"exits": one.exits[-1:], "chosen": one.full, "controls": {}})
    ElementTree.fromstring(plots.score_plot(lone, "a"))
    ElementTree.fromstring(plots.confusion_plot([[3, 0], [0, 0]], [], "a"))
