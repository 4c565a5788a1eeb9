"""One life, from the instant it exists to its reap: who ends it, how, and that it is dead.

It knows the stop sequence and its bounds. It does not know why a life has to end, nor what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio
from trio_util import wait_any

from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.spec import StopPolicy
from stigmerd.engine.ports import Life, SpawnFailedError

KILL_BOUND = 4.5
"""Seconds from the first SIGKILL until what is still alive is reported as unkillable. With the
release of what the life held, a stop stays within its grace + 5 s."""

SIGNAL_LEEWAY = 2.0
"""Seconds of the grace that a pre_stop which hangs leaves to the stop signal; half of a grace that is short."""

RELEASE_BOUND = 0.4
"""Seconds for the reap and for giving back what the life held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a life ended. Where ``over`` is False something of it could not be killed: ``survivors``,
    as far as their pids can be told."""

    over: bool
    status: ExitStatus | None
    survivors: tuple[int, ...] = ()


class Tenure:
    """Sees one life through. Ask for its end with :meth:`end`; :meth:`run` returns when it is over."""

    def __init__(
        self,
        life: Life,
        *,
        on_exit: Callable[[ExitStatus], None],
        on_kill: Callable[[], None],
    ) -> None:
        self.life = life
        self.exited_at: float | None = None
        """When the leader was seen to exit; what is left of the life may take longer to die."""
        self._on_exit = on_exit
        self._on_kill = on_kill
        self._exited = trio.Event()
        self._is_buried = False
        self._status: ExitStatus | None = None
        self._calm = trio.CancelScope()
        """Left when the end is asked for. A nursery that waits for that and for the exit costs a thousand
        lives megabytes, and each exit two scheduling rounds on the way to the next spawn."""
        self._policy = StopPolicy()
        self._grace = trio.CancelScope()
        self._hook = trio.CancelScope()
        """Around the pre_stop: within the grace, with some of it left over for the stop signal."""

    def end(self, policy: StopPolicy, cap: float | None = None) -> None:
        """Ask for the end. Asked again, it can only become faster. ``cap`` bounds the grace, in seconds."""
        grace = policy.grace if cap is None else min(policy.grace, cap)
        self._grace.deadline = min(self._grace.deadline, trio.current_time() + grace)
        self._bound_hook()
        if not self._calm.cancel_called:
            self._policy = policy
            self._calm.cancel()

    async def run(self) -> Ended:
        """Wait for the life's end, however it comes, and leave nothing of it alive.

        A leader that ends by itself takes the rest with it at once; one that was asked to end
        leaves the others the rest of the grace. What was asked to end is buried too; a crash is not,
        as the next spawn need not wait for that: :meth:`bury` follows.
        """
        if not self._calm.cancel_called:  # after a bug it is run once more, to end
            with self._calm:
                await self._watch()
        over = await self._clear_up() if self._exited.is_set() else await self._end()
        if over and self._calm.cancel_called:
            await self.bury()
        return Ended(over=over, status=self._status, survivors=() if over else await self._survivors())

    async def _end(self) -> bool:
        async with trio.open_nursery() as tasks:
            tasks.start_soon(self._watch)
            await self._let_end()
            over = await self._clear_up()
            tasks.cancel_scope.cancel()
        return over

    async def _clear_up(self) -> bool:
        """Kill everything of the life, until it is dead or was seen to be alive for too long.

        A look at everything that takes long, on a machine that is swamped or with an engine that is
        away, does not mean that something cannot be killed: only who is seen does.
        """
        bound = KILL_BOUND
        while not await self._kill(bound):
            if await self._survivors():
                return False
            bound *= 2  # a look that was cut short begins anew
        return True

    async def wait_over(self) -> ExitStatus | None:
        """Wait for the death of what could not be killed, and bury it."""
        await self.life.kill()
        async with trio.open_nursery() as tasks:
            tasks.start_soon(self._watch)
            await self._exited.wait()
            tasks.cancel_scope.cancel()
        await self.bury()
        return self._status

    async def _watch(self) -> None:
        if self._exited.is_set():
            return
        self._status = await self.life.wait_exit()
        self.exited_at = trio.current_time()
        self._on_exit(self._status)
        self._exited.set()

    async def _let_end(self) -> None:
        # A scope is used once; and after a bug in one of these, they are tried again.
        self._grace = trio.CancelScope(deadline=self._grace.deadline)
        with self._grace:
            await self._pre_stop()
            await self.life.terminate(self._policy.signal)
            await self.life.wait_gone()
        if self._grace.cancelled_caught and (not self._exited.is_set() or await self._survivors()):
            self._on_kill()

    async def _pre_stop(self) -> None:
        """Run the hook while there is a leader to prepare for its end."""
        if self._policy.pre_stop is not None:
            self._hook = trio.CancelScope()
            self._bound_hook()
            with self._hook:
                await wait_any(self._run_hook, self._exited.wait)

    def _bound_hook(self) -> None:
        left = max(self._grace.deadline - trio.current_time(), 0.0)
        leeway = min(SIGNAL_LEEWAY, left / 2)
        self._hook.deadline = min(self._hook.deadline, self._grace.deadline - leeway)

    async def _run_hook(self) -> None:
        # A hook that is missing or fails must not keep a component alive.
        with suppress(SpawnFailedError):
            await self.life.run(self._policy.pre_stop or ())

    async def _kill(self, bound: float = KILL_BOUND) -> bool:
        if self._exited.is_set() and self.life.is_gone():
            return True  # an ordinary crash: nothing else stands between it and the next spawn
        with trio.move_on_after(bound) as scope:
            await self.life.kill()
            if not self._exited.is_set():  # a wait for what is so already is a scheduling round
                await self._exited.wait()
        return not scope.cancelled_caught

    async def _survivors(self) -> tuple[int, ...]:
        survivors: tuple[int, ...] = ()
        with trio.move_on_after(RELEASE_BOUND):
            survivors = await self.life.survivors()
        return survivors or self._leader()

    def _leader(self) -> tuple[int, ...]:
        pid = self.life.identity.pid
        return (pid,) if pid is not None and not self._exited.is_set() else ()

    async def bury(self) -> None:
        """Reap the leader and give back what the life held, unless that was done."""
        if not self._is_buried:
            self._is_buried = True
            with trio.move_on_after(RELEASE_BOUND, shield=True):  # also where the next life is under way
                await self.life.release()
