"""``python -m tests.config.configuration_page`` writes the schema's keys into docs/configuration.md.

A table of keys stands between ``<!-- keys: TABLE -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import msgspec.inspect as shapes

from stigmerd.config import schema

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "configuration.md"

TABLES: dict[str, type[msgspec.Struct]] = {
    "daemon": schema.DaemonTable,
    "component": schema.ComponentTable,
    "restart": schema.RestartTable,
    "stop": schema.StopTable,
    "log": schema.LogTable,
    "probe": schema.ProbeTable,
    "process": schema.ProcessTable,
    "tcp": schema.TcpTable,
    "http": schema.HttpTable,
    "grpc": schema.GrpcTable,
    "tls": schema.TlsTable,
    "exec": schema.ExecTable,
    "container": schema.ContainerTable,
}
"""The tables of the page that have keys, by the name in their marker."""

READ_AS = {
    "seconds": "duration",
    "positive_seconds": "duration over 0",
    "probe_timeout": "duration",
    "recovery": '`"off"` or duration',
    "size": "size",
    "factor": "number",
    "fraction": "number",
    "command": "command",
    "stop_signal": "signal",
    "file_mode_mask": "octal digits",
    "account": "name or number",
    "address": "`HOST:PORT`",
    "grpc_address": "address",
    "url": "URL",
    "port_mapping": "mapping",
    "volume": "mount",
    "program_path": "path",
}
"""What a reader of values accepts, in a word; any other accepts a string."""

FIRST = ("preset", "command", "container", "cwd", "env", "env_file", "ports")
"""What comes first in a component: the schema has it behind what it shares with ``[defaults]``."""

_MARKED = re.compile(r"(<!-- keys: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fields_of(table: type[msgspec.Struct]) -> list[shapes.Field]:
    """The keys of a table, in the order of the page."""
    shape = shapes.type_info(table)
    assert isinstance(shape, shapes.StructType)
    ordered = {name: index for index, name in enumerate(FIRST)} if table is schema.ComponentTable else {}
    return sorted(shape.fields, key=lambda field: ordered.get(field.name, len(FIRST)))


def rows(table: type[msgspec.Struct]) -> Iterator[str]:
    """One line of Markdown per key."""
    yield "| key | value | default | what it is |"
    yield "| --- | --- | --- | --- |"
    for field in fields_of(table):
        assert isinstance(field.type, shapes.Metadata), f"{table.__name__}.{field.name} lacks a description"
        about = field.type.extra_json_schema or {}
        yield f"| `{field.encode_name}` | {_kind(field.type)} | {_default(field)} | {about['description']} |"


def _kind(shape: shapes.Type) -> str:
    if isinstance(shape, shapes.Metadata):
        reader = (shape.extra_json_schema or {}).get("x-reads")
        return _kind(shape.type) if reader is None else READ_AS.get(reader, "string")
    if isinstance(shape, shapes.UnionType):
        return " or ".join(_kind(each) for each in shape.types if not isinstance(each, shapes.NoneType))
    if isinstance(shape, shapes.VarTupleType):
        return f"list: {_kind(shape.item_type)}"
    if isinstance(shape, shapes.TupleType):
        return f"list: {', '.join(_kind(each) for each in shape.item_types)}"
    if isinstance(shape, shapes.DictType):
        return f"table: name to {_kind(shape.value_type)}"
    if isinstance(shape, shapes.EnumType):
        return _words(member.value for member in shape.cls)
    if isinstance(shape, shapes.LiteralType):
        return _words(shape.values)
    if isinstance(shape, shapes.IntType):
        return "whole number"
    return {shapes.BoolType: "`true` or `false`", shapes.StructType: "table"}[type(shape)]


def _words(words: Iterator[object] | tuple[object, ...]) -> str:
    return ", ".join(f'`"{word}"`' for word in words)


def _default(field: shapes.Field) -> str:
    if field.required:
        is_probe = field.name in {"period", "failure_threshold"}
        return "see above" if is_probe else "required"
    default = field.default
    if field.name == "recovery":
        return '`"off"`'
    if default is None or default is msgspec.NODEFAULT or isinstance(default, msgspec.Struct):
        return ""
    shape = field.type.extra_json_schema or {} if isinstance(field.type, shapes.Metadata) else {}
    return f"`{_written(default, shape.get('x-reads', ''))}`"


def _written(value: object, reader: str) -> str:
    """A value as the file would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        return f'"{value.value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    if isinstance(value, str):
        return f'"{value}"'
    if reader == "size" and isinstance(value, int):
        return f'"{value // 1024**2}MiB"'
    if isinstance(value, float) and reader not in {"factor", "fraction"}:
        return f'"{value / 60:g}m"' if value > 60 else f'"{value:g}s"'
    return str(value)


def with_keys(text: str) -> str:
    """The page's text, with the keys of the present schema in it."""
    return _MARKED.sub(lambda match: match[1] + "\n".join(rows(TABLES[match[2]])) + "\n" + match[3], text)


if __name__ == "__main__":
    PAGE.write_text(with_keys(PAGE.read_text()))
