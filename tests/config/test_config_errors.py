"""Wrong configurations, and exactly what is said about them."""

from __future__ import annotations

import os

import pytest

from stigmerd.config.load import check_file, load_stack
from stigmerd.config.problems import ConfigError
from tests.config.conftest import Home

OK = '[component.ok]\ncommand = "ok"\n'

ROWS = [
    # keys and types
    ('nofile = "9"', 'component.a.nofile is "9": give a whole number from 1 to 2147483647'),
    ("comand = 1", 'component.a.comand is not a known key: the nearest is "command"'),
    ("image = 'x'", 'component.a.image is not a known key: the nearest is "container"'),
    ("stop.timeout = 3", 'component.a.stop.timeout is not a known key: the nearest is "grace"'),
    ("restart.attempts = 3", 'component.a.restart.attempts is not a known key: the nearest is "max_restarts"'),
    ("restart.polcy = 1", 'component.a.restart.polcy is not a known key: the nearest is "policy"'),
    ('"bad\\u001b[31mkey" = 1', 'component.a."bad\\u001b[31mkey" is not a known key: the nearest is "readiness"'),
    ("optional = 1", "component.a.optional is 1: give true or false"),
    ('enabled = "yes"', 'component.a.enabled is "yes": give true or false'),
    ("cwd = 3", "component.a.cwd is 3: give a string, in quotes"),
    ('cwd = ""', 'component.a.cwd is "": give at least one character, or leave the key out'),
    ('cwd = "a\\u0000"', "component.a.cwd holds a NUL character: take it out"),
    ("restart = 3", "component.a.restart is 3: give a table, such as { policy = \"on-failure\" }"),
    ("restart = []", "component.a.restart is an empty list: give a table, such as { policy = \"on-failure\" }"),
    ("env = 'A=1'", 'component.a.env is a string: give a table, such as { NAME = "value" }'),
    ("env = { A = 7234 }", "component.a.env.A is a number: give a string, in quotes"),
    (
        "env = { 'A=B' = '1' }",
        'component.a.env."A=B" is no name of a variable: take out "=" and give it a letter',
    ),
    ("cwd = 2026-01-22", "component.a.cwd is 2026-01-22: give a string, in quotes"),
    # commands
    ("command = []", "component.a.command names no program: name the program to run"),
    ("command = ['a', 1]", "component.a.command holds 1, which is no string: write it in quotes"),
    (
        "command = \"a 'b\"",
        "component.a.command cannot be split: close the quotation, or give a list of strings",
    ),
    (
        "command = 1",
        'component.a.command is 1: give a list of strings, such as ["server", "--port", "80"], or one string',
    ),
    # substitution
    (
        "cwd = '${NOPE}'",
        "component.a.cwd needs ${NOPE}, which is not in the environment: set it where the daemon is started, "
        "or write ${NOPE:-default}",
    ),
    (
        "cwd = '${'",
        'component.a.cwd holds a "${" that is no placeholder: write ${NAME} or ${NAME:-default}, '
        'or "$${" for the text itself',
    ),
    ("stop.grace = '${SECRET}'", 'component.a.stop.grace is "${SECRET}": give a number of seconds or a string, '
     'such as "500ms", "10s", "10m" or "1h"'),
    # restart, stop, log
    ("restart.policy = 'allways'", 'component.a.restart.policy is "allways": give "always", "on-failure" or "never"'),
    ("restart.max_restarts = -1", "component.a.restart.max_restarts is -1: give a whole number from 0 to 1000000"),
    (
        "restart.max_restarts = true",
        "component.a.restart.max_restarts is true: give a whole number from 0 to 1000000",
    ),
    ("restart.backoff_factor = 0.5", "component.a.restart.backoff_factor is 0.5: give a number of 1 or more"),
    ("restart.jitter = 1.5", "component.a.restart.jitter is 1.5: give a number from 0 to 1"),
    ("restart.jitter = nan", "component.a.restart.jitter is nan: give a finite number"),
    ("restart.max_backoff = inf", "component.a.restart.max_backoff is inf: give a finite number"),
    ("restart.window = 0", 'component.a.restart.window is 0: give a positive duration, such as "10s"'),
    (
        "restart.initial_backoff = -1",
        'component.a.restart.initial_backoff is -1: give a duration of zero or more, such as "10s"',
    ),
    (
        "restart.recovery = 0",
        'component.a.restart.recovery is 0: give a positive duration, such as "10s", or "off"',
    ),
    (
        "restart.fatal_exit_codes = [256]",
        "component.a.restart.fatal_exit_codes[0] is 256: give a whole number from 0 to 255",
    ),
    (
        "restart.success_exit_codes = [0, 78]",
        "component.a.restart.success_exit_codes has 78, which fatal_exit_codes has too: drop it from one of them",
    ),
    ("stop.signal = 'SIGSTOP'",
     'component.a.stop.signal is "SIGSTOP": it ends no process: give one that does, such as "SIGTERM"'),
    ("stop.signal = 'TREM'", 'component.a.stop.signal is "TREM": give the name of a signal, such as "SIGTERM"'),
    ("log.max_size = '10MB'", 'component.a.log.max_size is "10MB": give a number of bytes or a string, '
     'such as "512KiB", "10MiB" or "1GiB"'),
    ("log.keep = -1", "component.a.log.keep is -1: give a whole number from 0 to 1000"),
    # ports
    ("ports = 80", "component.a.ports is 80: give a list, in square brackets: [80]"),
    ("ports = [0]", "component.a.ports[0] is 0: give a whole number from 1 to 65535"),
    ("ports = [80, 81, 80]", "component.a.ports[2] is 80, which is there already: drop it"),
    # dependencies
    ("depends_on = { o = 'ready' }", 'component.a.depends_on.o is no component of this file: the nearest is "ok"'),
    ("depends_on = { a = 'ready' }", "component.a.depends_on.a is the component itself: drop it"),
    (
        "depends_on = { ok = 'up' }",
        'component.a.depends_on.ok is "up": give "started", "ready" or "completed"',
    ),
    ("depends_on = ['ok']", 'component.a.depends_on is a list: give a table, such as { db = "ready" }'),
    (
        "depends_on = { ok = 'completed' }",
        'component.a.depends_on.ok is "completed", which ok never is under the restart policy "always": '
        'set component.ok.restart.policy to "on-failure" or "never"',
    ),
    (
        "on_dependency_restart = 'follow'",
        'component.a.on_dependency_restart is "follow": give "ignore" or "restart"',
    ),
    # probes
    (
        "liveness = {}",
        'component.a.liveness has no handler: add "process", "tcp", "http", "grpc", "exec" or "container"',
    ),
    (
        "liveness = { process = {}, exec = { command = 'x' } }",
        "component.a.liveness has 2 handlers, process, exec: keep one of them",
    ),
    ("liveness = { process = {}, period = 0 }",
     'component.a.liveness.period is 0: give a positive duration, such as "10s"'),
    (
        "liveness = { process = {}, timeout = '1001ms' }",
        'component.a.liveness.timeout is "1001ms": give more than 0 and at most 1 s: '
        "no probe attempt outlives one second",
    ),
    (
        "readiness = { process = {}, timeout = 0 }",
        "component.a.readiness.timeout is 0: give more than 0 and at most 1 s: no probe attempt outlives one second",
    ),
    (
        "liveness = { process = {}, success_threshold = 2 }",
        "component.a.liveness.success_threshold is 2: only readiness may need more than 1",
    ),
    (
        "startup = { process = {}, success_threshold = 2 }",
        "component.a.startup.success_threshold is 2: only readiness may need more than 1",
    ),
    (
        "liveness = { process = {}, failure_threshold = 0 }",
        "component.a.liveness.failure_threshold is 0: give a whole number from 1 to 1000000",
    ),
    (
        "liveness = { process = { min_uptime = '1s' } }",
        "component.a.liveness.process.min_uptime is for startup and readiness probes: drop it from liveness",
    ),
    (
        "liveness = { container = {} }",
        "component.a.liveness.container is for a container, and this is a command: write process = {}",
    ),
    ("liveness = { tcp = {} }", 'component.a.liveness.tcp lacks "address": add address = "127.0.0.1:8080"'),
    (
        "liveness = { tcp = { address = '7234' } }",
        'component.a.liveness.tcp.address is "7234": give HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080',
    ),
    (
        "liveness = { grpc = { address = 'x' } }",
        'component.a.liveness.grpc.address is "x": give HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080, or unix:PATH',
    ),
    (
        "liveness = { grpc = { address = 'a:1', tls = { cert_file = 'x' } } }",
        'component.a.liveness.grpc.tls needs both "cert_file" and "key_file", or neither: add the other',
    ),
    (
        "liveness = { http = { url = 'http://a', status = [200] } }",
        "component.a.liveness.http.status is a list: give a list of 2",
    ),
    (
        "liveness = { http = { url = 'http://a', status = [399, 200] } }",
        "component.a.liveness.http.status has the highest status first: write [200, 399]",
    ),
    (
        "liveness = { http = { url = 'http://a', headers = { Authorization = 1 } } }",
        "component.a.liveness.http.headers.Authorization is a number: give a string, in quotes",
    ),
    (
        'liveness = { http = { url = "http://a", headers = { Authorization = "Bearer ${SECRET}\\n" } } }',
        "component.a.liveness.http.headers.Authorization holds a line break: take it out",
    ),
    (
        "liveness = { http = { url = 'http://a', headers = { Authorization = '${SECRET} ' } } }",
        "component.a.liveness.http.headers.Authorization begins or ends with a blank: take it out",
    ),
    (
        "liveness = { http = { url = 'http://a', headers = { 'X Y' = '1' } } }",
        'component.a.liveness.http.headers."X Y" is no name of a header: use letters, digits and "-"',
    ),
    ("liveness = { process = 1 }", "component.a.liveness.process is 1: give a table, such as {}"),
    # presets and containers
    ("preset = 'temporl'", 'component.a.preset is "temporl", no known preset: the nearest is "temporal"'),
    (
        "preset = '${SECRET}'",
        'component.a.preset is "${SECRET}", no known preset: '
        'give "stigmer-server", "workflow-runner", "agent-runner" or "temporal"',
    ),
    (
        "preset = '${NOPE}'",
        "component.a.preset needs ${NOPE}, which is not in the environment: set it where the daemon is started, "
        "or write ${NOPE:-default}",
    ),
    ("container = { image = 'x' }", 'component.a has both "command" and "container": drop one of them'),
]


