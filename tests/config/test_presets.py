"""The presets carry what the programs of Stigmer read."""

from __future__ import annotations

import dataclasses

import pytest

from stigmerd.config import presets
from stigmerd.config.presets import PRESETS, Setting
from stigmerd.core.spec import Condition, ContainerHandler, ContainerSpec, GrpcHandler, ProcessHandler, ProcessSpec
from tests.config.conftest import Home

BINARY = '[daemon]\nstigmer_binary = "/opt/stigmer/bin/stigmer"\n'
SERVER = '[component.stigmer-server]\npreset = "stigmer-server"\n'
SERVES = GrpcHandler(address="127.0.0.1:7234")
TEMPORAL_CLIENT = {"TEMPORAL_SERVICE_ADDRESS": "localhost:7233", "TEMPORAL_NAMESPACE": "default"}


def test_stigmer_server(home: Home) -> None:
    component = home.component(BINARY + SERVER)
    assert component.runs == ProcessSpec(
        argv=("/opt/stigmer/bin/stigmer", "internal-server"),
        cwd=str(home.folder),
        env={
            "STIGMER_DATA_DIR": f"{home.folder}/data",
            "STIGMER_LOG_DIR": f"{home.folder}/logs",
            "GRPC_PORT": "7234",
            **TEMPORAL_CLIENT,
        },
        pass_env=presets.PASSED_ENV,
    )
    assert component.ports == (7234,)
    assert [probe.handler for probe in component.probes.values()] == [SERVES, SERVES, SERVES]


def test_workflow_runner(home: Home) -> None:
    stack = home.load(f'{BINARY}{SERVER}[component.workflow-runner]\npreset = "workflow-runner"\n')
    component = stack.components["workflow-runner"]
    assert component.runs == ProcessSpec(
        argv=("/opt/stigmer/bin/stigmer", "internal-workflow-runner"),
        cwd=str(home.folder),
        env={
            "STIGMER_DATA_DIR": f"{home.folder}/data",
            "STIGMER_LOG_DIR": f"{home.folder}/logs",
            **TEMPORAL_CLIENT,
            "EXECUTION_MODE": "temporal",
            "TEMPORAL_WORKFLOW_EXECUTION_RUNNER_TASK_QUEUE": "workflow_execution_runner",
            "TEMPORAL_ZIGFLOW_EXECUTION_TASK_QUEUE": "zigflow_execution",
            "TEMPORAL_WORKFLOW_VALIDATION_RUNNER_TASK_QUEUE": "workflow_validation_runner",
            "STIGMER_BACKEND_ENDPOINT": "localhost:7234",
            "STIGMER_SERVICE_USE_TLS": "false",
        },
        pass_env=presets.PASSED_ENV,
    )
    assert component.depends_on == {"stigmer-server": Condition.READY}
    assert component.readiness is not None
    assert component.readiness.handler == ProcessHandler(min_uptime=10.0)


