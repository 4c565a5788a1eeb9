"""The grpc probe against grpcio's own server, and against what is none."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import trio

from stigmerd.adapters.probes.failure import MESSAGE_LIMIT
from stigmerd.adapters.probes.grpc import GrpcProbe
from stigmerd.adapters.probes.health_check import decode_status, encode_request
from stigmerd.adapters.probes.resolve import Resolver
from stigmerd.core.health import Outcome
from stigmerd.core.spec import LARGEST_PEM, GrpcHandler, Tls
from tests.adapters.probes.certificates import Certificates
from tests.adapters.probes.fakes import TOKEN, hide_token, show_all
from tests.adapters.probes.servers import (
    answering,
    attempt,
    be_silent,
    dripping,
    grpc_serving,
    holdings,
    saying,
    service_of,
    serving,
    wait_holdings,
)
from tests.adapters.probes.test_tcp import BoundSockets, free_port

SERVING = Outcome(passed=True, message="SERVING")
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
ROOT = Path(__file__).parents[3]


def probe_of(
    port: int, service: str = "", *, host: str = "127.0.0.1", tls: Tls | None = None, connect_only: bool = False
) -> GrpcProbe:
    handler = GrpcHandler(address=f"{host}:{port}", service=service, tls=tls, connect_only=connect_only)
    return GrpcProbe(handler, Resolver(), hide_token)


def knowing_one_service(request: bytes, context: Any) -> bytes:
    if service_of(request) not in ("", "known"):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
    return bytes([8, 1])


def being_unavailable(request: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
    return b""


def being_indiscreet(request: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.INTERNAL, "x" * (MESSAGE_LIMIT - 9) + TOKEN)
    return b""


def waiting_long(request: bytes, context: Any) -> bytes:
    time.sleep(0.5)
    return bytes([8, 1])


async def test_server_that_says_serving_passes() -> None:
    with grpc_serving(answering(1)) as port:
        assert await attempt(probe_of(port)) == SERVING
        assert await attempt(probe_of(port, host="localhost")) == SERVING


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (0, "UNKNOWN"),
        (2, "NOT_SERVING"),
        (3, "unknown service: the server does not know the empty service name"),
        (7, "status 7"),
    ],
)
async def test_server_that_says_anything_else_fails(status: int, message: str) -> None:
    with grpc_serving(answering(status)) as port:
        assert await attempt(probe_of(port)) == Outcome(passed=False, message=message)


async def test_named_service_is_asked_about() -> None:
    with grpc_serving(knowing_one_service) as port:
        assert await attempt(probe_of(port, "known")) == SERVING
        outcome = await attempt(probe_of(port, "other"))
    message = "unknown service: the server does not know this service"
    assert outcome == Outcome(passed=False, message=message)


async def test_server_without_health_service_passes_where_no_service_is_named() -> None:
    with grpc_serving(None) as port:
        assert await attempt(probe_of(port)) == Outcome(passed=True, message="no health service")
        assert await attempt(probe_of(port, "any")) == Outcome(passed=False, message="no health service")


async def test_server_that_says_unavailable_is_quoted() -> None:
    with grpc_serving(being_unavailable) as port:
        outcome = await attempt(probe_of(port))
    assert outcome == Outcome(passed=False, message="UNAVAILABLE: shutting down")


async def test_secret_in_what_the_server_says_is_concealed_before_that_is_cut() -> None:
    with grpc_serving(being_indiscreet) as port:
        outcome = await attempt(probe_of(port))
    assert outcome == Outcome(passed=False, message=f"INTERNAL: {'x' * (MESSAGE_LIMIT - 9)}${{TOKEN}}")


@pytest.mark.parametrize("answer", [b"\xff", b"\x0a\x09cut", b"\x0f"])
async def test_answer_that_is_no_health_check_response_fails(answer: bytes) -> None:
    with grpc_serving(lambda request, context: answer) as port:
        outcome = await attempt(probe_of(port))
    assert outcome == Outcome(passed=False, message="the answer is not one of grpc.health.v1")


async def test_huge_answer_fails() -> None:
    with grpc_serving(lambda request, context: bytes(2**20)) as port:
        outcome = await attempt(probe_of(port))
    assert outcome is not None
    assert outcome.message.startswith("RESOURCE_EXHAUSTED: ")


async def test_closed_port_is_refused() -> None:
    for connect_only in (False, True):
        outcome = await attempt(probe_of(free_port(), connect_only=connect_only))
        assert outcome == Outcome(passed=False, message="connection refused")


async def test_connection_to_itself_is_a_failure() -> None:
    port = free_port()
    trio.socket.set_custom_socket_factory(BoundSockets(port))
    try:
        outcome = await attempt(probe_of(port))
    finally:
        trio.socket.set_custom_socket_factory(None)
    assert outcome == Outcome(passed=False, message="nothing listens: the connection reached itself")


@pytest.mark.parametrize("connect_only", [False, True])
async def test_server_of_http_1_is_not_http_2(connect_only: bool) -> None:
    async with serving(saying(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")) as port:
        outcome = await attempt(probe_of(port, connect_only=connect_only))
    assert outcome == Outcome(passed=False, message="not HTTP/2: the server began with b'HTTP/1.1 '")


@pytest.mark.parametrize("connect_only", [False, True])
async def test_server_that_hangs_up_is_not_http_2(connect_only: bool) -> None:
    async with serving(saying(b"")) as port:
        outcome = await attempt(probe_of(port, connect_only=connect_only))
    assert outcome is not None
    assert outcome.message == "not HTTP/2: the connection was closed during the handshake"


async def answer_404(stream: trio.SocketStream) -> None:
    """Speak HTTP/2 as a web server that has nothing at this path. Source: RFC 9113; RFC 7541, appendix A."""
    await stream.send_all(SETTINGS)
    heard = b""
    headers_of_stream_1, status_404 = b"\x01\x04\x00\x00\x00\x01", b"\x8d"
    while headers_of_stream_1 not in heard:
        heard += await stream.receive_some()
    await stream.send_all(b"\x00\x00\x01\x01\x05\x00\x00\x00\x01" + status_404)
    await be_silent(stream)


async def test_web_server_of_http_2_fails_unless_connecting_is_enough() -> None:
    async with serving(answer_404) as port:
        outcome = await attempt(probe_of(port))
        assert await attempt(probe_of(port, connect_only=True)) == Outcome(passed=True)
    assert outcome is not None
    assert not outcome.passed
    assert outcome.message.startswith("UNIMPLEMENTED: ")
    assert "404" in outcome.message


async def test_connect_only_is_content_with_a_handshake() -> None:
    with grpc_serving(answering(2)) as port:
        assert await attempt(probe_of(port, connect_only=True)) == Outcome(passed=True)


async def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with grpc_serving(answering(1)) as port:
        assert await attempt(probe_of(port)) == SERVING


async def test_unix_socket_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "health check.sock"
    with grpc_serving(answering(1), f"unix:{path}"):
        assert await attempt(GrpcProbe(GrpcHandler(address=f"unix:{path}"), Resolver(), show_all)) == SERVING
    outcome = await attempt(GrpcProbe(GrpcHandler(address=f"unix:{tmp_path}/none.sock"), Resolver(), show_all))
    assert outcome == Outcome(passed=False, message="no such file or directory")


async def test_no_server_holds_an_attempt_for_longer_than_a_second() -> None:
    async def hold(port: int, stage: str, *, connect_only: bool = False) -> None:
        probe = probe_of(port, connect_only=connect_only)
        outcome = await attempt(probe, limit=1)
        assert outcome is None or not outcome.passed
        assert probe.stage == stage

    answer, handshake = "waiting for the health service's answer", "waiting for the HTTP/2 handshake"
    with grpc_serving(waiting_long) as busy:
        await attempt(probe_of(busy))
        baseline = holdings()
        async with (
            serving(be_silent) as silent,
            serving(dripping(b"", b"\0")) as drip,
            serving(dripping(SETTINGS, b"")) as mute,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(hold, silent, handshake)
            nursery.start_soon(hold, drip, handshake)
            nursery.start_soon(hold, mute, answer)
            nursery.start_soon(lambda: hold(silent, handshake, connect_only=True))
        await wait_holdings(baseline)


async def test_attempt_that_is_cut_off_lets_go_of_the_call() -> None:
    with grpc_serving(waiting_long) as port:
        assert await attempt(probe_of(port), limit=0.1) is None


async def test_many_attempts_leave_nothing_behind() -> None:
    process = psutil.Process()
    with grpc_serving(answering(1)) as port:
        good, refused = probe_of(port), probe_of(free_port())
        for _ in range(20):
            await attempt(good)
            await attempt(refused)
        baseline, threads = holdings(), process.num_threads()
        for _ in range(100):
            assert await attempt(good) == SERVING
            await attempt(refused)
        await wait_holdings(baseline)
        assert process.num_threads() <= threads + 4  # those of grpcio's core come and go


async def test_silent_server_is_let_go_soon_after_the_attempt() -> None:
    async with serving(be_silent) as port:
        await attempt(probe_of(port), limit=0.05)
        baseline = holdings()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(attempt, probe_of(port), 0.05)
        await wait_holdings(baseline)


@contextlib.asynccontextmanager
async def health_program(port: int = 0) -> AsyncIterator[tuple[subprocess.Popen[str], int]]:
    """The health service as a program of its own; with it, its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.adapters.probes.grpc_program", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        try:
            yield program, int(await trio.to_thread.run_sync(program.stdout.readline))
        finally:
            program.kill()


