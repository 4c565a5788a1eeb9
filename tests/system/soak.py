"""Everything that can happen to a stack, in an order that a seed decides, and what must be true after each.

A seed decides what is done and to whom; when exactly the machine gets to it, it does not. So a
run with the same seed does the same again, and finds the same nearly always.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from stigmerd.adapters.disk.rotation import can_collapse
from stigmerd.adapters.processes import cgroup
from stigmerd.control.client import ControlError
from tests.system.daemons import Stack, is_alive, wait_until
from tests.system.history import HistoryReader
from tests.system.invariants import check_left_nothing
from tests.system.soak_stack import ALL, SOLID, STEADY, VARIANTS, Program

SETTLED = 60.0
"""Seconds until everything has to be as it should be, on a machine that is busy."""

PAUSE = 0.05

MOST_DESCRIPTORS = 150
"""More than a daemon of this stack can have open, with every client and probe there is."""

Pids = dict[str, dict[str, list[int]]]
"""By component, by life: the processes that are alive."""


class Soak:
    """One run. ``log`` gets a line before each action and one after it, with what it did.

    ``wanted`` is what was asked for of each component: None after two words at once.
    """

    def __init__(self, home: Stack, program: Program, seed: int, log: Callable[[str], None]) -> None:
        self.home = home
        self.program = program
        self.random = random.Random(seed)
        self.log = log
        self.variant = VARIANTS[0]
        self.wanted: dict[str, bool | None] = {}
        self.strangers: list[subprocess.Popen[bytes]] = []
        self.threads = ThreadPoolExecutor(4)
        self.history = HistoryReader(home.home / "state")
        self.counts: dict[str, int] = {}
        self._orphans_found = cgroup.find_base(str(home.home)) is not None
        self._keeps_lines = can_collapse(str(home.home))

    def run(self, seconds: float) -> None:
        """Act and check until the time is over, then stop everything."""
        end = time.monotonic() + seconds
        with strangers(self.home.home, self.program) as self.strangers, self.threads:
            self.begin()
            number = 0
            while time.monotonic() < end:
                number += 1
                name, act = self.draw()
                self.counts[name] = self.counts.get(name, 0) + 1
                self.log(f"{number}: {name}")
                self.log(f"{number}: {name}: {act(self)}")
                self.check()
            self.finish()

    def draw(self) -> tuple[str, Callable[[Soak], str]]:
        """The next action."""
        ((name, (_, act)),) = self.random.choices(list(ACTIONS.items()), [weight for weight, _ in ACTIONS.values()])
        return name, act

    def some(self, names: tuple[str, ...] = ALL) -> list[str]:
        """One, or a few, that the configuration has; sometimes none, which means all."""
        known = [name for name in names if name != "late" or self.variant.late]
        return self.random.sample(known, self.random.choices([0, 1, 2, 3], [1, 8, 2, 1])[0])

    # What is true at any instant, and what becomes true in a moment.

    def begin(self) -> None:
        """Start a daemon where there was an ordered end."""
        self.home.configure(self.program.configuration(self.variant))
        self.home.start()
        self.afresh()
        self.check()

    def afresh(self) -> None:
        """Expect what is enabled to start, and nothing else."""
        self.wanted = dict.fromkeys(ALL, True)
        self.wanted.update(late=self.variant.late, web=self.variant.web_enabled)

    def check(self) -> None:
        """Wait until the processes, the status, the history and what was asked for agree."""
        deadline = time.monotonic() + SETTLED
        while True:
            self.check_now()
            try:
                self.check_settled()
            except (AssertionError, ControlError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE)
            else:
                return

    def check_now(self) -> None:
        """At no instant are there two lives of a component, and no stranger is ever touched."""
        for stranger in self.strangers:
            assert stranger.poll() is None, f"stranger {stranger.pid} was signalled: {stranger.returncode}"
            assert psutil.Process(stranger.pid).status() != psutil.STATUS_STOPPED, "a stranger was stopped"
        lives = self.lives()
        assert all(len(of_one) <= 1 for of_one in lives.values()), f"more than one life: {lives}"
        orphans = self.orphans()
        assert len(orphans) <= 1 or not self._orphans_found, f"orphans of two lives: {orphans}"

    def check_settled(self) -> None:
        document = self.home.call("status")
        lives = self.lives()
        shown = {one["name"]: one for one in document["components"]}
        self.history.check({name: one["life"] for name, one in shown.items() if one["pid"]})
        for name, one in shown.items():
            self.check_component(one, lives.pop(name, {}))
        assert lives == {}, f"processes of components that are not there: {lives}"
        assert document["daemon"]["pid"] == self.pid
        assert psutil.Process(self.pid).num_fds() < MOST_DESCRIPTORS

    def check_component(self, one: dict[str, Any], lives: dict[str, list[int]]) -> None:
        name, state, pid = one["name"], one["state"], one["pid"]
        pids = [pid for of_life in lives.values() for pid in of_life]
        assert (pid in pids) if pid else not pids, f"{name} is {state} with pid {pid}, and there are {pids}"
        wanted = self.wanted.get(name)
        if wanted is False:
            assert (state, pid) == ("stopped", None), f"{name} was stopped and is {state}"
        elif wanted and name in STEADY:
            held_up = name == "b" and state == "waiting" and self.wanted["a"] is not True
            assert state == "running" or held_up, f"{name} is to run and is {state}: {one['reason']}"
        elif wanted:
            assert state != "stopped", f"{name} is wanted up and is {state}"
        assert state not in {"stopping", "starting"}, f"{name} is {state}"
        most = self.history.automatic(name)
        assert one["restarts_in_window"] <= one["restarts"] <= most, f"{name}: at most {most} restarts, {one}"

    # Looking.

    @property
    def pid(self) -> int:
        assert self.home.daemon is not None
        return self.home.daemon.pid

    def lives(self) -> Pids:
        """Every process of this home that is alive, found by its environment."""
        found: Pids = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                if environment.get("STIGMER_HOME") == str(self.home.home) and process.status() != psutil.STATUS_ZOMBIE:
                    component, life = environment.get("STIGMER_COMPONENT"), environment.get("STIGMER_LIFE")
                    if component and life and "STIGMER_PROBE" not in environment:  # a command of a probe is no life
                        found.setdefault(component, {}).setdefault(life, []).append(process.pid)
        return found

    def orphans(self) -> list[int]:
        """Grandchildren that cleared their environment."""
        strangers = {stranger.pid for stranger in self.strangers}
        return [pid for pid in find_argv(self.program.orphan) if pid not in strangers]

    def solid(self) -> dict[str, tuple[int, int]]:
        """Pid and life of those that run, and do not end by themselves."""
        components = {one["name"]: one for one in self.home.call("status")["components"]}
        return {name: (components[name]["pid"], components[name]["life"]) for name in SOLID if components[name]["pid"]}

    def check_kept(self, before: dict[str, tuple[int, int]], complaint: str) -> None:
        """Who ran before does so still. Somebody who was just killed may have come back meanwhile."""
        after = self.solid()
        assert before.items() <= after.items(), f"{complaint}: {before}, {after}"

    # Steps that several actions are made of.

    def operate(self, method: str, names: list[str], *, now: bool = False) -> str:
        """Ask the daemon for something, and note what it promised."""
        touched = names or [name for name in ALL if name != "late" or self.variant.late]
        for name in touched:
            self.wanted[name] = None
        if method != "stop" and "b" in touched and self.wanted["a"] is False:
            self.wanted["a"] = None  # b has it started too, whether the answer comes or not
        try:
            answers = self.home.call(method, names=names, timeout=10, **({"now": True} if now else {}))["components"]
        except (ControlError, OSError) as exc:
            return f"{exc!r}"
        self.promised(method, names, {answer["name"] for answer in answers if answer["ok"]})
        return " ".join(f"{answer['name']}={answer['state']}{'' if answer['ok'] else '!'}" for answer in answers)

    def promised(self, method: str, names: list[str], done: set[str]) -> None:
        if method == "stop":
            self.wanted.update(dict.fromkeys(done, False))
        elif names:
            self.wanted.update(dict.fromkeys(done, True))

    def kill_some(self, *, steady: bool = False) -> str:
        """A signal from outside to one process of a component, the leader mostly."""
        (name,) = self.random.sample(STEADY if steady else ALL, 1)
        number = self.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
        which = self.random.choice([0, 0, 0, -1])
        pids = sorted(pid for pids in self.lives().get(name, {}).values() for pid in pids)
        if pids:
            with suppress(ProcessLookupError):
                os.kill(pids[which], number)
            # Dying takes a moment; what is still alive then ignores it, or is stopped.
            patience = 0.2 if number == signal.SIGTERM and name == "deaf" else 2.0
            with suppress(AssertionError):
                wait_until(lambda: not is_alive(pids[which]), patience)
        return f"{name} {pids[which] if pids else None} {number.name}"

    def die(self) -> None:
        """SIGKILL the daemon; what it had promised holds."""
        self.home.kill()

    def change(self) -> str:
        """Write another configuration."""
        old, self.variant = self.variant, self.random.choice(VARIANTS)
        self.home.configure(self.program.configuration(self.variant))
        if old.web_enabled != self.variant.web_enabled:
            self.wanted["web"] = None
        if old.late != self.variant.late:
            self.wanted["late"] = None
        return f"{self.variant}"

    def finish(self) -> None:
        """An ordered stop of everything leaves nothing."""
        assert self.home.daemon is not None
        self.home.call("shutdown")
        assert self.home.daemon.wait(30) == 0
        wait_until(lambda: not self.orphans() or not self._orphans_found)
        for pid in self.orphans():  # not ours to end where there is no leaf
            os.kill(pid, signal.SIGKILL)
        assert self.lives() == {}, f"left after an ordered end: {self.lives()}"
        check_left_nothing(self.home)
        self.history.check({})
        if self._keeps_lines:
            check_lines(self.home.home / "logs")


# The actions.


def kill(soak: Soak) -> str:
    return soak.kill_some()


def hang(soak: Soak) -> str:
    """Stop a component's leader by SIGSTOP, and leave it so, or not."""
    (name,) = soak.random.sample(STEADY, 1)
    again = soak.random.random() < 0.5
    pids = [pid for pids in soak.lives().get(name, {}).values() for pid in pids]
    for number in [signal.SIGSTOP, signal.SIGCONT][: 1 + again]:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.1)
    return f"{name} {pids}{' for a moment' if again else ''}"


