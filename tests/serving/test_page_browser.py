"""The page in a real browser: Chromium without a window. Skipped where it is not installed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, Tab, browser
from moving_page import ADMIN, LABELS, LEVELS, NAMES, MovingServer, Scene, made_application, served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

HOSTILE = "<img src=x onerror=\"window.hacked='yes'\">"
LIVE = "document.body.dataset.link === 'live'"
DRAWN = "!document.getElementById('recording-answer').hidden && document.querySelectorAll('.boxes rect').length"
WINDOW, WINDOWS = 64, 30


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def show(tab: Tab, url: str, **screen: Any) -> None:
    """Open a page anew, and forget what was complained of before."""
    tab.send("Page.navigate", url="about:blank")
    tab.wait("location.href === 'about:blank'")
    tab.complaints.clear()
    tab.open(url, **screen)
    tab.wait(LIVE)


def recording(folder: Path, name: str = "one") -> tuple[Path, Path]:
    """Noise, and in the middle third a strong tone."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    samples = 0.005 * (rng.standard_normal(WINDOW * WINDOWS) + 1j * rng.standard_normal(WINDOW * WINDOWS))
    third = WINDOW * WINDOWS // 3
    samples[third : 2 * third] += np.exp(2j * np.pi * 0.2 * np.arange(third))
    meta = {
        "global": {"core:datatype": "cf32_le", "core:version": "1.2.0", "core:sample_rate": 1e6},
        "captures": [{"core:sample_start": 0, "core:frequency": 2.4e9}],
        "annotations": [],
    }
    paths = folder / f"{name}.sigmf-meta", folder / f"{name}.sigmf-data"
    paths[0].write_text(json.dumps(meta))
    paths[1].write_bytes(samples.astype("<c8").tobytes())
    return paths


def test_the_numbers_of_the_status_are_shown(tab: Tab) -> None:
    server = MovingServer(Scene(alarm=True, overload=True))
    status = server.status()
    time.sleep(1.1)
    status = server.status()
    status["slices"][1]["steps"] = 2
    server.status = lambda: status  # type: ignore[method-assign]
    with served(made_application(server)) as url:
        show(tab, url)
        tab.wait("document.querySelectorAll('#slice-cards .card').length")
        text = tab.text().replace("\u202f", " ")
        assert tab.complaints == []
    assert f"{status['requests']:,} since the start" in text
    for segment in status["segments"]:
        assert segment["name"] in text
        assert str(segment["waiting"]) in text
    for slice in status["slices"]:
        assert slice["name"] in text
        assert f"{float(format(slice['p99_ms'], '.3g')):g} ms" in text
    for task in status["tasks"]:
        assert task["name"] in text
        deepest = max(task["left"], key=task["left"].get)
        share = 100 * task["left"][deepest] / sum(task["left"].values())
        assert f"{deepest} {share:.0f} %" in text
    for reason, times in status["refused"].items():
        assert reason in text
        assert f"{times:,}" in text
    for worker in status["workers"]:
        assert f"{worker['number']} ({worker['pid']})" in text
    assert "drift for 5 min" in text
    assert "features 2e−4" in text
    assert "418 recordings" in text
    assert "agrees 86.1–91.7 %" in text
    assert "withdrawn" in text
    assert "▲ 2 exits earlier under load" in text
    assert "Ready" in tab.text("#state")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1600, 1000), (1920, 1080), (800, 1000), (360, 800)])
def test_it_fits_every_screen(tab: Tab, width: int, height: int, dark: bool) -> None:
    with served(made_application(MovingServer(Scene(NAMES)))) as url:
        show(tab, url, width=width, height=height, dark=dark)
        tab.wait("document.querySelectorAll('#task-rows .task').length === 8")
        assert tab.run("document.scrollingElement.scrollWidth <= innerWidth")
        # nothing in a bar or card is wider than its box
        wide = "[...document.querySelectorAll('.card, .task, .tile, table')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        assert tab.run(f"{wide}.map(e => e.innerText)") == []
        background = tab.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 200) == dark
        assert tab.complaints == []


def test_an_empty_server(tab: Tab) -> None:
    scene = Scene((), {}, workers=0, requests_per_s=0.0, watched=False)
    with served(made_application(MovingServer(scene, 1.0))) as url:
        show(tab, url)
        assert "Starting" in tab.text("#state")
        assert "Nothing was refused" in tab.text()
        assert "not every model is ready" in tab.text("#notice")
        assert tab.complaints == []


