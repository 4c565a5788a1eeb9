"""What is typed, set or found wrong: one or two lines with the way out, the right exit code, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.daemons import Stack, stack

CONFIGURATION = '[component.web]\ncommand = ["sleep", "1000"]\n'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that no wrong word may touch."""
    with stack(tmp_path_factory.mktemp("home")) as one:
        one.configure(CONFIGURATION)
        one.start()
        one.wait_state("web", "running")
        yield one
        assert one.component("web")["life"] == 1


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Stack]:
    """A home without a daemon."""
    with stack(tmp_path) as one:
        yield one
        one.cli("stop", "--now")


def assert_told(done: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    """The command has ended as it should, and says so in two lines at most."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 2
    assert "Traceback" not in done.stderr


def stigmer(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """One command, without ``server`` and ``--home``."""
    command = [sys.executable, "-m", "stigmerd.cli", *words]
    return subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("strat", "Did you mean: stigmer server start?"),
        ("frobnicate", "There are: start, stop,"),
        ("status --vrebose", "Did you mean --verbose?"),
        ("reload --dryrun", "Did you mean --dry-run?"),
        ("stop --timeout", "--timeout requires an argument"),
        ("stop --timeout abc", "--timeout abc: give a duration, such as 30"),
        ("stop --timeout -1", "--timeout -1: give a duration"),
        ("wait --timeout nan", "--timeout nan: give a duration"),
        ("wait --timeout inf", "--timeout inf: give a duration"),
        ("wait --for", "--for requires an argument"),
        ("wait --for up", 'Choose from: "running", "ready", "stopped"'),
        ("logs --tail abc", "--tail"),
        ("logs --tail -1", "give a number of lines"),
        ("logs --since yesterday", "give a duration (10m) or a time"),
        ("logs --grep (", "--grep"),
        ("explain", "NAME requires an argument"),
        ("explain web more", "'more' is one word too many. See: stigmer server explain --help"),
        ("check a b", "'b' is one word too many"),
        ("signal HUP", "Name the components"),
        ("signal FROB web", "There is no signal 'FROB'"),
        ("signal KILL web", "use stigmer server stop"),
        ("restart --daemon web", "leave the names out"),
        ("stop --now=maybe", "--now"),
        ("start wbe", "Did you mean 'web'?"),
        ("start Web", "Did you mean 'web'?"),
        ("stop web.", "Did you mean 'web'?"),
        *((f"{word} ../web", "'../web' is no name of a component") for word in ("start", "stop", "restart", "wait")),
        *((f"{word} a/b", "'a/b' is no name of a component") for word in ("logs", "events", "explain", "signal HUP")),
        (f"start {'a' * 300}", "is no name of a component: those are 1 to 63 of"),
        ("logs -c ../web", "'../web' is no name of a component"),
        ("check /", "/ is no regular file"),
        ("check /no/such/file", "/no/such"),
        ("init --from /no/such/file", "/no/such/file cannot be read, No such file or directory"),
        ("init --from /", "Is a directory"),
    ],
)
def test_wrong_words_are_exit_2_with_the_way_out(running: Stack, words: str, said: str) -> None:
    assert_told(running.cli(*words.split(" ")), 2, said)


@pytest.mark.parametrize("words", ["explain", "logs", "events", "stop", "status", "wait --for stopped"])
def test_unknown_name_is_exit_2_also_where_no_daemon_ever_ran(empty: Stack, words: str) -> None:
    empty.configure(CONFIGURATION)
    assert_told(empty.cli(*words.split(), "wbe"), 2, "There is no component 'wbe'. Did you mean 'web'?")


@pytest.mark.parametrize("name", ["\x1b]0;x\x07", "\u202eweb", "we b", "web\n", "'", "%s"])
def test_hostile_names_are_refused_and_shown_escaped(running: Stack, name: str) -> None:
    done = running.cli("start", name)
    assert_told(done, 2, "is no name of a component")
    assert all(character.isprintable() or character == "\n" for character in done.stderr)


@pytest.mark.parametrize("word", ["status", "start", "logs"])
def test_bytes_that_are_no_text_are_shown_in_one_way(running: Stack, word: str) -> None:
    assert_told(running.cli(word, "\udcff"), 2, r"'\xff'")  # the byte 0xff, as the command gets it


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serv"], 'Did you mean "server"?'),
        (["--frob"], "--frob"),
        (["completion"], "SHELL requires an argument. See: stigmer completion --help"),
        (["completion", "tcsh"], 'Choose from: "bash", "zsh", "fish"'),
        (["server", "status", "--home"], "--home requires an argument"),
        (["server", "status", "--home", ""], "give one with --home"),
    ],
)
def test_wrong_words_before_the_command_are_exit_2_too(words: list[str], said: str) -> None:
    assert_told(stigmer(*words), 2, said)


@pytest.mark.parametrize("word", ["start", "stop", "status", "logs", "events", "check", "init", "wait", "reload"])
def test_home_that_is_a_file_or_below_one_is_told(empty: Stack, word: str) -> None:
    file = empty.home / "file"
    file.write_text("")
    assert_told(stigmer("server", word, "--home", str(file)), 1, "is a regular file, not a folder")
    assert_told(stigmer("server", word, "--home", str(file / "x")), 1, "Choose another home with --home")


@pytest.mark.parametrize("word", ["start", "init"])
def test_home_that_cannot_be_made_is_told(word: str) -> None:
    if sys.platform != "linux":
        pytest.skip("Linux only: /proc, where nobody can make a folder")
    done = stigmer("server", word, HOME="/proc", STIGMER_HOME="")
    assert_told(done, 1, "/proc/.stigmer cannot be used")


def test_home_of_somebody_else_is_told(empty: Stack, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("Linux only: giving a folder away needs root")
    place = tmp_path / "theirs"
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    assert_told(stigmer("server", "start", "--home", str(place)), 1, "belongs to user 65534")


def broken(kind: str, path: Path) -> None:
    """Put something that is no configuration where one should be."""
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to("/no/such/file")
    else:
        path.write_bytes(b"\xff\xfe")
        path.chmod(0o666 if kind == "writable by others" else 0o600)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("folder", "is no regular file: give the path of a file"),
        ("FIFO", "is no regular file"),
        ("dangling link", "cannot be read, No such file or directory"),
        ("binary", "the file is not UTF-8"),
        ("writable by others", "is writable by others: run chmod go-w"),
    ],
)
@pytest.mark.parametrize("words", [["check"], ["start"]])
def test_configuration_that_cannot_be_read_is_exit_2(empty: Stack, kind: str, said: str, words: list[str]) -> None:
    path = empty.home / "stigmer.toml"
    broken(kind, path)
    done = empty.cli(*words)
    assert_told(done, 2, said)
    assert done.stderr.count(str(path)) <= 2


def test_configuration_in_a_shared_folder_is_refused_without_bad_advice(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    file = shared / "stigmer.toml"
    file.write_text(CONFIGURATION)
    file.chmod(0o600)
    done = stigmer("server", "check", str(file), STIGMER_HOME=str(tmp_path))
    assert_told(done, 2, "put the file into a folder of its own")
    assert "chmod" not in done.stderr
