"""Images that are pulled in the background, for as long as somebody waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import trio

from stigmerd.adapters.containers.client import EngineRefusedError, Reading
from stigmerd.adapters.containers.engine import DockerEngine
from stigmerd.engine.ports import EngineUnavailableError

if TYPE_CHECKING:
    from docker import APIClient

PATIENCE = 20.0
"""Seconds after which a pull that nobody asks for any more is cancelled."""

DONE = frozenset({"Already exists", "Pull complete"})
LAYER = DONE | {"Pulling fs layer", "Waiting", "Downloading", "Verifying Checksum", "Download complete", "Extracting"}


class Pull:
    """One pull under way. ``failure`` is why it ended without the image."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.failure: str | None = None
        self.over = False
        self._scope = trio.CancelScope()
        self._layers: dict[str, bool] = {}

    def want(self) -> str:
        """Keep it going, and tell how far it is."""
        self._scope.deadline = trio.current_time() + PATIENCE
        if not self._layers:
            return f"pulling image {self.image}"
        return f"pulling image {self.image}: {sum(self._layers.values())} of {len(self._layers)} layers"

    async def run(self, engine: DockerEngine) -> None:
        """Pull, until it is done, has failed or is not wanted any more."""
        with self._scope:
            try:
                await engine.read(self._pull, trio.CapacityLimiter(1))
            except (EngineRefusedError, EngineUnavailableError) as exc:
                self.failure = str(exc)
        self.over = True

    def _pull(self, api: APIClient, reading: Reading) -> None:
        messages: Iterator[dict[str, object]] = api.pull(self.image, stream=True, decode=True)
        for message in reading.items(messages):
            if "error" in message:
                raise EngineRefusedError(500, str(message["error"]))
            if message.get("status") in LAYER:
                self._layers[str(message.get("id"))] = message["status"] in DONE


class Pulls:
    """At most one pull of each image."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self._pulls: dict[str, Pull] = {}

    def want(self, image: str, tasks: trio.Nursery) -> str | None:
        """Pull ``image`` in ``tasks``, or go on with it: how far it is; None when it has failed."""
        pull = self._pulls.get(image)
        if pull is not None and pull.failure is not None:
            return None
        if pull is None or pull.over:
            pull = self._pulls[image] = Pull(image)
            progress = pull.want()
            tasks.start_soon(partial(pull.run, self._engine))
            return progress
        return pull.want()

    def take_failure(self, image: str) -> str | None:
        """Why the last pull of ``image`` failed, once: the next one that is wanted begins anew."""
        pull = self._pulls.get(image)
        if pull is None or pull.failure is None:
            return None
        del self._pulls[image]
        return pull.failure
