"""The causal report: what is told apart, what is found, what is advised."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import pytest

from stigmerd.cli.explain import render_report
from stigmerd.cli.paint import paint
from stigmerd.core.event import Entry
from stigmerd.core.explain import OUTPUT_LINES, ExplainReport, build_report
from stigmerd.core.status import ComponentDocument, ExitDocument
from tests.cli.documents import AGENT, NOW, OFF, RUNNER, SERVER, WAITING, at, entry

BORN = "2026-01-22T04:00:00.000Z stigmerd[workflow-runner]: Started workflow-runner (pid 1)"
DEAD = "2026-01-22T04:00:03.000Z stigmerd[workflow-runner]: Exited workflow-runner: exited with code 1"
REBORN = "2026-01-22T04:00:05.000Z stigmerd[workflow-runner]: Restarted workflow-runner (attempt 1/10)"


def explain(
    *events: Entry,
    component: ComponentDocument = RUNNER,
    others: Sequence[ComponentDocument] = (),
    tail: Sequence[str] = (),
) -> ExplainReport:
    """The report on one component."""
    return build_report(component, [component, *others], events, lambda count: tail[-count:], NOW)


def shown(report: ExplainReport, width: int | None = None) -> str:
    """The report as a reader sees it, on a clock that shows UTC."""
    return paint(render_report(report, now=NOW, width=width), colour=False)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's clock is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def exited(
    seq: int = 9,
    life: int = 1,
    *,
    code: int | None = None,
    signal: str | None = None,
    oom: bool | None = None,
) -> Entry:
    """The end of a life after three seconds."""
    return entry(seq, "exited", life=life, code=code, signal=signal, oom=oom, uptime=3.0)


def test_crash_is_told_by_its_exit_code() -> None:
    report = explain(exited(code=1))
    assert (report.cause, report.happened) == ("crash", "It exited with code 1 after 3 s.")
    assert report.exit == ExitDocument(code=1, at=at(11.1))


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (126, "could not be executed"),
        (127, "not found"),
        (78, "configuration error"),
        (143, "128 + SIGTERM"),
    ],
)
def test_exit_codes_are_translated(code: int, meaning: str) -> None:
    assert meaning in explain(exited(code=code)).happened


def test_code_of_a_shell_for_a_signal_is_told_as_such() -> None:
    assert "ended by that signal" in explain(exited(code=143)).evidence[0]
    assert explain(exited(code=1)).evidence == ()


def test_out_of_memory_kill_is_told_from_a_kill_by_somebody() -> None:
    assert explain(exited(signal="SIGKILL", oom=True)).cause == "out_of_memory"
    outside = explain(exited(signal="SIGKILL", oom=False))
    assert outside.cause == "signal"
    assert "from outside" in outside.happened
    assert "cannot be told" in explain(exited(signal="SIGKILL")).evidence[0]


def test_segmentation_fault_is_a_crash_and_not_somebodys_signal() -> None:
    assert explain(exited(signal="SIGSEGV")).cause == "crash"


def test_condemned_life_is_explained_by_the_probe_and_not_by_the_signal_that_ended_it() -> None:
    condemned = entry(8, "unhealthy", reason="liveness_probe", message="NOT_SERVING", probe="liveness")
    report = explain(condemned, exited(signal="SIGTERM"))
    assert report.cause == "probe"
    assert "liveness probe failed: NOT_SERVING" in report.happened
    assert report.evidence[1] == "On being stopped it was killed by SIGTERM after 3 s."
    assert report.exit is not None
    assert report.exit.signal == "SIGTERM"


def test_startup_probe_that_never_passed_is_told_so() -> None:
    condemned = entry(8, "unhealthy", reason="startup_probe", message="refused", probe="startup")
    assert explain(condemned).happened == "It never came up: its startup probe failed: refused."


def test_spawn_failure_is_told_from_a_crash() -> None:
    report = explain(entry(3, "start_failed", reason="spawn", message="web: No such file or directory", errno=2))
    assert report.cause == "spawn"
    assert report.command == "stigmer server check"


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("no-such-program", "command -v no-such-program"),
        ("/opt/my app/run", "ls -l '/opt/my app/run'"),
        ("./run", "stigmer server check"),
    ],
)
def test_program_that_cannot_be_spawned_is_the_first_thing_to_look_at(program: str, command: str) -> None:
    message = f"{program}: No such file or directory"
    component = msgspec.structs.replace(RUNNER, state="failed", command=(program, "--now"))
    report = explain(entry(3, "start_failed", reason="spawn", message=message, errno=2), component=component)
    assert report.command == command


def test_missing_image_is_answered_with_the_pull_command() -> None:
    message = "there is no image stigmer-agent-runner:local: docker pull stigmer-agent-runner:local."
    report = explain(entry(3, "start_failed", reason="spawn", message=message))
    assert report.command == "docker pull stigmer-agent-runner:local"


def test_end_that_an_operator_asked_for_is_no_failure() -> None:
    stopped = msgspec.structs.replace(RUNNER, state="stopped", healthy=True, last_exit=None, last_error=None)
    report = explain(entry(8, "stopping", reason="operator"), exited(signal="SIGTERM"), component=stopped)
    assert report.cause == "stopped"
    assert report.command == "stigmer server start workflow-runner"


def test_waiting_component_is_explained_by_the_root_of_what_it_waits_for() -> None:
    waits = entry(5, "waiting", reason="dependency", message="waiting for web to be ready")
    component = msgspec.structs.replace(
        RUNNER, state="waiting", blocked_by="web", reason="waiting for web to be ready", next_start_at=None
    )
    middle = msgspec.structs.replace(WAITING, blocked_by="agent-runner")
    report = explain(waits, component=component, others=[middle, AGENT])
    assert (report.cause, report.blocked_by, report.root_cause) == ("dependency", "web", "agent-runner")
    assert report.command == "stigmer server explain agent-runner"


def test_stranger_on_a_port_is_the_first_thing_to_look_at() -> None:
    reason = "port 7234 is taken by pid 4321 (python3 -m http.server)"
    component = msgspec.structs.replace(RUNNER, state="waiting", reason=reason, next_start_at=None)
    report = explain(entry(5, "waiting", reason="port", message=reason), component=component)
    assert (report.cause, report.command) == ("port", "ps -o pid,user,args -p 4321")
    assert report.happened == f"It has not been started, because {reason}."


def test_dependency_that_failed_just_before_is_the_root_cause_of_a_crash() -> None:
    component = msgspec.structs.replace(RUNNER, depends_on={"stigmer-server": "ready"})
    failed_before = msgspec.structs.replace(
        SERVER, last_exit=ExitDocument(signal="SIGKILL", at=at(12)), last_error="killed by SIGKILL"
    )
    report = explain(exited(code=1), component=component, others=[failed_before])
    assert report.root_cause == "stigmer-server"
    assert report.command == "stigmer server explain stigmer-server"
    assert "which had failed just before: killed by SIGKILL." in report.evidence[-1]
    assert explain(exited(code=1), component=component, others=[SERVER]).root_cause is None
    assert explain(exited(code=1), others=[failed_before]).root_cause is None


def test_root_cause_is_looked_for_behind_the_dependencies_that_failed_too() -> None:
    component = msgspec.structs.replace(RUNNER, depends_on={"web": "ready"})
    middle = msgspec.structs.replace(WAITING, state="restarting", blocked_by=None, depends_on={"agent-runner": "ready"})
    circle = msgspec.structs.replace(AGENT, depends_on={"web": "ready"})
    for bottom in (AGENT, circle):
        report = explain(exited(code=1), component=component, others=[middle, bottom])
        assert report.root_cause == "agent-runner"
        assert "which is failed: exited with code 1." in report.evidence[-1]


def test_everybody_who_waits_is_named() -> None:
    behind = msgspec.structs.replace(WAITING, name="last", blocked_by="web")
    assert explain(exited(code=1), others=[WAITING, behind, SERVER]).blocks == ("web", "last")


def test_circle_of_blocks_is_no_endless_walk() -> None:
    one = msgspec.structs.replace(RUNNER, state="waiting", blocked_by="web")
    assert explain(component=one, others=[WAITING]).root_cause == "web"


def test_output_is_that_of_the_life_that_failed_also_what_it_wrote_before_its_birth_was_noted() -> None:
    events = [entry(1, "starting", life=1), exited(seq=5, code=1), entry(8, "starting", life=2)]
    tail = ["first", BORN, "fatal: no database", DEAD, "second", REBORN, "third"]
    running = msgspec.structs.replace(RUNNER, state="running", healthy=True, life=2)
    assert explain(*events, component=running, tail=tail).output == ("first", "fatal: no database")


def test_output_of_a_condemned_life_that_has_not_ended_yet_is_the_newest() -> None:
    condemned = entry(8, "unhealthy", reason="liveness_probe", message="x", probe="liveness")
    assert explain(condemned, tail=[BORN, "hanging"]).output == ("hanging",)


def test_output_that_cannot_be_of_the_life_that_failed_is_not_shown() -> None:
    assert explain(exited(code=1), tail=["of whom?"]).output == ()
    spawn = entry(9, "start_failed", life=2, reason="spawn", message="gone")
    assert explain(spawn, tail=[BORN, "older", DEAD]).output == ()


def test_output_is_found_behind_what_the_next_life_wrote() -> None:
    events = [entry(1, "starting", life=1), exited(seq=5, code=1), entry(8, "starting", life=2)]
    running = msgspec.structs.replace(RUNNER, state="running", healthy=True, life=2)
    tail = [BORN, "fatal: no database", DEAD, REBORN, *["GET / 200"] * 5000]
    assert explain(*events, component=running, tail=tail).output == ("fatal: no database",)


def test_output_has_an_upper_bound() -> None:
    report = explain(entry(1, "starting"), exited(code=1), tail=[BORN, *map(str, range(50)), DEAD])
    assert report.output == tuple(map(str, range(50 - OUTPUT_LINES, 50)))


def test_next_start_is_told_with_its_time() -> None:
    report = explain(exited(code=1))
    assert report.next == "It is restarted in 4 s (attempt 4 of 10)."
    assert report.next_start_at == RUNNER.next_start_at
    assert "(attempt 4 of 10). That is at 04:00:16.\n" in shown(report)


def test_failed_component_waits_for_the_operator_or_its_trial() -> None:
    failed = msgspec.structs.replace(RUNNER, state="failed", next_start_at=None)
    assert explain(exited(code=1), component=failed).command == "stigmer server restart workflow-runner"
    trial = msgspec.structs.replace(RUNNER, state="failed")
    assert explain(exited(code=1), component=trial).next == "One trial start follows in 4 s."


@pytest.mark.parametrize(
    ("reason", "message", "said"),
    [
        ("budget", "10 restarts within 600 s: exited with code 1", "budget is spent: 10 restarts within 600 s."),
        ("fatal_exit", "exited with code 78; restarting cannot help", "fatal_exit_codes"),
        ("trial", "the trial failed: exited with code 1", "trial start"),
        ("exit", "exited with code 1; restart policy 'never' ends here", "policy ends here"),
    ],
)
def test_failed_component_is_told_why_it_is_not_restarted(reason: str, message: str, said: str) -> None:
    failed = msgspec.structs.replace(RUNNER, state="failed", next_start_at=None)
    verdict = entry(10, "failed", reason=reason, message=message)
    assert said in explain(exited(code=1), verdict, component=failed).evidence[0]
    assert explain(exited(code=1), verdict).evidence == ()


def test_what_needs_a_look_elsewhere_is_answered_with_that_look() -> None:
    failed = msgspec.structs.replace(RUNNER, state="failed", next_start_at=None)
    bug = explain(entry(9, "failed", reason="internal", message="KeyError"), component=failed)
    assert (bug.cause, bug.command) == ("internal", "stigmer server logs stigmerd")
    stuck = explain(entry(9, "failed", reason="unkillable", message="cannot be killed: pid 7, pid 8"), component=failed)
    assert (stuck.cause, stuck.command) == ("unkillable", "ps -o pid,stat,wchan,args -p 7,8")


@pytest.mark.parametrize(
    ("reason", "said"),
    [("operator", "an operator asked"), ("shutdown", "the daemon was stopped"), ("reload", "changed configuration")],
)
def test_who_wanted_it_down_is_told(reason: str, said: str) -> None:
    stopped = msgspec.structs.replace(RUNNER, state="stopped", healthy=True, last_exit=None, last_error=None)
    assert said in explain(entry(9, "stopped", reason=reason), component=stopped).happened


def test_component_that_never_ran_was_not_stopped() -> None:
    never = msgspec.structs.replace(OFF, state="stopped", life=0)
    assert explain(component=never).happened == "It was never started."
    disabled = msgspec.structs.replace(never, enabled=False)
    assert explain(component=disabled).happened == "It was never started, because it is disabled in the configuration."


def test_completed_component_has_not_failed_whatever_its_last_exit() -> None:
    done = msgspec.structs.replace(OFF, last_exit=ExitDocument(code=0, at=at(3)))
    events = [exited(code=0), entry(10, "completed", reason="exit")]
    assert explain(*events, component=done).cause == "none"
    assert explain(component=done).happened == "It has done its work and ended with success."


def test_component_that_completed_and_was_stopped_afterwards_has_not_crashed() -> None:
    success = ExitDocument(code=0, at=at(11))
    stopped = msgspec.structs.replace(
        RUNNER, state="stopped", healthy=True, life=1, last_exit=success, last_error=None, next_start_at=None
    )
    ended = [exited(code=0), entry(10, "completed", reason="exit")]
    report = explain(*ended, entry(11, "stopped", reason="operator"), component=stopped)
    assert (report.cause, report.happened) == ("stopped", "It is stopped, because an operator asked for it.")
    assert report.evidence == ("Before that it had done its work and ended with success.",)
    assert explain(component=stopped).cause == "stopped"  # the events may be gone
    failed_before = msgspec.structs.replace(stopped, last_error="exited with code 1")
    assert explain(*ended, component=failed_before).cause == "stopped"
    assert explain(component=msgspec.structs.replace(failed_before, last_exit=RUNNER.last_exit)).cause == "signal"


def test_timeline_has_the_end_of_the_failed_life_also_after_much_else() -> None:
    running = msgspec.structs.replace(RUNNER, state="running", healthy=True, ready=True, life=2)
    flaps = [entry(10 + n, "ready" if n % 2 else "unready", life=2) for n in range(30)]
    timeline = explain(exited(seq=5, code=1), *flaps, component=running).timeline
    assert [moment.life for moment in timeline] == [1, *[2] * 14]


@pytest.mark.parametrize("component", [SERVER, RUNNER, WAITING, AGENT, OFF], ids=lambda c: c.state)
def test_status_alone_is_enough_for_a_report(component: ComponentDocument) -> None:
    report = explain(component=component)
    assert report.happened.endswith(".")
    assert report.next
    assert report.command


def test_events_of_others_are_no_part_of_the_report() -> None:
    assert explain(exited(code=1), component=SERVER).timeline == ()


def test_report_survives_json() -> None:
    report = explain(exited(code=1))
    assert msgspec.json.decode(msgspec.json.encode(report), type=ExplainReport) == report


def test_hostile_output_is_escaped_in_the_report() -> None:
    report = explain(
        entry(1, "starting"), exited(code=1, signal=None), tail=[BORN, "\x1b]0;x\x07", "a\u202eb", DEAD]
    )
    text = paint(render_report(report, now=NOW), colour=False)
    assert "\\x1b]0;x\\x07" in text
    assert not set(text) & set("\x1b\x07\u202e")


def test_report_at_60_columns() -> None:
    component = msgspec.structs.replace(RUNNER, depends_on={"agent-runner": "ready"})
    again = entry(10, "restarting", attempt=4, max_restarts=10, delay=4)
    events = [entry(1, "starting", pid=1), exited(code=127), again]
    report = explain(*events, component=component, others=[AGENT], tail=[BORN, "sh: 1: nope: not found", DEAD])
    assert shown(report, 60) == """\
↻ workflow-runner is restarting

What happened (11s ago, at 04:00:00)
  It exited with code 127 after 3 s: the command was not
  found.
  The root cause is agent-runner, which is failed: exited
  with code 1.

What the daemon did
  04:00:00  life 1: starting (pid 1)
  04:00:00  life 1: exited with code 127 after 3 s: the com…
  04:00:01  life 1: restarts in 4 s (attempt 4/10)

The end of its output
  | sh: 1: nope: not found

What happens next
  It is restarted in 4 s (attempt 4 of 10). That is at
  04:00:16.

Try
  stigmer server explain agent-runner

log: /home/u/.stigmer/logs/workflow-runner.log
"""
