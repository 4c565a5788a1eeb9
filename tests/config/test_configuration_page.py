"""The pages and the JSON Schema say what the schema says, and their examples load."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from stigmerd.config import presets, schema
from stigmerd.config.presets import PRESETS, Setting
from stigmerd.config.schema import json_schema
from tests.config.configuration_page import DOCS, PAGE, TABLES, with_keys
from tests.config.conftest import Home


def test_configuration_page_has_every_key() -> None:
    text = PAGE.read_text()
    assert with_keys(text) == text, "run: python -m tests.config.configuration_page"
    assert re.findall(r"<!-- keys: (\w+) -->", text) == list(TABLES)


def test_every_table_of_the_schema_is_on_the_page() -> None:
    on_page = {*TABLES.values(), schema.StartupTable, schema.LivenessTable, schema.ReadinessTable}
    without_keys = {schema.ContainerProbeTable}
    in_prose = {schema.DefaultsTable, schema.StackTable}
    assert set(_tables(schema.Table)) == on_page | without_keys | in_prose


def _tables(table: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for each in table.__subclasses__():
        yield each
        yield from _tables(each)


def examples() -> list[Any]:
    """Every TOML example of the two pages."""
    return [
        pytest.param(example, id=f"{page}-{index}")
        for page in ("configuration", "presets")
        for index, example in enumerate(re.findall(r"```toml\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL))
    ]


@pytest.mark.parametrize("example", examples())
def test_every_example_loads(home: Home, example: str) -> None:
    home.write("A=1\n", "secrets.env")
    assert home.load(example, {"API_TOKEN": "x"}).components


def test_errors_on_the_page_are_those_that_are_told(home: Home) -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    text = '\n[component.api]\ncomand = "x"\ncommand = "api"\n'
    text += "[component.api.liveness]\nprocess = {}\nperiod = 0\n"
    text += '[component.worker]\ncommand = "w"\ndepends_on = { apis = "ready" }\n'
    told = [f"stigmer.toml:{problem.line}: {problem.message}" for problem in home.problems(text)]
    assert shown.splitlines() == told


def test_presets_page_has_every_preset_variable_and_port() -> None:
    page = (DOCS / "presets.md").read_text()
    setting = Setting(home="HOME", stigmer_binary="STIGMER", is_macos=False)
    for name, make in PRESETS.items():
        section = re.split(r"^## ", page.split(f"## `{name}`\n")[1], flags=re.MULTILINE)[0]
        preset = make(setting)
        container = preset.table.get("container", {})
        for key, value in {**preset.table.get("env", {}), **container.get("env", {})}.items():
            assert f"| `{key}` | `{value}` |" in section
        for port in preset.table.get("ports", ()):
            assert f"`{port}`" in section
        if "command" in preset.table:
            assert " ".join(preset.table["command"]) in section
    for name in presets.PASSED_ENV:
        assert f"`{name}`" in page


def test_json_schema_is_json_and_describes_every_key() -> None:
    text = json.dumps(json_schema())
    assert "x-reads" not in text
    for name, table in json_schema()["$defs"].items():
        for key, node in table.get("properties", {}).items():
            assert node.get("description"), f"{name}.{key}"


def test_json_schema_accepts_strings_where_the_loader_does() -> None:
    properties = json_schema()["$defs"]["ComponentTable"]["properties"]
    assert properties["command"]["type"] == ["array", "string"]
    assert json_schema()["$defs"]["StopTable"]["properties"]["grace"]["type"] == ["number", "string"]
    assert json_schema()["$defs"]["LogTable"]["properties"]["max_size"]["type"] == ["integer", "string"]
    assert properties["ports"]["items"] == {"type": "integer", "minimum": 1, "maximum": 65535}
    assert "null" not in json.dumps(json_schema())