async def test_server_that_was_stopped_or_away_is_seen_at_once_when_it_is_back() -> None:
    async with health_program() as (program, port):
        probe = probe_of(port)
        assert await attempt(probe) == SERVING
        baseline = holdings()
        program.send_signal(signal.SIGSTOP)
        for _ in range(3):
            assert await attempt(probe, limit=0.2) is None
        program.send_signal(signal.SIGCONT)
        assert await attempt(probe) == SERVING
        await wait_holdings(baseline)
        program.kill()
        program.wait()
        for _ in range(20):
            assert await attempt(probe) == Outcome(passed=False, message="connection refused")
    with grpc_serving(answering(1), f"127.0.0.1:{port}"):
        assert await attempt(probe) == SERVING


def tls_server(certificates: Certificates, *, asks_for_certificate: bool = False) -> grpc.ServerCredentials:
    pair = (certificates.key.read_bytes(), certificates.cert.read_bytes())
    return grpc.ssl_server_credentials([pair], certificates.ca.read_bytes(), asks_for_certificate)


@pytest.mark.parametrize("connect_only", [False, True])
async def test_tls_server_passes_with_its_authority(certificates: Certificates, connect_only: bool) -> None:
    with grpc_serving(answering(1), credentials=tls_server(certificates)) as port:
        for name in (None, "probe.test"):
            tls = Tls(ca_file=str(certificates.ca), server_name=name)
            outcome = await attempt(probe_of(port, tls=tls, connect_only=connect_only))
            assert outcome is not None
            assert outcome.passed