def operate(soak: Soak) -> str:
    method, now = soak.random.choice(["start", "stop", "restart"]), soak.random.random() < 0.3
    names = soak.some()
    if method == "start" and not names:
        names = ["a"]
    return f"{method} {names}{' now' if now else ''}: {soak.operate(method, names, now=now)}"


def collide(soak: Soak) -> str:
    """Two or three operations on one component at once; whichever came last, nobody can know."""
    (name,) = soak.random.sample(STEADY, 1)
    methods = [soak.random.choice(["start", "stop", "restart"]) for _ in range(soak.random.choice([2, 3]))]
    waits = [soak.random.random() * 0.03 for _ in methods]

    def later(method: str, wait: float) -> str:
        time.sleep(wait)
        return soak.operate(method, [name])

    said = [f.result() for f in [soak.threads.submit(later, *each) for each in zip(methods, waits, strict=True)]]
    if len({*methods}) > 1:
        soak.wanted[name] = None
    return f"{name} {methods}: {said}"


def reload(soak: Soak) -> str:
    before, text = soak.variant, soak.change()
    soak.home.call("reload")
    soak.wanted["late"] = True if soak.variant.late and not before.late else None
    if soak.variant.web_enabled != before.web_enabled:
        soak.wanted["web"] = soak.variant.web_enabled
    return text


