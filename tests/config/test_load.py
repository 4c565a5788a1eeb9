"""What a right configuration means."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from stigmerd.config import load
from stigmerd.config.load import configuration_path, is_stale, load_stack
from stigmerd.config.problems import ConfigError
from stigmerd.core.spec import (
    ComponentSpec,
    Condition,
    ContainerHandler,
    ContainerSpec,
    DaemonSpec,
    ExecHandler,
    GrpcHandler,
    HttpHandler,
    LogPolicy,
    ProbeSpec,
    ProcessHandler,
    ProcessSpec,
    RestartPolicy,
    RestartWhen,
    StopPolicy,
    TcpHandler,
    Tls,
)
from tests.config.conftest import Home

FULL = """
[daemon]
log_level = "debug"
stigmer_binary = "bin/stigmer"

[component.db]
command = "db"

[component.web]
command = ["./web", "--port", "80"]
cwd = "site"
env = { A = "1" }
ports = [80, 443]
optional = true
enabled = false
depends_on = { db = "ready" }
on_dependency_restart = "restart"
nofile = 100

[component.web.restart]
policy = "on-failure"
initial_backoff = "500ms"
backoff_factor = 3
max_backoff = 30
jitter = 0.5
max_restarts = 3
window = "1h"
min_uptime = 5.5
success_exit_codes = [0, 3]
fatal_exit_codes = []
recovery = "10m"

[component.web.stop]
signal = "INT"
grace = "1m"
pre_stop = "./drain.sh 'all of it'"

[component.web.log]
max_size = "1MiB"
keep = 2
compress = true

[component.web.startup]
exec = { command = "./check.sh" }
period = "2s"
failure_threshold = 60

[component.web.liveness]
http = { url = "http://127.0.0.1/health", method = "HEAD", headers = { Host = "x" }, status = [200, 204] }
initial_delay = "3s"
timeout = "500ms"

