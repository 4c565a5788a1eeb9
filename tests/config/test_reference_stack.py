"""What runs where nothing is configured."""

from __future__ import annotations

import sys

import pytest

from stigmerd.config.load import is_stale, load_stack
from stigmerd.config.problems import ConfigError
from stigmerd.core.spec import Condition, ContainerSpec, GrpcHandler, ProcessSpec, StackSpec
from tests.config.conftest import Home

NAMES = ("stigmer-server", "workflow-runner", "agent-runner")


def reference(home: Home, environ: dict[str, str] | None = None, *, in_container: bool = False) -> StackSpec:
    """The stack of a home without a configuration."""
    return load_stack(None, home=str(home.folder), environ=environ or {}, agent_in_container=in_container)


def test_three_components_run_where_there_is_no_configuration(home: Home) -> None:
    stack = reference(home)
    assert stack.source is None
    assert tuple(stack.components) == NAMES
    assert [component.optional for component in stack.components.values()] == [False, False, True]


def test_each_command_line_holds_its_own_name_and_no_other(home: Home) -> None:
    for name, component in reference(home).components.items():
        assert isinstance(component.runs, ProcessSpec)
        assert component.runs.argv == (sys.executable, "-P", "-m", "stigmerd.reference", name)
        line = " ".join(component.runs.argv[1:])
        assert [other for other in NAMES if other in line] == [name]


@pytest.mark.parametrize(("environ", "port"), [({}, 7234), ({"GRPC_PORT": ""}, 7234), ({"GRPC_PORT": "50051"}, 50051)])
def test_server_is_probed_and_found_at_its_port(home: Home, environ: dict[str, str], port: int) -> None:
    server, worker, agent = reference(home, environ).components.values()
    assert server.ports == (port,)
    assert server.runs.env == {"GRPC_PORT": str(port)}
    serves = GrpcHandler(address=f"127.0.0.1:{port}")
    assert [probe.handler for probe in server.probes.values()] == [serves, serves, serves]
    for component in (worker, agent):
        assert component.runs.env == {"STIGMER_BACKEND_ENDPOINT": f"127.0.0.1:{port}"}
        assert component.depends_on == {"stigmer-server": Condition.READY}


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "7234 "])
def test_wrong_port_in_the_environment_is_an_error(home: Home, port: str) -> None:
    with pytest.raises(ConfigError, match=r"^GRPC_PORT in the environment is .*: give a port from 1 to 65535$"):
        reference(home, {"GRPC_PORT": port})


def test_agent_runner_is_a_container_where_its_image_is(home: Home) -> None:
    agent = reference(home, {"GRPC_PORT": "9999"}, in_container=True).components["agent-runner"]
    assert isinstance(agent.runs, ContainerSpec)
    assert agent.runs.image == "stigmer-agent-runner:local"
    assert agent.runs.env["STIGMER_BACKEND_ENDPOINT"].endswith(":9999")
    assert agent.depends_on == {"stigmer-server": Condition.READY}
    assert agent.optional


def test_workers_are_ready_once_they_run(home: Home) -> None:
    components = reference(home).components
    assert [components[name].readiness for name in ("workflow-runner", "agent-runner")] == [None, None]


def test_reference_stack_is_stale_once_there_is_a_configuration(home: Home) -> None:
    stack = reference(home)
    assert not is_stale(stack)
    home.write("")
    assert is_stale(stack)
