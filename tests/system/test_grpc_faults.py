"""A gRPC server in each way of not serving, under a real daemon with a liveness probe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from tests.adapters.probes.test_tcp import free_port
from tests.system.daemons import Stack, wait_until

pytestmark = pytest.mark.crashes

ROOT = Path(__file__).parents[2]
PERIOD = 0.2

ABSENCE = 40.0
LATENESS = 0.5
"""Seconds that a busy machine may be late with an attempt, and with the look at it."""


def configure(home: Stack) -> None:
    """One server with startup, liveness and readiness probes."""
    port = free_port()
    home.configure(
        f"""
        [defaults.restart]
        initial_backoff = "50ms"
        [defaults.stop]
        grace = "200ms"
        [component.server]
        command = ["{sys.executable}", "-m", "tests.system.grpc_patient", "{port}"]
        cwd = "{ROOT}"
        [component.server.startup]
        grpc = {{ address = "127.0.0.1:{port}" }}
        period = "{PERIOD}s"
        failure_threshold = 1000
        [component.server.liveness]
        grpc = {{ address = "127.0.0.1:{port}" }}
        period = "{PERIOD}s"
        timeout = "700ms"
        failure_threshold = 2
        [component.server.readiness]
        grpc = {{ address = "127.0.0.1:{port}" }}
        period = "{PERIOD}s"
        """
    )


@pytest.mark.parametrize(
    ("illness", "reason"),
    [
        (signal.SIGSTOP, "timed out after 0.7 s while waiting for the HTTP/2 handshake"),
        (signal.SIGUSR1, "timed out after 0.7 s while waiting for the health service's answer"),
        (signal.SIGUSR2, "NOT_SERVING"),
        (signal.SIGHUP, "not HTTP/2: the server began with "),
    ],
    ids=["stopped", "hangs in the handler", "not serving", "replaced by http/1"],
)
def test_server_that_does_not_serve_is_restarted_with_its_reason(
    home: Stack, illness: signal.Signals, reason: str
) -> None:
    configure(home)
    home.start()
    wait_until(lambda: home.component("server")["ready"])
    os.kill(home.component("server")["pid"], illness)
    again = home.wait_state("server", "running", life=2)
    assert again["last_error"].startswith(f"liveness probe failed 2 times: {reason}")
    assert again["restarts"] == 1
    assert [e["probe"] for e in home.events("server") if e["event"] == "unhealthy"] == ["liveness"]
    wait_until(lambda: home.component("server")["ready"])


@contextmanager
def server_at(port: int) -> Iterator[None]:
    """A health service that says SERVING, from the instant that this is entered."""
    command = [sys.executable, "-m", "tests.adapters.probes.grpc_program", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            yield
        finally:
            server.kill()


@pytest.mark.slow
def test_server_that_comes_back_after_forty_seconds_is_seen_within_one_period(home: Stack) -> None:
    port = free_port()
    home.configure(
        f"""
        [component.client]
        command = "sleep 1000"
        readiness = {{ grpc = {{ address = "127.0.0.1:{port}" }}, period = "{PERIOD}s", failure_threshold = 1 }}
        """
    )
    home.start()
    with server_at(port):
        wait_until(lambda: home.component("client")["ready"])
    wait_until(lambda: not home.component("client")["ready"])
    time.sleep(ABSENCE)  # the time itself is what is tested: a kept channel would try ever more rarely
    with server_at(port):
        back = time.time()
        wait_until(lambda: home.component("client")["ready"])
    ready = [datetime.fromisoformat(e["at"]).timestamp() for e in home.events("client") if e["event"] == "ready"]
    assert ready[-1] - back < PERIOD + LATENESS
