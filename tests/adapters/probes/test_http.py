"""The http probe against servers that answer, and servers that do everything else."""

from __future__ import annotations

import base64
import ssl
import tracemalloc
from collections.abc import Iterator, Mapping

import pytest
import trio

from stigmerd.adapters.probes.failure import MESSAGE_LIMIT, Conceal
from stigmerd.adapters.probes.http import BODY_LIMIT, HEAD_LIMIT, HttpProbe
from stigmerd.adapters.probes.resolve import Resolver
from stigmerd.adapters.probes.tls import system_trust
from stigmerd.core.health import Outcome
from stigmerd.core.spec import HttpHandler
from tests.adapters.probes.certificates import Certificates
from tests.adapters.probes.fakes import TOKEN, hide_token, show_all
from tests.adapters.probes.servers import (
    Talk,
    attempt,
    be_silent,
    dripping,
    flooding,
    holdings,
    saying,
    serving,
    wait_holdings,
)
from tests.adapters.probes.test_tcp import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ENDLESS_PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"


def probe_of(
    port: int,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    status: tuple[int, int] = (200, 399),
    conceal: Conceal = show_all,
) -> HttpProbe:
    handler = HttpHandler(
        url=f"http://127.0.0.1:{port}{path}", method=method, headers=headers or {}, status=status
    )
    return HttpProbe(handler, Resolver(), conceal)


