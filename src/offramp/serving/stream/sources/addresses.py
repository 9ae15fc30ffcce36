"""``udp://HOST:PORT`` and ``zmq://HOST:PORT``."""

from __future__ import annotations

from urllib.parse import urlsplit

from offramp.errors import SuiteError


def host_and_port(address: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port of ``SCHEME://HOST:PORT``.

    Raises:
        SuiteError: It is no such address.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        port = None
    if port is None or not port > 0 or not parts.hostname or parts.path or parts.query or parts.username is not None:
        scheme = address.partition("://")[0]
        raise SuiteError(f"{address}: give a host and a port, such as {scheme}://127.0.0.1:5000")
    return parts.hostname, port


def tcp_address(address: str) -> str:
    """``zmq://HOST:PORT`` as ZeroMQ names it; raises as :func:`host_and_port`."""
    host, port = host_and_port(address)
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