def test_agent_runner(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_linux(monkeypatch)
    component = home.component('[component.agent-runner]\npreset = "agent-runner"\n')
    assert component.runs == ContainerSpec(
        image="stigmer-agent-runner:local",
        name="stigmer-agent-runner",
        env={
            "MODE": "local",
            "TASK_QUEUE": "agent_execution_runner",
            "SANDBOX_TYPE": "filesystem",
            "WORKSPACE_ROOT": "/workspace",
            "STIGMER_BACKEND_ENDPOINT": "localhost:7234",
            **TEMPORAL_CLIENT,
        },
        pass_env=presets.PASSED_ENV,
        network="host",
        volumes=("workspace:/workspace",),
    )
    assert component.optional
    assert component.liveness is not None
    assert component.liveness.handler == ContainerHandler()


def as_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have presets be those of Linux."""
    real = PRESETS["agent-runner"]
    table = {**PRESETS, "agent-runner": lambda setting: real(dataclasses.replace(setting, is_macos=False))}
    monkeypatch.setattr("stigmerd.config.load.PRESETS", table)


def test_agent_runner_on_macos_reaches_the_machine_by_its_name() -> None:
    preset = presets.agent_runner(Setting(home="/h", is_macos=True))
    container = preset.table["container"]
    assert "network" not in container
    assert container["env"]["STIGMER_BACKEND_ENDPOINT"] == "host.docker.internal:7234"
    assert container["env"]["TEMPORAL_SERVICE_ADDRESS"] == "host.docker.internal:7233"
    assert preset.extra_hosts == {"host.docker.internal": "host-gateway"}


def test_temporal(home: Home) -> None:
    component = home.component('[component.temporal]\npreset = "temporal"\n')
    database = f"{home.folder}/temporal.db"
    argv = f"temporal server start-dev --port 7233 --ui-port 8233 --db-filename {database}"
    assert component.runs == ProcessSpec(argv=tuple(argv.split()), cwd=str(home.folder))
    assert component.ports == (7233, 8233)
    serves = GrpcHandler(address="127.0.0.1:7233", service="temporal.api.workflowservice.v1.WorkflowService")
    assert [probe.handler for probe in component.probes.values()] == [serves, serves, serves]


@pytest.mark.parametrize("name", ["stigmer-server", "workflow-runner"])
def test_preset_of_the_go_program_says_how_to_name_it(home: Home, name: str) -> None:
    (message,) = home.messages(f"[component.x]\npreset = '{name}'\n[component.stigmer-server]\ncommand = 's'\n")
    assert message == (
        f'component.x.preset is "{name}", which runs the Go program of Stigmer: '
        'name it in [daemon], stigmer_binary = "/path/to/stigmer"'
    )


def test_preset_may_be_named_by_a_variable(home: Home) -> None:
    plain = home.component("[component.x]\npreset = 'temporal'\n")
    assert home.component("[component.x]\npreset = '${P}'\n", {"P": "temporal"}) == plain
    (message,) = home.messages("[component.x]\npreset = '${P}'\n", {"P": "stigmer-server"})
    assert message.startswith('component.x.preset is "${P}", which runs the Go program of Stigmer: ')


def test_preset_with_a_command_of_its_own_needs_no_go_program(home: Home) -> None:
    component = home.component(f'{SERVER}command = "my-server"\nenv = {{ GRPC_PORT = "1" }}\n')
    assert isinstance(component.runs, ProcessSpec)
    assert component.runs.argv == ("my-server",)
    assert component.runs.env["GRPC_PORT"] == "1"
    assert component.runs.env["TEMPORAL_NAMESPACE"] == "default"


def test_go_program_named_by_a_variable_is_shown_as_written(home: Home) -> None:
    text = f'[daemon]\nstigmer_binary = "${{ROOT}}/stigmer"\n{SERVER}'
    component = home.component(text, {"ROOT": "/secret/place"})
    assert isinstance(component.runs, ProcessSpec)
    assert component.runs.argv[0] == "/secret/place/stigmer"
    assert component.display_command == ("${ROOT}/stigmer", "internal-server")


def test_home_with_a_dollar_in_its_name_is_taken_as_it_is() -> None:
    preset = presets.temporal(Setting(home="/h/$${X}"))
    assert preset.table["command"][-1] == "/h/$$$${X}/temporal.db"


def test_keys_are_passed_on_by_name_only(home: Home) -> None:
    text = '[component.agent-runner]\npreset = "agent-runner"\n'
    with_key = home.component(text, {"OPENAI_API_KEY": "sk-s3cret"})
    assert "OPENAI_API_KEY" in with_key.runs.pass_env
    assert "s3cret" not in repr(with_key)
    assert with_key.definition == home.component(text, {}).definition
    wanted = {"STIGMER_LLM_PROVIDER", "STIGMER_LLM_MODEL", "STIGMER_LLM_BASE_URL", "OLLAMA_BASE_URL"}
    assert wanted <= set(with_key.runs.pass_env)