@pytest.mark.parametrize(("line", "message"), ROWS, ids=[row[0] for row in ROWS])
def test_wrong_key_is_told_with_its_path_value_and_remedy(home: Home, line: str, message: str) -> None:
    command = "" if line.startswith("command") else 'command = "a"\n'
    (problem,) = home.problems(f"{OK}[component.a]\n{command}{line}\n", {"SECRET": "hunter2"})
    assert problem.message == message
    assert problem.message.startswith(problem.path)
    expected_line = 3 if problem.path == "component.a" else 5 if command else 4
    assert problem.line == expected_line


CONTAINERS = [
    ("", 'component.a.container lacks "image": add image = "nginx:1.27"'),
    ("image = 3", "component.a.container.image is 3: give a string, in quotes"),
    ("image = 'i'\npull = 'always'", 'component.a.container.pull is "always": give "missing" or "never"'),
    ("image = 'i'\nname = 'a b'", 'component.a.container.name is "a b": give letters, digits, "_", "." and "-"'),
    ("image = 'i'\nports = ['80']", 'component.a.container.ports[0] is "80": give HOST:CONTAINER, such as "8080:80"'),
    (
        "image = 'i'\nvolumes = ['data']",
        'component.a.container.volumes[0] is "data": give SOURCE:TARGET, such as "data:/data" or "./files:/files:ro"',
    ),
    ("image = 'i'\nenv = { A = true }", "component.a.container.env.A is true or false: give a string, in quotes"),
    ("image = 'i'\nimagee = 'x'", 'component.a.container.imagee is not a known key: the nearest is "image"'),
]


