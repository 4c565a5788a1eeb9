"""What ``--json`` prints is what docs/json.md says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.daemons import Stack, stack, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "json.md"


def documented(table: str) -> set[str]:
    """The keys of one table of the page."""
    (rows,) = re.findall(rf"<!-- keys: {table} -->\n(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)
    return {key for row in rows.splitlines()[2:] for key in re.findall(r"`(\w+)`", row.split("|")[1])}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with one component."""
    with stack(tmp_path_factory.mktemp("home")) as one:
        one.configure('[component.a]\ncommand = ["sleep", "1000"]\nstop.grace = "2s"\nliveness.process = {}\n')
        one.start()
        one.wait_state("a", "running")
        yield one


def told(running: Stack, *words: str) -> Any:
    """The document of one command."""
    return json.loads(running.cli(*words, "--json").stdout)


def test_status_has_the_keys_of_the_page(running: Stack) -> None:
    for words in (["status"], ["start"], ["status", "--verbose"]):
        document = told(running, *words)
        assert document.keys() == documented("status")
        assert document["daemon"].keys() == documented("daemon")
        (component,) = document["components"]
        assert component.keys() == documented("component")
        assert [probe.keys() for probe in component["probes"]] == [documented("probe")]


@pytest.mark.parametrize("words", ["signal WINCH a", "restart a", "stop a", "start a"])
def test_operations_have_the_keys_of_the_page(running: Stack, words: str) -> None:
    (operation,) = told(running, *words.split())["components"]
    assert operation.keys() == documented("operation")


def test_other_documents_have_the_keys_of_the_page(running: Stack) -> None:
    assert told(running, "reload", "--dry-run").keys() == documented("reload")
    assert {key for finding in told(running, "doctor") for key in finding} == documented("finding")
    assert told(running, "check").keys() == {"source", "components", "errors"}
    assert told(running, "wait") == {"for": "running", "missing": []}
    assert told(running, "restart", "--daemon").keys() == {"pid", "version"}


def test_errors_have_the_keys_of_the_page(tmp_path: Path) -> None:
    with stack(tmp_path) as one:
        one.configure("nonsense")
        document = told(one, "check")
        assert document.keys() == {"source", "components", "errors"}
        assert document["errors"][0].keys() == documented("error")


def test_missing_components_are_told_by_wait(running: Stack) -> None:
    assert told(running, "wait", "a", "--for", "stopped", "--timeout", "0.1") == {
        "for": "stopped",
        "missing": [{"name": "a", "state": "running", "message": None}],
    }


UNREADY = """
[component.failed]
command = ["sh", "-c", "exit 7"]
restart.policy = "never"

[component.starting]
command = ["sleep", "1000"]
startup = { exec = { command = ["false"] }, failure_threshold = 1000 }

[component.unready]
command = ["sleep", "1000"]
readiness = { exec = { command = ["false"] } }
"""


def test_wait_tells_of_what_has_failed_and_why_others_are_not_up_or_ready(tmp_path: Path) -> None:
    with stack(tmp_path) as one:
        one.configure(UNREADY)
        one.start()
        one.wait_state("failed", "failed")
        one.wait_state("unready", "running")
        wait_until(lambda: all(one.component(name)["probes"][0]["message"] for name in ("starting", "unready")))
        done = one.cli("wait", "--for", "ready", "--json")
        missing = {told["name"]: told for told in json.loads(done.stdout)["missing"]}
        assert (done.returncode, list(missing)) == (1, ["failed", "starting", "unready"])
        assert missing["failed"]["message"].startswith("exited with code 7")
        assert missing["starting"]["message"].startswith("its startup probe has not passed yet: ")
        assert missing["unready"]["message"].startswith("its readiness probe has not passed yet: ")
        assert done.stderr.startswith("failed is failed: exited with code 7")
        assert done.stderr.count("\n") == 1
        late = one.cli("wait", "starting", "--timeout", "0.1")
        assert "starting is starting: not running after 0.1 s: its startup probe has not passed yet" in late.stderr


def test_stop_without_a_daemon_tells_what_was_ended(tmp_path: Path) -> None:
    with stack(tmp_path) as one:
        one.configure('[component.a]\ncommand = ["sleep", "1000"]\n')
        one.start()
        one.wait_state("a", "running")
        one.kill()
        (ended,) = told(one, "stop")["components"]
        assert (ended["name"], ended["state"], ended["ok"]) == ("a", "stopped", True)
        assert told(one, "stop") == {"components": []}


@pytest.mark.parametrize(
    "words", ["start", "stop a", "start a", "restart a", "signal WINCH a", "wait", "reload", "check"]
)
def test_quiet_prints_nothing_where_nothing_is_wrong(running: Stack, words: str) -> None:
    done = running.cli(*words.split(), "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