class Recorder:
    """Answers every request with the next of its answers, the last again and again, and keeps the requests."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[str] = []

    async def talk(self, stream: trio.SocketStream) -> None:
        self.requests.append(bytes(await stream.receive_some()).decode())
        await stream.send_all(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    @property
    def asked_for(self) -> list[str]:
        """The first line of each request, without the version."""
        return [request.partition(" HTTP/1.1\r\n")[0] for request in self.requests]


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


async def outcome_from(answer: bytes) -> Outcome | None:
    async with serving(saying(answer)) as port:
        return await attempt(probe_of(port))


async def test_status_within_the_range_passes() -> None:
    assert await outcome_from(OK) == Outcome(passed=True, message="HTTP 200")
    assert await outcome_from(b"HTTP/1.0 399 Odd\r\n\r\n") == Outcome(passed=True, message="HTTP 399")


async def test_status_outside_of_the_range_fails() -> None:
    answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    assert await outcome_from(answer) == Outcome(passed=False, message="HTTP 503")
    async with serving(saying(OK)) as port:
        outcome = await attempt(probe_of(port, status=(204, 204)))
    assert outcome == Outcome(passed=False, message="HTTP 200")


async def test_request_has_the_configured_method_headers_and_path() -> None:
    server = Recorder(b"HTTP/1.1 204 None\r\n\r\n")
    async with serving(server.talk) as port:
        headers = {"X-Probe": "1", "Host": "front.test"}
        outcome = await attempt(probe_of(port, "/a b?q=ü", method="POST", headers=headers))
    assert outcome == Outcome(passed=True, message="HTTP 204")
    assert server.asked_for == ["POST /a%20b?q=%C3%BC"]
    lines = server.requests[0].split("\r\n")
    assert {"x-probe: 1", "host: front.test", "content-length: 0", "connection: close"} <= set(lines)


async def test_name_and_password_of_the_url_are_sent() -> None:
    server = Recorder(OK)
    async with serving(server.talk) as port:
        handler = HttpHandler(url=f"http://me:s%20t@127.0.0.1:{port}/")
        await attempt(HttpProbe(handler, Resolver(), show_all))
    assert f"authorization: Basic {base64.b64encode(b'me:s t').decode()}" in server.requests[0].split("\r\n")


async def test_page_that_is_longer_than_the_limit_passes() -> None:
    body = b"x" * (BODY_LIMIT * 20)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert await outcome_from(head + body) == Outcome(passed=True, message="HTTP 200")


async def test_closed_port_is_refused() -> None:
    assert await attempt(probe_of(free_port())) == Outcome(passed=False, message="connection refused")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", "not HTTP: "),
        (b"", "the connection was closed without a response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "HTTP 200, and then broken: "),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEAD_LIMIT, "the head of the response is longer than 64 KiB"),
        (b"HTTP/1.1 100 Wait\r\n\r\n" * HEAD_LIMIT, "the head of the response is longer than 64 KiB"),
    ],
    ids=["other protocol", "nothing", "cut off", "long head", "interim responses"],
)
async def test_answer_that_is_no_response_fails_with_the_reason(answer: bytes, message: str) -> None:
    outcome = await outcome_from(answer)
    assert outcome is not None
    assert not outcome.passed
    assert outcome.message.startswith(message)


async def test_secret_in_what_the_server_says_is_concealed_before_that_is_cut() -> None:
    async with serving(saying(b"x" * 200 + TOKEN.encode() * 9 + b"\r\n\r\n")) as port:
        outcome = await attempt(probe_of(port, conceal=hide_token))
    assert outcome is not None
    assert len(outcome.message) == len("not HTTP: ") + MESSAGE_LIMIT
    assert "${TOKEN}" in outcome.message
    assert "01" not in outcome.message


async def test_header_that_cannot_be_sent_fails_without_showing_it() -> None:
    async with serving(saying(OK)) as port:
        outcome = await attempt(probe_of(port, headers={"Authorization": "secret\r\nX: y"}))
    assert outcome == Outcome(passed=False, message="the method or a header of the probe cannot be sent")


@pytest.mark.parametrize("location", ["/end", "end", "http://127.0.0.1:{port}/end#part"])
async def test_redirect_to_the_same_place_is_followed(location: str) -> None:
    server = Recorder()
    async with serving(server.talk) as port:
        server.answers = [redirect(location.format(port=port)), OK]
        assert await attempt(probe_of(port)) == Outcome(passed=True, message="HTTP 200")
    assert server.asked_for == ["GET /", "GET /end"]


async def test_redirect_that_asks_for_the_same_method_again_gets_it() -> None:
    kept, changed = Recorder(redirect("/end", 307), OK), Recorder(redirect("/end", 303), OK)
    for server in (kept, changed):
        async with serving(server.talk) as port:
            await attempt(probe_of(port, method="POST"))
    assert kept.asked_for == ["POST /", "POST /end"]
    assert changed.asked_for == ["POST /", "GET /end"]


async def test_redirect_loop_fails_after_five() -> None:
    server = Recorder(redirect("/again"))
    async with serving(server.talk) as port:
        assert await attempt(probe_of(port)) == Outcome(passed=False, message="more than 5 redirects")
    assert len(server.requests) == 6


async def test_redirect_to_another_place_fails_and_is_not_followed() -> None:
    stranger = Recorder(OK)
    async with serving(stranger.talk) as elsewhere:
        places = [f"http://127.0.0.1:{elsewhere}", f"http://localhost:{elsewhere}", f"//localhost:{elsewhere}"]
        for place in [*places, f"https://127.0.0.1:{elsewhere}"]:
            outcome = await outcome_from(redirect(place + "/secret"))
            assert outcome is not None
            assert not outcome.passed
            assert outcome.message.startswith("HTTP 302 to http")
            assert outcome.message.endswith(f":{elsewhere}, which is not followed")
    assert not stranger.requests


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/", "http://[::1/", "mailto:me@here.test", "http://127.0.0.1:99999/"])
async def test_redirect_to_no_address_fails(location: str) -> None:
    outcome = await outcome_from(redirect(location))
    assert outcome == Outcome(passed=False, message="a redirect's target is not an http or https address")


async def test_redirect_without_a_target_is_judged_by_its_status() -> None:
    answer = b"HTTP/1.1 304 Same\r\n\r\n"
    assert await outcome_from(answer) == Outcome(passed=True, message="HTTP 304")


async def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert await outcome_from(OK) == Outcome(passed=True, message="HTTP 200")


HOSTILE: dict[str, tuple[Talk, str]] = {
    "silent": (be_silent, "waiting for the response"),
    "dripping head": (dripping(b"HTTP/1.1 200 OK\r\n", b"X"), "waiting for the response"),
    "dripping headers": (dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "waiting for the response"),
    "dripping body": (dripping(ENDLESS_PAGE, b"."), "reading the body of HTTP 200"),
    "dripping promised body": (
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"."),
        "reading the body of HTTP 200",
    ),
}


async def test_no_server_holds_an_attempt_for_longer_than_a_second() -> None:
    async def hold(talk: Talk, stage: str) -> None:
        async with serving(talk) as port:
            probe = probe_of(port)
            assert await attempt(probe, limit=1) is None
            assert probe.stage == stage

    baseline = holdings()
    async with trio.open_nursery() as nursery:
        for talk, stage in HOSTILE.values():
            nursery.start_soon(hold, talk, stage)
    await wait_holdings(baseline)


@pytest.mark.parametrize(
    ("head", "flood", "passed"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536, False),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 9999, False),
        (ENDLESS_PAGE, b"x" * 65536, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"FFFFFFF\r\n" + b"x" * 65536, True),
    ],
    ids=["header", "headers", "body", "chunk"],
)
async def test_flood_ends_at_once_in_little_memory(head: bytes, flood: bytes, passed: bool) -> None:
    async with serving(flooding(head, flood)) as port:
        tracemalloc.start()
        try:
            outcome = await attempt(probe_of(port), limit=1)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert outcome is not None
    assert outcome.passed is passed
    assert peak < 2**20


async def test_many_attempts_leave_nothing_behind() -> None:
    async with serving(saying(OK)) as good, serving(be_silent) as silent:
        await attempt(probe_of(good))
        baseline = holdings()
        for _ in range(50):
            await attempt(probe_of(good))
            await attempt(probe_of(silent), limit=0.005)
        await wait_holdings(baseline)


@pytest.fixture
def trusted(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[Certificates]:
    """Certificates whose authority the system trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    system_trust.cache_clear()
    yield certificates
    system_trust.cache_clear()


