"""A command inside a running container: ``docker exec``, with an end that can be relied on."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from stigmerd.adapters.containers.client import EngineRefusedError, Reading
from stigmerd.adapters.containers.engine import DockerEngine
from stigmerd.adapters.containers.tree import Tree
from stigmerd.core.exit_status import ExitStatus
from stigmerd.engine.ports import TAIL_BYTES, CommandResult, EngineUnavailableError, SpawnFailedError

if TYPE_CHECKING:
    from docker import APIClient

CODE_PERIOD = 0.02
"""Seconds between two looks at a command that is about to end."""

ASK_LIMIT = 0.2
"""Seconds that a hung engine may hold up the kill of a command."""

MARGIN = 0.05
"""Seconds before the end of the caller's time at which an engine counts as silent."""

KILL_LIMIT = 1.0
"""Seconds that the kill of a cancelled command may take."""

MARK = "STIGMER_EXEC"


class UnreachableError(SpawnFailedError, EngineUnavailableError):
    """No command came to be, because the engine cannot be asked: it says nothing about the container."""


async def run_in_container(
    engine: DockerEngine, container_id: str, tree: Tree | None, command: Sequence[str]
) -> CommandResult:
    """Run ``command`` and wait for it. Cancelled, its processes are killed before this returns.

    ``tree`` is the container's, where the engine is on this host.

    Raises:
        UnreachableError: the engine cannot be asked.
        SpawnFailedError: the container does not run, or the command did not come to be.
    """
    mark = f"{MARK}={secrets.token_hex(8)}"
    try:
        exec_id = await _create_in_time(engine, container_id, tuple(command), mark)
        tail, code = await _attend(engine, container_id, tree, exec_id, mark)
    except EngineUnavailableError as exc:
        raise UnreachableError(str(exc)) from exc
    except EngineRefusedError as exc:
        raise SpawnFailedError(f"{command[0]}: {exc}") from exc
    text = tail.decode("utf-8", "replace")
    if code in {126, 127} and text.startswith("OCI runtime exec failed"):
        raise SpawnFailedError(f"{command[0]}: {text.strip()}")
    return CommandResult(status=ExitStatus(code=code), tail=text)


async def _create_in_time(engine: DockerEngine, container_id: str, command: tuple[str, ...], mark: str) -> str:
    """Prepare the command. An engine that says nothing until the caller's time is almost up is unavailable."""
    with trio.CancelScope(deadline=trio.current_effective_deadline() - MARGIN):
        return await engine.call(partial(_create, container_id, command, mark))
    raise EngineUnavailableError("the Docker Engine did not answer in time")


async def _attend(
    engine: DockerEngine, container_id: str, tree: Tree | None, exec_id: str, mark: str
) -> tuple[bytes, int | None]:
    """Run the prepared command: the last of its output and its exit code."""
    finished = False
    try:
        tail = await engine.read(partial(_collect, exec_id), trio.CapacityLimiter(1))
        code = await _wait_code(engine, exec_id)
        finished = True
        return tail, code
    finally:
        if not finished and tree is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_LIMIT):
                await _kill(engine, container_id, tree, exec_id, mark)


def _create(container_id: str, command: tuple[str, ...], mark: str, api: APIClient) -> str:
    return str(api.exec_create(container_id, list(command), environment=[mark])["Id"])


def _collect(exec_id: str, api: APIClient, reading: Reading) -> bytes:
    """Start the command and read its output to the end; the last of it."""
    tail = b""
    for part in reading.items(api.exec_start(exec_id, stream=True)):
        tail = (tail + part)[-TAIL_BYTES:]
    return tail


async def _wait_code(engine: DockerEngine, exec_id: str) -> int | None:
    """The exit code, which the engine notes a moment after the end of the output."""
    while True:
        state = await engine.call(lambda api: api.exec_inspect(exec_id))
        if not state.get("Running"):
            code = state.get("ExitCode")
            return int(code) if code is not None else None
        await trio.sleep(CODE_PERIOD)


async def _kill(engine: DockerEngine, container_id: str, tree: Tree, exec_id: str, mark: str) -> None:
    """SIGKILL the command's processes until there are none."""
    leader = await _find_leader(engine, exec_id)
    dying = frozenset[int]()
    # One that exits has lost its environment, and so its mark, before it has left.
    while (found := await tree.find_marked(leader, mark)) or dying:
        denied = await tree.kill(found)
        if denied:
            # Another user's processes: only from inside, by the engine, they can be killed.
            with suppress(EngineUnavailableError, EngineRefusedError):
                await _kill_inside(engine, container_id, [found[pid] for pid in denied])
        await trio.sleep(CODE_PERIOD)
        dying = (dying | found.keys()) & await tree.members()


async def _find_leader(engine: DockerEngine, exec_id: str) -> int:
    """The command's pid on the engine's host; 0 where the engine does not tell. Root finds it by its mark too."""
    with suppress(EngineUnavailableError, EngineRefusedError), trio.move_on_after(ASK_LIMIT):
        state = await engine.call(lambda api: api.exec_inspect(exec_id))
        return int(state.get("Pid") or 0)
    return 0


async def _kill_inside(engine: DockerEngine, container_id: str, pids: Sequence[int]) -> None:
    words = ["kill", "-9", *(str(pid) for pid in pids if pid > 1)]
    made = await engine.call(lambda api: api.exec_create(container_id, words, user="0"))
    await engine.call(lambda api: api.exec_start(made["Id"], detach=True))
