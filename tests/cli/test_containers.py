"""What a dead daemon left in the Docker Engine, against an engine that answers as the real one does."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from stigmerd.adapters.disk.home import Home
from stigmerd.cli.containers import engine_version, is_running, stop
from stigmerd.core.record import Identity
from stigmerd.core.spec import StopPolicy
from stigmerd.engine.ports import EngineUnavailableError

OURS = Identity(nonce="1-abc", boot_id="b", container_id="c0ffee")


class Engine(BaseHTTPRequestHandler):
    """Knows one container, which ends by the signal ``mortal``. ``signals`` are those that it was sent."""

    home = ""
    signals: list[str]
    mortal = "SIGTERM"
    running = True
    nonce = OURS.nonce

    def do_GET(self) -> None:
        if self.path == "/version":
            self._answer(200, {"Version": "27.0"})
        elif self.path == "/containers/c0ffee/json":
            labels = {"stigmerd.home": self.home, "stigmerd.nonce": self.nonce}
            self._answer(200, {"Config": {"Labels": labels}, "State": {"Running": self.running}})
        else:
            self._answer(404, {"message": "No such container"})

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/containers/c0ffee/kill":
            signal = parse_qs(url.query)["signal"][0]
            self.signals.append(signal)
            if signal in {self.mortal, "SIGKILL"}:
                type(self).running = False
            self._answer(204, None)
        else:
            self._answer(409, {"message": "Container is not paused"})

    def _answer(self, code: int, body: dict[str, Any] | None) -> None:
        self.send_response(code)
        self.end_headers()
        if body is not None:
            self.wfile.write(json.dumps(body).encode())

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path)


@pytest.fixture
def engine(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Engine]]:
    class One(Engine):
        signals: list[str] = []  # noqa: RUF012  (a class for each test)

    One.home = home.path
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socketserver.ThreadingUnixStreamServer(str(path), One) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield One
        server.shutdown()
        thread.join()


def test_container_with_our_labels_is_found_and_stopped_by_its_components_signal(
    home: Home, engine: type[Engine]
) -> None:
    engine.mortal = "SIGRTMIN+3"
    assert is_running(home, OURS) is True
    assert stop(home, OURS, StopPolicy(signal="SIGRTMIN+3", grace=30.0)) is True
    assert engine.signals == ["SIGRTMIN+3"]


def test_container_that_outlives_its_grace_is_killed(home: Home, engine: type[Engine]) -> None:
    engine.mortal = "SIGINT"
    assert stop(home, OURS, StopPolicy(grace=0.1)) is True
    assert engine.signals == ["SIGTERM", "SIGKILL"]


def test_container_without_a_grace_is_killed_at_once(home: Home, engine: type[Engine]) -> None:
    assert stop(home, OURS, StopPolicy(grace=0.0)) is True
    assert engine.signals == ["SIGKILL"]


def test_container_of_another_life_is_left_alone(home: Home, engine: type[Engine]) -> None:
    engine.nonce = "2-other"
    assert is_running(home, OURS) is False
    assert stop(home, OURS, StopPolicy()) is False
    assert engine.signals == []


def test_container_of_another_home_is_left_alone(home: Home, engine: type[Engine]) -> None:
    engine.home = "/elsewhere"
    assert stop(home, OURS, StopPolicy()) is False
    assert engine.signals == []


def test_container_that_has_ended_or_gone_is_no_more(home: Home, engine: type[Engine]) -> None:
    gone = Identity(nonce="1-abc", boot_id="b", container_id="dead")
    assert is_running(home, gone) is False
    engine.running = False
    assert is_running(home, OURS) is False


def test_engine_that_answers_tells_its_version(engine: type[Engine]) -> None:
    assert engine_version() == "27.0"


def test_absent_engine_is_unknown_and_not_dead(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert is_running(home, OURS) is None
    with pytest.raises(EngineUnavailableError, match="cannot be asked"):
        stop(home, OURS, StopPolicy())
