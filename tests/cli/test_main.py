"""How the command line is read, and how every command ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from stigmerd import __version__
from stigmerd.cli import app
from stigmerd.cli.__main__ import hoist_home, main, recognize_status
from stigmerd.cli.errors import CommandError

COMMANDS = (
    *("start", "stop", "restart", "signal", "wait", "status", "logs"),
    *("events", "explain", "reload", "check", "init", "schema", "doctor"),
)

HEAVY = ("trio", "grpc", "docker", "httpcore", "hypercorn", "cyclopts", "rich")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """One command, within this process."""

    def command(*words: str) -> Done:
        return Done(main(words), *capsys.readouterr())

    return command


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("server status", ((), None, False, False)),
        ("server status --json", ((), None, False, True)),
        ("server status a b -v", (("a", "b"), None, True, False)),
        ("server status --home /x --verbose a", (("a",), "/x", True, False)),
        ("server status --home=/x", ((), "/x", False, False)),
        ("server status --watch", None),
        ("server status --help", None),
        ("server status --json --json", None),
        ("server status --home", None),
        ("server status --home --json", None),
        ("server status -- a", None),
        ("server stop", None),
        ("", None),
    ],
)
def test_fast_path_takes_only_what_it_knows_exactly(
    line: str, expected: tuple[tuple[str, ...], str | None, bool, bool] | None
) -> None:
    assert recognize_status(line.split()) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("server --home /x status a", "server status a --home /x"),
        ("--home=/x server stop --now", "server stop --home=/x --now"),
        ("server status --home /x", "server status --home /x"),
        ("server --home /x", "server --home /x"),
        ("server", "server"),
    ],
)
def test_home_may_stand_before_the_command(line: str, expected: str) -> None:
    assert hoist_home(line.split()) == expected.split()


@pytest.mark.parametrize(
    "words",
    [
        ["server", "schema", "--home", "/x"],
        ["--home=/x", "server", "schema"],
        ["completion", "bash", "--home", "/x"],
        ["--home", "/x", "completion", "bash"],
    ],
)
def test_home_may_be_named_also_where_none_is_looked_at(words: list[str], run: Callable[..., Done]) -> None:
    done = run(*words)
    assert (done.code, done.err) == (0, "")
    assert done.out


def test_status_imports_nothing_heavy_without_and_with_a_home(tmp_path: Path) -> None:
    code = (
        "import sys; from stigmerd.cli.__main__ import main; "
        f"main(['server', 'status', '--home', {str(tmp_path)!r}]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_logs_and_events_import_no_runtime(tmp_path: Path) -> None:
    code = (
        "import sys; from stigmerd.cli.__main__ import main; "
        f"[main(['server', word, '--home', {str(tmp_path)!r}]) for word in ('logs', 'events', 'check')]; "
        f"sys.stderr.write(str([name for name in {HEAVY[:5]!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.endswith("[]")


def test_version_is_told(run: Callable[..., Done]) -> None:
    assert run("--version").out == f"stigmer {__version__}\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["server", "strat"], "Did you mean: stigmer server start?"),
        (["serv"], 'Did you mean "server"'),
        (["server", "status", "--vebrose"], "--verbose"),
        (["server", "stop", "--timeout", "soon"], "--timeout soon: give a duration"),
        (["server", "logs", "--since", "soon"], "--since soon"),
        (["server", "logs", "--grep", "("], "--grep"),
        (["server", "logs", "--tail", "-1"], "--tail"),
        (["server", "logs", "--raw", "--json"], "exclude each other"),
        (["server", "events", "--event", "exitd"], "Did you mean 'exited'?"),
        (["server", "events", "--reason", "xyzzy"], "There are: budget,"),
        (["server", "events", "--tail", "-1"], "--tail"),
        (["server", "signal", "KILL", "web"], "stigmer server stop"),
        (["server", "signal", "FOO", "web"], "There is no signal"),
        (["server", "signal", "HUP"], "Name the components"),
        (["server", "restart", "--daemon", "web"], "leave the names out"),
        (["server", "start", "web", "--config", "x"], "--config is for the start of the daemon"),
        (["server", "wait", "--for", "godot"], "godot"),
        (["server", "explain"], "name"),
    ],
)
def test_misuse_is_exit_2_with_the_way_out(
    words: list[str], hint: str, tmp_path: Path, run: Callable[..., Done]
) -> None:
    home = ["--home", str(tmp_path)] if len(words) > 1 else []
    done = run(*words, *home)
    assert done.code == 2
    assert hint.lower() in done.err.lower()
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 3


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["status", "--json"],
        ["status", "--watch"],
        ["start", "web"],
        ["restart"],
        ["restart", "--daemon"],
        ["signal", "HUP", "web"],
        ["wait"],
        ["reload"],
    ],
)
def test_without_a_daemon_commands_say_how_to_start_one(
    words: list[str], tmp_path: Path, run: Callable[..., Done]
) -> None:
    done = run("server", *words, "--home", str(tmp_path / "home"))
    assert done.code == 3
    assert done.err == (
        f"The daemon is not running (home {tmp_path / 'home'}). "
        f"Start it with: stigmer server start --home {tmp_path / 'home'}\n"
    )
    assert not (tmp_path / "home").exists()


def test_status_as_json_is_a_document_even_where_nothing_ever_ran(tmp_path: Path, run: Callable[..., Done]) -> None:
    done = run("server", "status", "--json", "--home", str(tmp_path / "home"))
    assert done.code == 3
    assert json.loads(done.out) == {"schema": 1, "daemon": None, "healthy": False, "components": []}


@pytest.mark.parametrize(
    "words", [["stop"], ["stop", "--now"], ["wait", "--for", "stopped"], ["logs"], ["events"], ["check"]]
)
def test_without_a_daemon_these_work_all_the_same(
    words: list[str], tmp_path: Path, run: Callable[..., Done]
) -> None:
    assert run("server", *words, "--home", str(tmp_path / "home")).code == 0


def test_hint_leaves_out_the_home_where_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STIGMER_HOME", str(tmp_path))
    assert main(["server", "status"]) == 3
    assert capsys.readouterr().err.endswith("Start it with: stigmer server start\n")


def test_home_that_others_can_write_is_refused_with_the_remedy(tmp_path: Path, run: Callable[..., Done]) -> None:
    tmp_path.chmod(0o777)
    done = run("server", "status", "--home", str(tmp_path))
    assert done.code == 1
    assert f"chmod go-w {tmp_path}" in done.err


def test_reader_that_leaves_early_causes_no_complaint() -> None:
    command = f"{sys.executable} -m stigmerd.cli server schema | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.parametrize("words", ["--help", "server --help", "server start --help", "server schema"])
def test_reader_that_has_gone_makes_no_command_fail(words: str) -> None:
    command = [sys.executable, "-m", "stigmerd.cli", *words.split()]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [(">/dev/full", 1, "No space left on device"), (">&-", 0, ""), ("2>&-", 0, "")],
)
def test_output_that_cannot_be_written_is_no_traceback(redirection: str, code: int, said: str) -> None:
    if "full" in redirection and not Path("/dev/full").exists():
        pytest.skip("Linux only: /dev/full")
    command = f"{sys.executable} -m stigmerd.cli server schema {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 1


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_no_locale_breaks_the_output(locale: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stigmerd.cli", "server", "doctor", "--home", str(tmp_path)]
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert b"Traceback" not in done.stderr
    assert b"platform" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["server", name, "--help"]) == 0
    assert f"stigmer server {name}" in capsys.readouterr().out.split("Examples")[1]


@pytest.mark.parametrize("words", [["help"], ["server", "help"], ["server", "--help"], ["completion", "--help"]])
def test_help_is_there_by_other_ways_too(words: list[str], run: Callable[..., Done]) -> None:
    done = run(*words)
    assert done.code == 0
    assert "Usage: stigmer" in done.out
    assert max(len(line) for line in done.out.splitlines()) <= 80


@pytest.mark.parametrize("words", [["check", "FILE"], ["check", "--config", "FILE"]])
def test_configuration_to_check_is_named_either_way(words: list[str], tmp_path: Path, run: Callable[..., Done]) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[component.a]\ncommand = 'x'\n")
    file.chmod(0o600)
    done = run("server", *(str(file) if word == "FILE" else word for word in words))
    assert (done.code, done.out) == (0, f"{file} is valid: 1 component (a)\n")


def test_unknown_command_raises_what_main_prints() -> None:
    with pytest.raises(CommandError, match="stigmer server status"):
        app.run(["server", "statsu"])


def test_completion_scripts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert "stigmer" in capsys.readouterr().out
