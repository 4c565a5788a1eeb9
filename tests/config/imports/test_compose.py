"""Compose files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stigmerd.config.imports.result import ImportRefusedError
from stigmerd.core.spec import Condition, ContainerSpec, RestartWhen
from tests.config.imports.conftest import Importer

NAME = "docker-compose.yml"


def service(importer: Importer, keys: str, environ: dict[str, str] | None = None) -> Any:
    """The component of a file with one service of these keys."""
    return importer.one(NAME, with_service(keys), environ)


def with_service(keys: str) -> str:
    """A compose file with one service."""
    return "services:\n  a:\n    image: busybox\n" + "".join(f"    {line}\n" for line in keys.strip().splitlines())


def test_keys_are_carried_over(importer: Importer) -> None:
    component = service(
        importer,
        """
command: run "a b" --x
entrypoint: ["/bin/sh", "-c"]
environment: {N: 1.10, ON: yes, EMPTY: ""}
ports: ["22:22", "127.0.0.1:8080:80/udp", {target: 80, published: 81, host_ip: 127.0.0.1, protocol: tcp}]
volumes: ["./files:/files:ro", "/abs:/abs", {type: bind, source: x, target: /x, read_only: true}]
network_mode: host
user: "1000:1000"
working_dir: /srv
container_name: mine
labels: ["a.b=c"]
restart: on-failure:3
stop_signal: SIGINT
stop_grace_period: 1m30s
""",
    )
    assert component.runs == ContainerSpec(
        image="busybox",
        name="mine",
        command=("run", "a b", "--x"),
        entrypoint=("/bin/sh", "-c"),
        env={"N": "1.10", "ON": "yes", "EMPTY": ""},
        ports=("22:22", "127.0.0.1:8080:80/udp", "127.0.0.1:81:80"),
        volumes=(f"{importer.folder}/files:/files:ro", "/abs:/abs", f"{importer.folder}/x:/x:ro"),
        network="host",
        user="1000:1000",
        working_dir="/srv",
        labels={"a.b": "c"},
        pull="missing",
    )
    assert (component.restart.when, component.restart.max_restarts) == (RestartWhen.ON_FAILURE, 3)
    assert (component.stop.signal, component.stop.grace) == ("SIGINT", 90.0)


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("", RestartWhen.NEVER),
        ("restart: no", RestartWhen.NEVER),
        ('restart: "no"', RestartWhen.NEVER),
        ("restart: always", RestartWhen.ALWAYS),
        ("restart: unless-stopped", RestartWhen.ALWAYS),
    ],
)
def test_restart_policy_is_what_the_engine_would_do(importer: Importer, written: str, policy: RestartWhen) -> None:
    assert service(importer, written).restart.when is policy


@pytest.mark.parametrize(
    ("test", "command"),
    [
        ('["CMD", "check", "-x"]', ("check", "-x")),
        ('["CMD-SHELL", "check $$USER"]', ("/bin/sh", "-c", "check $USER")),
        ("check || exit 1", ("/bin/sh", "-c", "check || exit 1")),
    ],
)
def test_health_check_becomes_an_exec_probe(importer: Importer, test: str, command: tuple[str, ...]) -> None:
    keys = f"healthcheck:\n  test: {test}\n  interval: 2s\n  timeout: 500ms\n  retries: 5\n  start_period: 10s"
    probe = service(importer, keys).readiness
    assert probe.handler.command == command
    assert (probe.period, probe.timeout, probe.failure_threshold) == (2.0, 0.5, 5)
    assert importer.left(NAME, with_service(keys)) == []


def test_health_check_that_may_take_long_is_told(importer: Importer) -> None:
    keys = "healthcheck:\n  test: x\n  timeout: 10s"
    assert importer.left(NAME, with_service(keys)) == [("services.a", "healthcheck.timeout")]
    assert service(importer, "healthcheck:\n  test: [NONE]").readiness is None


def test_dependencies_keep_their_conditions(importer: Importer) -> None:
    text = """