def spoil(soak: Soak) -> str:
    """A configuration that cannot be loaded: a reload and a replacement change nothing."""
    before = soak.solid()
    soak.home.configure("[component.a]\ncomand = 'sleep 1'\n")
    for method in ("reload", "reexec"):
        with suppress(ControlError):
            soak.home.call(method)
            raise AssertionError(f"{method} took a configuration with an error")
    soak.home.configure(soak.program.configuration(soak.variant))
    soak.check_kept(before, "touched")
    return ""


def flood(soak: Soak) -> str:
    """20,000 lines at full speed, through many rotations."""
    said = []
    for _ in range(soak.random.choice([1, 1, 3])):
        with suppress(ControlError):
            answers = soak.home.call("signal", names=["flood"], signal="SIGUSR1")["components"]
            said.append(answers[0]["ok"])
    return f"{said}"


def die(soak: Soak) -> str:
    """The daemon is killed in a quiet moment; what does not end by itself is adopted."""
    before = soak.solid()
    soak.die()
    told = look_at_dead(soak) if soak.random.random() < 0.2 else ""
    time.sleep(soak.random.choice([0.0, 0.0, 0.1, 0.5]))
    soak.home.start()
    soak.check_kept(before, "not adopted")
    return f"{before} {told}"


def look_at_dead(soak: Soak) -> str:
    """Without a daemon, the status says so and which processes live."""
    told = soak.home.cli("status", "--json")
    assert told.returncode == 3, told
    alive = {one["name"] for one in json.loads(told.stdout)["components"] if one["alive"]}
    lives = set(soak.lives())
    assert alive & {*STEADY} <= lives, f"said to be alive: {alive}, alive: {lives}"
    assert {*SOLID} & lives <= alive, f"said to be alive: {alive}, alive: {lives}"
    return f"alive {sorted(alive)}"


