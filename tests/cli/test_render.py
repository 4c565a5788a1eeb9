"""What the status looks like, to the column."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmerd.cli.paint import cells, cut, cut_line, cut_middle, line, pad, paint, to_rich
from stigmerd.cli.render import render_status
from stigmerd.cli.table import SYMBOLS
from stigmerd.core.status import StatusDocument
from tests.cli.documents import AGENT, DAEMON, NOW, OFF, RUNNER, SERVER, WAITING, stack

ALL = stack(SERVER, RUNNER, WAITING, AGENT, OFF)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's clock is UTC."""
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def plain(document: StatusDocument, width: int | None, *, verbose: bool = False) -> str:
    """The status without colour."""
    return paint(render_status(document, now=NOW, width=width, verbose=verbose), colour=False)


def test_status_at_160_columns() -> None:
    assert plain(ALL, 160) == """\
✗ unhealthy: workflow-runner is restarting, web is waiting
stigmerd 0.1.0, pid 4711, up 12s, /home/u/.stigmer/stigmer.toml

   NAME             STATE       HEALTH     PID/CONTAINER  UPTIME  RESTARTS  LAST RESTART
✓  stigmer-server   running     healthy    12345          12s     0         -
↻  workflow-runner  restarting  unhealthy  -              -       3         10s ago
     restarts in 4s (attempt 4/10)
     last error at 04:00:11: killed by SIGKILL
↻  web              waiting     unhealthy  -              -       0         -
     waiting for workflow-runner to be ready
✗✗ agent-runner     failed      unhealthy  0123456789ab   -       10        -
     10 restarts within 600 s
     last error at 04:00:03: exited with code 1
     log: /home/u/.stigmer/logs/agent-runner.log
○  migrate          completed   healthy    -              -       0         -
"""


def test_status_at_80_columns_has_the_last_restart_beside_the_count() -> None:
    assert plain(ALL, 80).splitlines()[3:6] == [
        "   NAME             STATE       HEALTH     PID/CONTAINER  UPTIME  RESTARTS",
        "✓  stigmer-server   running     healthy    12345          12s     0",
        "↻  workflow-runner  restarting  unhealthy  -              -       3 (10s ago)",
    ]


def test_status_at_60_columns_keeps_restarts_longer_than_pid_and_uptime() -> None:
    assert plain(ALL, 60).splitlines()[3:6] == [
        "   NAME             STATE       HEALTH     RESTARTS",
        "✓  stigmer-server   running     healthy    0",
        "↻  workflow-runner  restarting  unhealthy  3 (10s ago)",
    ]


def test_status_at_40_columns() -> None:
    assert plain(ALL, 40) == """\
✗ unhealthy: workflow-runner is restart…
stigmerd 0.1.0, pid 4711, up 12s, /home…

   NAME             STATE
✓  stigmer-server   running
↻  workflow-runner  restarting
     restarts in 4s (attempt 4/10)
     last error at 04:00:11: killed by …
↻  web              waiting
     waiting for workflow-runner to be …
✗✗ agent-runner     failed
     10 restarts within 600 s
     last error at 04:00:03: exited wit…
     log: /home/u/.stigmer/logs/agent-runner.log
○  migrate          completed
"""


LONG = tuple(
    msgspec.structs.replace(component, name=f"{'a-name-as-long-as-names-may-be-' * 2}{end}")
    for component, end in ((SERVER, "1"), (RUNNER, "2"))
)


def test_longest_names_are_cut_in_the_middle_once_that_saves_a_column() -> None:
    assert plain(stack(*LONG), 160).splitlines()[4].startswith(f"✓  {LONG[0].name}  running     healthy    12345")
    assert plain(stack(*LONG), 80).splitlines()[3:5] == [
        "   NAME                                STATE       HEALTH     PID    RESTARTS",
        "✓  a-name-as-long-as…s-names-may-be-1  running     healthy    12345  0",
    ]


def test_heading_names_the_worst_first_and_counts_those_that_do_not_fit() -> None:
    many = [msgspec.structs.replace(WAITING, name=f"web-{number}") for number in range(9)]
    failed = msgspec.structs.replace(AGENT, optional=False)
    document = stack(*many, failed)
    assert plain(document, 80).splitlines()[0] == (
        "✗ unhealthy: agent-runner is failed, web-0 is waiting and 8 more"
    )
    assert plain(document, None).splitlines()[0].endswith("web-8 is waiting")


def test_margin_that_gets_small_stands_out() -> None:
    def margin(p99: float) -> str:
        probe = msgspec.structs.replace(SERVER.probes[0], duration_p99=p99)
        document = stack(msgspec.structs.replace(SERVER, probes=(probe,)))
        return paint(render_status(document, now=NOW, verbose=True), colour=True)

    assert "p99 310ms, margin 690ms of 1s\n" in margin(0.31)
    assert "p99 800ms, \x1b[33mmargin 200ms of 1s\x1b[0m\n" in margin(0.8)


def test_verbose_status_shows_probes_budget_usage_command_and_log() -> None:
    assert plain(stack(SERVER), 160, verbose=True).splitlines()[4:] == [
        "✓  stigmer-server  running  healthy  12345  12s     0",
        "     liveness grpc: passing, 4 passed in a row, 2s ago, SERVING",
        "       latency 1.2ms, p50 1ms, p99 310ms, margin 690ms of 1s",
        "     life 1, 10 of 10 restarts left, cpu 1.5%, memory 80.0 MiB",
        "     started 04:00:00",
        "     command: stigmer-server --port 7234",
        "     log: /home/u/.stigmer/logs/stigmer-server.log",
    ]