services:
  app:
    image: x
    depends_on:
      db: {condition: service_healthy}
      migrate: {condition: service_completed_successfully}
      cache: {condition: service_started, restart: true}
  late: {image: x, depends_on: [app]}
  db: {image: x, restart: always}
  migrate: {image: x}
  cache: {image: x}
"""
    found = importer.components(NAME, text)
    assert found["app"].depends_on == {
        "db": Condition.READY,
        "migrate": Condition.COMPLETED,
        "cache": Condition.STARTED,
    }
    assert found["app"].restart_with_dependency
    assert found["late"].depends_on == {"app": Condition.STARTED}
    assert found["db"].readiness is not None  # somebody waits for it to be healthy


def test_dependency_that_could_never_be_met_is_told(importer: Importer) -> None:
    text = """
services:
  a: {image: x, depends_on: {b: {condition: service_completed_successfully}, c: {condition: service_started}, d: {}}}
  b: {image: x, restart: always}
  c: {image: x, profiles: [debug]}
"""
    found = importer.components(NAME, text)
    assert found["a"].depends_on == {"b": Condition.STARTED}
    assert not found["c"].enabled
    left = importer.left(NAME, text)
    assert [key for section, key in left if section == "services.a"] == ["depends_on.b", "depends_on.c", "depends_on.d"]


@pytest.mark.parametrize(
    ("written", "environ", "value"),
    [
        ("$A", {"A": "1"}, "1"),
        ("${A}", {}, ""),
        ("${A:-x}", {"A": ""}, "x"),
        ("${A-x}", {}, "x"),
        ("${A:?must}", {"A": "1"}, "1"),
        ("${A:+x}", {"A": "1"}, "x"),
        ("${A+x}", {}, ""),
        ("${A:-${B:-y}}", {"B": "z"}, "z"),
        ("$$A", {"A": "1"}, "$A"),
        ("a$${A}b$$$$", {"A": "1"}, "a${A}b$$"),
        ("${DOT}", {}, "of .env"),
        ("${DOT}", {"DOT": "mine"}, "mine"),
        ("${BRACE}", {}, "a}b$${c}"),
    ],
)
def test_variables_mean_what_they_mean_to_compose(
    importer: Importer, written: str, environ: dict[str, str], value: str
) -> None:
    (importer.folder / ".env").write_text("DOT=of .env\nBRACE=a}b$${c}\n")
    (importer.folder / ".env").chmod(0o600)
    assert service(importer, f"environment: ['X={written}']", environ).runs.env["X"] == value


def test_variable_stays_variable_in_our_file(importer: Importer) -> None:
    found = importer.read(NAME, with_service('environment: ["KEY", "URL=db://${HOST:-localhost}"]'))
    assert found.components["a"]["container"]["env"] == {"KEY": "${KEY:-}", "URL": "db://${HOST:-localhost}"}


def test_volumes_and_networks_have_the_names_that_compose_gives_them(importer: Importer) -> None:
    text = """
name: Shop
services:
  a: {image: x, volumes: ["data:/a", "kept:/b", "named:/c"], networks: [outside]}
