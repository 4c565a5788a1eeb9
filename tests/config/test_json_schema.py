"""The JSON Schema, as an editor applies it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from stigmerd.config.init import Found, write_init
from stigmerd.config.schema import json_schema

DOCS = Path(__file__).parents[2] / "docs"
VALIDATOR = Draft202012Validator(json_schema())
COMPONENT = '[component.a]\ncommand = "x"\n'


def complaints(text: str) -> list[str]:
    """Where an editor would underline something."""
    return [".".join(map(str, error.absolute_path)) for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def test_schema_is_one() -> None:
    Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("page", ["configuration", "presets", "quick-start", "containers", "restarts"])
def test_every_example_of_the_pages_is_right(page: str) -> None:
    examples = re.findall(r"```toml\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    assert [complaints(example) for example in examples] == [[] for _ in examples]


@pytest.mark.parametrize("found", [Found(), Found(stigmer="/s", temporal="/t", docker="/d")])
def test_what_init_writes_is_right(found: Found) -> None:
    assert complaints(write_init(found)) == []


@pytest.mark.parametrize(
    "line",
    [
        "stop.grace = 5",
        "stop.grace = '${GRACE:-5s}'",
        "restart.recovery = 'off'",
        "restart.recovery = '5m'",
        "log.max_size = 1000",
        "log.max_size = '1.5 GiB'",
        "user = 0",
        "umask = '022'",
        "umask = 0o022",
        "env.A = '${X}'",
        "liveness.grpc = { address = 'unix:/x', tls = true }",
        "liveness.grpc = { address = 'a:1', tls = { ca_file = 'x' } }",
    ],
)
def test_what_the_loader_takes_is_right(line: str) -> None:
    assert complaints(COMPONENT + line) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("components = {}", ""),
        ("[component.A]\ncommand = 'x'", "component"),
        ("[component.all]\ncommand = 'x'", "component"),
        ("[component.a]\ncomand = 'x'", "component.a"),
        ("[component.a]\ncommand = 5", "component.a.command"),
        ("[component.a]\ncommand = ['x', 5]", "component.a.command.1"),
        (f"{COMPONENT}container = {{ image = 'x' }}", "component.a"),
        (f"{COMPONENT}restart.policy = 'allways'", "component.a.restart.policy"),
        (f"{COMPONENT}stop.grace = '5 seconds'", "component.a.stop.grace"),
        (f"{COMPONENT}stop.grace = -1", "component.a.stop.grace"),
        (f"{COMPONENT}restart.recovery = 'never'", "component.a.restart.recovery"),
        (f"{COMPONENT}log.max_size = '10MB'", "component.a.log.max_size"),
        (f"{COMPONENT}ports = ['80']", "component.a.ports.0"),
        (f"{COMPONENT}env.A = 1", "component.a.env.A"),
        (f"{COMPONENT}depends_on.b = 'healthy'", "component.a.depends_on.b"),
        (f"{COMPONENT}liveness.tcp = {{}}", "component.a.liveness.tcp"),
        (f"{COMPONENT}liveness.tcp.address = '80'", "component.a.liveness.tcp.address"),
        (f"{COMPONENT}liveness.http.url = 'localhost'", "component.a.liveness.http.url"),
    ],
)
def test_what_is_wrong_is_underlined_where_it_is(text: str, where: str) -> None:
    assert complaints(text) == [where]