@pytest.mark.parametrize(("lines", "message"), CONTAINERS)
def test_wrong_container_is_told(home: Home, lines: str, message: str) -> None:
    assert home.messages(f"[component.a.container]\n{lines}\n") == [message]


@pytest.mark.parametrize("key", ["cwd = '/'", "user = 'root'", "umask = 0o022", "nofile = 9"])
def test_keys_of_a_process_are_refused_on_a_container(home: Home, key: str) -> None:
    (message,) = home.messages(f"[component.a]\n{key}\ncontainer = {{ image = 'i' }}\n")
    assert message.startswith(f"component.a.{key.split()[0]} is for a command, not for a container: ")


def test_two_components_cannot_have_one_container_name(home: Home) -> None:
    text = "".join(f"[component.{name}.container]\nimage = 'i'\nname = 'same'\n" for name in "ab")
    assert home.messages(text) == ["component.b.container.name is the container name of a too: choose another"]


TOP_LEVEL = [
    ("web.command = 'x'", "web is no known table: write [component.web] for a component"),
    ("components = {}", 'components is not a known key: the nearest is "component"'),
    ("component = 1", "component is a number: give a table [component.NAME] for each"),
    ("component = [1]", "component is a list: give a table [component.NAME] for each"),
    ("component.a = 1", "component.a is a number: give a table with a command or a container"),
    ("[component.a]", 'component.a has neither "command" nor "container": give it one'),
    ("daemon = 1", "daemon is 1: give a table, such as { log_level = \"debug\" }"),
    ("daemon.log_level = 'loud'", 'daemon.log_level is "loud": give "debug", "error", "info" or "warning"'),
    (
        "daemon.stigmer_binary = 'stigmer'",
        'daemon.stigmer_binary is "stigmer": give its path, such as "/opt/stigmer/bin/stigmer": '
        "it is never looked up on PATH",
    ),
    ("defaults = 1", "defaults is 1: give a table, such as { env = { NAME = \"value\" } }"),
    ("[component.all]\ncommand = 'x'", "component.all is a reserved name: choose another"),
    ("[component.stigmerd]\ncommand = 'x'", "component.stigmerd is a reserved name: choose another"),
]


