"""``reload``: its plan, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.daemons import Stack, stack

BEFORE = """
[component.kept]
command = ["sleep", "1000"]

[component.api]
command = ["sleep", "1000"]
env = { TOKEN = "the old secret" }
stop.grace = "2s"

[component.proxy]
command = ["sleep", "1000"]
depends_on = { api = "started" }
on_dependency_restart = "restart"
stop.grace = "2s"

[component.worker]
command = ["sleep", "1000"]

[component.old]
command = ["sleep", "1000"]
stop.grace = "2s"

[component.leaving]
command = ["sleep", "1000"]
stop.grace = "2s"

[component.resting]
command = ["sleep", "1000"]
enabled = false
"""

AFTER = (
    '[daemon]\nlog_level = "debug"\n'
    + BEFORE.replace("[component.old]", "[component.new]")
    .replace("the old secret", "the new secret")
    .replace("[component.worker]", "[component.worker]\nrestart.max_restarts = 3")
    .replace("[component.leaving]", "[component.leaving]\nenabled = false")
    .replace('["sleep", "1000"]\nenabled = false', '"sleep 999"')
)

PLAN = """\
+ new: added
- old: stopped and removed
↻ api: restarted: env.TOKEN
~ worker: changed without a restart: restart.max_restarts
- leaving: stopped: enabled
+ resting: started: command, enabled
↻ proxy: restarted with its dependency: on_dependency_restart
~ the daemon: changed: log_level
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    """A stack that runs :data:`BEFORE`."""
    with stack(tmp_path) as one:
        one.configure(BEFORE)
        one.start()
        for name in ("kept", "api", "proxy", "worker", "old", "leaving"):
            one.wait_state(name, "running")
        yield one


def test_plan_names_keys_and_no_value_and_touches_nothing(running: Stack) -> None:
    running.configure(AFTER)
    done = running.cli("reload", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.startswith(PLAN + "Nothing was touched. Apply it with: stigmer server reload")
    assert "secret" not in done.stdout
    assert running.component("api")["life"] == 1
    told = json.loads(running.cli("reload", "--dry-run", "--json").stdout)
    assert (told["restarted"], told["keys"]["worker"]) == (["api"], ["restart.max_restarts"])
    assert "secret" not in json.dumps(told)


def test_reload_does_what_the_plan_says(running: Stack) -> None:
    running.configure(AFTER)
    done = running.cli("reload")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(PLAN)
    running.wait_state("api", "running", life=2)
    running.wait_state("proxy", "running", life=2)
    running.wait_state("new", "running")
    running.wait_state("resting", "running")
    assert running.component("leaving")["state"] == "stopped"
    assert [running.component(name)["life"] for name in ("kept", "worker")] == [1, 1]
    assert set(running.processes()) == {"kept", "api", "proxy", "worker", "new", "resting"}
    assert running.cli("reload").stdout == "Nothing has changed.\n"


def test_reload_of_a_wrong_file_names_every_error_and_is_remembered(running: Stack) -> None:
    running.configure('[component.a]\ncomand = "x"\nports = "y"\n')
    done = running.cli("reload")
    assert done.returncode == 2
    assert "component.a.comand" in done.stderr
    assert "component.a.ports" in done.stderr
    assert "not reloaded" in running.call("status")["daemon"]["problems"][0]
    assert running.component("api")["life"] == 1
    running.configure(BEFORE)
    assert running.cli("reload", "-q").stdout == ""
    assert running.call("status")["daemon"]["problems"] == []
