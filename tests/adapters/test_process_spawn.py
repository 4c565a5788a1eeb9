"""How a process comes to be: clean, where it belongs, or not at all and with a reason."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from stigmerd.adapters.processes import proc, spawn
from stigmerd.adapters.processes.owned_thread import AT_ONCE
from stigmerd.adapters.processes.reaper import Children
from stigmerd.adapters.processes.spawn import Blueprint, Spawned
from stigmerd.engine.ports import SpawnFailedError
from tests.adapters.processes import IS_ROOT, Settings, bench, end, is_running, on_every_platform, wait_until

REPORT = """
import json, os, resource, signal
print(json.dumps({
    "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")),
    "stdin": os.readlink("/proc/self/fd/0"),
    "ignored": [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN],
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
    "umask": os.umask(0),
    "cwd": os.getcwd(),
    "session": os.getsid(0) == os.getpid() == os.getpgid(0),
    "environ": dict(os.environ),
    "owner": [os.getuid(), os.getgid(), os.getgroups()],
}))
"""


def _script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@on_every_platform
async def test_child_starts_clean(tmp_path: Path, offer: str) -> None:
    extra = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(extra, True)
    async with bench(tmp_path, offer) as at:
        life = await at.python(REPORT, env={"OWN": "value", "INHERITED": "no"})
        await life.wait_exit()
        report = json.loads(at.log)
        await end(life)
    os.close(extra)
    assert report["fds"] == [0, 1, 2]
    assert report["stdin"] == "/dev/null"
    # By that Python itself, or by whoever started the tests: the daemon resets its own at its start.
    ours = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
    assert set(report["ignored"]) <= {signal.SIGPIPE, signal.SIGXFSZ} | ours
    assert report["blocked"] == []
    assert report["nofile"] == list(resource.getrlimit(resource.RLIMIT_NOFILE))
    assert report["cwd"] == str(tmp_path)
    assert report["session"]
    assert report["environ"] == {
        "PATH": "/usr/bin:/bin",
        "INHERITED": "no",
        "OWN": "value",
        "PWD": str(tmp_path),
        "STIGMER_HOME": str(tmp_path),
        "STIGMER_COMPONENT": "worker",
        "STIGMER_LIFE": life.identity.nonce,
        "LC_CTYPE": report["environ"].get("LC_CTYPE"),  # Python's own, in a POSIX locale
    }


@pytest.mark.parametrize("name", ["a.b", "IFS", "BASH_FUNC_f%%", "LD_DEBUG_OUTPUT"])
async def test_environment_arrives_as_it_is_where_a_shell_would_change_it(tmp_path: Path, name: str) -> None:
    async with bench(tmp_path) as at:
        life = await at.python(REPORT, env={name: "kept"})
        await life.wait_exit()
        assert json.loads(at.log)["environ"][name] == "kept"
        await end(life)


async def test_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    arguments = ["a b", "$HOME", "'\"", "", "*", "-n", "\n"]
    async with bench(tmp_path) as at:
        life = await at.python("import json, sys; print(json.dumps(sys.argv[1:]))", *arguments)
        await life.wait_exit()
        assert json.loads(at.log) == arguments
        await end(life)


async def test_child_gets_the_old_limit_of_descriptors_and_not_the_daemons(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with bench(tmp_path) as at:
        for env in ({}, {"no.shell": "1"}):
            blueprint_env = {"PATH": "/usr/bin:/bin", "PWD": str(tmp_path), **env}
            spawned = _spawn_now(at.home, blueprint_env, soft_nofile=soft - 100)
            assert resource.prlimit(spawned.pid, resource.RLIMIT_NOFILE) == (soft - 100, hard)
            spawn.end(spawned, Children())


def _spawn_now(home: str, env: dict[str, str], **more: object) -> Spawned:
    script = "import time; open('ready', 'w').write('yes'); time.sleep(60)"
    blueprint = Blueprint(
        argv=(sys.executable, "-S", "-c", script),
        cwd=home,
        env=env,
        open_output=lambda: os.open("/dev/null", os.O_WRONLY),
        **more,  # type: ignore[arg-type]
    )
    spawned = spawn.spawn(blueprint, Children())
    ready = Path(home, "ready")
    while not ready.exists():
        os.sched_yield()
    ready.unlink()
    return spawned


async def test_nofile_sets_both_limits(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        life = await at.python(REPORT, nofile=333)
        await life.wait_exit()
        assert json.loads(at.log)["nofile"] == [333, 333]
        await end(life)


# What cannot be spawned.


def _refusals(folder: Path) -> list[tuple[list[str], Settings, int, str]]:
    """Commands and settings that cannot be, with the number and the words that say so."""
    plain = _script(folder / "plain", "exit 0\n")
    forbidden = _script(folder / "forbidden", "#!/bin/sh\n", 0o644)
    orphaned = _script(folder / "orphaned", "#!/no/such/interpreter\n")
    foreign = folder / "foreign"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf7\x00" + bytes(100))
    foreign.chmod(0o755)
    return [
        ([f"{folder}/missing"], {}, errno.ENOENT, f"{folder}/missing: No such file or directory"),
        (["no-such-name"], {}, errno.ENOENT, "no-such-name: No such file or directory on PATH"),
        ([forbidden], {}, errno.EACCES, f"{forbidden}: Permission denied"),
        ([str(folder)], {}, errno.EACCES, f"{folder}: Permission denied"),
        ([plain], {}, errno.ENOEXEC, f"{plain}: Exec format error"),
        ([str(foreign)], {}, errno.ENOEXEC, f"{foreign}: Exec format error"),
        ([orphaned], {}, errno.ENOENT, f"{orphaned}: its interpreter"),
        (["true"], {"cwd": "/no/such"}, errno.ENOENT, "working directory /no/such: No such file"),
        (["true"], {"cwd": plain}, errno.ENOTDIR, f"working directory {plain}: Not a directory"),
        (["true"], {"user": "no-such-user"}, errno.EINVAL, "user no-such-user is not known"),
        (["true", "\0"], {}, errno.EINVAL, "embedded null byte"),
        (["true", "x" * 3_000_000], {}, errno.E2BIG, "Argument list too long"),
    ]


async def test_log_that_cannot_be_opened_is_a_refusal(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        (tmp_path / "log").mkdir()
        with pytest.raises(SpawnFailedError, match=r"log: .*/log: Is a directory"):
            await at.launch("true")


async def test_script_with_an_interpreter_is_born_in_its_leaf(tmp_path: Path) -> None:
    script = _script(tmp_path / "script", "#!/bin/sh\ncat /proc/self/cgroup\n")
    async with bench(tmp_path) as at:
        life = await at.launch(script)
        await life.wait_exit()
        if at.platform.cgroup is not None:
            assert f"worker.{life.identity.nonce}\n" in at.log
        await end(life)


async def test_bare_name_is_looked_up_on_the_components_own_path(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    _script(tmp_path / "bin" / "tool", "#!/bin/sh\necho mine\n")
    async with bench(tmp_path) as at:
        life = await at.launch("tool", env={"PATH": f"/nowhere:{tmp_path}/bin"})
        await life.wait_exit()
        assert at.log == "mine\n"
        await end(life)


async def test_path_that_is_longer_than_a_screen_is_not_shown_in_full(tmp_path: Path) -> None:
    path = ":".join(f"/no/such/folder/{number}" for number in range(99))
    async with bench(tmp_path) as at:
        with pytest.raises(SpawnFailedError, match=r"no-such-name: No such file .* on PATH /no/.*/2:/no/su…$"):
            await at.launch("no-such-name", env={"PATH": path})


@on_every_platform
async def test_secret_in_a_path_or_in_a_long_program_is_concealed_before_that_is_cut(
    tmp_path: Path, offer: str
) -> None:
    folder, program = "/no/secret" + "s" * 60, "/no/" + "secret" * 200
    async with bench(tmp_path, offer) as at:
        order = at.order("no-such-name", env={"PATH": f"/nowhere:{folder}"})
        spec = replace(order.spec, secrets={folder: "${FOLDER}", program: "${PROGRAM}"})
        with pytest.raises(SpawnFailedError) as caught:
            await at.launcher.launch(replace(order, spec=spec))
        assert str(caught.value) == "no-such-name: No such file or directory on PATH /nowhere:${FOLDER}"
        with pytest.raises(SpawnFailedError) as caught:
            await at.launch(program)
        assert "secret" not in spec.conceal(str(caught.value))


# Other users.


async def test_process_runs_as_the_user_with_its_groups_and_umask(tmp_path: Path) -> None:
    if not IS_ROOT:
        async with bench(tmp_path) as at:
            with pytest.raises(SpawnFailedError, match="runs as root only"):
                await at.launch("true", user=0)
        return
    async with bench(tmp_path) as at:
        life = await at.launch("/usr/bin/python3", "-c", REPORT, user="nobody", umask=0o27, cwd="/")
        await life.wait_exit()
        report = json.loads(at.log)
        assert report["owner"] == [65534, 65534, [65534]]
        assert report["umask"] == 0o27
        await end(life)


async def test_tree_of_another_user_is_ended(tmp_path: Path) -> None:
    if not IS_ROOT:
        return  # the refusal is tested above
    os.chmod(tmp_path, 0o777)
    async with bench(tmp_path) as at:
        life = await at.launch(
            "/bin/sh", "-c", "setsid sleep 60 & echo $! >&1; wait", user="nobody", group="nogroup", cwd="/"
        )
        await wait_until(lambda: (tmp_path / "log").exists() and at.log.endswith("\n"))
        child = int(at.log)
        assert child in await life.members()
        await end(life)
        assert not is_running(child)


# Spawns that hang.


class HungFolder:
    """A spawn of ``sleep`` comes to its end only when somebody mounts the file system again."""

    def __init__(self) -> None:
        self.mounted = threading.Event()
        self.begun = 0
        self.spawned: list[Spawned] = []

    def spawn(self, blueprint: Blueprint, children: Children) -> Spawned:
        """Spawn as ever, but late."""
        if blueprint.argv[0] != "sleep":
            return spawn.spawn(blueprint, children)
        self.begun += 1
        self.mounted.wait(10)
        self.spawned.append(spawn.spawn(blueprint, children))
        return self.spawned[-1]

    async def wait_all_ended(self) -> None:
        """Wait until every late process is dead and reaped."""
        await wait_until(lambda: len(self.spawned) == self.begun)
        await wait_until(lambda: not any(proc.read_stat(one.pid) for one in self.spawned))


@on_every_platform
async def test_process_that_appears_after_its_spawn_was_given_up_is_ended(tmp_path: Path, offer: str) -> None:
    folder = HungFolder()
    async with bench(tmp_path, offer, folder.spawn) as at:
        with trio.move_on_after(0.02) as scope:
            await at.launch("sleep", "60")
        assert scope.cancelled_caught
        folder.mounted.set()
        await folder.wait_all_ended()


async def test_spawns_that_hang_hold_up_nobody_else(tmp_path: Path) -> None:
    folder = HungFolder()
    async with bench(tmp_path, spawn=folder.spawn) as at:
        async with trio.open_nursery() as nursery:
            for number in range(2 * AT_ONCE):
                nursery.start_soon(at.launcher.launch, at.order("sleep", "60", name=f"hung-{number}"))
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(5):
                life = await at.launch("true", name="other")
                await life.wait_exit()
            await end(life)
            assert folder.begun == 2 * AT_ONCE
            nursery.cancel_scope.cancel()
        folder.mounted.set()
        await folder.wait_all_ended()


async def test_component_whose_spawn_hangs_has_one_thread_at_most(tmp_path: Path) -> None:
    folder = HungFolder()
    async with bench(tmp_path, spawn=folder.spawn) as at:
        for _ in range(5):
            with trio.move_on_after(0.01):
                await at.launch("sleep", "60")
        assert folder.begun == 1
        folder.mounted.set()
        await folder.wait_all_ended()
        await end(await at.launch("true"))
