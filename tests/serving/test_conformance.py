"""`offramp check-server` against a server that is right, and against the same with one mistake each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer
from fake_calls import called
from fake_reader import MODELS
from fake_server import Fake, served
from typer.testing import CliRunner

from offramp.cli.check_server import check_server as command
from offramp.errors import OfframpError
from offramp.serving.conformance import CheckOutcome, Conformance, Level, check_server
from offramp.serving.conformance.run import all_checks

CHECKS = {check.name: check for check in all_checks(rpc=True)}
OF_EXTENSIONS = {
    name for name, check in CHECKS.items() if check.extension or name.startswith(("streaming", "grpc.stream"))
}


@contextmanager
def running(fake: Fake, rpc: bool = True) -> Iterator[tuple[str, str]]:
    """The fake, and where it speaks HTTP and gRPC."""
    with served(fake) as url, called(fake) if rpc else nullcontext("") as grpc:
        yield url, grpc


def checked(fake: Fake, names: Sequence[str] = (), rpc: bool = True, **options: Any) -> Conformance:
    with running(fake, rpc) as (url, grpc):
        return check_server(
            url, grpc, tuple(MODELS), disturb=True, only=lambda check: not names or check.name in names, **options
        )


def outcomes(found: Conformance, name: str) -> list[CheckOutcome]:
    return [result.outcome for result in found.results if result.check == name]


def test_a_server_that_is_right_passes_every_check() -> None:
    found = checked(Fake())
    assert [
        result for result in found.results if result.outcome in (CheckOutcome.FAILED, CheckOutcome.UNSUPPORTED)
    ] == []
    assert {result.check for result in found.results if result.outcome is CheckOutcome.PASSED} == set(CHECKS)
    assert found.conforms
    assert found.server == "fake 1"


def test_connections_that_end_with_each_answer_are_as_good() -> None:
    with served(Fake(), "HTTP/1.0") as url:
        found = check_server(url)
    assert [result for result in found.results if result.outcome is CheckOutcome.FAILED] == []


@pytest.mark.parametrize("name", list(CHECKS))
def test_every_check_finds_its_mistake(name: str) -> None:
    check = CHECKS[name]
    before = ["errors.bad-json"] if name == "errors.still-serving" else []
    found = checked(Fake(wrong=name), [name, *before], rpc=check.rpc)
    assert CheckOutcome.FAILED in outcomes(found, name)
    for result in found.results:
        if result.check == name and result.outcome is CheckOutcome.FAILED:
            assert result.evidence
            assert result.counts == (result.level is not Level.STRICT)  # the fake announces its extensions
    assert all(outcome is not CheckOutcome.FAILED for other in before for outcome in outcomes(found, other))


def test_what_is_neither_announced_nor_there_is_not_supported() -> None:
    found = checked(Fake(extensions=(), bare=True))
    for name in OF_EXTENSIONS - {"streaming.generate"}:
        assert CheckOutcome.FAILED not in outcomes(found, name), name
        assert CheckOutcome.PASSED not in outcomes(found, name), name
    for name in (
        "binary.inputs",
        "statistics.model",
        "repository.index",
        "streaming.events",
        "grpc.stream",
        "grpc.index",
    ):
        assert CheckOutcome.UNSUPPORTED in outcomes(found, name), name
    assert [
        result for result in found.results if result.outcome is CheckOutcome.FAILED and result.model != "narrow"
    ] == []


def test_what_is_announced_and_not_there_counts() -> None:
    found = checked(Fake(bare=True))
    counted = {result.check for result in found.results if result.outcome is CheckOutcome.FAILED and result.counts}
    assert {"binary.inputs", "statistics.model", "configuration.model", "repository.index"} <= counted
    assert {"grpc.statistics", "grpc.configuration", "grpc.index"} <= counted
    assert not found.conforms


def test_what_is_there_and_not_announced_does_not_count() -> None:
    found = checked(Fake(wrong="statistics.model", extensions=()), ["statistics.model", "configuration.model"])
    assert set(outcomes(found, "statistics.model")) == {CheckOutcome.FAILED}
    assert set(outcomes(found, "configuration.model")) == {CheckOutcome.PASSED}
    assert all("not announced" in result.evidence for result in found.results if result.check == "configuration.model")
    assert found.conforms


def test_a_mistake_refused_as_the_servers_own_fault_weighs_less() -> None:
    found = checked(Fake(wrong="errors.very-deep-json"), ["errors.very-deep-json"], rpc=False)
    assert {result.level for result in found.results if result.outcome is CheckOutcome.FAILED} == {Level.STRICT}
    found = checked(Fake(wrong="errors.bad-json"), ["errors.bad-json"], rpc=False)
    failed = [result for result in found.results if result.outcome is CheckOutcome.FAILED]
    assert {result.level for result in failed} == {Level.STRICT}
    assert CHECKS["errors.bad-json"].level is Level.REQUIRED
    assert found.conforms


def test_models_that_answer_anew_each_time_are_not_blamed_on_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, asked = Fake(), iter(range(10_000))
    run = fake.run

    def restless(name: str, model: Any, inputs: Any) -> Any:
        return {name: x if x.dtype == object else x + next(asked) for name, x in run(name, model, inputs).items()}

    monkeypatch.setattr(fake, "run", restless)
    found = checked(fake, ["inference.nested", "binary.inputs", "grpc.infer-raw"])
    assert {result.outcome for result in found.results if result.model == "sum"} == {CheckOutcome.NOT_RUN}


def test_models_come_from_the_index_and_are_left_alone_unless_asked() -> None:
    fake = Fake()
    seen: list[str] = []
    with running(fake, rpc=False) as (url, _):
        repository = fake._repository
        fake._repository = lambda parts, body: (seen.append("/".join(parts)), repository(parts, body))[1]  # type: ignore[method-assign]
        found = check_server(url)
    assert found.models == tuple(MODELS)
    assert {place for place in seen if "unload" in place} == {"v2/repository/models/offramp-no-such-model/unload"}
    assert "repository.reload" not in {result.check for result in found.results}


def test_progress_is_told_check_by_check() -> None:
    seen: list[tuple[int, int]] = []
    found = checked(Fake(), ["health.live", "inference.json"], on_check=lambda done, total: seen.append((done, total)))
    assert seen == [(number, len(found.results)) for number in range(1, len(found.results) + 1)]


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:x", "http://a b", "http://a/?b", "http://a\n"],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(OfframpError, match="give the address"):
        check_server(url)


@pytest.mark.parametrize("grpc", ["8001", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:8001"])
def test_grpc_addresses_that_are_none(grpc: str) -> None:
    with pytest.raises(OfframpError, match="--grpc"):
        check_server("http://127.0.0.1:9", grpc)


def test_nobody_there() -> None:
    with pytest.raises(OfframpError, match="is the server running"):
        check_server("http://127.0.0.1:9", timeout_s=5)


def test_a_server_without_an_index_wants_a_name() -> None:
    with served(Fake(bare=True)) as url, pytest.raises(OfframpError, match="--model"):
        check_server(url)


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(command)
    found = CliRunner().invoke(app, arguments)
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.stdout


def test_the_command_shows_a_table_and_leaves_with_0_or_2() -> None:
    with served(Fake()) as url:
        code, shown = run(url, "--model", "sum")
    assert code == 0
    assert "inference.json" in shown
    assert "fake 1 conforms" in shown.splitlines()[-1]
    with served(Fake(wrong="inference.batch")) as url:
        code, shown = run(url, "--model", "sum")
    assert code == 2
    assert "one row at a time" in shown
    assert "REST, Model Metadata: -1 stands for any size" in shown
    assert "fake 1 does not conform: 1 of the failures count" in shown.splitlines()[-2]
    assert shown.splitlines()[-1] == "failed, and count: inference.batch"
    with served(Fake(wrong="errors.nan")) as url:
        code, shown = run(url)
    assert code == 0
    assert shown.splitlines()[-1] == "failed, and do not count: errors.nan"


def test_the_command_writes_json() -> None:
    with running(Fake(wrong="grpc.ready")) as (url, grpc):
        code, shown = run(url, "--grpc", grpc, "--model", "sum", "--unload", "--json")
    document = json.loads(shown)
    assert code == 2
    assert document["conforms"] is False
    assert document["counts"]["required"] == 1
    assert [result["check"] for result in document["results"] if result["outcome"] == "fail"] == ["grpc.ready"]
    assert {result["check"] for result in document["results"]} == set(CHECKS)


def test_headers_are_sent() -> None:
    with served(Fake(key="Bearer abc")) as url:
        assert run(url, "--model", "sum", "--header", "Authorization: Bearer abc")[0] == 0
        for header in ("Authorization", "a b: c", "x: a\nb: c", ": c"):
            with pytest.raises(OfframpError, match="--header"):
                run(url, "--header", header)


def test_the_page_has_a_row_for_every_check() -> None:
    page = Path(__file__).parents[2] / "docs" / "check-server.md"
    rows = re.findall(r"^\| `([\w.-]+)` \| (\w+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(check.name, check.level) for check in CHECKS.values()]
