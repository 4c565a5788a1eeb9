"""The stack that runs where there is no configuration, as the document that would describe it."""

from __future__ import annotations

import sys
from typing import Any

from stigmerd.config.interpolate import escape
from stigmerd.config.presets import host_from_container

NAMES = ("stigmer-server", "workflow-runner", "agent-runner")
DEFAULT_PORT = 7234


def reference_document(*, port: int = DEFAULT_PORT, agent_in_container: bool = False) -> dict[str, Any]:
    """The document. ``port`` is the server's; ``agent_in_container``: an engine and the image are there.

    The workers have no readiness probe: what a first start shows at its end is healthy, all of it.
    """
    worker = {
        "depends_on": {"stigmer-server": "ready"},
        "env": {"STIGMER_BACKEND_ENDPOINT": f"127.0.0.1:{port}"},
    }
    agent = {"command": command("agent-runner"), **worker}
    if agent_in_container:
        host = host_from_container(is_macos=sys.platform == "darwin")
        env = {"STIGMER_BACKEND_ENDPOINT": f"{host}:{port}"}
        agent = {"preset": "agent-runner", "depends_on": worker["depends_on"], "container": {"env": env}}
    return {
        "component": {
            "stigmer-server": _server(port),
            "workflow-runner": {"command": command("workflow-runner"), **worker},
            "agent-runner": {**agent, "optional": True},
        }
    }


def _server(port: int) -> dict[str, Any]:
    serving = {"grpc": {"address": f"127.0.0.1:{port}"}}
    return {
        "command": command("stigmer-server"),
        "env": {"GRPC_PORT": str(port)},
        "ports": [port],
        "startup": {**serving, "period": "250ms", "failure_threshold": 120},
        "liveness": serving,
        "readiness": serving,
    }


def command(name: str) -> list[str]:
    """The argv of one program. It holds no other program's name, so that ``pkill -f`` hits what it says."""
    return [escape(sys.executable), "-P", "-m", "stigmerd.reference", name]