@pytest.mark.parametrize("connect_only", [False, True])
async def test_tls_server_of_another_name_fails(certificates: Certificates, connect_only: bool) -> None:
    with grpc_serving(answering(1), credentials=tls_server(certificates)) as port:
        tls = Tls(ca_file=str(certificates.ca), server_name="other.test")
        outcome = await attempt(probe_of(port, tls=tls, connect_only=connect_only))
    assert outcome is not None
    assert outcome.message.startswith("TLS: the certificate is not trusted: Hostname mismatch")


@pytest.mark.parametrize("connect_only", [False, True])
async def test_tls_server_of_an_unknown_authority_fails(certificates: Certificates, connect_only: bool) -> None:
    with grpc_serving(answering(1), credentials=tls_server(certificates)) as port:
        outcome = await attempt(probe_of(port, tls=Tls(), connect_only=connect_only))
    assert outcome is not None
    assert outcome.message.startswith("TLS: the certificate is not trusted: ")


@pytest.mark.parametrize("connect_only", [False, True])
async def test_tls_server_that_asks_for_a_certificate_gets_it(
    certificates: Certificates, connect_only: bool
) -> None:
    ca, cert, key = str(certificates.ca), str(certificates.cert), str(certificates.key)
    credentials = tls_server(certificates, asks_for_certificate=True)
    with grpc_serving(answering(1), credentials=credentials) as port:
        tls = Tls(ca_file=ca, cert_file=cert, key_file=key)
        outcome = await attempt(probe_of(port, tls=tls, connect_only=connect_only))
        assert outcome is not None
        assert outcome.passed
        outcome = await attempt(probe_of(port, tls=Tls(ca_file=ca), connect_only=connect_only))
        assert outcome is not None
        assert not outcome.passed


