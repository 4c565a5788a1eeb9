"""Writes a first ``stigmer.toml``, commented, from what is installed on this machine.

Nothing found here is run: a program is recognised by its name and its first bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from stigmerd.config import reference
from stigmerd.config.interpolate import escape

STIGMER_FOLDER = "/opt/stigmer/bin"

_EXECUTABLE_MAGIC = (
    b"\x7fELF",
    b"\xcf\xfa\xed\xfe",  # Mach-O, 64 bits
    b"\xca\xfe\xba\xbe",  # Mach-O, several architectures
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Absolute paths of what is installed, None where it is not."""

    stigmer: str | None = None
    """The Go program. Never the command of that name that belongs to this package."""
    temporal: str | None = None
    docker: str | None = None


def find(environ: Mapping[str, str], home: str) -> Found:
    """Look for the programs that presets run: on PATH, and where Stigmer installs itself."""
    path = environ.get("PATH", os.defpath)
    folders = [*path.split(os.pathsep), os.path.join(home, "bin"), STIGMER_FOLDER]
    candidates = (os.path.join(folder, "stigmer") for folder in folders if os.path.isabs(folder))
    return Found(
        stigmer=next(filter(_is_binary, candidates), None),
        temporal=shutil.which("temporal", path=path),
        docker=shutil.which("docker", path=path),
    )


def _is_binary(path: str) -> bool:
    """Whether this is a compiled program: ours is a script, and would start another daemon."""
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(4) in _EXECUTABLE_MAGIC
    except OSError:
        return False


def init_text(environ: Mapping[str, str], home: str) -> str:
    """The text of a configuration that fits this machine and loads without an error."""
    return write_init(find(environ, home))


def write_init(found: Found) -> str:
    """The text for what was found: presets where Stigmer is there, else the reference stack to edit."""
    parts = [_HEAD]
    if found.stigmer is None:
        parts += [_NO_STIGMER, _reference_stack()]
    else:
        parts += [_DAEMON.format(binary=_string(found.stigmer)), _stigmer_stack(found)]
    return "\n".join((*parts, _TAIL))


def _stigmer_stack(found: Found) -> str:
    parts = []
    depends_on = ""
    if found.temporal is None:
        parts.append("# Temporal was not found on PATH. With it: [component.temporal], preset = \"temporal\".\n")
    else:
        parts.append(_TEMPORAL.format(program=_string(found.temporal)))
        depends_on = 'depends_on = { temporal = "ready" }\n'
    parts.append(_STIGMER.format(depends_on=depends_on))
    parts.append(_NO_DOCKER if found.docker is None else _AGENT)
    return "\n".join(parts)


def _reference_stack() -> str:
    commands = {name: _array(reference.command(name)) for name in reference.NAMES}
    return _REFERENCE.format(
        server=commands["stigmer-server"],
        workflow=commands["workflow-runner"],
        agent=commands["agent-runner"],
    )


def _array(words: list[str]) -> str:
    return f"[{', '.join(json.dumps(word, ensure_ascii=False) for word in words)}]"


def _string(text: str) -> str:
    """A TOML string that means exactly this text."""
    return json.dumps(escape(text), ensure_ascii=False)


_HEAD = """\
# The stack that stigmerd supervises. Every key is in docs/configuration.md;
# `stigmer server check` validates this file, `stigmer server reload` applies it.
# An editor completes and checks it too: see "In your editor" there.
"""

_DAEMON = """\
[daemon]
# The Go program that the presets stigmer-server and workflow-runner run.
stigmer_binary = {binary}
"""

_TEMPORAL = """\
[component.temporal]
preset = "temporal"
# The preset's own command, with the program that was found:
command = [{program}, "server", "start-dev", "--port", "7233", "--ui-port", "8233", "--db-filename", "temporal.db"]
"""

_STIGMER = """\
[component.stigmer-server]
preset = "stigmer-server"
{depends_on}
[component.workflow-runner]
preset = "workflow-runner"       # waits until stigmer-server is ready
"""

_AGENT = """\
[component.agent-runner]
preset = "agent-runner"          # a container of the image stigmer-agent-runner:local
depends_on = { stigmer-server = "ready" }
"""

_NO_DOCKER = """\
# Docker was not found on PATH. With it: [component.agent-runner], preset = "agent-runner".
"""

_NO_STIGMER = """\
# The Go program of Stigmer was not found, so this is the built-in reference stack, to be edited.
# With the program, name it in [daemon], stigmer_binary = "/path/to/stigmer", and use the presets.
"""

_REFERENCE = """\
[component.stigmer-server]
command = {server}
env = {{ GRPC_PORT = "7234" }}
ports = [7234]
startup = {{ grpc = {{ address = "127.0.0.1:7234" }}, period = "250ms", failure_threshold = 120 }}
liveness = {{ grpc = {{ address = "127.0.0.1:7234" }} }}
readiness = {{ grpc = {{ address = "127.0.0.1:7234" }} }}

[component.workflow-runner]
command = {workflow}
env = {{ STIGMER_BACKEND_ENDPOINT = "127.0.0.1:7234" }}
depends_on = {{ stigmer-server = "ready" }}

[component.agent-runner]
command = {agent}
env = {{ STIGMER_BACKEND_ENDPOINT = "127.0.0.1:7234" }}
depends_on = {{ stigmer-server = "ready" }}
optional = true                  # its failure does not make `status` exit 1
"""

_TAIL = """\
# What is not written has its default. To change one for all components:
#
# [defaults.restart]
# max_restarts = 10
# window = "10m"
#
# One more component:
#
# [component.web]
# command = ["python3", "-m", "http.server", "8080", "--bind", "127.0.0.1"]
# ports = [8080]
# liveness = { http = { url = "http://127.0.0.1:8080/" } }
"""