[component.web.readiness]
grpc = { address = "[::1]:90", service = "s", connect_only = true, tls = { ca_file = "ca.pem", server_name = "n" } }
success_threshold = 2
"""


def test_every_key_reaches_the_spec(home: Home) -> None:
    folder = str(home.folder)
    stack = home.load(FULL)
    assert stack.daemon == DaemonSpec(log_level="debug", stigmer_binary=f"{folder}/bin/stigmer")
    assert list(stack.components) == ["db", "web"]
    assert stack.components["web"] == ComponentSpec(
        name="web",
        runs=ProcessSpec(
            argv=(f"{folder}/web", "--port", "80"), cwd=f"{folder}/site", env={"A": "1"}, nofile=100
        ),
        display_command=("./web", "--port", "80"),
        ports=(80, 443),
        optional=True,
        enabled=False,
        depends_on={"db": Condition.READY},
        restart_with_dependency=True,
        restart=RestartPolicy(
            when=RestartWhen.ON_FAILURE,
            initial_backoff=0.5,
            backoff_factor=3.0,
            max_backoff=30.0,
            jitter=0.5,
            max_restarts=3,
            window=3600.0,
            min_uptime=5.5,
            success_exit_codes=frozenset({0, 3}),
            fatal_exit_codes=frozenset(),
            recovery=600.0,
        ),
        stop=StopPolicy(signal="SIGINT", grace=60.0, pre_stop=(f"{folder}/drain.sh", "all of it")),
        log=LogPolicy(max_size=1048576, keep=2, compress=True),
        startup=ProbeSpec(handler=ExecHandler(command=(f"{folder}/check.sh",)), period=2.0, failure_threshold=60),
        liveness=ProbeSpec(
            handler=HttpHandler(
                url="http://127.0.0.1/health", method="HEAD", headers={"Host": "x"}, status=(200, 204)
            ),
            initial_delay=3.0,
            period=10.0,
            timeout=0.5,
            failure_threshold=3,
        ),
        readiness=ProbeSpec(
            handler=GrpcHandler(
                address="[::1]:90",
                service="s",
                connect_only=True,
                tls=Tls(ca_file=f"{folder}/ca.pem", server_name="n"),
            ),
            period=5.0,
            failure_threshold=3,
            success_threshold=2,
        ),
    )


def test_what_is_not_written_has_the_default_of_the_core(home: Home) -> None:
    assert home.component("[component.a]\ncommand = 'a'\n") == ComponentSpec(
        name="a", runs=ProcessSpec(argv=("a",), cwd=str(home.folder)), display_command=("a",)
    )


@pytest.mark.parametrize(
    ("kind", "period", "failures"), [("startup", 1.0, 30), ("liveness", 10.0, 3), ("readiness", 5.0, 3)]
)
def test_each_probe_has_its_own_defaults(home: Home, kind: str, period: float, failures: int) -> None:
    component = home.component(f"[component.a]\ncommand = 'a'\n{kind} = {{ process = {{}} }}\n")
    expected = ProbeSpec(handler=ProcessHandler(), period=period, failure_threshold=failures)
    assert list(component.probes.values()) == [expected]
    assert (expected.timeout, expected.initial_delay, expected.success_threshold) == (1.0, 0.0, 1)


@pytest.mark.parametrize(
    ("written", "handler"),
    [
        ("process = { min_uptime = '10s' }", ProcessHandler(min_uptime=10.0)),
        ("tcp = { address = '[::1]:80' }", TcpHandler(host="::1", port=80)),
        ("http = { url = 'https://a:1/x?y' }", HttpHandler(url="https://a:1/x?y")),
        ("grpc = { address = 'a:1' }", GrpcHandler(address="a:1")),
        ("grpc = { address = 'a:1', tls = true }", GrpcHandler(address="a:1", tls=Tls())),
        ("grpc = { address = 'a:1', tls = false }", GrpcHandler(address="a:1")),
        ("grpc = { address = 'unix:/run/x' }", GrpcHandler(address="unix:/run/x")),
        ("exec = { command = 'true' }", ExecHandler(command=("true",))),
    ],
)
def test_each_handler_is_read(home: Home, written: str, handler: object) -> None:
    component = home.component(f"[component.a]\ncommand = 'a'\nreadiness = {{ {written} }}\n")
    assert component.readiness is not None
    assert component.readiness.handler == handler


def test_container_is_read(home: Home) -> None:
    home.write("A=file\nB=file\nC=file\nD=file\n", "low.env")
    home.write("C=inner-file\nD=inner-file\n", "high.env")
    component = home.component("""
