"""Health, metadata and repository of the whole server."""

from __future__ import annotations

from offramp.serving.conformance.documents import list_of, object_of, read_json, read_server, shown, text_of
from offramp.serving.conformance.http import Reply
from offramp.serving.conformance.probe import Check, Probe, refused
from offramp.serving.conformance.results import Fault, Level

UNKNOWN = "offramp-no-such-model"
REPOSITORY = "model_repository"


def live(probe: Probe) -> str:
    """The server says that it is live."""
    return healthy(probe.get("/v2/health/live"))


def ready(probe: Probe) -> str:
    """The server says that its models are ready."""
    return healthy(probe.get("/v2/health/ready"))


def healthy(reply: Reply) -> str:
    """The evidence of a yes to a question of health."""
    if reply.status != 200:
        raise Fault(f"answered {shown(reply)}, not 200")
    return "200"


def metadata(probe: Probe) -> str:
    """Name, version and extensions are there."""
    found = read_server(read_json(probe.get("/v2")))
    return f"{found.name} {found.version}, extensions: {', '.join(found.extensions) or 'none'}"


def metadata_slash(probe: Probe) -> str:
    """The other writing of the same path."""
    reply = probe.get("/v2/")
    if reply.status in (301, 302, 307, 308):
        return f"{reply.status} to {reply.headers.get('location', 'nowhere')}"
    read_server(read_json(reply))
    return "200"


def unknown_path(probe: Probe) -> str:
    """Nothing is served where nothing is."""
    return refused(probe.get("/v2/offramp-no-such-place"), 404)


def index(probe: Probe) -> str:
    """Models with their states."""
    found = models_of_index(probe.present(probe.post("/v2/repository/index", {}), REPOSITORY))
    return f"{len(found)} models: {', '.join(found)}"


def index_ready(probe: Probe) -> str:
    """Only models that are ready, where only these are asked for."""
    entries = read_json(probe.present(probe.post("/v2/repository/index", {"ready": True}), REPOSITORY))
    if not isinstance(entries, list):
        raise Fault("the index is no array")
    for entry in entries:
        state = text_of(object_of(entry, "an entry"), "state", "an entry")
        if state != "READY":
            raise Fault(f"lists {str(entry.get('name'))[:60]}, which is {state[:20]}")
    return f"{len(entries)} models, all READY"


def models_of_index(reply: Reply) -> tuple[str, ...]:
    """Names of the models that a repository index says are ready, or of whose state it says nothing."""
    entries = list_of({"index": read_json(reply)}, "index", "the answer")
    found: dict[str, None] = {}
    for number, entry in enumerate(entries):
        where = f"index[{number}]"
        name = text_of(object_of(entry, where), "name", where)
        text_of(entry, "version", where, optional=True)
        text_of(entry, "reason", where, optional=True)
        if text_of(entry, "state", where) in ("READY", ""):
            found[name] = None
    return tuple(found)


def load_unknown(probe: Probe) -> str:
    """What is not there cannot be loaded."""
    return _of_unknown(probe, "load")


def unload_unknown(probe: Probe) -> str:
    """What is not there cannot be unloaded."""
    return _of_unknown(probe, "unload")


def _of_unknown(probe: Probe, action: str) -> str:
    reply = probe.post(f"/v2/repository/models/{UNKNOWN}/{action}", {})
    if UNKNOWN.encode() not in reply.body:  # a 404 that names the model is of the model, not of the place
        probe.present(reply, REPOSITORY)
    return refused(reply)


CHECKS = (
    Check("health.live", "REST, Server Live: 200 from GET v2/health/live", live, per_model=False),
    Check("health.ready", "REST, Server Ready: 200 from GET v2/health/ready", ready, per_model=False),
    Check(
        "server.metadata",
        "REST, Server Metadata: GET v2 gives name and version, strings, and extensions, an array of strings",
        metadata,
        per_model=False,
    ),
    Check(
        "server.metadata-slash",
        "The protocol's OpenAPI document writes this path v2/, its text v2",
        metadata_slash,
        Level.STRICT,
        per_model=False,
    ),
    Check("server.unknown-path", "RFC 9110, 15.5.5: 404", unknown_path, Level.STRICT, per_model=False),
    Check(
        "repository.index",
        "Model repository extension: POST v2/repository/index gives an array of name, version, state, reason",
        index,
        Level.EXTENSION,
        REPOSITORY,
        per_model=False,
    ),
    Check(
        "repository.index-ready",
        "Model repository extension: with ready true only models that are",
        index_ready,
        Level.EXTENSION,
        REPOSITORY,
        per_model=False,
    ),
    Check(
        "repository.load-unknown",
        "Model repository extension: a failed load is an HTTP error",
        load_unknown,
        Level.EXTENSION,
        REPOSITORY,
        per_model=False,
    ),
    Check(
        "repository.unload-unknown",
        "Model repository extension: a failed unload is an HTTP error",
        unload_unknown,
        Level.EXTENSION,
        REPOSITORY,
        per_model=False,
    ),
)
