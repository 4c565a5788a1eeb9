"""The daemon's own process, apart from its children."""

from __future__ import annotations

import subprocess
import sys


def test_our_own_limit_is_raised_and_the_old_one_told() -> None:
    script = (
        "import resource; from stigmerd.daemon.own_process import raise_nofile\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))\n"
        "assert raise_nofile() == 200\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_signals_that_were_ignored_or_blocked_at_the_start_are_reset() -> None:
    script = (
        "import signal, subprocess; from stigmerd.daemon.own_process import heed_signals, reset_signals\n"
        "for n in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP): signal.signal(n, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "reset_signals(); heed_signals()\n"
        "assert subprocess.run(['sh', '-c', 'exit 3']).returncode == 3\n"
        "assert subprocess.run(['sh', '-c', 'kill -TERM $$']).returncode == -15\n"
        "assert subprocess.run(['sh', '-c', 'kill -HUP $$']).returncode == -1"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_signal_that_comes_too_early_is_held_until_it_can_be_heeded() -> None:
    script = (
        "import os, signal; from stigmerd.daemon.own_process import heed_signals, reset_signals\n"
        "reset_signals(); os.kill(os.getpid(), signal.SIGTERM)\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); heed_signals()"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 7