[component.agent]
env_file = "low.env"
env = { B = "env" }
liveness = { container = {} }
[component.agent.container]
image = "agent:${TAG:-local}"
command = "serve --port 80"
entrypoint = ["/bin/sh", "-c"]
env = { D = "inner" }
env_file = "high.env"
network = "host"
ports = ["127.0.0.1:8080:80/tcp"]
volumes = ["data:/data", "./files:/files:ro", "/abs:/abs"]
user = "1000:1000"
working_dir = "/work"
labels = { team = "x" }
pull = "missing"
""")
    assert component.runs == ContainerSpec(
        image="agent:local",
        name="stigmerd-agent",
        command=("serve", "--port", "80"),
        entrypoint=("/bin/sh", "-c"),
        env={"A": "file", "B": "env", "C": "inner-file", "D": "inner"},
        network="host",
        ports=("127.0.0.1:8080:80/tcp",),
        volumes=("data:/data", f"{home.folder}/files:/files:ro", "/abs:/abs"),
        user="1000:1000",
        working_dir="/work",
        labels={"team": "x"},
        pull="missing",
    )
    assert component.display_command == ("agent:${TAG:-local}", "serve", "--port", "80")
    assert component.liveness is not None
    assert component.liveness.handler == ContainerHandler()


def test_user_group_and_umask_are_for_a_root_daemon(home: Home, as_root: None) -> None:
    component = home.component("[component.a]\ncommand = 'a'\nuser = 'root'\ngroup = 0\numask = '027'\n")
    assert isinstance(component.runs, ProcessSpec)
    assert (component.runs.user, component.runs.group, component.runs.umask) == ("root", 0, 0o27)


def test_secrets_run_and_the_text_of_the_file_is_shown(home: Home) -> None:
    component = home.component(
        "[component.a]\ncommand = ['${BIN}', '--token=${TOKEN}', '$$1']\nenv = { T = '${TOKEN}' }\n",
        {"BIN": "/bin/a", "TOKEN": "s3cret"},
    )
    assert isinstance(component.runs, ProcessSpec)
    assert component.runs.argv == ("/bin/a", "--token=s3cret", "$1")
    assert component.runs.env == {"T": "s3cret"}
    assert component.display_command == ("${BIN}", "--token=${TOKEN}", "$1")


def test_long_value_of_an_env_file_is_shown_by_its_name(home: Home) -> None:
    home.write("KEY=sk-0123456789\nDEBUG=true\n", "x.env")
    component = home.component("[component.a]\ncommand = 'a'\nenv_file = 'x.env'\n")
    assert component.conceal("got sk-0123456789, which is true") == "got ${KEY}, which is true"


def test_long_value_of_env_is_shown_by_its_name_unless_a_preset_has_it(home: Home) -> None:
    component = home.component("[component.a]\ncommand = 'a'\nenv = { KEY = 'sk-0123456789', MODE = 'fast' }\n")
    assert component.conceal("got sk-0123456789, fast") == "got ${KEY}, fast"
    preset = home.component(
        "[daemon]\nstigmer_binary = '/s'\n"
        "[component.a]\npreset = 'stigmer-server'\nenv = { KEY = 'sk-0123456789' }\n"
    )
    assert isinstance(preset.runs, ProcessSpec)
    assert preset.runs.env["TEMPORAL_SERVICE_ADDRESS"] == "localhost:7233"
    assert preset.conceal("no sk-0123456789 at localhost:7233") == "no ${KEY} at localhost:7233"


def test_number_is_a_secret_like_any_other(home: Home) -> None:
    component = home.component(
        "[component.a]\ncommand = ['${PIN}', 'x']\nenv = { NUMBER = '1234567890' }\n", {"PIN": "9876"}
    )
    assert component.conceal("9876: No such file or directory") == "${PIN}: No such file or directory"
    assert component.conceal("got 1234567890, then 9876") == "got ${NUMBER}, then ${PIN}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("abc: No such file or directory", "${SHORT}: No such file or directory"),
        ("/opt/abc/1: Permission denied", "/opt/${SHORT}/${ONE}: Permission denied"),
        ("/opt/abcd/x-1: Permission denied", "/opt/abcd/x-1: Permission denied"),
        ("exit code 1", "exit code 1"),
        ("not HTTP/1: the server said abc", "not HTTP/1: the server said abc"),
    ],
)
def test_short_secret_is_concealed_in_the_path_that_a_text_begins_with(home: Home, text: str, shown: str) -> None:
    component = home.component("[component.a]\ncommand = ['${SHORT}', '${ONE}']\n", {"SHORT": "abc", "ONE": "1"})
    assert component.conceal(text) == shown


def test_changed_secret_is_a_changed_definition(home: Home) -> None:
    text = "[component.a]\ncommand = ['a', '${T}']\n"
    assert home.component(text, {"T": "1"}).definition != home.component(text, {"T": "2"}).definition


def test_changed_env_file_is_a_changed_definition(home: Home) -> None:
    text = "[component.a]\ncommand = 'a'\nenv_file = 'x.env'\n"
    home.write("A=1\n", "x.env")
    before = home.component(text).definition
    home.write("A=2\n", "x.env")
    assert home.component(text).definition != before


def test_env_is_over_env_file(home: Home) -> None:
    home.write("A=file\nB=file\n", "x.env")
    component = home.component("[component.a]\ncommand = 'a'\nenv_file = 'x.env'\nenv = { B = 'env' }\n")
    assert isinstance(component.runs, ProcessSpec)
    assert component.runs.env == {"A": "file", "B": "env"}


def test_relative_paths_are_taken_from_the_folder_of_the_configuration(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.folder / "etc").mkdir(mode=0o700)
    home.write("[component.a]\ncommand = '../bin/a'\ncwd = 'var'\n[component.b]\ncommand = 'b'\n", "etc/x.toml")
    monkeypatch.chdir(home.folder)
    a, b = load_stack("etc/x.toml", home="/elsewhere", environ={}).components.values()
    assert isinstance(a.runs, ProcessSpec)
    assert isinstance(b.runs, ProcessSpec)
    assert a.runs.argv == (f"{home.folder}/etc/../bin/a",)
    assert a.runs.cwd == f"{home.folder}/etc/var"
    assert (b.runs.argv, b.runs.cwd) == (("b",), f"{home.folder}/etc")


def test_file_without_components_is_an_empty_stack(home: Home) -> None:
    for text in ("", "[daemon]\n", "[component]\n", "# nothing\n"):
        assert home.load(text).components == {}


def test_order_of_the_file_is_kept(home: Home) -> None:
    text = "".join(f"[component.{name}]\ncommand = 'x'\n" for name in "zamb")
    assert list(home.load(text).components) == ["z", "a", "m", "b"]


def test_default_place_is_in_the_home_and_never_the_current_folder(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.folder)
    home.write("")
    other = tmp_path / "other"
    other.mkdir()
    assert configuration_path(None, home=str(home.folder)) == f"{home.folder}/stigmer.toml"
    assert configuration_path(None, home=str(other)) is None
    assert configuration_path("x.toml", home=str(other)) == f"{home.folder}/x.toml"


def test_given_file_that_is_missing_is_an_error(home: Home) -> None:
    with pytest.raises(ConfigError, match="No such file or directory: put it there, or give another path"):
        load_stack(f"{home.folder}/nope.toml", home=str(home.folder), environ={})


def test_vanished_file_is_an_error_and_never_the_reference_stack(home: Home) -> None:
    with pytest.raises(ConfigError, match=r"stigmer\.toml cannot be read, No such file"):
        load_stack(None, home=str(home.folder), environ={}, must_exist=True)


def test_dangling_link_in_the_default_place_is_an_error(home: Home) -> None:
    (home.folder / "stigmer.toml").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="No such file"):
        load_stack(None, home=str(home.folder), environ={})


def test_stack_is_stale_when_any_file_of_it_has_changed(home: Home) -> None:
    env_file = home.write("A=1\n", "x.env")
    stack = home.load("[component.a]\ncommand = 'a'\nenv_file = 'x.env'\n")
    assert stack.source is not None
    assert not is_stale(stack)
    os.utime(stack.source)
    assert not is_stale(stack)
    status = env_file.stat()
    env_file.write_text("A=2\n")
    os.utime(env_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert is_stale(stack)
    env_file.write_text("A=1\n")
    assert not is_stale(stack)
    os.unlink(stack.source)
    assert is_stale(stack)
    os.mkdir(stack.source)
    assert is_stale(stack)


def test_fingerprint_holds_no_content(home: Home) -> None:
    home.write("TOKEN=s3cret\n", "x.env")
    assert "s3cret" not in home.load("[component.a]\ncommand = 'a'\nenv_file = 'x.env'\n").fingerprint


def test_a_file_is_read_once_for_all_its_components(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = os.open

    def counting(path: str, flags: int) -> int:
        opened.append(path)
        return real(path, flags)

    home.write("A=1\n", "x.env")
    text = "[defaults]\nenv_file = 'x.env'\n" + "".join(f"[component.c{n}]\ncommand = 'x'\n" for n in range(20))
    path = home.write(text)
    monkeypatch.setattr(os, "open", counting)
    load.load_stack(str(path), home=str(home.folder), environ={})
    assert sorted(opened) == sorted([str(path), f"{home.folder}/x.env"])


def test_a_thousand_components_load_well_within_a_second(home: Home) -> None:
    text = "".join(
        f"""[component.c{n}]
command = ["sleep", "{n}"]
env = {{ A = "${{HOME}}" }}
depends_on = {{ {f'c{n - 1} = "ready"' if n else ""} }}
restart = {{ max_restarts = 3, window = "10m" }}
liveness = {{ tcp = {{ address = "127.0.0.1:{n + 1000}" }}, period = "5s" }}
readiness = {{ process = {{ min_uptime = "1s" }} }}
"""
        for n in range(1000)
    )
    before = time.process_time()
    assert len(home.load(text, {"HOME": "/h"}).components) == 1000
    assert time.process_time() - before < 1.0
