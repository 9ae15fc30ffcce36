"""OpenTelemetry traces, by option: a span for each request, below the caller's where it says so (W3C ``traceparent``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice

from offramp.errors import SuiteError
from offramp.serving.service import TRACE_PARENT, RequestOutcome

MOST_SAID = 16
"""Parameters of a request that its span has."""


def start_traces(endpoint: str, version: str) -> tuple[Callable[[RequestOutcome], None], Callable[[], None]]:
    """Send spans to a collector by OTLP over HTTP.

    Args:
        endpoint: Such as ``http://127.0.0.1:4318/v1/traces``.
        version: Of the server.

    Returns:
        What is called for each request, and what is called at the end.

    Raises:
        SuiteError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        raise SuiteError("--trace needs OpenTelemetry: pip install 'offramp[trace]'") from None
    provider = TracerProvider(resource=Resource.create({"service.name": "offramp", "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    tracer, parents = provider.get_tracer("offramp.serving"), TraceContextTextMapPropagator()

    def on_outcome(outcome: RequestOutcome) -> None:
        ends = time.time_ns()
        said = {
            f"offramp.{name[:40]}": value if isinstance(value, bool | float) else str(value)[:100]
            for name, value in islice(outcome.parameters.items(), MOST_SAID)
        }
        span = tracer.start_span(
            f"infer {outcome.model}",
            context=parents.extract({"traceparent": TRACE_PARENT.get()}),
            kind=SpanKind.SERVER,
            start_time=ends - int(1e9 * outcome.seconds),
            attributes={**said, "offramp.model": outcome.model, "offramp.windows": outcome.windows},
        )
        if outcome.fault is not None:
            span.set_status(Status(StatusCode.ERROR, str(outcome.fault)))
            span.set_attribute("http.response.status_code", outcome.fault.status)
        span.end(ends)

    return on_outcome, provider.shutdown
