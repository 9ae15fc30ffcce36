"""All checks, one after the other, whatever the server does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from offramp.errors import OfframpError, one_line
from offramp.serving.conformance.checks import binary, extensions, inference, mistakes, server
from offramp.serving.conformance.documents import (
    ModelDescription,
    ServerDescription,
    read_json,
    read_model,
    read_server,
)
from offramp.serving.conformance.http import HttpRequest, HttpTarget, NoReply, Reply, exchange, http_target, speaks_tls
from offramp.serving.conformance.probe import FORBIDDEN, Check, Probe, Wire
from offramp.serving.conformance.results import (
    CheckOutcome,
    CheckResult,
    Conformance,
    Fault,
    Level,
    NotRun,
    NotSupported,
)

if TYPE_CHECKING:
    from offramp.serving.conformance.rpc import RpcClient

OVER_HTTP = (
    *server.CHECKS,
    *inference.CHECKS,
    *binary.CHECKS,
    *extensions.CHECKS,
    *mistakes.CHECKS,
)
MOST_MODELS = 100
EVIDENCE = 200
"""Letters of a line of evidence."""


def all_checks(rpc: bool) -> tuple[Check, ...]:
    """Every check, with those of gRPC or without."""
    if not rpc:
        return OVER_HTTP
    from offramp.serving.conformance.checks import calls

    return OVER_HTTP + calls.CHECKS


def check_server(
    url: str,
    grpc: str = "",
    models: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    timeout_s: float = 10.0,
    disturb: bool = False,
    only: Callable[[Check], bool] = lambda _: True,
    on_check: Callable[[int, int], None] = lambda done, total: None,
) -> Conformance:
    """Test a server of the Open Inference Protocol, version 2.

    Models should give equal answers to equal requests. Models are not changed, but with ``disturb`` each is unloaded and loaded again.

    Args:
        url: Where it speaks HTTP, as in ``http://127.0.0.1:8000``.
        grpc: Where it speaks gRPC, as in ``127.0.0.1:8001``; nowhere if empty.
        models: Models to ask; all of the repository index if none is named.
        headers: Sent with every request.
        timeout_s: Seconds that each answer may take.
        disturb: Whether to run what disturbs other clients too.
        only: Which checks to run.
        on_check: Called with how many checks are done, and how many there are.

    Raises:
        OfframpError: An address is none, nobody answers there, a key is missing, the server does not say which models it has, or it lists
            others than those named.
    """
    target = http_target(url, headers, timeout_s)
    with ExitStack() as stack:
        rpc = stack.enter_context(_client(grpc, headers, timeout_s)) if grpc else None
        _reach(target)
        if rpc:
            rpc.reach()
        wire = Wire(target, rpc)
        described = _server(wire, url)
        announced = described.extensions if described else ()
        names = tuple(dict.fromkeys(models)) or _listed(wire, url)
        probes = [Probe(wire, announced, name, _model(wire, name, url)) for name in names]
        checks = [check for check in all_checks(rpc is not None) if only(check) and (disturb or not check.disturbs)]
        pairs = [(check, Probe(wire, announced)) for check in checks if not check.per_model]
        pairs += [(check, probe) for probe in probes for check in checks if check.per_model]
        pairs.sort(key=lambda pair: pair[0].disturbs)  # what it leaves may not be what the metadata said
        results = []
        for number, (check, probe) in enumerate(pairs, start=1):
            results.append(_result(check, probe))
            on_check(number, len(pairs))
    title = one_line(f"{described.name} {described.version}", EVIDENCE) if described else ""
    return Conformance(target.url, grpc, title, announced, names, tuple(results))


def _client(grpc: str, headers: Sequence[tuple[str, str]], timeout_s: float) -> RpcClient:
    try:
        from offramp.serving.conformance.rpc import RpcClient
    except ImportError:
        raise OfframpError("--grpc needs the package grpcio: pip install 'offramp[serve]'") from None
    return RpcClient(grpc, headers, timeout_s)


def _reach(target: HttpTarget) -> None:
    silence = None
    try:
        reply = exchange(target, HttpRequest("GET", "/v2/health/live"))
    except NoReply as missing:
        silence = missing
    # some answer 400 to who speaks plainly to a port for TLS, others nothing
    if (silence or reply.status == 400) and not target.tls and speaks_tls(target.host, target.port, target.timeout_s):
        raise OfframpError(f"{target.url}: it speaks TLS; try https{target.url.removeprefix('http')}")
    if silence:
        mend = silence.mend or "is the server running, and is this its HTTP port?"
        raise OfframpError(f"{target.url}: {silence}; {mend}")


def _admitted(reply: Reply, url: str, what: str) -> Reply:
    if reply.status in FORBIDDEN:
        mend = "give a key that it takes, as in --header 'Authorization: Bearer KEY'"
        raise OfframpError(f"{url} answers {reply.status} to who asks for {what}: {mend}")
    return reply


def _server(wire: Wire, url: str) -> ServerDescription | None:
    try:
        reply = wire.ask([HttpRequest("GET", "/v2")])[0]
        return read_server(read_json(_admitted(reply, url, "its metadata")))
    except (Fault, NoReply):
        return None


def _index(wire: Wire) -> tuple[str, ...]:
    request = HttpRequest("POST", "/v2/repository/index", b"{}", {"Content-Type": "application/json"})
    return server.models_of_index(wire.ask([request])[0])


def _listed(wire: Wire, url: str) -> tuple[str, ...]:
    try:
        names = _index(wire)
    except (Fault, NoReply) as failure:
        raise OfframpError(f"{url} does not list its models ({failure}): name one with --model") from None
    if not names:
        raise OfframpError(f"{url} lists no model that is ready: name one with --model")
    return names[:MOST_MODELS]


def _model(wire: Wire, name: str, url: str) -> ModelDescription | Fault:
    try:
        reply = Probe(wire, (), name).get("")
        return read_model(read_json(_admitted(reply, url, f"the metadata of model {name}")))
    except (Fault, NoReply) as failure:
        _see_listed(wire, name, url)
        return Fault(str(failure))


def _see_listed(wire: Wire, name: str, url: str) -> None:
    """Refuse a name that the server's index, if there is one, does not hold."""
    with suppress(Fault, NoReply):
        names = _index(wire)
        if name not in names:
            has = f"it has {', '.join(names)}" if names else "it lists none"
            raise OfframpError(f"--model {name}: {url} has no such model that is ready; {has}")


def _result(check: Check, probe: Probe) -> CheckResult:
    level = check.level
    try:
        outcome, evidence = CheckOutcome.PASSED, check.run(probe)
        if check.level is Level.EXTENSION and not probe.announces(check.extension):
            evidence += "; not announced"
    except Fault as fault:
        outcome, evidence, level = CheckOutcome.FAILED, str(fault), fault.level or check.level
    except NoReply as missing:
        outcome, evidence = CheckOutcome.FAILED, str(missing)
    except NotSupported as absent:
        outcome, evidence = CheckOutcome.UNSUPPORTED, str(absent)
    except NotRun as reason:
        outcome, evidence = CheckOutcome.NOT_RUN, str(reason)
    counts = level is Level.REQUIRED or (level is Level.EXTENSION and probe.announces(check.extension))
    return CheckResult(
        check.name, one_line(probe.name, 100), level, counts, outcome, check.clause, one_line(evidence, EVIDENCE)
    )
