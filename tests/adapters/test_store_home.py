"""The home: used as it is where it is safe, refused with the way out where it is not."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from stigmerd.adapters.disk.store import Home, HomeError, HomeTakenError, default_home
from tests.adapters.disk import start_python


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_missing_home_is_made_with_the_folders_above_it(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "a" / "b" / "home")
    home.prepare()
    assert [mode_of(path) for path in (home.path, home.run, home.state, home.logs)] == [0o700] * 4


def test_existing_home_is_left_as_it_is_and_its_folders_are_made_private(home: Home) -> None:
    os.mkdir(home.path)
    os.chmod(home.path, 0o755)
    os.mkdir(home.logs)
    os.chmod(home.logs, 0o777)
    home.prepare()
    assert mode_of(home.path) == 0o755
    assert mode_of(home.logs) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_home_that_others_can_write_is_refused(home: Home, mode: int) -> None:
    os.mkdir(home.path)
    os.chmod(home.path, mode)
    for look in (home.prepare, home.check):
        with pytest.raises(HomeError, match=f"{home.path} can be written by others.*chmod go-w"):
            look()


def test_home_that_is_a_symbolic_link_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    os.symlink(tmp_path / "target", home.path)
    for look in (home.prepare, home.check):
        with pytest.raises(HomeError, match="symbolic link"):
            look()


@pytest.mark.parametrize("folder", ["run", "state", "logs"])
def test_folder_that_is_a_symbolic_link_or_a_file_is_refused(home: Home, folder: str, tmp_path: Path) -> None:
    home.prepare()
    path = Path(home.path, folder)
    path.rmdir()
    path.symlink_to(tmp_path)
    with pytest.raises(HomeError, match=f"{path} is a symbolic link"):
        home.prepare()
    path.unlink()
    path.touch()
    with pytest.raises(HomeError, match=f"{path} is a regular file, not a folder"):
        home.prepare()


def test_home_of_another_user_is_refused(home: Home) -> None:
    foreign = Home.at("/usr")  # root's, so another user's for everybody else
    if os.geteuid() == 0:
        foreign = home
        os.mkdir(home.path)
        os.chown(home.path, 12345, 12345)
        home.check()  # root may look into anybody's home
    with pytest.raises(HomeError, match=f"{foreign.path} belongs to user"):
        foreign.prepare()


def test_home_that_is_not_there_is_fine_for_a_client_and_not_made(home: Home) -> None:
    home.check()
    assert not home.exists()
    assert not home.is_taken()


def test_folders_above_the_home_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert Home.at(tmp_path / "link" / "home") == Home.at(f"{tmp_path}/real/./home/")


@pytest.mark.parametrize("path", ["", "a\0b", "a\udcffb"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(HomeError, match="is no path"):
        Home.at(path)


def test_home_is_taken_from_the_environment() -> None:
    assert default_home({"STIGMER_HOME": "/srv/h", "HOME": "/home/u"}) == "/srv/h"
    assert default_home({"STIGMER_HOME": "", "HOME": "/home/u"}) == "/home/u/.stigmer"
    assert default_home({}).endswith("/.stigmer")


def test_home_with_a_very_long_path_works(tmp_path: Path) -> None:
    home = Home.at(tmp_path.joinpath(*["d" * 200] * 8))
    home.prepare()
    os.close(home.take_lock())


def test_second_daemon_is_refused_and_told_the_pid_of_the_first(home: Home) -> None:
    home.prepare()
    fd = home.take_lock()
    try:
        assert home.is_taken()
        with pytest.raises(HomeTakenError, match=f"the daemon with pid {os.getpid()}") as caught:
            home.take_lock()
        assert caught.value.pid == os.getpid()
    finally:
        os.close(fd)
    assert not home.is_taken()
    os.close(home.take_lock())


def test_lock_is_free_once_its_holder_was_killed(home: Home) -> None:
    home.prepare()
    code = "import sys, time; from stigmerd.adapters.disk.home import Home\n"
    code += "fd = Home.at(sys.argv[1]).take_lock(); print('held', flush=True); time.sleep(60)"
    with start_python(code, home.path, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(HomeTakenError, match=str(holder.pid)):
            home.take_lock()
        holder.kill()
    os.close(home.take_lock())


def test_lock_of_a_daemon_that_takes_long_to_die_is_waited_for(home: Home) -> None:
    home.prepare()
    with start_python("") as dead:
        dead.wait()
    fd = os.open(home.lock, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, f"{dead.pid}\n".encode())
    fcntl.flock(fd, fcntl.LOCK_EX)  # as its last thread holds it
    last_thread = threading.Timer(0.5, os.close, [fd])
    last_thread.start()
    os.close(home.take_lock())
    last_thread.join()


@pytest.mark.parametrize("loss", ["lock", "run", "home"])
def test_lock_whose_file_was_removed_is_taken_again_with_the_same_descriptor(home: Home, loss: str) -> None:
    home.prepare()
    fd = home.take_lock()
    shutil.rmtree(home.path) if loss == "home" else shutil.rmtree(home.run) if loss == "run" else os.unlink(home.lock)
    assert not home.is_taken()
    for _ in range(2):
        home.keep_lock(fd)
        assert home.is_taken()
    assert [stat.S_IMODE(os.stat(folder).st_mode) for folder in (home.path, home.run)] == [0o700, 0o700]
    os.close(fd)
    assert not home.is_taken()


def test_lock_that_another_daemon_took_meanwhile_stays_that_ones(home: Home) -> None:
    home.prepare()
    fd = home.take_lock()
    os.unlink(home.lock)
    other = home.take_lock()
    with pytest.raises(HomeTakenError):
        home.keep_lock(fd)
    os.close(other)
    home.keep_lock(fd)
    assert home.is_taken()
    os.close(fd)


def test_lock_whose_folder_is_no_folder_any_more_is_told_of(home: Home) -> None:
    home.prepare()
    fd = home.take_lock()
    shutil.rmtree(home.run)
    Path(home.run).touch()
    with pytest.raises(HomeError, match="run"):
        home.keep_lock(fd)
    os.close(fd)


def test_turn_to_launch_is_waited_for_and_not_for_ever(home: Home) -> None:
    home.prepare()
    with home.launching(0.0):
        refused = pytest.raises(HomeError, match=f"the process with pid {os.getpid()} has been starting")
        with refused, home.launching(0.05):
            pass
    with home.launching(0.0):
        pass


def test_client_that_only_looks_does_not_keep_a_daemon_from_starting(home: Home) -> None:
    home.prepare()
    os.close(home.take_lock())
    for _ in range(50):
        assert not home.is_taken()
        os.close(home.take_lock())


def test_lock_that_is_a_symbolic_link_is_refused(home: Home, tmp_path: Path) -> None:
    home.prepare()
    (tmp_path / "other").touch()
    os.symlink(tmp_path / "other", home.lock)
    with pytest.raises(HomeError, match="symbolic link"):
        home.take_lock()