def test_names_are_text_wherever_they_stand(tab: Tab, tmp_path: Path) -> None:
    scene = Scene((HOSTILE, "los"), {HOSTILE: LEVELS["urllc"]})
    server = MovingServer(scene)
    status = server.status()
    status |= {"title": HOSTILE, "encoder": HOSTILE, "refused": {HOSTILE: 3}, "refused_per_s": {HOSTILE: 1.0}}
    status["exits"] = [HOSTILE, *status["exits"]]
    task = status["tasks"][0]
    task |= {"exits": [HOSTILE, "conv5"], "left": {HOSTILE: 9, "conv5": 2}, "classes": {HOSTILE: 4}}
    task["drift"]["p_values"] = {HOSTILE: 0.1}
    status["segments"][0]["name"] = HOSTILE
    server.status = lambda: status  # type: ignore[method-assign]
    meta, data = recording(tmp_path, "<b onclick=alert(1)>")
    with served(made_application(server, (HOSTILE, *LABELS[1:]))) as url:
        show(tab, url)
        tab.choose_files("#files", meta, data)
        tab.wait(DRAWN)
        tab.run("document.querySelector('.stage').focus()")
        tab.press("Home")
        tab.run("document.querySelector('#slice-cards button').click()")
        text = tab.text("body")
        assert text.count(HOSTILE) >= 10
        for place in (
            "#title",
            "#facts",
            "#task-rows",
            "#slice-cards",
            "#refusal-rows",
            "#queue-rows",
            "#window-details",
            "#dials-title",
        ):
            assert HOSTILE in tab.text(place), place
        assert "<b onclick=alert(1)>" in tab.text("#recording-facts")
        assert tab.run("typeof window.hacked") == "undefined"
        assert tab.run("document.querySelectorAll('img').length") == 1
        assert tab.run("document.querySelectorAll('main b').length") == 0
        assert tab.complaints == []


@pytest.mark.parametrize("way", ["chosen", "dropped", "one after the other"])
def test_a_recording_is_drawn(tab: Tab, tmp_path: Path, way: str) -> None:
    meta, data = recording(tmp_path)
    with served(made_application(MovingServer(Scene()))) as url:
        show(tab, url)
        tab.wait("document.querySelectorAll('#recording-task option').length")
        if way == "chosen":
            tab.choose_files("#files", data, meta)
        elif way == "dropped":
            tab.drop_files(300, 300, meta, data)
        else:
            tab.choose_files("#files", data)
            tab.wait("document.querySelector('#recording-message').innerText.includes('.sigmf-meta too')")
            tab.choose_files("#files", meta)
        assert tab.wait(DRAWN) == WINDOWS
        assert "modulation: 30 windows" in tab.text("#recording-message")
        assert "1,920 samples" in tab.text("#recording-facts")
        assert "noise 20" in tab.text("#recording-labels")
        assert "stem" in tab.text("#recording-legend")
        # the tone is dark where and when it sounds, and nowhere else
        shade = """(() => {
          const canvas = document.querySelector('canvas');
          const {width, height} = canvas;
          const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
          const at = (x, y) => pixels[4 * (Math.floor(y * height) * width + Math.floor(x * width)) + 3];
          return [at(0.5, 0.3), at(0.5, 0.8), at(0.1, 0.3), at(0.9, 0.3)];
        })()"""
        tone, beside, before, after = tab.run(shade)
        assert tone > 200
        assert max(beside, before, after) < tone - 60
        tab.run("document.querySelector('.stage').focus()")
        tab.press("End")
        assert "Window 30 of 30" in tab.text("#window-details")
        assert "samples 1856 to 1920" in tab.text("#window-details")
        assert "left at" in tab.text("#window-details")
        tab.run("document.getElementById('zoom-in').click()")
        assert tab.run(
            "document.querySelector('.stage').clientWidth > 1.9 * document.querySelector('.scroller').clientWidth"
        )
        # the other task is asked about the same recording
        tab.run(
            "{ const s = document.getElementById('recording-task'); s.value = 'radio-id'; s.dispatchEvent(new Event('change')); }"
        )
        tab.wait("document.querySelector('#recording-message').innerText.startsWith('radio-id: 30')")
        assert tab.complaints == []


def test_what_is_no_recording(tab: Tab, tmp_path: Path) -> None:
    meta, data = recording(tmp_path)
    (tmp_path / "notes.txt").write_text("words")
    with served(made_application(MovingServer(Scene()))) as url:
        show(tab, url)
        tab.wait("document.querySelectorAll('#recording-task option').length")
        tab.choose_files("#files", tmp_path / "notes.txt")
        assert "notes.txt is no SigMF recording" in tab.text("#recording-message")
        meta.write_text(meta.read_text().replace("1000000.0", "2000000.0"))
        tab.choose_files("#files", meta, data)
        tab.wait("document.querySelector('#recording-message').innerText.includes('bring the recording to that rate')")
        assert tab.run("document.getElementById('recording-answer').hidden")


def test_a_server_that_drains_and_goes(tab: Tab) -> None:
    server = MovingServer(Scene())
    with served(made_application(server)) as url:
        show(tab, url)
        assert "Ready" in tab.text("#state")
        assert tab.run("document.getElementById('notice').hidden")
        server.scene = Scene(state="draining")
        tab.wait("document.getElementById('state').innerText.includes('Draining')")
        assert "takes nothing new" in tab.text("#notice")
    tab.wait("document.body.dataset.link === 'gone'")
    assert tab.text("#state .word") == "No answer"
    assert tab.text("#state .since").startswith("for ")
    assert "does not answer" in tab.text("#notice")
    assert tab.run("document.title").startswith("▲")


