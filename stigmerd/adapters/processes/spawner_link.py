"""The daemon's side of the spawner: starts it, sends it orders, and hears what became of them.

An order is answered through a pipe of its own, so that the death of the spawner, or a child that
hangs before its exec, is no more than an end of that pipe that comes early, late or never.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import trio

import stigmerd
from stigmerd import __version__
from stigmerd.adapters.processes import proc
from stigmerd.adapters.processes.cgroup import Leaf
from stigmerd.adapters.processes.prepare import candidates
from stigmerd.adapters.processes.reaper import Children
from stigmerd.adapters.processes.spawn import Blueprint, Spawned, limit_nofile, make_leaf, open_output
from stigmerd.adapters.processes.spawner import MESSAGE_LIMIT, read_reports, to_message
from stigmerd.engine.ports import SpawnFailedError

PROGRAM = "import sys; sys.path.append({!r}); from stigmerd.adapters.processes import spawner; spawner.main({!r})"
"""Isolated and without site: a spawner that imported more would be slower to clone."""

KILL_PERIOD = 0.05
"""Seconds between two kills of what was given up and may not have been born yet."""

END_BOUND = 0.1
"""Seconds for the end of a helper that was killed; mostly it takes a millisecond."""

SILENCE = 5.0
"""Seconds without a word on an order that is given up after which the helper counts as hung, or stopped."""

EXHAUSTED = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Refusals of a clone that say nothing about whether clones into a cgroup can be had."""


