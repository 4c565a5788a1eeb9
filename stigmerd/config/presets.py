"""Ready-made tables for the programs of Stigmer and what they need. See docs/presets.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stigmerd.config.interpolate import escape

Table = dict[str, Any]

SERVER_PORT, TEMPORAL_PORT, TEMPORAL_UI_PORT = 7234, 7233, 8233

PASSED_ENV = (
    "STIGMER_LLM_PROVIDER",
    "STIGMER_LLM_MODEL",
    "STIGMER_LLM_BASE_URL",
    "STIGMER_LLM_API_KEY",
    "OLLAMA_BASE_URL",
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "DEEPSEEK_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "GROQ_API_KEY",
    "MISTRAL_API_KEY",
    "OPENROUTER_API_KEY",
)
"""LLM settings and keys, passed on from the daemon's environment by name where they are set there."""

AGENT_IMAGE = "stigmer-agent-runner:local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A table to start from, and what the file has no key for.

    ``table`` is as if it stood in the file, so a ``$`` in it is escaped. ``lacks_command`` says,
    where the table has no command yet, what to do about it.
    """

    table: Table = field(default_factory=dict)
    pass_env: tuple[str, ...] = ()
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    lacks_command: str | None = None


NONE = Preset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What presets depend on. ``stigmer_binary`` is as the file has it, ``home`` is absolute."""

    home: str
    stigmer_binary: str | None = None
    is_macos: bool = sys.platform == "darwin"


def stigmer_server(setting: Setting) -> Preset:
    """The Go program's gRPC server."""
    healthy = {"grpc": {"address": f"127.0.0.1:{SERVER_PORT}"}}
    table = {
        "ports": [SERVER_PORT],
        "env": {**_folders(setting), "GRPC_PORT": str(SERVER_PORT), **_temporal_client("localhost")},
        "startup": healthy,
        "liveness": healthy,
        "readiness": healthy,
    }
    return _go_program(setting, "internal-server", table)


def workflow_runner(setting: Setting) -> Preset:
    """The Go program's workflow worker."""
    table = {
        "depends_on": {"stigmer-server": "ready"},
        "env": {
            **_folders(setting),
            **_temporal_client("localhost"),
            "EXECUTION_MODE": "temporal",
            "TEMPORAL_WORKFLOW_EXECUTION_RUNNER_TASK_QUEUE": "workflow_execution_runner",
            "TEMPORAL_ZIGFLOW_EXECUTION_TASK_QUEUE": "zigflow_execution",
            "TEMPORAL_WORKFLOW_VALIDATION_RUNNER_TASK_QUEUE": "workflow_validation_runner",
            "STIGMER_BACKEND_ENDPOINT": f"localhost:{SERVER_PORT}",
            "STIGMER_SERVICE_USE_TLS": "false",
        },
        "readiness": {"process": {"min_uptime": "10s"}},
    }
    return _go_program(setting, "internal-workflow-runner", table)


def agent_runner(setting: Setting) -> Preset:
    """The agent worker, in a container."""
    host = host_from_container(is_macos=setting.is_macos)
    container = {
        "image": AGENT_IMAGE,
        "name": "stigmer-agent-runner",
        "volumes": ["workspace:/workspace"],
        "env": {
            "MODE": "local",
            "TASK_QUEUE": "agent_execution_runner",
            "SANDBOX_TYPE": "filesystem",
            "WORKSPACE_ROOT": "/workspace",
            "STIGMER_BACKEND_ENDPOINT": f"{host}:{SERVER_PORT}",
            **_temporal_client(host),
        },
        "pull": "never",
    }
    if not setting.is_macos:
        container["network"] = "host"
    return Preset(
        table={"optional": True, "container": container, "liveness": {"container": {}}},
        pass_env=PASSED_ENV,
        extra_hosts={host: "host-gateway"} if setting.is_macos else {},
    )


def host_from_container(*, is_macos: bool) -> str:
    """What this machine is called inside a container of the agent runner."""
    # Docker on macOS runs in a virtual machine: its "host" network is not this machine's.
    return "host.docker.internal" if is_macos else "localhost"


def temporal(setting: Setting) -> Preset:
    """Temporal's development server, with its database in the home."""
    serving = {
        "grpc": {
            "address": f"127.0.0.1:{TEMPORAL_PORT}",
            "service": "temporal.api.workflowservice.v1.WorkflowService",
        }
    }
    return Preset(
        table={
            "command": [
                *("temporal", "server", "start-dev"),
                *("--port", str(TEMPORAL_PORT), "--ui-port", str(TEMPORAL_UI_PORT)),
                *("--db-filename", escape(f"{setting.home}/temporal.db")),
            ],
            "ports": [TEMPORAL_PORT, TEMPORAL_UI_PORT],
            "startup": serving,
            "liveness": serving,
            "readiness": serving,
        }
    )


PRESETS: Mapping[str, Callable[[Setting], Preset]] = {
    "stigmer-server": stigmer_server,
    "workflow-runner": workflow_runner,
    "agent-runner": agent_runner,
    "temporal": temporal,
}


def _go_program(setting: Setting, subcommand: str, table: Table) -> Preset:
    if setting.stigmer_binary is None:
        return Preset(
            table=table,
            pass_env=PASSED_ENV,
            lacks_command='runs the Go program of Stigmer: name it in [daemon], stigmer_binary = "/path/to/stigmer"',
        )
    return Preset(table={"command": [setting.stigmer_binary, subcommand], **table}, pass_env=PASSED_ENV)


def _folders(setting: Setting) -> Table:
    return {
        "STIGMER_DATA_DIR": escape(f"{setting.home}/data"),
        "STIGMER_LOG_DIR": escape(f"{setting.home}/logs"),
    }


def _temporal_client(host: str) -> Table:
    return {"TEMPORAL_SERVICE_ADDRESS": f"{host}:{TEMPORAL_PORT}", "TEMPORAL_NAMESPACE": "default"}
