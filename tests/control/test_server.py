"""The control channel over real sockets: who is answered, in what order, and what nobody can disturb."""

from __future__ import annotations

import json
import resource
from typing import Any

import pytest
import trio
import trio.testing

from stigmerd.control.handlers import STATUS_REST
from stigmerd.control.limits import Limits
from stigmerd.control.protocol import MAX_LINE
from tests.control.conftest import Serve
from tests.control.fakes import FakeOperations, Peer
from tests.control.test_protocol import GOOD, INVALID_REQUESTS, PARSE_ERRORS

COMPONENTS = {"components": [{"name": "web", "state": "stopped", "ok": False, "message": "no", "survivors": [7]}]}

WRONG_PARAMS = [
    ("hello", {"name": "web"}),
    ("status", {"names": "web"}),
    ("status", {"names": [1]}),
    ("status", {"names": None}),
    ("status", {"names": ["\ud800"]}),
    ("status", {"verbose": 1}),
    ("start", {"timeout": -1}),
    ("start", {"timeout": True}),
    ("start", {"timeout": "10s"}),
    ("start", {"timeout": 10**400}),
    ("stop", {"now": "yes"}),
    ("stop", {"command": ["sh"]}),
    ("restart", {"env": {"A": "b"}}),
    ("reload", {"config": "/etc/passwd"}),
    ("signal", {"names": ["web"]}),
    ("signal", {"signal": "SIGHUP"}),
    ("signal", {"names": ["web"], "signal": 9}),
    ("explain", {}),
    ("explain", {"name": ["web"]}),
    ("events.subscribe", {"since": -1}),
    ("events.subscribe", {"since": True}),
    ("events.subscribe", {"since": 1.5}),
    ("events.subscribe", {"since": 10**300}),
    ("status.subscribe", {"names": []}),
    ("shutdown", {"names": ["web"]}),
]


def asked(operations: FakeOperations) -> list[str]:
    """What operations were called, in order."""
    return [name for name, _ in operations.calls]


def error_code(message: dict[str, Any] | None) -> int:
    """The code of an answer that is an error."""
    assert message is not None
    return int(message["error"]["code"])


