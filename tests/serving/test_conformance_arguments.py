"""`offramp check-server` with wrong arguments: one line that says what to try, and what it says is true."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from fake_calls import called
from fake_reader import MODELS
from fake_server import Fake, served

from offramp.errors import OfframpError
from offramp.serving.conformance import check_server, run
from offramp.serving.conformance.http import Reply


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine that nobody but itself has signed, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    signed, key = folder / "signed.pem", folder / "key.pem"
    making = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(signed)]
    subprocess.run([*making.split(), *names], check=True, capture_output=True)
    return signed, key


@contextmanager
def through_tls(certificate: tuple[Path, Path]) -> Iterator[tuple[str, str]]:
    """A fake that speaks TLS, and where: HTTP and gRPC."""
    signed, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed, key)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), signed.read_bytes())])
    fake = Fake()
    with served(fake, tls=context) as url, called(fake, credentials) as address:
        yield url, address


def told(url: str, grpc: str = "", *models: str) -> str:
    with pytest.raises(OfframpError) as raised:
        check_server(url, grpc, models, timeout_s=5)
    return str(raised.value)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.mark.parametrize("scheme", ["", "grpcs://"])
def test_nobody_listens_for_grpc(scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{closed_port()}"
    with served(Fake()) as url:
        line = told(url, address)
    assert line == (
        f"--grpc {address}: connection refused: nobody listens; is the server running, and is this its gRPC port?"
    )


def test_the_port_of_http_is_not_that_of_grpc() -> None:
    with served(Fake()) as url:
        assert told(url, url.removeprefix("http://")).endswith("is this its gRPC port?")


def test_plain_words_to_tls(certificate: tuple[Path, Path]) -> None:
    with through_tls(certificate) as (url, address):
        plain = url.replace("https", "http")
        assert told(plain) == f"{plain}: it speaks TLS; try {url}"
        with served(Fake()) as other:
            assert told(other, address) == f"--grpc {address}: it speaks TLS; try grpcs://{address}"


def test_tls_that_answers_400_to_plain_words(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "exchange", lambda target, request: Reply(400, {}, b"this port is for HTTPS"))
    with through_tls(certificate) as (url, _):
        assert told(url.replace("https", "http")).endswith(f"try {url}")
    with served(Fake()) as url:
        assert check_server(url).conforms


def test_certificates_that_nobody_known_has_signed(certificate: tuple[Path, Path]) -> None:
    with through_tls(certificate) as (url, address):
        line = told(url)
        assert "its certificate is not trusted (self" in line
        assert "SSL_CERT_FILE" in line
        with served(Fake()) as other:
            line = told(other, f"grpcs://{address}")
        assert "its certificate is not trusted" in line
        assert "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in line


def test_certificates_for_another_name_want_no_authority(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with through_tls(certificate) as (url, _):
        line = told(url.replace("127.0.0.1", "localhost"))
    assert "its certificate is not trusted (Hostname mismatch" in line
    assert "SSL_CERT_FILE" not in line


TRUSTING = """
import sys
from offramp.serving.conformance import check_server
names = ("inference.json", "grpc.infer-raw")
found = check_server(sys.argv[1], "grpcs://" + sys.argv[2], ["sum"], only=lambda check: check.name in names)
print([str(result.outcome) for result in found.results])
"""


def ran(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in a process of its own: gRPC looks at its environment once."""
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_the_variables_that_are_named_help(certificate: tuple[Path, Path]) -> None:
    signed = str(certificate[0])
    with through_tls(certificate) as (url, address):
        found = ran("-c", TRUSTING, url, address, SSL_CERT_FILE=signed, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=signed)
    assert found.stdout == "['pass', 'pass']\n", found.stderr


def test_the_command_says_one_line_and_leaves_with_2(certificate: tuple[Path, Path]) -> None:
    with through_tls(certificate) as (_, address), served(Fake()) as url:
        found = ran("-m", "offramp", "check-server", url, "--grpc", f"grpcs://{address}")
    assert found.returncode == 2
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()
    assert "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in line


def test_models_that_are_not_there() -> None:
    with served(Fake()) as url:
        for name in ("nope", "old"):  # the index lists old, and that it is not ready
            line = told(url, "", name)
            assert line == f"--model {name}: {url} has no such model that is ready; it has {', '.join(MODELS)}"
    with served(Fake(gone=set(MODELS))) as url:
        assert told(url, "", "nope").endswith("it lists none")


def test_models_of_a_server_without_an_index_are_asked() -> None:
    with served(Fake(bare=True, extensions=())) as url:
        found = check_server(url, models=["nope"])
    assert not found.conforms


@pytest.mark.parametrize("models", [(), ("sum",)])
def test_no_key(models: tuple[str, ...]) -> None:
    with served(Fake(key="Bearer abc")) as url:
        line = told(url, "", *models)
    assert line.startswith(f"{url} answers 401 to who asks for its metadata")
    assert "--header 'Authorization: Bearer KEY'" in line


def test_no_key_for_models_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    answer = fake.answer

    def guarded(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        return (403, {}, b"") if path.startswith("/v2/models") else answer(method, path, headers, body)

    monkeypatch.setattr(fake, "answer", guarded)
    with served(fake) as url:
        line = told(url, "", "sum")
    assert line.startswith(f"{url} answers 403 to who asks for the metadata of model sum: give a key")
