"""Presets, defaults and components on top of each other."""

from __future__ import annotations

import pytest

from stigmerd.config.merge import layered
from stigmerd.core.spec import Condition, ContainerSpec, ExecHandler, ProcessHandler, ProcessSpec, TcpHandler
from tests.config.conftest import Home


def test_later_layers_win_key_by_key() -> None:
    merged = layered(
        "a",
        {"command": ["p"], "env": {"A": "p", "B": "p", "C": "p"}, "ports": [1], "restart": {"jitter": 0.1}},
        {"env": {"B": "d", "C": "d"}, "restart": {"jitter": 0.2, "window": 3}},
        {"env": {"C": "o"}, "ports": [2, 3], "restart": {"window": 4}},
    )
    assert merged == {
        "command": ["p"],
        "env": {"A": "p", "B": "d", "C": "o"},
        "ports": [2, 3],
        "restart": {"jitter": 0.2, "window": 4},
    }


def test_layers_are_left_as_they_were() -> None:
    preset, defaults, own = {"env": {"A": "1"}}, {"env": {"B": "2"}}, {"env": {"C": "3"}}
    layered("a", preset, defaults, own)
    assert (preset, defaults, own) == ({"env": {"A": "1"}}, {"env": {"B": "2"}}, {"env": {"C": "3"}})


def test_handler_replaces_a_handler_and_the_rest_of_the_probe_stays(home: Home) -> None:
    component = home.component("""
[defaults.liveness]
tcp = { address = "a:1" }
period = "3s"
[component.a]
command = "a"
liveness = { exec = { command = "check" }, failure_threshold = 7 }
""")
    assert component.liveness is not None
    assert component.liveness.handler == ExecHandler(command=("check",))
    assert (component.liveness.period, component.liveness.failure_threshold) == (3.0, 7)


def test_handler_of_the_same_kind_is_replaced_as_a_whole() -> None:
    own = {"liveness": {"grpc": {"address": "b:2"}}}
    merged = layered("a", {"liveness": {"grpc": {"address": "a:1", "service": "s"}, "period": 2}}, {}, own)
    assert merged["liveness"] == {"grpc": {"address": "b:2"}, "period": 2}


def test_default_probe_without_a_handler_changes_probes_and_makes_none(home: Home) -> None:
    with_probe, without = home.load("""
[defaults.readiness]
period = "7s"
[component.with]
command = "a"
readiness = { tcp = { address = "a:1" } }
[component.without]
command = "b"
""").components.values()
    assert with_probe.readiness is not None
    assert (with_probe.readiness.handler, with_probe.readiness.period) == (TcpHandler(host="a", port=1), 7.0)
    assert without.readiness is None


def test_default_probe_with_a_handler_is_everybodys(home: Home) -> None:
    component = home.component("[defaults]\nliveness.process = {}\n[component.a]\ncommand = 'a'\n")
    assert component.liveness is not None
    assert component.liveness.handler == ProcessHandler()


def test_defaults_fit_processes_and_containers_alike(home: Home) -> None:
    process, container = home.load("""
[defaults]
nofile = 100
cwd = "/"
env = { A = "1" }
container.pull = "missing"
container.labels = { team = "x" }
[component.process]
command = "a"
[component.container]
container = { image = "i" }
""").components.values()
    assert process.runs == ProcessSpec(argv=("a",), cwd="/", env={"A": "1"}, nofile=100)
    assert container.runs == ContainerSpec(
        image="i", name="stigmerd-container", env={"A": "1"}, pull="missing", labels={"team": "x"}
    )


def test_default_dependency_is_not_on_the_component_itself(home: Home) -> None:
    stack = home.load("""
[defaults.depends_on]
db = "ready"
[component.db]
command = "db"
[component.web]
command = "web"
""")
    assert stack.components["db"].depends_on == {}
    assert stack.components["web"].depends_on == {"db": Condition.READY}


@pytest.mark.parametrize("key", ["preset = 'temporal'", "command = 'x'", "ports = [1]"])
def test_defaults_have_no_key_that_only_one_component_can_have(home: Home, key: str) -> None:
    (message,) = home.messages(f"[defaults]\n{key}\n[component.a]\ncommand = 'a'\n")
    assert message.startswith(f"defaults.{key.split()[0]} is not a known key")


def test_own_command_replaces_the_container_of_the_preset(home: Home) -> None:
    component = home.component("[component.agent]\npreset = 'agent-runner'\ncommand = 'agent'\n")
    assert component.runs == ProcessSpec(argv=("agent",), cwd=str(home.folder), pass_env=component.runs.pass_env)
    assert component.optional
    assert component.liveness is None


def test_own_container_replaces_the_command_of_the_preset(home: Home) -> None:
    component = home.component("[component.t]\npreset = 'temporal'\ncontainer = { image = 'temporal' }\n")
    assert component.runs == ContainerSpec(image="temporal", name="stigmerd-t")
    assert component.ports == (7233, 8233)