async def test_hello_names_protocol_version_and_pid(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        answer = await peer.call("hello")
    assert answer == {"jsonrpc": "2.0", "id": 1, "result": {"protocol": 1, "version": "1.2.3", "pid": 4711}}


@pytest.mark.parametrize("method", ["start", "stop", "restart"])
async def test_operation_gets_its_parameters_and_answers_per_component(serve: Serve, method: str) -> None:
    async with serve() as served, await served.connect() as peer:
        answer = await peer.call(method, names=["web", "web"], timeout=3, now=True)
    name, arguments = served.operations.calls[0]
    assert answer["result"] == COMPONENTS
    assert name == method
    assert isinstance(arguments, dict)
    assert (arguments["names"], arguments["timeout"]) == (("web",), 3.0)
    assert arguments.get("now", True) is True


async def test_every_other_method_answers_in_its_form(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        assert (await peer.call("signal", names=["web"], signal="SIGHUP"))["result"] == COMPONENTS
        reload = {"added": ["web"], "removed": [], "changed": [], "restarted": []}
        assert (await peer.call("reload", dry_run=True))["result"] == reload
        assert (await peer.call("reload", verbose=True))["result"].keys() > reload.keys()
        assert (await peer.call("explain", name="web"))["result"]["text"] == "a lone \ud800 surrogate\u2028"
        assert (await peer.call("status", names=["web"], verbose=True))["result"]["schema"] == 1
        assert (await peer.call("reexec"))["result"] == {}
    assert served.operations.calls[0][1] == {"names": ("web",), "signal": "SIGHUP"}


async def test_unknown_component_is_error_1_with_a_word_and_a_sentence(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        answer = await peer.call("stop", names=["nobody"])
    error = {"code": 1, "message": "there is no component nobody", "data": {"code": "unknown_component"}}
    assert answer["error"] == error


async def test_unknown_method_is_refused(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        assert error_code(await peer.call("rpc.discover")) == -32601
        assert error_code(await peer.call("")) == -32601


@pytest.mark.parametrize(("method", "params"), WRONG_PARAMS)
async def test_unknown_missing_or_mistyped_parameter_is_refused_and_nothing_done(
    serve: Serve, method: str, params: dict[str, object]
) -> None:
    async with serve() as served, await served.connect() as peer:
        assert error_code(await peer.call(method, **params)) == -32602
        assert "result" in await peer.call("hello")
    assert asked(served.operations) == []


@pytest.mark.parametrize("line", [*PARSE_ERRORS.values(), *(text.encode() for text in INVALID_REQUESTS.values())])
async def test_malformed_line_gets_an_error_and_the_connection_goes_on(serve: Serve, line: bytes) -> None:
    async with serve() as served, await served.connect() as peer:
        await peer.send(line.replace(b"\n", b" ") + b"\n")
        assert error_code(await peer.receive()) in {-32700, -32600}
        assert "result" in await peer.call("hello")
    assert served.problems == []


async def test_batch_duplicate_key_and_request_without_id_are_not_carried_out(serve: Serve) -> None:
    stop = GOOD.replace("hello", "stop")
    async with serve() as served, await served.connect() as peer:
        for line in (f"[{stop}]", stop.replace('"id":1,', ""), stop.replace("{}", '{"now":true,"now":true}')):
            await peer.send(line.encode() + b"\n")
            assert error_code(await peer.receive()) == -32600
    assert asked(served.operations) == []


@pytest.mark.parametrize("size", [MAX_LINE + 1, 4 * 1024 * 1024])
async def test_overlong_line_gets_an_error_and_then_the_end(serve: Serve, size: int) -> None:
    async with serve() as served, await served.connect() as peer, trio.open_nursery() as nursery:

        async def send() -> None:
            await peer.send(b"x" * size)
            await peer.stream.send_eof()

        nursery.start_soon(send)
        (answer,) = await peer.receive_all()
        assert (answer["id"], error_code(answer)) == (None, -32600)


async def test_line_of_the_full_length_is_answered(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        await peer.send(GOOD.encode().ljust(MAX_LINE) + b"\n")
        assert (await peer.receive() or {})["id"] == 1


async def test_requests_in_one_go_are_answered_in_order_also_after_the_last_byte(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        await peer.send(b"".join(GOOD.replace('"id":1', f'"id":{n}').encode() + b"\n" for n in range(50)))
        await peer.stream.send_eof()
        assert [answer["id"] for answer in await peer.receive_all()] == list(range(50))


async def test_line_that_is_never_ended_is_an_error_at_the_end(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        await peer.send(GOOD.encode())
        await peer.stream.send_eof()
        assert [error_code(answer) for answer in await peer.receive_all()] == [-32700]


async def test_connections_do_not_wait_for_each_other(serve: Serve) -> None:
    async with serve() as served, await served.connect() as slow, await served.connect() as quick:
        served.operations.work = trio.Event()
        await slow.ask("stop")
        await slow.ask("hello")
        assert "result" in await quick.call("hello")
        served.operations.work.set()
        assert (await slow.receive() or {})["result"] == COMPONENTS
        assert (await slow.receive() or {})["result"]["pid"] == 4711


async def test_operation_of_a_peer_that_went_away_is_carried_to_its_end(serve: Serve) -> None:
    async with serve() as served:
        served.operations.work = trio.Event()
        async with await served.connect() as peer:
            await peer.ask("stop")
            await served.operations.called.wait_value(1)
        served.operations.work.set()
        await served.server.wait_answered()
        assert served.operations.ended == ["stop"]
    assert served.problems == []


async def test_bug_in_an_operation_is_answered_reported_and_contained(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        answer = await peer.call("explain", name="buggy")
        assert error_code(answer) == -32603
        assert "a bug" not in json.dumps(answer)
        assert "result" in await peer.call("hello")
    ((message, error),) = served.problems
    assert "explain" in message
    assert isinstance(error, ZeroDivisionError)


async def test_shutdown_is_answered_and_then_the_connection_closes(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        served.operations.work = trio.Event()
        await peer.ask("shutdown", now=True)
        await peer.ask("hello")
        with trio.move_on_after(0.02) as waiting:
            await served.operations.called.wait_value(1)
            await served.server.wait_answered()
        assert waiting.cancelled_caught
        served.operations.work.set()
        assert [answer["result"] for answer in await peer.receive_all()] == [COMPONENTS]
        await served.server.wait_answered()


# Who is there at once.


async def test_peer_that_sends_no_whole_line_in_time_is_closed(serve: Serve) -> None:
    limits = Limits(first_line=0.1)
    async with serve(limits) as served, await served.connect() as silent, await served.connect() as half:
        await half.send(GOOD.encode())
        assert await silent.receive() is None
        assert await half.receive() is None


async def test_peer_that_has_sent_a_line_may_be_idle(serve: Serve) -> None:
    async with serve(Limits(first_line=0.05)) as served, await served.connect() as peer:
        await peer.call("hello")
        await trio.sleep(0.1)
        assert "result" in await peer.call("hello")


async def test_newcomer_displaces_the_peer_that_has_gone_longest_without_a_request(serve: Serve) -> None:
    async with serve(Limits(connections=3)) as served:
        peers = [await served.connect() for _ in range(3)]
        for peer in (peers[1], peers[2], peers[0]):
            await peer.call("hello")
        async with await served.connect() as newcomer:
            assert "result" in await newcomer.call("hello")
            assert await peers[1].receive() is None
            assert "result" in await peers[0].call("hello")
            assert "result" in await peers[2].call("hello")
        for peer in peers:
            await peer.__aexit__()


async def test_idle_peers_give_way_where_descriptors_are_few_and_subscribers_stay(serve: Serve) -> None:
    everything = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    async with (
        serve(Limits(reserve=everything)) as served,
        await served.connect() as subscriber,
    ):
        await subscriber.call("events.subscribe")
        async with await served.connect() as idle, await served.connect() as newcomer:
            assert "result" in await newcomer.call("hello")
            assert await idle.receive() is None
            assert "result" in await subscriber.call("hello")


async def test_malformed_lines_do_not_keep_a_place(serve: Serve) -> None:
    limits = Limits(connections=2)
    async with serve(limits) as served, await served.connect() as noisy, await served.connect() as decent:
        await decent.call("hello")
        await noisy.send(b"nonsense\n")
        assert error_code(await noisy.receive()) == -32700
        async with await served.connect() as newcomer:
            await newcomer.call("hello")
            assert await noisy.receive() is None


async def test_operator_is_served_beside_300_idle_clients(serve: Serve) -> None:
    async with serve() as served:
        idle: list[Peer] = []
        subscriber = await served.connect()
        await subscriber.call("events.subscribe")
        for number in range(300):
            idle.append(await served.connect())
            await idle[-1].send(GOOD.encode()[:10] if number % 2 else b"")
        with trio.fail_after(1):
            async with await served.connect() as operator:
                assert "result" in await operator.call("status")
        entry = served.operations.record()
        assert (await subscriber.receive() or {})["params"]["seq"] == entry.seq
        for peer in [*idle, subscriber]:
            await peer.__aexit__()


async def test_more_than_the_allowed_subscribers_are_told_to_wait(serve: Serve) -> None:
    limits = Limits(subscribers=1)
    async with serve(limits) as served, await served.connect() as first, await served.connect() as second:
        assert "result" in await first.call("events.subscribe")
        assert "result" in await first.call("status.subscribe")
        assert (await second.call("events.subscribe"))["error"]["data"] == {"code": "busy"}
        await first.__aexit__()
        while error := (await second.call("events.subscribe")).get("error"):
            assert error["code"] == 5


# Subscriptions.


async def test_event_subscriber_gets_what_was_since_and_what_comes(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        for _ in range(3):
            served.operations.record()
        assert (await peer.call("events.subscribe", since=1))["result"] == {}
        served.operations.record("new\ud800")
        told = [await peer.receive() or {} for _ in range(3)]
    assert [message["method"] for message in told] == ["event"] * 3
    assert [message["params"]["seq"] for message in told] == [2, 3, 4]
    assert told[2]["params"] == served.operations.history[3].to_plain()


async def test_long_history_is_not_held_against_a_subscriber_that_reads(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        for _ in range(3000):
            served.operations.record()
        await peer.ask("events.subscribe", since=0)
        await served.operations.subscribed.wait_value(1)
        served.operations.record()
        assert (await peer.receive() or {})["result"] == {}
        assert [(await peer.receive() or {})["params"]["seq"] for _ in range(3001)] == list(range(1, 3002))


async def test_subscriber_of_a_history_that_takes_long_to_read_is_answered_all_the_while(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        served.operations.record()
        served.operations.work = trio.Event()
        assert (await peer.call("events.subscribe", since=0))["result"] == {}
        assert "result" in await peer.call("hello")
        for _ in range(3000):
            served.operations.record()
        served.operations.work.set()
        assert [(await peer.receive() or {})["params"]["seq"] for _ in range(3001)] == list(range(1, 3002))


async def test_subscriber_of_a_history_that_does_not_answer_is_told_what_it_missed_since_and_closed(
    serve: Serve,
) -> None:
    async with serve() as served, await served.connect() as peer:
        served.operations.work = trio.Event()
        served.operations.is_hung = True
        await peer.call("events.subscribe", since=0)
        served.operations.record()
        served.operations.work.set()
        assert await peer.receive_all() == [{"jsonrpc": "2.0", "method": "missed", "params": {"count": 1}}]
        await served.operations.subscribed.wait_value(0)
    assert served.problems == [("a subscriber was let go: the event history does not answer", None)]


async def test_subscription_to_an_unknown_component_is_refused(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        assert error_code(await peer.call("events.subscribe", names=["nobody"])) == 1
        assert served.operations.feeds == []
        assert "result" in await peer.call("events.subscribe", names=["web"])


async def test_second_subscription_of_a_kind_on_one_connection_is_refused(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        await peer.call("events.subscribe")
        assert error_code(await peer.call("events.subscribe")) == 5


async def test_subscriber_may_go_on_asking(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        await peer.call("events.subscribe")
        assert "result" in await peer.call("hello")
        served.operations.record()
        assert (await peer.receive() or {})["method"] == "event"


async def test_answer_waits_for_the_end_of_a_notification_that_is_being_sent(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        await peer.call("events.subscribe")
        served.operations.record("x" * 1_000_000)
        await trio.testing.wait_all_tasks_blocked()
        await peer.ask("hello")
        await trio.testing.wait_all_tasks_blocked()
        assert (await peer.receive() or {})["method"] == "event"
        assert "result" in (await peer.receive() or {})


async def test_subscription_ends_with_its_connection(serve: Serve) -> None:
    async with serve() as served:
        async with await served.connect() as peer:
            await peer.call("events.subscribe")
            assert len(served.operations.feeds) == 1
        with trio.fail_after(1):
            await served.operations.subscribed.wait_value(0)


async def test_subscriber_that_never_reads_is_told_what_it_missed_and_closed(serve: Serve) -> None:
    limits = Limits(stall=0.1)
    async with serve(limits) as served, await served.connect() as peer, await served.connect() as operator:
        await peer.call("events.subscribe")
        for _ in range(900):  # more than the socket holds, less than the queue does
            served.operations.record("x" * 100)
        with trio.fail_after(5):
            await served.operations.subscribed.wait_value(0)
        assert "result" in await operator.call("hello")
        assert await read_up_to_missed(peer) == 900


async def test_subscriber_that_reads_too_late_is_told_what_it_missed_and_closed(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        await peer.call("events.subscribe")
        for _ in range(900):
            served.operations.record("x" * 100)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(5000):  # more than the queue holds
            served.operations.record("x" * 100)
        assert await read_up_to_missed(peer) == 5900


async def read_up_to_missed(peer: Peer) -> int:
    """Read events without a gap, then how many were missed, then the end; how many that is together."""
    *events, last = await peer.receive_all()
    assert [message["params"]["seq"] for message in events] == list(range(1, len(events) + 1))
    assert (last["method"], list(last["params"])) == ("missed", ["count"])
    assert len(events) > 0
    assert last["params"]["count"] > 0
    return len(events) + int(last["params"]["count"])


async def test_peer_that_does_not_read_its_answers_is_closed(serve: Serve) -> None:
    async def ask_on(peer: Peer) -> None:
        while True:
            await peer.ask("status")

    async with serve(Limits(stall=0.1, farewell=0.1)) as served, await served.connect() as peer:
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await ask_on(peer)


async def test_status_subscriber_gets_a_snapshot_then_the_latest_change(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        assert (await peer.call("status.subscribe"))["result"] == {}
        first = await peer.receive() or {}
        for _ in range(10):
            served.operations.change_status()
        second = await peer.receive() or {}
    assert (first["method"], first["params"]["schema"]) == ("status", 1)
    assert [m["params"]["daemon"]["uptime"] for m in (first, second)] == [1.0, 11.0]


async def test_status_that_takes_long_to_make_is_made_seldom(serve: Serve) -> None:
    async with serve() as served, await served.connect() as peer:
        served.operations.status_takes = 0.05
        asked = trio.current_time()
        await peer.call("status.subscribe")
        await peer.receive()
        served.operations.change_status()
        await peer.receive()
        assert trio.current_time() - asked > (1 + STATUS_REST) * 0.05