@pytest.mark.parametrize(("text", "message"), TOP_LEVEL)
def test_wrong_table_is_told(home: Home, text: str, message: str) -> None:
    assert home.messages(text + "\n") == [message]


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "-a", "_a", "", "a b", "ä", "a" * 64, "a\\n", "\\u202ea", "a.b"])
def test_wrong_component_name_is_refused_with_the_rule(home: Home, name: str) -> None:
    (message,) = home.messages(f'[component."{name}"]\ncommand = "x"\n')
    assert message.endswith('is no component name: use 1 to 63 of a-z, 0-9, "_" and "-", a letter or digit first')
    assert message.isprintable()


def test_disabled_dependency_is_refused(home: Home) -> None:
    text = f"{OK}enabled = false\n[component.a]\ncommand = 'a'\ndepends_on = {{ ok = 'ready' }}\n"
    assert home.messages(text) == [
        "component.a.depends_on.ok is a disabled component: enable it, or disable a too"
    ]
    home.load(text + "enabled = false\n")


def test_each_cycle_is_told(home: Home) -> None:
    pairs = {"a": "b", "b": "c", "c": "a", "d": "e", "e": "d", "f": "a"}
    text = "".join(
        f"[component.{name}]\ncommand = 'x'\ndepends_on = {{ {other} = 'ready' }}\n" for name, other in pairs.items()
    )
    assert home.messages(text) == [
        "component.a.depends_on.b is part of the cycle a -> b -> c -> a: drop one of these dependencies",
        "component.d.depends_on.e is part of the cycle d -> e -> d: drop one of these dependencies",
    ]