volumes: {data: null, kept: {external: true}, named: {name: other}}
networks: {outside: {external: true, name: lan}}
"""
    runs = importer.one(NAME, text).runs
    assert runs.volumes == ("shop_data:/a", "kept:/b", "other:/c")
    assert runs.network == "lan"


def test_anchors_and_merge_keys_are_followed(importer: Importer) -> None:
    text = "x-all: &all\n  image: x\n  restart: always\nservices:\n  a:\n    <<: *all\n    restart: on-failure\n"
    component = importer.one(NAME, text)
    assert (component.runs.image, component.restart.when) == ("x", RestartWhen.ON_FAILURE)


def test_image_that_has_to_be_built_is_told_with_the_command(importer: Importer) -> None:
    found = importer.read(NAME, "name: shop\nservices:\n  a:\n    build: .\n")
    assert found.components["a"]["container"] == {"image": "shop-a", "pull": "never"}
    assert "docker compose build a" in str(found.left[0])


def test_files_of_variables_are_the_last_two(importer: Importer) -> None:
    for name in ("a", "b", "c"):
        (importer.folder / f"{name}.env").write_text(f"NAME={name}\n{name}=1\n")
        (importer.folder / f"{name}.env").chmod(0o600)
    keys = "env_file: [a.env, b.env, c.env, {path: none.env, required: false}]"
    assert service(importer, keys).runs.env == {"NAME": "c", "b": "1", "c": "1"}
    assert importer.left(NAME, with_service(keys)) == [("services.a", "env_file")]
    assert importer.left(NAME, with_service("env_file: none.env")) == [("services.a", "env_file")]


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ("ports: ['80']", "ports"),
        ("ports: ['x:y']", "ports"),
        ("volumes: [/data]", "volumes"),
        ("volumes: [{type: tmpfs, target: /t}]", "volumes"),
        ("network_mode: service:b", "network_mode"),
        ("networks: [back]", "networks"),
        ("command: []", "command"),
        ("command: 'a \"b'", "command"),
        ("deploy: {replicas: 3}", "deploy"),
        ("cap_add: [X]", "cap_add"),
        ("extends: {service: b}", "extends"),
        ("secrets: [s]", "secrets"),
        ("restart: sometimes", "restart"),
        ("stop_signal: SIGNOPE", "stop_signal"),
        ("stop_grace_period: soon", "stop_grace_period"),
        ("healthcheck: {test: [NOPE]}", "healthcheck"),
        ("container_name: a b", "container_name"),
        ("pull_policy: daily", "pull_policy"),
        ("environment: 7", "environment"),
        ("labels: [[a]]", "labels"),
        ("depends_on: x", "depends_on"),
        ("nonsense: 1", "nonsense"),
    ],
)
def test_what_has_no_place_is_told_and_the_rest_loads(importer: Importer, keys: str, key: str) -> None:
    assert importer.left(NAME, with_service(keys)) == [("services.a", key)]
    assert service(importer, keys).runs.image == "busybox"


def test_what_changes_nothing_is_not_told(importer: Importer) -> None:
    text = "version: '3'\nx-y: 1\n" + with_service("expose: ['80']\nx-z: 1\ntty: true\nrestart:")
    assert importer.left(NAME, text) == []


def test_several_services_are_told_that_their_names_do_not_resolve(importer: Importer) -> None:
    text = "services:\n  a: {image: x}\n  b: {image: x}\n"
    assert importer.left(NAME, text) == [("networks", "default")]


def test_output_of_compose_config_as_json_is_read_too(importer: Importer) -> None:
    service = {"image": "x", "command": None, "environment": {"A": "$$1 \U0001f600"}}
    document = {"name": "shop", "services": {"a": service}}
    assert importer.one("compose.json", json.dumps(document, indent=2)).runs.env == {"A": "$1 \U0001f600"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no services"),
        ("services: []", "has no services"),
        ("services: {a: [}", "line 1"),
        ("services:\n  a: !reset x\n", "line 2"),
        ("services:\n  a: {image: x}\n  a: {image: y}\n", "'a' is there twice"),
        ("a: &a [*a]\nservices: {}", "has no services"),
        ('services: {"a": {"image": "\\0"}}', "line 1 .* a NUL"),
        ('services: {"a": {"image": "\\ud800"}}', "no YAML"),
        ("[" * 5000, "no YAML"),
    ],
)
def test_file_that_is_none_is_refused(importer: Importer, text: str, said: str) -> None:
    with pytest.raises(ImportRefusedError, match=said):
        importer.read(NAME, text)