class Spawner:
    """Spawns processes into their leaves by a helper, which is started when it is first needed.

    ``environment`` is what the helper runs in, not what its children get. ``soft_nofile`` is the limit
    of descriptors for both.
    """

    def __init__(self, environment: Mapping[str, str], children: Children, soft_nofile: int | None) -> None:
        self._environment = environment
        self._soft_nofile = soft_nofile
        self._children = children
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._started = trio.Event()
        self._full = trio.Lock()
        self._is_usable = True
        self._heard_at = 0.0
        self._left: defaultdict[str, list[trio.Event]] = defaultdict(list)
        """By owner: what was given up and has not ended yet; more than one where several spawned at once."""
        self._ahead: dict[str, _Birth] = {}
        """By leaf: what was begun, and is not asked for yet."""

    async def serve(self) -> None:
        """Bury the helper whenever it ends, until cancelled; then end it."""
        try:
            while True:
                await self._started.wait()
                if (link := self._socket) is not None:
                    with suppress(trio.ClosedResourceError):
                        await trio.lowlevel.wait_readable(link)  # it never sends anything
                    self._end(link)
        finally:
            self._end(self._socket)

    async def spawn(self, owner: str, blueprint: Blueprint) -> Spawned | None:
        """Make the process; None if that has to be done without the helper.

        Where the caller is cancelled first, what comes to be is ended. One at a time for each
        owner: what hangs is not tried again until it is dead.

        Raises:
            SpawnFailedError: there is none; the message has the path and the reason.
        """
        birth = self._ahead.pop(blueprint.leaf.path, None) if blueprint.leaf is not None else None
        while birth is None and (left := self._left[owner]):
            await left[0].wait()
        message = self._message(blueprint)
        birth = birth or self._conceive(blueprint, message)
        if birth is None:
            return None
        try:
            if birth.link is None:
                with _refusing("no process to spawn from"):
                    await self._send(birth, message)
            await birth.wait_told()
            self._heard_at = trio.current_time()
            return self._judge(birth, blueprint)
        finally:
            if birth.is_open:
                self._leave(owner, birth)

    def begin(self, owner: str, blueprint: Blueprint) -> None:
        """Send an order at once, if nothing is in the way; :meth:`spawn`, which has to follow, goes on from there."""
        link = self._socket
        if link is None or self._left[owner]:
            return
        message = self._message(blueprint)
        with suppress(SpawnFailedError, OSError):  # spawn meets it again, and tells
            birth = self._conceive(blueprint, message)
            if birth is not None:
                self._ahead[birth.leaf.path] = birth
                birth.send(link, message)

    def _message(self, blueprint: Blueprint) -> bytes:
        """The order for the helper; b"" where it is none for it."""
        message = _to_message(blueprint) if self._is_usable else b""
        return message if len(message) <= MESSAGE_LIMIT else b""

    def _conceive(self, blueprint: Blueprint, message: bytes) -> _Birth | None:
        """What an order needs to be sent; None where it is none for the helper, or can have no leaf.

        Raises:
            SpawnFailedError: a descriptor cannot be had.
        """
        leaf = make_leaf(blueprint.leaf) if message else None
        return _Birth.of(blueprint, leaf, self._children) if leaf is not None else None

    def _judge(self, birth: _Birth, blueprint: Blueprint) -> Spawned | None:
        refusal = birth.refusal
        if not birth.pid and refusal is None:
            self._end(birth.link)  # it is dying, and its end of the socket may still take the next order with it
            raise SpawnFailedError("the process that spawns was killed", errno=errno.EAGAIN)
        birth.close()
        if refusal is None:
            return Spawned(
                pid=birth.pid,
                start_ticks=proc.start_ticks(birth.pid),
                pidfd=proc.open_pidfd(birth.pid) if blueprint.use_pidfd else None,
                leaf=birth.leaf,
                sealed=True,
            )
        if not birth.pid and refusal.errno not in EXHAUSTED:
            self._is_usable = False
            return None
        birth.bury()
        raise refusal

    def _leave(self, owner: str, birth: _Birth) -> None:
        """End what was given up, in a thread, as it may hang."""
        if birth.sent_at is not None and not birth.pid:
            silent_since = max(birth.sent_at, self._heard_at)
            if trio.current_time() - silent_since > SILENCE:
                self._end(birth.link)
        left = trio.Event()
        self._left[owner].append(left)
        token = trio.lowlevel.current_trio_token()

        def forget(_: object) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._forget, owner, left)

        try:
            trio.lowlevel.start_thread_soon(birth.undo, forget)
        except RuntimeError:  # no more threads: what can be done at once has to do
            self._end(self._socket)
            birth.abandon()
            self._forget(owner, left)

    def _forget(self, owner: str, left: trio.Event) -> None:
        self._left[owner].remove(left)
        left.set()

    async def _send(self, birth: _Birth, message: bytes) -> None:
        for _ in range(2):  # the first time may meet a helper that was just killed
            link = self._socket or self._start()
            try:
                while not birth.send(link, message):
                    async with self._full:  # a descriptor can have one waiter
                        await trio.lowlevel.wait_writable(link)
            except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
                self._end(link)
            else:
                return

    def _start(self) -> socket.socket:
        program = PROGRAM.format(str(Path(stigmerd.__file__).parents[1]), __version__)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs, self._children.spawning(), ExitStack() as undo:
            undo.callback(ours.close)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program],
                env=self._environment,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # what an operator types on the terminal of the daemon is not for it
            )
            self._children.claim(self._process.pid)
            if self._soft_nofile is not None:
                limit_nofile(self._process.pid, self._soft_nofile, None)
            undo.pop_all()
        self._socket = ours
        self._started.set()
        return ours

    def _end(self, link: socket.socket | None) -> None:
        """End the helper at the other end and reap it, unless that was done; the next order starts another."""
        if link is None or link is not self._socket or self._process is None:
            return
        trio.lowlevel.notify_closing(link)
        link.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # what hangs in the kernel is reaped as an orphan, one day
            self._process.wait(END_BOUND)
        self._children.disclaim(self._process.pid)
        self._socket = self._process = None
        self._started = trio.Event()