def test_all_errors_come_at_once_in_the_order_of_the_file(home: Home) -> None:
    text = """
surplus = 1
[daemon]
log_level = 3
[component.a]
optional = "no"
depends_on = { nobody = "ready", b = "ready" }
[component.b]
command = ["b"]
depends_on = { a = "ready" }
liveness = { period = -1, timeout = nan }
"""
    assert [(problem.line, problem.path) for problem in home.problems(text)] == [
        (2, "surplus"),
        (4, "daemon.log_level"),
        (5, "component.a"),
        (6, "component.a.optional"),
        (7, "component.a.depends_on.nobody"),
        (7, "component.a.depends_on.b"),
        (11, "component.b.liveness.period"),
        (11, "component.b.liveness.timeout"),
        (11, "component.b.liveness"),
    ]


def test_error_in_defaults_is_told_once_and_there(home: Home) -> None:
    defaults = "[defaults]\ncomand = 1\nrestart = { jitter = 2 }\nstop.pre_stop = '${X}'\n"
    text = f"{OK}{defaults}[component.b]\ncommand = 'b'\n"
    assert [(problem.line, problem.path) for problem in home.problems(text)] == [
        (4, "defaults.comand"),
        (5, "defaults.restart.jitter"),
        (6, "defaults.stop.pre_stop"),
    ]


def test_error_that_only_a_merge_shows_is_told_at_the_component(home: Home) -> None:
    text = OK + "restart.success_exit_codes = [3]\n[defaults.restart]\nfatal_exit_codes = [3]\n"
    (problem,) = home.problems(text)
    assert (problem.path, problem.line) == ("component.ok.restart.success_exit_codes", 3)


def test_no_message_shows_a_secret(home: Home, as_root: None) -> None:
    secret = "hunter2"
    text = """
[component.a]
command = "a"
cwd = "${S}\\u0000"
env = { A = ["hunter2"], B = 12345 }
env_file = "${S}"
ports = ["${S}"]
stop = { signal = "${S}", grace = "${S}" }
on_dependency_restart = "${S}"
log = { max_size = "${S}" }
liveness = { http = { url = "${S}", method = "${S}" } }
readiness = { tcp = { address = "${S}" }, period = "${S}" }
startup = { grpc = { address = "${S}" } }
umask = "${S}"
user = "${S}"
"""
    with pytest.raises(ConfigError) as caught:
        home.load(text, {"S": secret})
    assert len(caught.value.errors) > 12
    assert secret not in str(caught.value)
    assert "12345" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message", "line", "column"),
    [
        ("a = \n", 'no valid TOML: Invalid value: put a text into quotes, such as "text"', 1, 5),
        ("[component.a\n", "no valid TOML: Expected ']' at the end of a table declaration", 1, 13),
        ("a = 'x", "no valid TOML: Expected \"'\"", 1, 7),
        (f"{OK}[component.ok]\n", "component.ok is there twice: drop one of them", 3, 14),
        (f"{OK}command = 'b'\n", "component.ok.command is there twice: drop one of them", 3, 14),
        ("a = { b = 1, b = 2 }\n", "a.b is there twice: drop one of them", 1, 19),
    ],
)
def test_syntax_error_has_line_and_column(home: Home, text: str, message: str, line: int, column: int) -> None:
    (problem,) = home.problems(text)
    assert (problem.message, problem.line, problem.column) == (message, line, column)


