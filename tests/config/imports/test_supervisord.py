"""supervisord.conf files."""

from __future__ import annotations

import getpass
import os

import pytest

from stigmerd.config.imports.result import ImportRefusedError
from stigmerd.config.imports.supervisord import environment
from stigmerd.core.spec import RestartWhen
from tests.config.imports.conftest import Importer

NAME = "supervisord.conf"


def test_keys_are_carried_over(importer: Importer) -> None:
    component = importer.one(
        NAME,
        """
[program:web]
command=/bin/serve --name "a b" %(program_name)s 100%%   ; comment
directory=%(here)s/app
environment=PORT="8080",NAME="a, b"
autostart=false
autorestart=true
exitcodes=0,2
startsecs=5
startretries=7
stopsignal=INT
stopwaitsecs=3
stdout_logfile_maxbytes=50MB
stdout_logfile_backups=3
redirect_stderr=true
stopasgroup=true
""",
    )
    assert component.runs.argv == ("/bin/serve", "--name", "a b", "web", "100%")
    assert component.runs.cwd == f"{importer.folder}/app"
    assert dict(component.runs.env) == {"PORT": "8080", "NAME": "a, b"}
    assert not component.enabled
    assert component.restart.when is RestartWhen.ALWAYS
    assert component.restart.success_exit_codes == {0, 2}
    assert (component.restart.min_uptime, component.restart.max_restarts) == (5.0, 7)
    assert (component.stop.signal, component.stop.grace) == ("SIGINT", 3.0)
    assert (component.log.max_size, component.log.keep) == (50 * 1024**2, 3)


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("", RestartWhen.ON_FAILURE),
        ("autorestart=unexpected", RestartWhen.ON_FAILURE),
        ("autorestart=false", RestartWhen.NEVER),
        ("autorestart=TRUE", RestartWhen.ALWAYS),
    ],
)
def test_restart_policy_is_what_supervisord_does(importer: Importer, written: str, policy: RestartWhen) -> None:
    assert importer.one(NAME, f"[program:a]\ncommand=a\n{written}\n").restart.when is policy


def test_expected_exit_code_that_is_fatal_by_default_is_not_fatal(importer: Importer) -> None:
    restart = importer.one(NAME, "[program:a]\ncommand=a\nexitcodes=0,78\n").restart
    assert (restart.success_exit_codes, restart.fatal_exit_codes) == ({0, 78}, frozenset())


def test_several_processes_are_several_components(importer: Importer) -> None:
    text = "[program:a]\ncommand=a %(process_num)d\nnumprocs=2\nnumprocs_start=3\nprocess_name=w%(process_num)02d\n"
    found = importer.components(NAME, text)
    assert {name: component.runs.argv for name, component in found.items()} == {  # type: ignore[union-attr]
        "w03": ("a", "3"),
        "w04": ("a", "4"),
    }


def test_environment_of_supervisord_is_under_that_of_the_program(importer: Importer) -> None:
    text = '[supervisord]\nenvironment=A="1",B="2"\n[program:a]\ncommand=a\nenvironment=B="3"\n'
    assert dict(importer.one(NAME, text).runs.env) == {"A": "1", "B": "3"}


def test_variable_of_its_environment_stays_one(importer: Importer) -> None:
    text = "[program:a]\ncommand=%(ENV_BIN)s/a --key=%(ENV_KEY)s '$${X} $Y'\n"
    component = importer.one(NAME, text, {"BIN": "/bin", "KEY": "secret"})
    assert component.runs.argv == ("/bin/a", "--key=secret", "$${X} $Y")
    assert component.display_command[1] == "--key=${KEY}"


def test_program_with_a_slash_is_taken_from_the_directory(importer: Importer) -> None:
    assert importer.one(NAME, "[program:a]\ncommand=bin/a\ndirectory=/srv\n").runs.argv == ("/srv/bin/a",)


def test_programs_are_in_the_order_of_their_priority(importer: Importer) -> None:
    text = "[program:a]\ncommand=a\n[program:b]\ncommand=b\npriority=5\n"
    assert list(importer.components(NAME, text)) == ["b", "a"]
    assert importer.left(NAME, text) == [("[program:*]", "priority")]


def test_included_files_are_read(importer: Importer) -> None:
    (importer.folder / "conf.d").mkdir()
    (importer.folder / "conf.d" / "b.ini").write_text("[program:b]\ncommand=b\n")
    text = "[include]\nfiles = conf.d/*.ini none/*.ini\n[program:a]\ncommand=a\n"
    assert set(importer.components(NAME, text)) == {"a", "b"}
    assert importer.left(NAME, text) == [("[include]", "files")]


def test_user_is_carried_over_where_the_daemon_can_change_it(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[program:a]\ncommand=a\nuser=nobody\numask=022\n"
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert importer.read(NAME, text).components["a"]["user"] == "nobody"
    assert importer.left(NAME, text.replace("nobody", "no-such-user")) == [("[program:a]", "user")]
    monkeypatch.setattr(os, "geteuid", lambda: uid or 12345)
    assert importer.left(NAME, text) == [("[program:a]", "user"), ("[program:a]", "umask")]
    assert importer.left(NAME, f"[program:a]\ncommand=a\nuser={getpass.getuser()}\n") == []


def test_everything_without_a_place_is_told_once(importer: Importer) -> None:
    text = """
[unix_http_server]
file=/tmp/x.sock
[supervisorctl]
serverurl=unix:///tmp/x.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = x
[inet_http_server]
port=9001
[supervisord]
logfile=/tmp/x.log
nodaemon=true
[group:g]
programs=a
[eventlistener:e]
command=e
[program:a]
command=a
numprocs=2
stdout_logfile=/tmp/a.log
stderr_logfile=AUTO
stdout_logfile_maxbytes=0
stopsignal=NOPE
startsecs=soon
frobnicate=1
"""
    assert set(importer.left(NAME, text)) == {
        ("[supervisord]", "logfile"),
        ("[inet_http_server]", ""),
        ("[group:g]", ""),
        ("[eventlistener:e]", ""),
        *(("[program:a]", key) for key in ("stdout_logfile", "stdout_logfile_maxbytes", "stopsignal", "startsecs")),
        ("[program:a]", "frobnicate"),
    }
    found = importer.read(NAME, text)
    assert len(found.left) == len(set(found.left))


@pytest.mark.parametrize("keys", ["command=a %(nonsense)s", "command=a 'b", "command=a\nenvironment=A", "user=root"])
def test_program_that_cannot_run_is_told(importer: Importer, keys: str) -> None:
    text = f"[program:b]\ncommand=b\n[program:a]\n{keys}\n"
    found = importer.read(NAME, text)
    assert list(found.components) == ["b"]
    assert ("[program:a]", "command") in [(left.section, left.key) for left in found.left]


def test_environment_is_split_as_supervisord_does() -> None:
    assert environment("A=\"b c\",D=e,PATH='/x:/y', K='1,2'") == {"A": "b c", "D": "e", "PATH": "/x:/y", "K": "1,2"}
    for wrong in ("A", "A=", "A:b", "=b"):
        with pytest.raises(ValueError, match=r".*"):
            environment(wrong)


@pytest.mark.parametrize("text", ["nonsense", "[supervisord]\n", "[program:a\ncommand=a\n"])
def test_file_that_is_none_is_refused(importer: Importer, text: str) -> None:
    with pytest.raises(ImportRefusedError, match=r"supervisord\.conf"):
        importer.read(NAME, text)