class _Birth:
    """One order on its way: its descriptors, and what was reported of it so far.

    ``pid`` is 0 until it is known, ``refusal`` None until there is one. ``output`` is closed here.
    """

    def __init__(self, output: int, leaf: Leaf, children: Children) -> None:
        self.leaf = leaf
        self.pid = 0
        self.refusal: SpawnFailedError | None = None
        self.link: socket.socket | None = None
        """By which it was sent."""
        self.sent_at: float | None = None
        self.is_open = True
        self._children = children
        self._unclaimed = ExitStack()
        with ExitStack() as stack, _refusing(f"preparing {leaf.path}"):
            stack.callback(os.close, output)
            folder = leaf.open_folder()
            stack.callback(os.close, folder)
            self._reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, writing)
            self._descriptors = (output, folder, writing)
            self._unsent = stack.pop_all()
        self._unclaimed.enter_context(children.spawning())

    @classmethod
    def of(cls, blueprint: Blueprint, leaf: Leaf, children: Children) -> _Birth:
        """The order of a blueprint.

        Raises:
            SpawnFailedError: a descriptor cannot be had; the leaf is removed.
        """
        try:
            return cls(open_output(blueprint), leaf, children)
        except SpawnFailedError:
            leaf.remove()
            raise

    def send(self, link: socket.socket, message: bytes) -> bool:
        """Send the order, and let go of what went with it. False where it has to wait."""
        try:
            socket.send_fds(link, [message], self._descriptors)
        except BlockingIOError:
            return False
        # The kernel often wakes the helper up where we run, and lets it run only when we wait: let it run now.
        os.sched_yield()
        self._unsent.close()
        self.link, self.sent_at = link, trio.current_time()
        return True

    async def wait_told(self) -> None:
        """Wait until the program runs, or cannot; or until the order is lost."""
        self._unsent.close()
        while True:
            await trio.lowlevel.wait_readable(self._reading)
            if not self._hear():
                return

    def close(self) -> None:
        """Let go of an order that was told of."""
        self.is_open = False
        self._unclaimed.close()
        os.close(self._reading)

    def bury(self) -> None:
        """Reap what did not become a life, and remove its leaf."""
        if self.pid:
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self._children.disclaim(self.pid)
        self.leaf.remove()

    def undo(self) -> None:
        """Leave nothing of the order alive. Blocks until that is so."""
        self._unsent.close()
        report = select.poll()  # select() takes no descriptor above 1023
        report.register(self._reading, select.POLLIN)
        is_told = False
        while not is_told or self.leaf.is_populated():
            self.leaf.kill()
            if is_told:
                time.sleep(KILL_PERIOD)
            elif report.poll(1000 * KILL_PERIOD):
                is_told = not self._hear()
        self.bury()
        self.close()

    def abandon(self) -> None:
        """Kill what there is of the order, and wait for nothing. Nothing more may come of it: its helper is dead."""
        self._unsent.close()
        self.leaf.kill()
        self.close()

    def _hear(self) -> bool:
        """Take in what was reported. False at its end."""
        reports = read_reports(self._reading)
        for pid, number, reason in reports:
            self.pid = pid or self.pid
            if number:
                self.refusal = SpawnFailedError(reason, errno=number)
        if self.pid:
            self._children.claim(self.pid)
        return bool(reports)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Let what the system lacks for a spawn be a failed spawn."""
    try:
        yield
    except OSError as exc:
        raise SpawnFailedError(f"{what}: {exc.strerror}", errno=exc.errno) from exc


def _to_message(blueprint: Blueprint) -> bytes:
    """The order of a blueprint; b"" where the environment is not what exec can take as it is."""
    env = blueprint.env
    settings = os.fsencode("\0".join([f"{name}={value}" for name, value in env.items()]))
    if "" in env or "=" in "".join(env) or settings.count(b"\0") != len(env) - 1:
        return b""
    return to_message(
        (
            blueprint.argv,
            blueprint.cwd,
            tuple(candidates(blueprint.argv[0], blueprint.cwd, env)),
            settings,
            blueprint.user,
            blueprint.group,
            blueprint.umask,
            blueprint.nofile,
        )
    )