def test_whole_error_reads_like_a_compiler_message(home: Home) -> None:
    path = home.write("x = 1\ny = \n")
    with pytest.raises(ConfigError, match=rf"^{path}:2:5: no valid TOML: Invalid value: put"):
        load_stack(str(path), home=str(home.folder), environ={})


def test_text_that_is_no_utf8_has_line_and_column(home: Home) -> None:
    path = home.write("")
    path.write_bytes(b"a = 1\nb = '\xff'\n")
    (problem,) = check_file(str(path), home=str(home.folder), environ={})
    assert (problem.message, problem.line, problem.column) == ("the file is not UTF-8: save it as UTF-8", 2, 6)


def test_deep_nesting_is_an_error_like_any_other(home: Home) -> None:
    (message,) = home.messages("a = " + "[" * 50_000 + "]" * 50_000)
    assert message == "the file is nested too deeply: no key needs that"


def test_large_numbers_are_errors_like_any_other(home: Home) -> None:
    digits = "9" * 5000
    text = f"{OK}ports = [0x{'f' * 5000}]\nstop.grace = 1e999\nrestart.window = 0x{'f' * 5000}\n"
    assert home.messages(text) == [
        "component.ok.ports[0] is a very large number: give a whole number from 1 to 65535",
        "component.ok.stop.grace is inf: give a finite number",
        "component.ok.restart.window is a very large number: give a finite number",
    ]
    assert home.messages(f"a = {digits}\n") == ["no valid TOML: a number has too many digits"]


def test_check_returns_what_a_load_would_raise(home: Home) -> None:
    path = home.write(f"{OK}optional = 1\n")
    problems = check_file(str(path), home=str(home.folder), environ={})
    assert [str(problem) for problem in problems] == ["component.ok.optional is 1: give true or false"]
    assert check_file(str(home.write(OK)), home=str(home.folder), environ={}) == ()
    os.unlink(path)
    assert check_file(None, home=str(home.folder), environ={}) == ()


def test_user_group_and_umask_need_a_root_daemon(home: Home, as_user: None) -> None:
    text = OK + 'user = "root"\ngroup = 0\numask = "022"\n'
    remedy = "needs a daemon that runs as root: drop it, or run the daemon as root"
    assert home.messages(text) == [f"component.ok.{key} {remedy}" for key in ("user", "group", "umask")]


def test_wrong_account_and_mask_are_told(home: Home, as_root: None) -> None:
    assert home.messages(f"{OK}user = 1.5\ngroup = -1\numask = 999\n") == [
        "component.ok.user is 1.5: give a name or a number",
        "component.ok.group is -1: give a name or a number",
        'component.ok.umask is 999: give octal digits, such as "022" or 0o022',
    ]


def test_unknown_accounts_are_refused(home: Home, as_root: None) -> None:
    text = OK + 'user = "nobody-of-that-name"\ngroup = "${G}"\n'
    assert home.messages(text, {"G": "no-such-group"}) == [
        'component.ok.user is "nobody-of-that-name": there is no such user on this machine',
        'component.ok.group is "${G}": there is no such group on this machine',
    ]


def test_byte_order_mark_of_an_editor_is_passed_over(home: Home) -> None:
    assert home.component("\ufeff[component.a]\ncommand = 'x'\n").name == "a"


def test_error_about_the_file_itself_names_it_once(home: Home) -> None:
    with pytest.raises(ConfigError) as caught:
        load_stack(str(home.folder), home=str(home.folder), environ={})
    assert str(caught.value) == f"{home.folder} is no regular file: give the path of a file"


def test_only_component_that_waits_for_nothing_there_is_told_what_to_add(home: Home) -> None:
    (message,) = home.messages("[component.a]\ncommand = 'x'\ndepends_on = { db = 'ready' }\n")
    assert message == "component.a.depends_on.db is no component of this file: add [component.db], or drop it"