def die_and_lose(soak: Soak) -> str:
    """While no daemon runs, components are killed, stopped by hand, or have their configuration changed."""
    soak.die()
    what = soak.random.choice(["kill", "stop", "change", "stop all"])
    said = ""
    if what == "kill":
        said = soak.kill_some(steady=True)
    elif what == "change":
        said = soak.change()
    else:
        names = ["deaf"] if what == "stop" else []
        done = soak.home.cli("stop", *names, "--timeout", "0.3")
        assert done.returncode == 0, done
        if names:
            soak.wanted["deaf"] = False
        else:
            assert soak.lives() == {}, f"left after a stop: {soak.lives()}"
            soak.afresh()
    soak.home.start()
    return f"{what} {said}"


def die_at_work(soak: Soak) -> str:
    """The daemon is killed in the middle of an operation."""
    method, names = soak.random.choice(["start", "stop", "restart", "reload", "reexec", "shutdown"]), soak.some(STEADY)
    wait = soak.random.random() ** 2 * 0.4
    if method == "reload":
        soak.change()

    def work() -> None:
        if method in {"reload", "reexec", "shutdown"}:
            with suppress(ControlError, OSError):
                soak.home.call(method)
        else:
            soak.operate(method, names or ["a"])

    future = soak.threads.submit(work)
    time.sleep(wait)
    soak.die()
    future.result()
    for name in ALL if method in {"reload", "shutdown"} else names or ["a"]:
        soak.wanted[name] = None
    soak.home.start()
    return f"{method} {names} after {wait * 1000:.0f} ms"


def replace(soak: Soak) -> str:
    """The daemon's program is replaced, with or without anything else going on."""
    method, busy = soak.random.choice(["stop", "start", "restart"]), soak.random.random() < 0.5
    pid, before = soak.pid, soak.solid()
    future = soak.threads.submit(soak.operate, method, ["web"]) if busy else None
    with suppress(ControlError, OSError):
        soak.home.call("reexec")
    if future is not None:
        future.result()
        soak.wanted["web"] = None
    wait_until(soak.home.answers)
    assert soak.pid == pid
    soak.check_kept(before, "not kept")
    return f"{method if busy else ''} {before}"