def test_dials_are_turned_with_a_key(tab: Tab) -> None:
    server = MovingServer(Scene())

    def save(key: str) -> None:
        tab.run(f"document.getElementById('dial-key').value = {json.dumps(key)}")
        tab.run("document.getElementById('dials-save').click()")

    with served(made_application(server)) as url:
        show(tab, url)
        tab.run("document.querySelector('#slice-cards button').focus()")
        tab.press("Enter")
        tab.wait("document.getElementById('dials').open")
        assert tab.text("#dials-title") == "Slice urllc"
        tab.run("document.getElementById('dial-budget').value = '12.5'")
        tab.run("document.getElementById('dial-exit').value = 'policy patience'")
        save("wrong")
        tab.wait("document.getElementById('dials-message').innerText.includes('needs an admin key')")
        assert server.levels["urllc"] == LEVELS["urllc"]
        save(ADMIN)
        tab.wait("!document.getElementById('dials').open")
        changed = server.levels["urllc"]
        assert (changed.budget_ms, changed.policy, changed.exit, changed.under_load) == (
            12.5,
            "patience",
            None,
            "shallower",
        )
        tab.wait("document.querySelector('#slice-cards').innerText.includes('policy patience')")
        # no budget at all, and an exit instead of the policy; the key is known now
        tab.run("document.querySelector('#slice-cards button').click()")
        tab.run("document.getElementById('dial-budget').value = ''")
        tab.run("document.getElementById('dial-exit').value = 'exit stem'")
        tab.run("document.getElementById('dials-save').click()")
        tab.wait("!document.getElementById('dials').open")
        assert (server.levels["urllc"].budget_ms, server.levels["urllc"].exit) == (None, "stem")
        # it is kept nowhere
        assert tab.run("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        show(tab, url)
        assert tab.run("[...document.querySelectorAll('input.key')].map(each => each.value).join('')") == ""


def test_a_server_with_keys(tab: Tab, tmp_path: Path) -> None:
    with served(made_application(MovingServer(Scene()), locked=True)) as url:
        tab.open(url)
        tab.wait("document.getElementById('notice').innerText.includes('asks for a key')")
        tab.run("document.getElementById('key').focus()")
        tab.press("Enter")
        tab.wait("document.getElementById('keys').open")
        tab.type(ADMIN)
        tab.press("Enter")
        tab.wait(LIVE)
        assert tab.run("document.getElementById('notice').hidden")
        tab.choose_files("#files", *recording(tmp_path))
        assert tab.wait(DRAWN) == WINDOWS
        tab.run("document.getElementById('keys-forget').click()")
        tab.wait("document.getElementById('notice').innerText.includes('asks for a key')")


def test_everything_has_a_name_and_a_place_in_the_keyboard_s_order(tab: Tab) -> None:
    with served(made_application(MovingServer(Scene()))) as url:
        show(tab, url)
        tab.wait("document.querySelectorAll('#slice-cards .card').length")
        tab.press("Tab")
        assert tab.run("document.activeElement.className") == "skip"
        nameless = """[...document.querySelectorAll('button, input, select')].filter(each =>
          !(each.getAttribute('aria-label') || each.innerText.trim() || each.labels?.[0]?.innerText.trim() || each.closest('dialog, #recording-answer')))"""
        assert tab.run(f"{nameless}.length") == 0
        unnamed = "[...document.querySelectorAll('[role=img]')].filter(each => !each.getAttribute('aria-label') && each.offsetParent)"
        assert tab.run(f"{unnamed}.length") == 0
        reached = set()
        for _ in range(20):
            tab.press("Tab")
            reached.add(tab.run("document.activeElement.id || document.activeElement.innerText"))
        assert {"theme", "key", "Change", "files", "recording-task", "recording-slice"} <= reached


def test_exits_differ_in_grey_too(tab: Tab) -> None:
    """Lightness falls from shallow to deep, and letters stand out from every colour (WCAG 2: a ratio of 4.5)."""
    script = """import('/page/dom.js').then(({coloursOf}) => [2, 3, 5, 8, 12].map(count =>
      [...coloursOf(Array.from({length: count}, (_, i) => String(i))).values()].map(({fill, ink}) => [fill, ink])))"""
    with served(made_application(MovingServer(Scene()))) as url:
        show(tab, url)
        ramps = tab.run(script)

    def luminance(colour: list[int]) -> float:
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for ramp in ramps:
        light = [luminance([int(part) for part in fill[4:-1].split()]) for fill, _ in ramp]
        assert all(a > b for a, b in pairwise(light))
        for (_, ink), value in zip(ramp, light, strict=True):
            letters = luminance(list(bytes.fromhex(ink[1:])))
            assert (max(value, letters) + 0.05) / (min(value, letters) + 0.05) >= 4.5
