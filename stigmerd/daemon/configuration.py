"""The configuration in force: what was read, from which file, and whether the file says something else by now.

How a file becomes specs is the business of ``config``; what a change of it does, of the supervisor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from stigmerd.adapters import probes
from stigmerd.config.load import is_stale, load_stack
from stigmerd.config.presets import AGENT_IMAGE
from stigmerd.config.problems import LOAD_BOUND, unanswered
from stigmerd.core.spec import StackSpec
from stigmerd.daemon.log import set_level
from stigmerd.daemon.start import Start


class Configuration:
    """The stack in force, which only :meth:`put_in_force` changes.

    ``path`` is the file that was asked for, None for the default place; ``stack.source`` the one
    that was read. ``problem`` is why the last reload failed, or "". ``has_image`` tells whether
    there is an engine with an image.
    """

    def __init__(self, start: Start, path: str | None, has_image: Callable[[str], Awaitable[bool]]) -> None:
        self.path = path
        self.stack = StackSpec()
        self.is_stale = False
        self.problem = ""
        self._start = start
        self._has_image = has_image
        self._reading = trio.CapacityLimiter(1)
        self._deadline = 0.0

    async def read(self, *, must_exist: bool) -> StackSpec:
        """What the file says now. Changes nothing.

        Raises:
            ConfigError: with every error in it, or because the file cannot be read in time.
        """

        def load(agent_in_container: bool) -> StackSpec:
            return load_stack(
                self.path,
                home=self._start.home.path,
                environ=self._start.environment,
                agent_in_container=agent_in_container,
                must_exist=must_exist,
            )

        stack = await self._read_in_time(partial(load, False))
        if stack.source is None and await self._has_image(AGENT_IMAGE):
            stack = await self._read_in_time(partial(load, True))
        return stack

    async def _read_in_time(self, load: Callable[[], StackSpec]) -> StackSpec:
        # While a read hangs, whoever asks next gets what is left of its time: a reload asks for a plan first.
        if not self._reading.borrowed_tokens:
            self._deadline = trio.current_time() + LOAD_BOUND
        with trio.move_on_at(self._deadline):
            return await trio.to_thread.run_sync(load, abandon_on_cancel=True, limiter=self._reading)
        raise unanswered(LOAD_BOUND)

    def put_in_force(self, stack: StackSpec) -> None:
        """Go by this stack from now on. Its components are the supervisor's."""
        # Before a probe runs: an import in its first attempt would count against its limit.
        probes.preload(stack.components.values())
        self.stack, self.is_stale, self.problem = stack, False, ""
        set_level(self._start.log_level or stack.daemon.log_level)

    def look(self) -> None:
        """Find out whether the file was changed. To be called in a thread: it may hang with the file system."""
        stack = self.stack
        stale = is_stale(stack)
        if stack is self.stack:  # else it is about another one
            self.is_stale = stale
