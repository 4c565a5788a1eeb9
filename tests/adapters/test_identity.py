"""Proof that a process is the one a record names, and the hunt for those that no record names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest

from stigmerd.adapters.processes import identity, proc
from stigmerd.adapters.processes.identity import (
    boot_id,
    end_strays_blocking,
    find_ours,
    is_alive,
    prove,
    read_stat,
    signal_name,
    signal_number,
    start_ticks,
)
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.record import Identity
from stigmerd.core.spec import StopPolicy

NONCE = "4-0123456789ab"

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def marked(home: Path | str, *argv: str, nonce: str = NONCE, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries the marks of a life."""
    marks = {"STIGMER_HOME": str(home), "STIGMER_COMPONENT": "worker", "STIGMER_LIFE": nonce}
    environment = {"PATH": "/usr/bin:/bin", **marks, **more}
    process = subprocess.Popen(argv or ("sleep", "60"), env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def identity_of(pid: int) -> Identity:
    """What a daemon would have written down."""
    with proc.held(pid) as pidfd:
        inode = proc.inode_of(pidfd) if pidfd is not None else None
    return Identity(nonce=NONCE, boot_id=boot_id(), pid=pid, start_ticks=start_ticks(pid), pidfd_inode=inode)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def zombie(process: subprocess.Popen[bytes]) -> int:
    """Let a process die, unreaped."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process.pid


def test_boot_id_is_the_same_for_all() -> None:
    code = "from stigmerd.adapters.processes.identity import boot_id; print(boot_id())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == boot_id()


@pytest.mark.parametrize("name", ["a b", "a) S 1 (b", "((", ") Z 0 0 0"])
def test_stat_is_read_whatever_the_name_of_the_program(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "60"])
    stat = read_stat(process.pid)
    assert stat is not None
    assert (stat.ppid, stat.session) == (os.getpid(), os.getsid(0))
    assert stat.is_alive
    process.kill()
    process.wait()
    assert read_stat(process.pid) is None


def test_signals_have_the_names_of_the_platform() -> None:
    assert signal_name(15) == "SIGTERM"
    assert signal_number("SIGTERM") == 15
    assert signal_name(signal.SIGRTMIN + 3) == "SIGRTMIN+3"
    assert signal_number("SIGRTMIN+3") == signal.SIGRTMIN + 3
    with pytest.raises(ValueError, match="SIGNOT is no signal"):
        signal_number("SIGNOT")


def test_living_process_is_proven(tmp_path: Path) -> None:
    with marked(tmp_path) as process:
        assert prove(identity_of(process.pid))
        assert is_alive(identity_of(process.pid))


def test_zombie_is_proven_but_not_alive(tmp_path: Path) -> None:
    with marked(tmp_path) as process:
        who = identity_of(process.pid)
        zombie(process)
        assert prove(who)
        assert not is_alive(who)
    assert not prove(who)


def test_zombie_without_inode_is_proven_as_our_child(tmp_path: Path) -> None:
    with marked(tmp_path) as process:
        who = msgspec.structs.replace(identity_of(process.pid), pidfd_inode=None)
        zombie(process)
        assert prove(who)


@pytest.mark.parametrize(
    "wrong",
    [{"start_ticks": 1}, {"start_ticks": None}, {"boot_id": "other"}, {"nonce": "other"}, {"pid": None}],
    ids=str,
)
def test_whatever_differs_disproves(tmp_path: Path, wrong: dict[str, object]) -> None:
    with marked(tmp_path) as process:
        assert not prove(msgspec.structs.replace(identity_of(process.pid), **wrong))


def test_other_inode_disproves(tmp_path: Path) -> None:
    with marked(tmp_path) as process:
        who = identity_of(process.pid)
        other = msgspec.structs.replace(who, pidfd_inode=(who.pidfd_inode or 0) + 1)
        assert prove(other) == (who.pidfd_inode is None)


@pytest.mark.parametrize("pid", [-1, 0, 1, pytest.param(os.getpid(), id="own")])
def test_init_and_we_ourselves_are_never_proven(pid: int) -> None:
    who = Identity(nonce=NONCE, boot_id=boot_id(), pid=pid, start_ticks=start_ticks(pid) if pid > 0 else 0)
    assert not prove(who)


def test_program_that_overwrote_its_environment_is_proven_by_its_inode(tmp_path: Path) -> None:
    with marked(tmp_path, "/bin/sh", "-c", "exec env -i sleep 60") as process:
        wait_until(lambda: proc.read_marks(process.pid) is None)
        who = identity_of(process.pid)
        assert prove(who) == (who.pidfd_inode is not None)
        assert not prove(msgspec.structs.replace(who, pidfd_inode=None))


def test_environment_is_read_from_another_thread_where_the_main_one_has_exited(tmp_path: Path) -> None:
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    with marked(tmp_path, sys.executable, "-S", "-c", code) as process:
        wait_until(lambda: (stat := read_stat(process.pid)) is not None and stat.state == "Z")
        assert is_alive(identity_of(process.pid))
        assert [found.pid for found in find_ours(str(tmp_path))] == [process.pid]


# How a process ended that is no child of ours.


def test_exit_of_a_stranger_is_read_while_it_is_a_zombie() -> None:
    process = subprocess.Popen(["sh", "-c", "exit 41"])
    ticks = start_ticks(process.pid) or 0
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert proc.status_of_stranger(process.pid, ticks, None) == ExitStatus(code=41)
    process.wait()
    assert proc.status_of_stranger(process.pid, ticks, None) == ExitStatus()


def test_exit_of_a_stranger_is_told_by_its_pidfd_after_the_reap_or_unknown() -> None:
    process = subprocess.Popen(["sleep", "60"])
    ticks = start_ticks(process.pid) or 0
    with proc.held(process.pid) as pidfd:
        process.kill()
        process.wait()
        assert proc.status_of_stranger(process.pid, ticks, pidfd).signal in {"SIGKILL", None}


# The hunt.


def test_ours_are_those_with_home_component_and_life(tmp_path: Path) -> None:
    with (
        marked(tmp_path) as ours,
        marked(tmp_path / "other"),
        marked(tmp_path, STIGMER_LIFE=""),
        marked(tmp_path, STIGMER_COMPONENT=""),
    ):
        found = find_ours(str(tmp_path))
        assert [(one.pid, one.component, one.nonce) for one in found] == [(ours.pid, "worker", NONCE)]
        assert found[0].start_ticks == start_ticks(ours.pid)


def test_ours_are_found_under_the_other_name_of_their_home(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with marked(tmp_path / "home") as ours:
        assert [one.pid for one in find_ours(str(tmp_path / "link"))] == [ours.pid]


def test_we_ourselves_are_not_ours(tmp_path: Path) -> None:
    code = f"from stigmerd.adapters.processes.identity import find_ours; assert find_ours({str(tmp_path)!r}) == []"
    with marked(tmp_path, sys.executable, "-c", code, PYTHONPATH=os.getcwd()) as process:
        assert process.wait() == 0


def test_strays_have_the_grace_to_end_by_themselves(tmp_path: Path) -> None:
    script = "trap 'echo ended > ended; exit 0' TERM; echo > ready; while :; do sleep 0.01; done"
    with marked(tmp_path, "/bin/sh", "-c", f"cd {tmp_path}; {script}") as process:
        wait_until((tmp_path / "ready").exists)
        strays = end_strays_blocking(str(tmp_path), 10)
        assert (tmp_path / "ended").exists()
        assert [(one.component, one.nonce, one.gone) for one in strays] == [("worker", NONCE, True)]
        assert process.pid in strays[0].pids
        assert process.wait() == 0


def test_strays_that_ignore_the_grace_or_are_stopped_are_killed(tmp_path: Path) -> None:
    with (
        marked(tmp_path, "/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.01; done") as deaf,
        marked(tmp_path) as still,
    ):
        still.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert all(one.gone for one in end_strays_blocking(str(tmp_path), 0.1))
        assert time.monotonic() - began < 3
        assert deaf.wait() == -signal.SIGKILL
        assert still.wait() == -signal.SIGTERM


def test_each_stray_is_asked_as_its_component_wants_it(tmp_path: Path) -> None:
    script = (
        "cd {}; trap 'echo INT >> said; exit 0' INT; trap 'echo TERM >> said' TERM; "
        "echo > {}; while :; do sleep 0.01; done"
    )
    shell = ["/bin/sh", "-c"]
    policies = {"polite": StopPolicy(signal="SIGINT", grace=30), "deaf": StopPolicy(grace=0.2)}
    with (
        marked(tmp_path, *shell, script.format(tmp_path, "one"), STIGMER_COMPONENT="polite") as polite,
        marked(tmp_path, *shell, script.format(tmp_path, "two"), nonce="5-b", STIGMER_COMPONENT="deaf") as deaf,
    ):
        wait_until(lambda: (tmp_path / "one").exists() and (tmp_path / "two").exists())
        strays = end_strays_blocking(str(tmp_path), 30, policies=policies)
        assert {(one.component, one.gone) for one in strays} == {("polite", True), ("deaf", True)}
        assert polite.wait() == 0
        assert deaf.wait() == -signal.SIGKILL  # when its own grace was over, whatever the others have
        assert sorted((tmp_path / "said").read_text().split()) == ["INT", "TERM"]


TELL_AS = """
import os, sys
from stigmerd.adapters.processes import proc
pid, ticks, user = map(int, sys.argv[1:])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
print(proc.status_of_stranger(pid, ticks, None))
"""


def told_to(user: int, process: subprocess.Popen[bytes]) -> str:
    """How another user is told that a process ended, which is a zombie."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    command = [sys.executable, "-c", TELL_AS, str(process.pid), str(start_ticks(process.pid)), str(user)]
    return subprocess.check_output(command, text=True).strip()


@needs_root
def test_exit_of_what_is_not_ours_to_look_into_is_unknown_rather_than_a_success() -> None:
    with subprocess.Popen(["sh", "-c", "exit 3"]) as process:
        assert told_to(0, process) == "exited with code 3"
        assert told_to(NOBODY, process) == "exited, status unknown"


@needs_root
def test_exit_of_a_process_of_our_user_is_told_unless_it_may_do_more_than_we_may() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "exit 3"], user=NOBODY, group=NOBODY, extra_groups=[]) as process:
        assert told_to(NOBODY, process) == "exited with code 3"
    script = (
        f"import ctypes, os; ctypes.CDLL(None).prctl(8, 1, 0, 0, 0); "  # PR_SET_KEEPCAPS
        f"os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY}); os._exit(3)"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        assert told_to(NOBODY, process) == "exited, status unknown"


def test_only_the_named_life_is_hunted(tmp_path: Path) -> None:
    with marked(tmp_path) as one, marked(tmp_path, nonce="5-other") as other:
        assert len(end_strays_blocking(str(tmp_path), 0, only=NONCE)) == 1
        assert one.wait() == -signal.SIGKILL
        assert other.poll() is None
        assert end_strays_blocking(str(tmp_path), 0, keep={"5-other"}) == []
        assert other.poll() is None


def test_leader_on_record_that_overwrote_its_environment_is_ended_as_its_component_wants_it(tmp_path: Path) -> None:
    script = f"cd {tmp_path}; trap 'exit 7' INT; echo > ready; while :; do sleep 0.01; done"
    process = subprocess.Popen(["/bin/sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, start_new_session=True)
    try:
        wait_until((tmp_path / "ready").exists)
        who = identity_of(process.pid)
        hunt = partial(end_strays_blocking, str(tmp_path), 10, policies={"worker": StopPolicy(signal="SIGINT")})
        assert hunt(leaders={"worker": msgspec.structs.replace(who, start_ticks=1)}) == []
        assert hunt(leaders={"worker": who}, keep={NONCE}) == []
        assert process.poll() is None
        strays = hunt(leaders={"worker": who})
        if who.pidfd_inode is None:  # nothing proves it before Linux 6.9
            assert strays == []
        else:
            assert [(one.component, one.pids, one.gone) for one in strays] == [("worker", (process.pid,), True)]
            assert process.wait() == 7
    finally:
        process.kill()
        process.wait()


def test_leader_on_record_that_may_not_be_signalled_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "STRAY_LIMIT", 0.05)
    monkeypatch.setattr(proc, "send", lambda pid, pidfd, number: False)
    with marked(tmp_path) as process:
        leaders = {"worker": identity_of(process.pid)}
        strays = end_strays_blocking(str(tmp_path / "elsewhere"), 0.05, leaders=leaders)
        assert [(one.pids, one.gone) for one in strays] == [((process.pid,), False)]


def test_what_cannot_be_killed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "STRAY_LIMIT", 0.05)
    monkeypatch.setattr(proc, "send", lambda pid, pidfd, number: None)
    with marked(tmp_path) as process:
        strays = end_strays_blocking(str(tmp_path), 0)
        assert [(one.pids, one.gone) for one in strays] == [((process.pid,), False)]


def test_empty_home_is_hunted_in_vain(tmp_path: Path) -> None:
    assert end_strays_blocking(str(tmp_path), 0) == []
