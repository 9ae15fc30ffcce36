from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from report_samples import exit_row, gain, judged, results, task

from offramp.errors import OfframpError
from offramp.report.html import load_results, write_report
from offramp.report.summary import summary_sentence
from offramp.schema.results import Results


@pytest.fixture(scope="module")
def page(demo: Results, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report([("demo", demo)], path)
    return path.read_text(encoding="utf-8")


def test_page_tells_everything_and_loads_nothing(page: str, demo: Results) -> None:
    text = html.unescape(page)
    for name, one in demo.tasks.items():
        assert f">{name}</a></h3>" in text
        assert one.sentence in text
        for control in one.controls:
            assert f"<th>{control}</th>" in text
    assert "This data is simulated</b>: modulation, angle_degrees." in text
    assert "city_3" in text
    assert "Score by SNR" in text
    assert "torch: 2.13.0" in text
    assert "http" not in page
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\((?!#)", page)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)


def test_the_best_exit_and_the_choice_are_shown(tmp_path: Path) -> None:
    one = judged(
        task(gain_over_full=gain(0.004, -0.003, 0.011, within=0.0095)), 9, gain(0.012, 0.002, 0.022), True, 0.01
    )
    run = results({"a": one, "b": task(no_claim="random weights solve it")})
    write_report([("run", run)], tmp_path / "report.html")
    page = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert one.best is not None
    assert summary_sentence(run) in page
    assert "<small>best on validation</small>" in page
    assert f"<td>{one.best.exit}</td>" in page
    assert "<small>confirmed</small>" in page
    assert "lower end above -1.0 points on validation" in page
    assert "by Bonferroni's correction conv5" in page
    assert "intervals over 60 groups" in page
    assert "counts for no claim" in page


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    one = task(label_names=[evil, "b"], confusion=[[3, 1], [1, 3]], shift=evil)
    rows = [exit_row(evil, 0.5), *one.exits[1:]]
    one = one.model_copy(update={"exits": rows, "controls": one.controls | {evil: one.controls["constant"]}})
    run = results({evil: one}, suite={evil: evil}, environment={"host": evil})
    write_report([(evil, run), ("other", run)], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_two_runs_stand_side_by_side(tmp_path: Path) -> None:
    first = results({"a": task(), "b": task()})
    second = results({"a": task(peak=0.77), "c": task(metric="balanced_accuracy")})
    write_report([("one", first), ("two", second)], tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    comparison = page[page.index('id="comparison"') : page.index('id="r0"')]
    assert [comparison.count(f"<tr><th>{name}</th>") for name in "abc"] == [1, 1, 1]
    assert comparison.count("not in this run") == 2
    assert "<b>84.0%</b> accuracy" in comparison
    assert "<b>77.0%</b> accuracy" in comparison
    assert comparison.count("<svg") == 1
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_results_are_loaded_from_file_or_folder(demo: Results, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(demo.model_dump_json(by_alias=True), encoding="utf-8")
    assert load_results(tmp_path) == load_results(tmp_path / "results.json") == demo


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[]", "it is not an object"),
        (b'{"schema": 2}', "its schema is 2"),
        (b"{}", "its schema is None"),
        (b'{"schema": 1, "offramp": "0.1", "suite": {}, "environment": {}, "tasks": {}}', "bad field encoder"),
    ],
)
def test_bad_results_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(OfframpError, match=re.escape(words)) as caught:
        load_results(path)
    assert str(path) in str(caught.value)
    assert "offramp run" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(OfframpError, match=r"results\.json does not exist"):
        load_results(tmp_path)
    with pytest.raises(OfframpError, match="does not exist"):
        load_results(tmp_path / "nothing")


def test_bad_field_names_its_place(demo: Results, tmp_path: Path) -> None:
    content = json.loads(demo.model_dump_json(by_alias=True))
    content["tasks"]["los"]["chosen"]["macs"] = "many"
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(OfframpError, match=r"tasks\.los\.chosen\.macs"):
        load_results(tmp_path)
