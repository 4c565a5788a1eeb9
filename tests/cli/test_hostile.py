"""Whatever components write, and whatever files, folders and words are called, a terminal is sent text.

Every command runs in a terminal of its own beside components whose output, probes and definitions
are made to take it over; each byte that reaches the terminal is looked at.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.terminals import terminal, unexpected_bytes
from tests.system.daemons import Stack, stack, wait_until

EVIL = "\x1b[31m\x1b]0;title\x07\x9b2J\u202e\u2066\x7f\x00\r\x08\ufeff\udcff\u200b"
"""What may stand in text: a colour, a title, C1, a change of direction, DEL, NUL, a lone byte."""

EVIL_WORD = EVIL.replace("\x00", "")
"""The same where the system ends a text at NUL: in arguments and file names."""

EVIL_FOLDER = EVIL_WORD.replace("\udcff", "")
"""The same in a home, whose path stands in documents of Unicode."""

WRITER = r"""
import itertools, os, sys, time
everything = bytes(b for b in range(256) if b != 10)
unicode = "".join(map(chr, [*range(0x80, 0xA0), 0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x2028, 0x202F),
                           *range(0x2060, 0x2070), 0xFEFF, 0xE0001, 0xE0041])).encode()
sequences = b"\x1b[2J\x1b[1;1H\x1b]0;title\x07\x1b]8;;http://x\x1b\\\x1bP+q\x1b\\\x1b[6n\x1bc\x1b(0\x1b[?1049h\x9b31m"
broken = b"\xed\xa0\x80 \xff\xfe \xc0\x80 \xf5\x80\x80\x80 \xe2\x80"
for number in itertools.count():
    for line in (everything, unicode, sequences, broken, b"carriage\rreturn", b"2026-01-22T04:00:00Z " + sequences):
        os.write(1 + number % 2, line + b"\n")
    if sys.argv[1:]:
        sys.exit(int(sys.argv[1]))
    time.sleep(0.1)
"""

PROBE = r"import sys; sys.stdout.buffer.write(b'\x1b[31m\x9b\xff\xe2\x80\xae\x00\r\x7f evidence'); sys.exit(1)"

CONFIGURATION = rf"""
[component.writer]
command = ["{sys.executable}", "writer.py"]
readiness = {{ exec = {{ command = ["{sys.executable}", "-c", '''{PROBE}'''] }}, period = "0.2s" }}
optional = true

[component.crasher]
command = ["{sys.executable}", "writer.py", "3"]
restart = {{ max_restarts = 1, initial_backoff = "0.1s" }}
optional = true

[component.condemned]
command = ["{sys.executable}", "writer.py"]
liveness = {{ exec = {{ command = ["{sys.executable}", "-c", '''{PROBE}'''] }}, period = 0.1, failure_threshold = 1 }}
restart = {{ max_restarts = 1, initial_backoff = "0.1s" }}
optional = true

[component.absent]
command = ["no\u001b[31m\u202e\u009bsuch", "\u001b]0;title\u0007"]
restart.max_restarts = 0
optional = true

[component.homeless]
command = "true"
cwd = "/no\u001b[31m\u202e\u009bsuch"
restart.max_restarts = 0
optional = true

[component.contained]
container = {{ image = "no\u001b[31m\u202esuch", pull = "never" }}
restart.max_restarts = 0
optional = true
"""

NAMES = ("writer", "crasher", "condemned", "absent", "homeless", "contained")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of hostile components in a folder with a hostile name."""
    home = tmp_path_factory.mktemp("home") / f"evil {EVIL_FOLDER}"
    home.mkdir(mode=0o700)
    (home / "writer.py").write_text(WRITER)
    with stack(home) as one:
        one.configure(CONFIGURATION)
        one.start()
        for name in ("crasher", "condemned", "absent", "homeless"):
            one.wait_state(name, "failed")
        wait_until(lambda: one.component("writer")["probes"][0]["consecutive_failures"] > 0)
        yield one


def sent(stack: Stack, *words: str, columns: int = 100) -> bytes:
    """All that a command sends to its terminal."""
    with terminal("server", *words, "--home", str(stack.home), columns=columns) as screen:
        return screen.read_to_end()


LOOKS = [
    ["status"],
    ["status", "--verbose"],
    ["status", *NAMES],
    *(["explain", name] for name in NAMES),
    ["events"],
    ["events", "--tail", "3", "writer"],
    ["logs", "--no-follow", "--all", "--tail", "200"],
    ["logs", "--no-follow", "writer"],
    ["logs", "--no-follow", "crasher", "--previous"],
    ["logs", "--no-follow", "--grep", "evidence|\x1b"],
    ["logs", "--no-follow", "--json"],
    ["status", "--json"],
    ["explain", "condemned", "--json"],
    ["events", "--json"],
    ["wait", "crasher"],
    ["start"],
    ["start", "crasher", "--timeout", "2"],
    ["restart", "writer", "--timeout", "5"],
    ["signal", "HUP", "absent"],
    ["reload", "--dry-run"],
    ["reload"],
    ["check"],
    ["init"],
    ["doctor"],
    ["restart", "--daemon"],
]


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_command_sends_text_and_our_own_codes_alone(words: list[str], running: Stack) -> None:
    output = sent(running, *words)
    assert len(output) > 20
    assert unexpected_bytes(output, live=words[0] in {"start", "restart"}) == set()


