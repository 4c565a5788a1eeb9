"""Run the built-in programs as a user's machine does, and talk to them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from stigmerd.reference import health
from stigmerd.reference.health import Serving

PATIENCE = 10.0
"""Seconds that a loaded machine may take for what takes a moment."""


class Program:
    """One running program, whose output goes to a file."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        """All that it wrote so far."""
        return self._output.read_text()

    def wait_output(self, pattern: str) -> re.Match[str]:
        """Wait until a line of the output matches."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if match := re.search(pattern, self.output):
                return match
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in {self.output!r}")

    def wait_exit(self) -> int:
        """Its exit code, negative for a signal."""
        return self.process.wait(PATIENCE)


@contextmanager
def running(folder: Path, name: str, **env: str) -> Iterator[Program]:
    """Run a program of the built-in stack; kill it in the end."""
    output = folder / f"{name}.{time.monotonic_ns()}.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stigmerd.reference", name],
            env={**os.environ, **env},
            stdout=file,
            stderr=file,
        )
    try:
        yield Program(process, output)
    finally:
        process.kill()
        process.wait(PATIENCE)


@contextmanager
def running_server(folder: Path) -> Iterator[tuple[Program, str]]:
    """Run the server on a port that the system chose; its address."""
    with running(folder, "stigmer-server", GRPC_PORT="0") as server:
        yield server, server.wait_output(r"serving on (\S+)")[1]


@contextmanager
def connected(address: str) -> Iterator[grpc.Channel]:
    """A channel of its own, so that no test waits for the backoff of another."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel


def check(channel: grpc.Channel, service: str = "") -> Serving:
    """Ask for health, once."""
    method = channel.unary_unary(health.CHECK, health.encode_request, health.decode_response)
    answer: Serving = method(service, timeout=PATIENCE, wait_for_ready=True)
    return answer


def watch(channel: grpc.Channel, service: str = "") -> Iterator[Serving]:
    """Follow the health until the server ends the stream."""
    method = channel.unary_stream(health.WATCH, health.encode_request, health.decode_response)
    updates: Iterator[Serving] = iter(method(service, timeout=PATIENCE, wait_for_ready=True))
    return updates
