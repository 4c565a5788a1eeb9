"""Completion: what a shell offers after TAB."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stigmerd.cli.complete import component_names
from tests.system.daemons import Stack, stack, wait_until

CONFIGURATION = """
[component.web]
command = ["sleep", "1000"]

[component.web-two]
command = ["sleep", "1000"]
enabled = false
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with two components."""
    with stack(tmp_path_factory.mktemp("home")) as one:
        one.configure(CONFIGURATION)
        one.start()
        one.wait_state("web", "running")
        yield one


def run_shell(shell: str, script: str, home: Path) -> list[str]:
    """The lines that a script in a shell prints, where ``stigmer`` is this program."""
    if shutil.which(shell) is None:
        pytest.skip(f"Linux only: there is no {shell} here")
    bin_folder = home / "bin"
    bin_folder.mkdir(exist_ok=True)
    program = bin_folder / "stigmer"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m stigmerd.cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "STIGMER_HOME": str(home)}
    done = subprocess.run(
        [shell, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


def complete_in_bash(line: str, home: Path) -> list[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    return run_shell(
        "bash",
        'source /dev/stdin <<<"$(stigmer completion bash)"; '
        f"COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}; _stigmer; "
        'printf "%s\\n" "${COMPREPLY[@]}"',
        home,
    )


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("stigmer ser", ["server"]),
        ("stigmer server res", ["restart"]),
        ("stigmer server reload --dr", ["--dry-run"]),
        ("stigmer server wait --for r", ["running", "ready"]),
        ("stigmer server status w", ["web", "web-two"]),
        ("stigmer server status web w", ["web-two"]),
        ("stigmer server logs -f web-", ["web-two"]),
        ("stigmer server logs -c web-", ["web-two"]),
        ("stigmer server explain web-", ["web-two"]),
        ("stigmer server signal HU", ["HUP"]),
        ("stigmer server signal HUP web-", ["web-two"]),
        ("stigmer server status --home /nowhere w", ["workflow-runner"]),
    ],
)
def test_bash_completes_commands_options_choices_and_components(
    line: str, offered: list[str], running: Stack
) -> None:
    assert complete_in_bash(line, running.home) == offered


def test_fish_completes_components_with_their_states(running: Stack) -> None:
    script = 'stigmer completion fish | source; complete -C "stigmer server status w"'
    wait_until(lambda: run_shell("fish", script, running.home) == ["web", "running", "web-two", "stopped"])


def test_zsh_takes_the_script(running: Stack) -> None:
    assert run_shell("zsh", "stigmer completion zsh | zsh -n && echo fine", running.home) == ["fine"]


def test_names_come_from_the_state_and_from_the_file_where_no_daemon_runs(tmp_path: Path) -> None:
    with stack(tmp_path) as one:
        one.configure(CONFIGURATION)
        # A busy machine may take longer to answer than anybody would wait for a completion.
        wait_until(lambda: component_names(str(tmp_path)) == {"web": "", "web-two": ""})
        one.start()
        one.wait_state("web", "running")
        wait_until(lambda: component_names(str(tmp_path)) == {"web": "running", "web-two": "stopped"})
        one.end()
        (tmp_path / "stigmer.toml").write_text("nonsense")
        assert component_names(str(tmp_path)) == {"web": "", "web-two": ""}


@pytest.mark.parametrize("home", ["", "/dev/null", "/proc/none"])
def test_whatever_is_wrong_completes_to_nothing_or_the_reference_stack(home: str) -> None:
    assert component_names(home).keys() <= {"stigmer-server", "workflow-runner", "agent-runner"}
