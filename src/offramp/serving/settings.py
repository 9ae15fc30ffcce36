"""How a server is to run."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from offramp.errors import SuiteError
from offramp.runtime.loading import BackendName
from offramp.serving.service import Limits

LogForm = Literal["text", "json"]


@dataclass(frozen=True)
class ServerSettings:
    """All options of ``offramp serve``.

    Attributes:
        bundle: What is served, and read again when a model is loaded anew: a bundle, or segments that were exported from one.
        folder: What runs: the segments, or the bundle for the back end torch.
        host: Address to listen at.
        port: Of HTTP; 0 for any that is free.
        grpc_port: Of gRPC; 0 for any that is free.
        slices: YAML file of service levels.
        keys: YAML file of API keys.
        insecure: Listen elsewhere than at this machine without keys.
        certificate: PEM file; with ``private_key`` everything is spoken in TLS.
        private_key: PEM file.
        workers: Processes, each with an engine of its own.
        threads: That an engine computes with.
        backend: What runs the encoder.
        drain_seconds: That requests under way have at the end.
        trace: Where OpenTelemetry traces go.
        log: How a line of the log looks.
        shadow: Share of early answers that idle time finishes to full depth.
        limits: What is taken from clients.
    """

    bundle: Path = Path()
    folder: Path = Path()
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int = 8001
    slices: Path | None = None
    keys: Path | None = None
    insecure: bool = False
    certificate: Path | None = None
    private_key: Path | None = None
    workers: int = 1
    threads: int = 1
    backend: BackendName | None = None
    drain_seconds: float = 10.0
    trace: str | None = None
    log: LogForm = "text"
    shadow: float = 0.01
    limits: Limits = field(default_factory=Limits)


def check_settings(settings: ServerSettings) -> None:
    """Raise :class:`~offramp.errors.SuiteError` for what would not be safe, or makes no sense."""
    if not is_loopback(settings.host) and settings.keys is None and not settings.insecure:
        raise SuiteError(
            f"--host {settings.host} can be reached from elsewhere: give --keys FILE, or --insecure to let everybody in"
        )
    if (settings.certificate is None) != (settings.private_key is None):
        raise SuiteError("TLS needs both --certificate and --private-key")
    for path in (settings.certificate, settings.private_key):
        if path is not None and not path.is_file():
            raise SuiteError(f"{path} is no file: give a PEM file")
    if settings.certificate is not None and settings.private_key is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                settings.certificate, settings.private_key
            )
        except (ssl.SSLError, OSError):
            raise SuiteError(
                f"{settings.certificate} and {settings.private_key} are no certificate with its private key: are they exchanged?"
            ) from None


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise SuiteError(f"--host {host!r}: give an address, such as 127.0.0.1 or 0.0.0.0") from None