@pytest.mark.parametrize("words", [["logs", "--all"], ["logs", "writer", "-f"], ["events", "-f"]], ids=" ".join)
def test_what_is_followed_is_text_too(words: list[str], running: Stack) -> None:
    with terminal("server", *words, "--home", str(running.home)) as screen:
        screen.read_until(b"writer" if "writer" not in words else b"carriage")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            screen.read_some()
        screen.process.send_signal(signal.SIGINT)
        assert unexpected_bytes(screen.read_to_end()) == set()


def test_live_view_sends_text_and_our_own_codes_alone(running: Stack) -> None:
    with terminal("server", "status", "-w", "-v", "--home", str(running.home), columns=120, rows=50) as screen:
        screen.read_until(b"evidence")
        screen.type(b"jjje")
        screen.read_until(b"any key goes back")
        screen.type(b"x")
        screen.read_until(b"q quit")
        screen.type(b"kkkl")
        screen.read_until(b"carriage")
        screen.type(b"\x03")
        screen.read_until(b"q quit")
        screen.type(b"q")
        assert unexpected_bytes(screen.read_to_end(), live=True) == set()


WORDS = [
    [EVIL_WORD],
    ["status", EVIL_WORD],
    ["status", f"--{EVIL_WORD}"],
    ["status", f"--watch={EVIL_WORD}"],
    ["explain", EVIL_WORD],
    ["explain", "writer", EVIL_WORD],
    ["logs", EVIL_WORD],
    ["logs", "--since", EVIL_WORD],
    ["logs", "--tail", EVIL_WORD],
    ["logs", "--grep", f"({EVIL_WORD}"],
    ["events", EVIL_WORD],
    ["events", "--event", EVIL_WORD],
    ["events", "--reason", EVIL_WORD],
    ["events", "--since", EVIL_WORD],
    ["start", EVIL_WORD],
    ["start", "writer", "--timeout", EVIL_WORD],
    ["stop", EVIL_WORD],
    ["restart", EVIL_WORD],
    ["wait", "--for", EVIL_WORD],
    ["wait", EVIL_WORD],
    ["signal", EVIL_WORD, "writer"],
    ["check", EVIL_WORD],
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[0] if words[0] != EVIL_WORD else "evil")
def test_hostile_words_are_refused_in_plain_text(words: list[str], running: Stack) -> None:
    with terminal("server", *words, "--home", str(running.home)) as screen:
        output = screen.read_to_end()
        assert screen.process.returncode == 2
    assert len(output) > 20
    assert unexpected_bytes(output, live=words[0] == "start") == set()


HOSTILE_FILES = [
    '["a\\u001b[31m\\u202e"]\nkey = 1\n',
    '[component."a\\u001b[31m\\u202e"]\ncommand = "true"\n',
    '[component.a]\n"k\\u001b[31m\\u202e" = 1\n',
    '[component.a]\ncommand = "true"\nrestart.policy = "\\u001b[31m\\u202e"\n',
    '[component.a]\ncommand = "true"\ndepends_on = { "\\u001b[31m\\u202e" = "ready" }\n',
    '[component.a]\ncommand = "true"\nliveness = { http = { url = "http://\\u001b[31m\\u202e" } }\n',
    '[component.a]\ncommand = "${NO\\u001b[31m\\u202e}"\n',
    '[component.a]\ncommand = "true"\nenv_file = "\\u001b[31m\\u202e"\n',
    "[component.a]\ncommand = \u202e\u2066\n",
    "\x1b[31m = \x07\n",
]


@pytest.mark.parametrize("text", HOSTILE_FILES)
def test_mistakes_in_a_hostile_file_are_told_in_plain_text(text: str, tmp_path: Path) -> None:
    file = tmp_path / f"{EVIL_WORD}.toml"
    file.write_text(text)
    with terminal("server", "check", str(file)) as screen:
        output = screen.read_to_end()
        assert screen.process.returncode == 2, output
    assert unexpected_bytes(output) == set()


def test_start_with_a_hostile_file_is_refused_in_plain_text(tmp_path: Path) -> None:
    file = tmp_path / f"{EVIL_WORD}.toml"
    file.write_text(HOSTILE_FILES[2])
    with terminal("server", "start", "--config", str(file), "--home", str(tmp_path / "home")) as screen:
        output = screen.read_to_end()
        assert screen.process.returncode == 2, output
    assert unexpected_bytes(output, live=True) == set()


def test_dead_daemon_and_its_end_are_told_in_plain_text(tmp_path: Path) -> None:
    home = tmp_path / f"evil {EVIL_FOLDER}"
    home.mkdir(mode=0o700)
    (home / "writer.py").write_text(WRITER)
    with stack(home) as one:
        one.configure(CONFIGURATION)
        one.start()
        one.wait_state("crasher", "failed")
        one.kill()
        for words in (["status", "--verbose"], ["explain", "condemned"], ["stop"]):
            output = sent(one, *words)
            assert len(output) > 20
            assert unexpected_bytes(output, live=words == ["stop"]) == set()
        os.rename(home / "logs", home / "gone")
        assert unexpected_bytes(sent(one, "logs", "--no-follow")) == set()
        os.rename(home / "gone", home / "logs")