async def test_server_without_tls_fails_over_tls(certificates: Certificates) -> None:
    with grpc_serving(answering(1)) as port:
        outcome = await attempt(probe_of(port, tls=Tls(ca_file=str(certificates.ca))))
    assert outcome is not None
    assert outcome.message.startswith("TLS: ")


async def test_file_of_the_tls_table_that_cannot_be_read_is_named_by_its_key(tmp_path: Path) -> None:
    outcome = await attempt(probe_of(free_port(), tls=Tls(ca_file=str(tmp_path / "none.pem"))))
    assert outcome == Outcome(passed=False, message="tls.ca_file: no such file or directory")


@pytest.mark.parametrize("connect_only", [False, True])
async def test_file_of_the_tls_table_that_is_no_certificate_fails(tmp_path: Path, connect_only: bool) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with grpc_serving(answering(1)) as port:
        outcome = await attempt(probe_of(port, tls=Tls(ca_file=str(junk)), connect_only=connect_only))
    assert outcome is not None
    assert outcome.message.startswith("a file of the tls table is of no use: ")


@pytest.mark.parametrize("connect_only", [False, True])
@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
async def test_file_of_the_tls_table_that_could_be_without_an_end_is_not_read(
    certificates: Certificates, tmp_path: Path, key: str, connect_only: bool
) -> None:
    fifo, large = tmp_path / "fifo", tmp_path / "large.pem"
    os.mkfifo(fifo)
    large.touch()
    os.truncate(large, LARGEST_PEM + 1)
    files = {f"{name}_file": str(getattr(certificates, name)) for name in ("ca", "cert", "key")}
    before = threading.active_count()
    for path, reason in [
        ("/dev/zero", "it is no regular file"),
        (fifo, "it is no regular file"),
        (tmp_path, "it is no regular file"),
        (large, "it is larger than 1 MiB"),
    ]:
        tls = Tls(**{**files, key: str(path)})
        outcome = await attempt(probe_of(free_port(), tls=tls, connect_only=connect_only))
        assert outcome == Outcome(passed=False, message=f"tls.{key}: {reason}")
    assert threading.active_count() <= before + 1, "a thread reads on"


def test_request_is_written_as_protobuf_does() -> None:
    assert encode_request("") == b""
    assert encode_request("a.B") == b"\x0a\x03a.B"
    assert encode_request("x" * 300) == b"\x0a\xac\x02" + b"x" * 300


def test_unknown_fields_of_a_response_are_skipped() -> None:
    skipped = b"\x12\x02hi" + b"\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x30\x96\x01"
    assert decode_status(skipped + b"\x08\x02") == 2
    assert decode_status(b"\x08\x02" + skipped) == 2
    assert decode_status(b"") == 0