def answering_over_tls(certificates: Certificates) -> Talk:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)

    async def talk(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await secured.do_handshake()
        await secured.receive_some()
        await secured.send_all(OK)
        await secured.aclose()

    return talk


async def test_https_server_that_the_system_trusts_passes(trusted: Certificates) -> None:
    async with serving(answering_over_tls(trusted)) as port:
        probe = HttpProbe(HttpHandler(url=f"https://127.0.0.1:{port}/"), Resolver(), show_all)
        assert await attempt(probe) == Outcome(passed=True, message="HTTP 200")
        other_name = HttpProbe(HttpHandler(url=f"https://localhost:{port}/"), Resolver(), show_all)
        outcome = await attempt(other_name)
    assert outcome is not None
    assert outcome.message.startswith("TLS: the certificate is not trusted: Hostname mismatch")


async def test_https_server_that_nobody_trusts_fails(certificates: Certificates) -> None:
    async with serving(answering_over_tls(certificates)) as port:
        outcome = await attempt(HttpProbe(HttpHandler(url=f"https://127.0.0.1:{port}/"), Resolver(), show_all))
    assert outcome is not None
    assert outcome.message.startswith("TLS: the certificate is not trusted: ")


async def test_server_without_tls_fails_over_https() -> None:
    async with serving(saying(OK)) as port:
        outcome = await attempt(HttpProbe(HttpHandler(url=f"https://127.0.0.1:{port}/"), Resolver(), show_all))
    assert outcome is not None
    assert outcome.message.startswith("TLS: ")


async def test_server_that_never_shakes_hands_is_cut_off() -> None:
    async with serving(be_silent) as port:
        probe = HttpProbe(HttpHandler(url=f"https://127.0.0.1:{port}/"), Resolver(), show_all)
        baseline = holdings()
        assert await attempt(probe, limit=0.2) is None
        assert probe.stage == "shaking hands over TLS"
        await wait_holdings(baseline)
