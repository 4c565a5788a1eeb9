"""Real processes for tests: a launcher with a home of its own, on all or on less of what Linux offers."""

from __future__ import annotations

import ctypes
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

import pytest
import trio

from stigmerd.adapters.processes import proc
from stigmerd.adapters.processes import spawn as spawning
from stigmerd.adapters.processes.identity import boot_id, end_strays_blocking
from stigmerd.adapters.processes.platform import PR_SET_CHILD_SUBREAPER, Platform
from stigmerd.adapters.processes.process import ProcessLauncher, ProcessLife
from stigmerd.adapters.processes.reaper import Children
from stigmerd.adapters.processes.spawn import Blueprint, Spawned
from stigmerd.core.spec import ComponentSpec, ProcessSpec
from stigmerd.engine.ports import LaunchOrder

on_every_platform = pytest.mark.parametrize("offer", ["everything", "no spawner", "no cgroup", "nothing"])
"""Run a test with all that this Linux offers, without the spawner, without cgroups either, and with
neither pidfds nor procfs."""

IS_ROOT = os.geteuid() == 0


class Settings(TypedDict, total=False):
    """What a process may be given besides its command."""

    name: str
    nonce: str
    cwd: str
    env: Mapping[str, str]
    user: str | int
    group: str | int
    umask: int
    nofile: int


class FreePorts:
    """A watch that sees no stranger."""

    async def strangers(self, ports: Sequence[int], ours: frozenset[int]) -> str | None:
        """Nobody."""
        return None


@dataclass(frozen=True)
class Bench:
    """A launcher, and where it works."""

    launcher: ProcessLauncher
    folder: Path
    platform: Platform

    @property
    def home(self) -> str:
        """The home that the launcher serves."""
        return str(self.folder)

    @property
    def log(self) -> str:
        """What the component wrote."""
        return (self.folder / "log").read_text()

    def order(self, *argv: str, **more: Unpack[Settings]) -> LaunchOrder:
        """An order to run a command in the bench's folder."""
        name = more.pop("name", "worker")
        nonce = more.pop("nonce", f"1-{secrets.token_hex(6)}")
        more.setdefault("cwd", str(self.folder))
        spec = ComponentSpec(name=name, runs=ProcessSpec(argv=argv, **more), display_command=argv)  # type: ignore[misc]
        return LaunchOrder(spec=spec, life=1, nonce=nonce)

    async def launch(self, *argv: str, **more: Unpack[Settings]) -> ProcessLife:
        """A life of a command."""
        return await self.launcher.launch(self.order(*argv, **more))

    async def sh(self, script: str, **more: Unpack[Settings]) -> ProcessLife:
        """A life of a shell script."""
        return await self.launch("/bin/sh", "-c", script, **more)

    async def python(self, script: str, *arguments: str, **more: Unpack[Settings]) -> ProcessLife:
        """A life of a Python script."""
        return await self.launch(sys.executable, "-S", "-E", "-c", script, *arguments, **more)

    async def read(self, name: str) -> str:
        """What a process writes into a file of the folder, once there is a whole line."""
        path = self.folder / name
        await wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
        return path.read_text().strip()

    async def pid(self, name: str) -> int:
        """A pid that a process writes into a file of the folder."""
        return int(await self.read(name))


@asynccontextmanager
async def bench(
    folder: Path,
    offer: str = "everything",
    spawn: Callable[[Blueprint, Children], Spawned] = spawning.spawn,
    children_nofile: int | None = None,
) -> AsyncIterator[Bench]:
    """A bench on which nothing is left running."""
    with pytest.MonkeyPatch.context() as patch:
        platform = Platform.detect(str(folder))
        if offer == "no spawner" or spawn is not spawning.spawn:
            platform = replace(platform, spawner=False)
        elif offer == "no cgroup":
            platform = Platform(pidfd=True, subreaper=True)
        elif offer == "nothing":
            platform = Platform()
            patch.setattr(proc, "HAS_PROCFS", False)
            boot_id.cache_clear()
            patch.setattr(proc, "has_pidfd", lambda: False)
            patch.setattr(proc, "has_pidfd_inodes", lambda: False)
        launcher = ProcessLauncher(
            home=str(folder),
            environment={"PATH": "/usr/bin:/bin", "INHERITED": "yes"},
            platform=platform,
            open_log=lambda name: os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666),
            port_watch=FreePorts(),
            children_nofile=children_nofile,
            spawn=spawn,
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(launcher.serve)
                try:
                    yield Bench(launcher, folder, platform)
                finally:
                    end_strays_blocking(str(folder), 0)
                    nursery.cancel_scope.cancel()
        finally:
            launcher.close()
            _stop_being_subreaper(launcher)
            boot_id.cache_clear()


def _stop_being_subreaper(launcher: ProcessLauncher) -> None:
    """Other tests of this session want orphans to go where they always went."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    launcher.children.reap_visible()


async def end(life: ProcessLife) -> None:
    """End a life as the engine does."""
    with trio.fail_after(10):
        await life.kill()
        await life.release()


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    stat = proc.read_stat(pid)
    return stat is not None and stat.is_alive


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that announces itself to nobody."""
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.002)