def pause(soak: Soak) -> str:
    """The daemon itself is stopped for a while."""
    seconds = soak.random.choice([0.2, 1.0, 2.0])
    os.kill(soak.pid, signal.SIGSTOP)
    said = soak.kill_some()
    time.sleep(seconds)
    os.kill(soak.pid, signal.SIGCONT)
    return f"{seconds:g} s, {said}"


def end(soak: Soak) -> str:
    """An ordered stop, and a start of everything."""
    number = soak.random.choice([None, signal.SIGTERM, signal.SIGINT])
    assert soak.home.daemon is not None
    if number is None:
        soak.finish()
    else:
        soak.home.daemon.send_signal(number)
        assert soak.home.daemon.wait(30) == 0
    soak.begin()
    return f"{number}"


def second(soak: Soak) -> str:
    """Another daemon for the same home ends with a sentence."""
    command = [sys.executable, "-P", "-m", "stigmerd", "--home", str(soak.home.home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1, done
    assert len(done.stderr.strip().splitlines()) == 1, done
    return done.stderr.strip()


def meddle(soak: Soak) -> str:
    """Somebody removes or cuts what the daemon needs."""
    path, how = soak.random.choice(
        [("run/stigmerd.sock", "remove"), ("logs/a.log", "remove"), ("logs/a.log", "cut"), ("logs/stigmerd.log", "cut")]
    )
    with suppress(FileNotFoundError):
        if how == "cut":
            os.truncate(soak.home.home / path, 0)
        else:
            os.unlink(soak.home.home / path)
    return f"{how} {path}"


def rest(soak: Soak) -> str:
    seconds = soak.random.random() * 2
    time.sleep(seconds)
    return f"{seconds:.1f} s"


ACTIONS: dict[str, tuple[int, Callable[[Soak], str]]] = {
    "kill": (20, kill),
    "hang": (8, hang),
    "operate": (15, operate),
    "collide": (10, collide),
    "reload": (8, reload),
    "spoil": (2, spoil),
    "flood": (8, flood),
    "die": (8, die),
    "die and lose": (6, die_and_lose),
    "die at work": (8, die_at_work),
    "replace": (6, replace),
    "pause": (3, pause),
    "end": (4, end),
    "second": (2, second),
    "meddle": (3, meddle),
    "rest": (3, rest),
}


# Neighbours and output.


@contextmanager
def strangers(home: Path, program: Program) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes with the same command lines that are not ours: without marks, with those of another
    home, and with half of ours, as a shell of the operator has them."""
    marks = {"STIGMER_COMPONENT": "a", "STIGMER_LIFE": "1-0123456789abcdef01234567"}
    environments = [{}, {"STIGMER_HOME": f"{home}-other", **marks}, {"STIGMER_HOME": str(home)}]
    argvs = [program.argv("a", VARIANTS[0]), program.orphan, program.argv("deaf", VARIANTS[0])]
    found = [
        subprocess.Popen(argv, start_new_session=True, env={**os.environ, **more}, stdout=subprocess.DEVNULL)
        for argv, more in zip(argvs, environments, strict=True)
    ]
    try:
        yield found
    finally:
        for stranger in found:
            with suppress(ProcessLookupError):
                os.killpg(stranger.pid, signal.SIGKILL)
            stranger.wait()


def find_argv(argv: list[str]) -> list[int]:
    """Every living process with exactly these arguments."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline() == argv and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def check_lines(logs: Path) -> None:
    """Of every life, the numbered lines that are kept are whole, in order, and none is missing."""
    rotated = sorted(logs.glob("flood.log.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
    output = b"".join(path.read_bytes() for path in [*rotated, logs / "flood.log"])
    last: dict[bytes, int] = {}
    for line in output.splitlines()[1:]:
        life, _, number = line.partition(b" ")
        if not number.isdigit():
            assert b"stigmerd[flood]" in line, f"not a line of anybody: {line!r}"
        elif life in last or last:
            assert int(number) == last.get(life, -1) + 1, f"{line!r} follows line {last.get(life)} of that life"
            last[life] = int(number)
        else:
            last[life] = int(number)
