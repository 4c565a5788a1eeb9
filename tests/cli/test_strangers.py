"""Daemons of another version, of another protocol, and ones that say nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stigmerd import __version__
from stigmerd.cli import reach
from stigmerd.cli.__main__ import main
from stigmerd.core.status import to_plain
from tests.cli.documents import SERVER, stack

STATUS: dict[str, Any] = to_plain(stack(SERVER))

Answer = Callable[[dict[str, Any]], dict[str, Any] | None]


@contextmanager
def daemon(home: Path, answer: Answer) -> Iterator[None]:
    """Something that listens where a daemon does, and answers as it is told; None is silence."""
    run = home / "run"
    run.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run / "stigmerd.sock"))
        listener.listen()
        threading.Thread(target=_serve, args=(listener, answer), daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, answer: Answer) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_converse, args=(connection, answer), daemon=True).start()


def _converse(connection: socket.socket, answer: Answer) -> None:
    with connection, connection.makefile("rwb") as lines:
        for line in lines:
            request = json.loads(line)
            result = answer(request)
            if result is not None:
                lines.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], **result}).encode() + b"\n")
                lines.flush()


def version(number: str, protocol: int) -> Answer:
    """A daemon that says hello and its status."""
    hello = {"protocol": protocol, "version": number, "pid": 1}
    return lambda request: {"result": hello if request["method"] == "hello" else STATUS}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.mark.parametrize("words", [["status"], ["wait", "stigmer-server", "--json"]])
def test_another_version_is_named_with_the_way_to_bring_both_together(
    words: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon(home, version("9.9.9", 1)):
        assert main(["server", *words, "--home", str(home)]) == 0
    said = capsys.readouterr()
    assert said.out
    assert said.err.count("\n") == 1
    assert "9.9.9" in said.err
    assert "stigmer server restart --daemon" in said.err


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["wait"], ["restart"], ["start"]])
def test_another_protocol_is_exit_1_with_both_versions(
    words: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon(home, version("9.9.9", 2)):
        assert main(["server", *words, "--home", str(home)]) == 1
    error = capsys.readouterr().err
    assert "9.9.9" in error
    assert "protocol 2" in error


def test_status_is_shown_in_another_protocol_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(home, version("9.9.9", 2)):
        main(["server", "status", "--home", str(home)])
    assert "stigmer-server" in capsys.readouterr().out


def test_silent_daemon_is_exit_4_with_its_log(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "HELLO_TIMEOUT", 0.2)
    with daemon(home, lambda request: None):
        assert main(["server", "status", "--home", str(home)]) == 4
        assert main(["server", "stop", "--home", str(home)]) == 4
    assert f"{home}/logs/stigmerd.log" in capsys.readouterr().err


def test_status_that_makes_no_sense_is_an_error_and_no_traceback(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hello = {"protocol": 1, "version": "0.1.0", "pid": 1}
    with daemon(home, lambda request: {"result": hello if request["method"] == "hello" else {"daemon": 7}}):
        assert main(["server", "status", "--home", str(home)]) == 1
    assert "another version" in capsys.readouterr().err


def test_what_the_daemon_refuses_is_told_in_its_words(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    busy = {"error": {"code": 5, "message": "another reload is running\x1b[31m", "data": {"code": "busy"}}}
    hello = {"result": {"protocol": 1, "version": "0.1.0", "pid": 1}}
    with daemon(home, lambda request: hello if request["method"] == "hello" else busy):
        assert main(["server", "reload", "--home", str(home)]) == 1
    assert capsys.readouterr().err == "Another reload is running\\x1b[31m\n"


def test_what_cannot_be_killed_is_told_with_its_pids_and_its_log_last(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "cannot be killed: pid 7; log: /home/u/.stigmer/logs/stigmer-server.log"
    stuck = {"name": "stigmer-server", "state": "failed", "ok": False, "message": message, "survivors": [7]}
    results = {"hello": {"protocol": 1, "version": __version__, "pid": 1}, "stop": {"components": [stuck]}}
    with daemon(home, lambda request: {"result": results.get(request["method"], STATUS)}):
        assert main(["server", "stop", "stigmer-server", "--home", str(home)]) == 1
    assert capsys.readouterr().err == f"stigmer-server: failed; still alive: 7; {message}\n"
