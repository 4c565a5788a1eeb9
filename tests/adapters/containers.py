"""What the tests of containers share: a launcher at work, and orders for small busybox containers."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import trio

from stigmerd.adapters.containers.container import ContainerLauncher
from stigmerd.adapters.containers.engine import DockerEngine
from stigmerd.adapters.containers.labels import NONCE_LABEL
from stigmerd.adapters.containers.life import ContainerLife
from stigmerd.adapters.ports import PortWatch
from stigmerd.core.spec import ComponentSpec, ContainerSpec
from stigmerd.engine.ports import LaunchOrder
from tests.docker import IMAGE

SLEEP = ("/bin/sleep", "1000")


@dataclass
class Yard:
    """One home on one engine. ``api`` is the test's own view of the engine."""

    host: str
    folder: Path
    api: docker.APIClient
    launcher: ContainerLauncher
    engine: DockerEngine
    name: str = field(default_factory=lambda: f"test-{secrets.token_hex(4)}")

    def order(self, *command: str, life: int = 1, **runs: object) -> LaunchOrder:
        """An order for a container of the component ``c``."""
        return order_of(self.name, *command, life=life, **runs)

    async def launch(self, *command: str, **runs: object) -> ContainerLife:
        """A life of the component ``c``."""
        life = await self.launcher.launch(self.order(*command, life=1, **runs))
        assert isinstance(life, ContainerLife)
        return life

    def log(self) -> str:
        """What is in the component's log."""
        path = self.folder / "c.log"
        return path.read_text() if path.exists() else ""

    def ours(self) -> list[dict[str, Any]]:
        """The containers of this home, as the engine lists them."""
        found: list[dict[str, Any]] = self.api.containers(all=True, filters={"label": [f"stigmerd.home={self.folder}"]})
        return found

    def nonces(self) -> set[str]:
        """The lives that have a container."""
        return {one["Labels"][NONCE_LABEL] for one in self.ours()}


async def until(is_so: Callable[[], object], limit: float = 10.0) -> None:
    """Wait until something is seen."""
    with trio.fail_after(limit):
        while True:
            if is_so():
                return
            await trio.sleep(0.02)


def container_id(life: ContainerLife) -> str:
    """The id of a life's container."""
    assert life.identity.container_id is not None
    return life.identity.container_id


def order_of(name: str, *command: str, life: int = 1, nonce: str | None = None, **runs: object) -> LaunchOrder:
    """An order for a container of the component ``c``, named ``name``; without a command it sleeps."""
    definition: dict[str, Any] = {"image": IMAGE, "name": name, "network": "host", "command": command or SLEEP}
    spec = ComponentSpec(name="c", runs=ContainerSpec(**{**definition, **runs}), display_command=command)
    return LaunchOrder(spec=spec, life=life, nonce=nonce or secrets.token_hex(8))


def open_log(folder: Path) -> Callable[[str], int]:
    """What opens a component's log in ``folder``."""

    def opened(component: str) -> int:
        return os.open(folder / f"{component}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    return opened


def make_launcher(host: str, folder: Path, **environment: str) -> tuple[DockerEngine, ContainerLauncher]:
    """A launcher of the home ``folder``, as a daemon has one."""
    variables = {"DOCKER_HOST": host, **environment}
    engine = DockerEngine(variables, home=str(folder))
    launcher = ContainerLauncher(
        engine,
        boot_id="boot",
        environment=variables,
        open_log=open_log(folder),
        places=folder / "places",
        port_watch=PortWatch(),
    )
    return engine, launcher


@contextlib.asynccontextmanager
async def open_yard(host: str, folder: Path) -> AsyncIterator[Yard]:
    """A launcher at work; what it made is removed at the end."""
    with contextlib.closing(docker.APIClient(host, version="auto")) as api:
        try:
            async with trio.open_nursery() as tasks:
                engine, launcher = make_launcher(host, folder, PASSED="on")
                await tasks.start(launcher.serve)
                yield Yard(host=host, folder=folder, api=api, launcher=launcher, engine=engine)
                tasks.cancel_scope.cancel()
        finally:
            for one in api.containers(all=True, filters={"label": [f"stigmerd.home={folder}"]}):
                with contextlib.suppress(docker.errors.APIError):
                    api.remove_container(one["Id"], force=True)