def test_status_of_a_dead_daemon_says_who_is_still_alive() -> None:
    alive = msgspec.structs.replace(SERVER, alive=True)
    dead = msgspec.structs.replace(AGENT, state="running", alive=False)
    none = msgspec.structs.replace(RUNNER, alive=False)
    text = plain(stack(alive, dead, none, daemon=None), 100)
    assert text.startswith("✗ not supervised: last known states, still alive: stigmer-server\n")
    assert re.search(r"✓ +stigmer-server +running +alive", text)
    assert re.search(r"○ +agent-runner +running +dead", text)
    assert re.search(r"workflow-runner +restarting +- ", text)
    assert "restarts in" not in text


def test_only_optional_trouble_leaves_the_stack_healthy() -> None:
    assert plain(stack(SERVER, AGENT), 100).startswith("✓ healthy: but optional agent-runner is failed\n")


def test_heading_of_a_healthy_stack_counts_what_is_up_unready_and_stopped() -> None:
    unready = msgspec.structs.replace(SERVER, ready=False)
    off = msgspec.structs.replace(OFF, state="stopped")
    assert plain(stack(SERVER, OFF), 80).startswith("✓ healthy: 2 of 2 up\n")
    assert plain(stack(SERVER, unready, off), 80).startswith("✓ healthy: 2 of 2 up, 1 not ready, 1 stopped\n")


def test_empty_stack_is_healthy() -> None:
    assert plain(stack(), 80).startswith("✓ healthy: the stack has no components\n")


def test_problems_and_a_stale_configuration_are_under_the_heading() -> None:
    daemon = msgspec.structs.replace(DAEMON, config_stale=True, problems=("the disk is full",))
    assert plain(stack(SERVER, daemon=daemon), 100).splitlines()[2:4] == [
        "! the configuration has changed: stigmer server reload",
        "! the disk is full",
    ]


def test_running_but_not_ready_shows_the_probe_that_fails() -> None:
    probe = msgspec.structs.replace(
        SERVER.probes[0], kind="readiness", verdict=None, consecutive_failures=2, message="connection refused"
    )
    text = plain(stack(msgspec.structs.replace(SERVER, ready=False, probes=(probe,))), 100)
    assert "not ready" in text
    assert "     readiness grpc: no verdict yet, 2 failed in a row, connection refused\n" in text


def test_hostile_texts_are_escaped_wherever_they_come_from() -> None:
    evil = "\x1b]0;x\x07\u202e\n"
    component = msgspec.structs.replace(
        AGENT,
        name=evil,
        state=evil,
        reason=evil + "r",
        last_error=evil,
        container_id=evil,
        log=evil,
        command=(evil,),
        blocked_by=evil,
        alive=None,
        probes=(msgspec.structs.replace(SERVER.probes[0], kind=evil, handler=evil, message=evil),),
    )
    daemon = msgspec.structs.replace(DAEMON, config=evil, problems=(evil,))
    text = paint(render_status(stack(component, daemon=daemon), now=NOW, verbose=True), colour=True)
    assert not set(re.sub(r"\x1b\[\d+m", "", text)) & set("\x1b\x07\u202e")
    assert "\\x1b]0;x\\x07\\u202e\\n" in text


@pytest.mark.parametrize(
    ("state", "code"),
    [("running", 32), ("starting", 33), ("waiting", 33), ("unhealthy", 31), ("failed", 31), ("stopped", 90)],
)
def test_each_state_has_its_symbol_and_colour(state: str, code: int) -> None:
    component = msgspec.structs.replace(SERVER, state=state)
    text = paint(render_status(stack(component), now=NOW, width=100), colour=True)
    assert f"\x1b[{code}m{SYMBOLS[state][0]}" in text


WIDE = msgspec.structs.replace(RUNNER, reason="データベース " * 9, last_error="数据库 🦊 \u0301\u200d" * 9)


@pytest.mark.parametrize("document", [ALL, stack(*LONG), stack(WIDE, daemon=None)], ids=["usual", "long", "wide"])
@pytest.mark.parametrize("verbose", [False, True])
def test_no_line_but_a_path_to_copy_is_wider_than_the_screen(document: StatusDocument, verbose: bool) -> None:
    for width in range(40, 161):
        lines = plain(document, width, verbose=verbose).splitlines()
        assert [text for text in lines if cells(text) > width and "log: " not in text] == []


@given(st.integers(1, 40))
def test_even_the_narrowest_screen_has_name_and_state(width: int) -> None:
    narrowest = 3 + 4 + 2 + len("restarting")
    body = plain(ALL, width).splitlines()[3:]
    assert all(cells(text) <= max(width, narrowest) for text in body if "log: " not in text)
    assert any(text.endswith("restarting") for text in body)


@given(st.text(), st.integers(0, 40))
def test_cut_text_fits(text: str, width: int) -> None:
    assert cells(cut(text, width)) <= width
    assert cells(pad(text, width)) == width
    assert cells(cut_middle(text, width)) <= width


@given(st.lists(st.text(st.characters(categories=("L", "N"))), max_size=6), st.integers(0, 40))
def test_cut_line_fits(parts: list[str], width: int) -> None:
    assert sum(cells(span.text) for span in cut_line(line(*parts), width)) <= width


def test_rich_and_paint_show_the_same_text() -> None:
    lines = render_status(ALL, now=NOW, width=80)
    assert [text.rstrip() for text in to_rich(lines).plain.splitlines()] == paint(lines, colour=False).splitlines()
