"""The conversation with one peer: its requests one after the other, and what it subscribed to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import trio
from trio_util import AsyncValue

from stigmerd.control.handlers import METHODS, Context, Stream, Subscription, check_params
from stigmerd.control.limits import Limits
from stigmerd.control.protocol import (
    ErrorCode,
    ProtocolError,
    Request,
    decode_request,
    encode_error,
    encode_notification,
    encode_result,
    quote,
)
from stigmerd.control.wire import Wire
from stigmerd.engine.operations import Refusal, RefusedError


class OnProblem(Protocol):
    """Where the server tells what an operator should know: a sentence, and its exception if there is one."""

    def __call__(self, message: str, error: BaseException | None = None) -> None:
        """Write it down. Never raises."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The line that answers a request, and what follows it: notifications, or the end."""

    line: bytes
    stream: Stream | None = None
    ends: bool = False


class Connection:
    """One peer, from accept to close.

    Requests are read, carried out and answered by one task, hence in order; each subscription is
    one more task, which only sends. What an operator asked for is carried to its end even when
    the peer goes away meanwhile.
    """

    def __init__(
        self,
        peer: trio.socket.SocketType,
        context: Context,
        limits: Limits,
        *,
        pending: AsyncValue[int],
        may_subscribe: Callable[[], bool],
        on_problem: OnProblem,
    ) -> None:
        """``pending`` counts the requests, of all connections, that are not answered yet."""
        self._wire = Wire(peer, limits)
        self._limits = limits
        self._context = context
        self._pending = pending
        self._may_subscribe = may_subscribe
        self._on_problem = on_problem
        self._streams: dict[str, Stream] = {}
        self._subscriptions = contextlib.ExitStack()
        self._parted: trio.Event | None = None
        self.is_busy = False
        self.heard_at = trio.current_time()
        """When the last well-formed request came, or the connection."""

    @property
    def is_subscriber(self) -> bool:
        """Whether it was granted a subscription."""
        return bool(self._streams)

    def close(self) -> None:
        """Give the peer up, now."""
        self._wire.close()

    async def serve(self) -> None:
        """Converse until the peer goes, is given up, or cannot be understood any more."""
        with self._wire, self._subscriptions:
            async with trio.open_nursery() as tellers:
                await self._answer_requests(tellers)
                tellers.cancel_scope.cancel()

    async def _answer_requests(self, tellers: trio.Nursery) -> None:
        line = None
        try:
            with trio.move_on_after(self._limits.first_line):
                line = await self._wire.next_line()
            while line is not None and await self._answer(line, tellers):
                line = await self._wire.next_line()
        except ProtocolError as exc:
            await self._wire.send(encode_error(None, exc.code, exc.message))
            await self._wire.linger()

    async def _answer(self, line: bytes, tellers: trio.Nursery) -> bool:
        """Answer one line; whether there is anything to go on with."""
        self.is_busy = True
        self._pending.value += 1
        try:
            reply = await self._reply_to(line)
            is_taken = await self._wire.send(reply.line)
        finally:
            self.is_busy = False
            self._pending.value -= 1
        if reply.stream is not None:
            tellers.start_soon(self._tell, reply.stream)
        if not is_taken:
            await self._part()
        return is_taken and not reply.ends

    async def _reply_to(self, line: bytes) -> Reply:
        try:
            request = decode_request(line)
        except ProtocolError as exc:
            return Reply(line=encode_error(exc.request_id, exc.code, exc.message))
        self.heard_at = trio.current_time()
        message = "the daemon erred: see its log"
        reply = Reply(line=encode_error(request.request_id, ErrorCode.INTERNAL_ERROR, message))
        with self._contain(f"the request {quote(request.method)}"):
            reply = await self._carry_out(request)
        return reply

    async def _carry_out(self, request: Request) -> Reply:
        try:
            method = METHODS.get(request.method)
            if method is None:
                message = f"there is no method {quote(request.method)}"
                raise ProtocolError(ErrorCode.METHOD_NOT_FOUND, message)
            arguments = check_params(request.method, method, request.params)
            if isinstance(method, Subscription):
                stream = self._subscribe(request.method, method, arguments)
                return Reply(line=encode_result(request.request_id, {}), stream=stream)
            result = await method.call(self._context, **arguments)
            return Reply(line=encode_result(request.request_id, result), ends=method.ends)
        except ProtocolError as exc:
            return Reply(line=encode_error(request.request_id, exc.code, exc.message))
        except RefusedError as exc:
            return Reply(line=encode_error(request.request_id, ErrorCode(exc.refusal.value), str(exc)))

    def _subscribe(self, name: str, method: Subscription, arguments: Mapping[str, Any]) -> Stream:
        if name in self._streams:
            raise RefusedError(Refusal.BUSY, f"this connection has {name} already: use another connection")
        if not self._streams and not self._may_subscribe():
            raise RefusedError(Refusal.BUSY, "too many subscribers are connected: end one of them")
        stream = self._subscriptions.enter_context(method.open(self._context, **arguments))
        self._streams[name] = stream
        self._wire.keep_room()
        return stream

    async def _tell(self, stream: Stream) -> None:
        """Send notifications until the peer is too slow for them, or gone, or there can be none."""
        missed = 0
        with self._contain("a subscription"):
            try:
                while not missed:
                    missed, line = await stream.receive()
                    if missed:
                        missed += 1
                    elif not await self._wire.send(line):
                        break
            except RefusedError as exc:
                self._on_problem(f"a subscriber was let go: {exc}")
        await self._part(missed)

    async def _part(self, missed: int = 0) -> None:
        """Give up a peer that does not read, after telling how many events it missed."""
        if self._parted is not None:
            await self._parted.wait()
            return
        self._parted = trio.Event()
        for stream in self._streams.values():
            missed += stream.give_up()
        await self._wire.say_farewell(encode_notification("missed", {"count": missed}) if missed else b"")
        self._parted.set()

    @contextlib.contextmanager
    def _contain(self, what: str) -> Iterator[None]:
        """Keep a bug in what one peer asked for from ending the daemon and all that it supervises.

        This is the control channel's bulkhead, as the component's is the engine's: one connection's
        task is a sibling of everything else that runs.
        """
        try:
            yield
        except Exception as exc:
            self._on_problem(f"an internal error in {what} on the control channel", exc)
