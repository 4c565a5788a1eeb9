"""The presets with programs that stand in for the Go program and for temporal.

On other ports than the presets' own, which may be in use here: that those are right is a question of
the configuration, and asked in its tests.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.probes.test_tcp import free_port
from tests.system.daemons import Stack, wait_until

pytestmark = pytest.mark.crashes

ROOT = Path(__file__).parents[2]

PROGRAM = f"""#!{sys.executable}
import json, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.adapters.probes.servers import grpc_serving, service_of

def check(request, context):
    return bytes([8, 1 if service_of(request) == os.environ.get("FAKE_SERVICE", "") else 3])

name = os.environ["STIGMER_COMPONENT"]
with open(name + ".draft", "w") as file:
    json.dump([sys.argv[1:], dict(os.environ)], file)
os.rename(name + ".draft", name + ".json")
if "FAKE_PORT" in os.environ:
    with grpc_serving(check, "127.0.0.1:" + os.environ["FAKE_PORT"]):
        signal.pause()
signal.pause()
"""

PROBES = """
startup = {{ grpc = {{ address = "127.0.0.1:{port}"{service} }}, period = "100ms", failure_threshold = 1000 }}
liveness = {{ grpc = {{ address = "127.0.0.1:{port}"{service} }} }}
readiness = {{ grpc = {{ address = "127.0.0.1:{port}"{service} }}, period = "100ms" }}
"""


def make_program(path: Path) -> Path:
    """A program that writes down how it was called, and serves gRPC health where it is told to."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return path


def told(home: Stack, component: str) -> tuple[list[str], dict[str, str]]:
    """The arguments and the environment that a program was called with."""
    path = home.home / f"{component}.json"
    wait_until(path.exists)
    argv, environment = json.loads(path.read_text())
    return argv, environment


def subset(environment: dict[str, str], names: Any) -> dict[str, str | None]:
    """The variables of these names."""
    return {name: environment.get(name) for name in names}


def test_go_program_is_called_as_it_wants_to_be(home: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-outside")
    port, program = free_port(), make_program(home.home / "go" / "stigmer")
    home.configure(
        f"""
        [daemon]
        stigmer_binary = "{program}"
        [component.stigmer-server]
        preset = "stigmer-server"
        ports = [{port}]
        env = {{ FAKE_PORT = "{port}" }}
        {PROBES.format(port=port, service="")}
        [component.workflow-runner]
        preset = "workflow-runner"
        readiness = {{ process = {{ min_uptime = "100ms" }}, period = "50ms" }}
        """
    )
    home.start()
    wait_until(lambda: home.component("workflow-runner")["ready"])
    shared = {
        "STIGMER_DATA_DIR": f"{home.home}/data",
        "STIGMER_LOG_DIR": f"{home.home}/logs",
        "TEMPORAL_SERVICE_ADDRESS": "localhost:7233",
        "TEMPORAL_NAMESPACE": "default",
        "OPENAI_API_KEY": "sk-from-outside",
    }
    argv, environment = told(home, "stigmer-server")
    wanted = {**shared, "GRPC_PORT": "7234"}
    assert (argv, subset(environment, wanted)) == (["internal-server"], wanted)
    argv, environment = told(home, "workflow-runner")
    wanted = {
        **shared,
        "EXECUTION_MODE": "temporal",
        "TEMPORAL_WORKFLOW_EXECUTION_RUNNER_TASK_QUEUE": "workflow_execution_runner",
        "TEMPORAL_ZIGFLOW_EXECUTION_TASK_QUEUE": "zigflow_execution",
        "TEMPORAL_WORKFLOW_VALIDATION_RUNNER_TASK_QUEUE": "workflow_validation_runner",
        "STIGMER_BACKEND_ENDPOINT": "localhost:7234",
        "STIGMER_SERVICE_USE_TLS": "false",
    }
    assert (argv, subset(environment, wanted)) == (["internal-workflow-runner"], wanted)


def test_temporal_is_found_on_the_components_path_and_asked_for_its_service(home: Stack) -> None:
    port, program = free_port(), make_program(home.home / "bin" / "temporal")
    service = "temporal.api.workflowservice.v1.WorkflowService"
    home.configure(
        f"""
        [component.temporal]
        preset = "temporal"
        ports = [{port}]
        env = {{ FAKE_PORT = "{port}", FAKE_SERVICE = "{service}", PATH = "{program.parent}:{os.environ["PATH"]}" }}
        {PROBES.format(port=port, service=f', service = "{service}"')}
        """
    )
    home.start()
    wait_until(lambda: home.component("temporal")["ready"])
    argv, _ = told(home, "temporal")
    assert argv == f"server start-dev --port 7233 --ui-port 8233 --db-filename {home.home}/temporal.db".split()
