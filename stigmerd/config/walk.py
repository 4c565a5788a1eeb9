"""Reads a table of the file into its Struct, field by field, and collects every error on the way.

msgspec stops at the first error and shows values; a user wants all of them, with what to do.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import msgspec.inspect as shapes

from stigmerd.config.problems import Findings, Path, RefusedError, either, kind_of, nearest, quoted
from stigmerd.config.toml_text import value as toml
from stigmerd.config.values import LARGEST, READERS, Fill

T = TypeVar("T", bound=msgspec.Struct)


class BrokenError(Exception):
    """A value is wrong, and that has been noted."""


_MISSING = object()


class Walker:
    """Reads tables. ``fill`` substitutes ``${}``; ``findings`` is where errors go."""

    def __init__(self, fill: Fill, findings: Findings) -> None:
        self._fill = fill
        self._findings = findings

    def read(self, struct: type[T], raw: object, path: Path) -> T:
        """The table. A key that is wrong is noted, and stays at its default."""
        try:
            found = self._table(_shape(struct), raw, path)
        except RefusedError as refused:
            self._findings.add(path, f"is {kind_of(raw)}: {refused.advice}")
            found = struct()
        except BrokenError:
            found = struct()
        assert isinstance(found, struct)
        return found

    def _table(self, shape: shapes.StructType, raw: object, path: Path) -> object:
        if not isinstance(raw, dict):
            raise RefusedError(f"give a table, such as {toml(_table_example(shape))}")
        fields = _fields(shape.cls)
        values: dict[str, object] = {}
        for key, item in raw.items():
            field = fields.get(key)
            if field is None:
                self._findings.add((*path, key), f"is not a known key: {nearest(key, fields)}")
                continue
            value = self._item(field.type, item, (*path, key), secret=False)
            if value is not _MISSING:
                values[field.name] = value
        self._check_required(fields, raw, path)
        try:
            return shape.cls(**values)
        except TypeError:  # a required key is missing or wrong
            raise BrokenError from None

    def _check_required(self, fields: Mapping[str, shapes.Field], raw: Mapping[str, object], path: Path) -> None:
        for key, field in fields.items():
            if field.required and key not in raw:
                self._findings.add(path, f"lacks {quoted(key)}: add {key} = {quoted(_example(field.type) or '...')}")

    def _item(self, shape: shapes.Type, raw: object, path: Path, *, secret: bool) -> object:
        """One value, or _MISSING when it is wrong and that was noted."""
        secret = secret or (isinstance(shape, shapes.Metadata) and bool(shape.extra))
        try:
            return self._value(shape, raw, path, secret=secret)
        except RefusedError as refused:
            said = refused.said or f"is {kind_of(raw) if secret else quoted(raw)}"
            self._findings.add(path, f"{said}: {refused.advice}")
        except BrokenError:
            pass
        return _MISSING

    def _value(
        self, shape: shapes.Type, raw: object, path: Path, *, secret: bool, example: object = None
    ) -> object:
        if isinstance(shape, shapes.Metadata):
            reader = READERS.get((shape.extra_json_schema or {}).get("x-reads", ""))
            if reader is not None:
                return reader(raw, self._fill)
            return self._value(shape.type, raw, path, secret=secret, example=_example(shape))
        if isinstance(shape, shapes.UnionType):
            return self._value(_chosen(shape, raw), raw, path, secret=secret, example=example)
        if isinstance(shape, shapes.StructType):
            return self._table(shape, raw, path)
        if isinstance(shape, shapes.DictType):
            if not isinstance(raw, dict):
                raise RefusedError(f"give a table, such as {toml(example)}")
            return self._mapping(shape, raw, path, secret=secret)
        if isinstance(shape, shapes.VarTupleType | shapes.TupleType):
            return self._list(shape, raw, path)
        return _scalar(shape, raw, self._fill)

    def _mapping(
        self, shape: shapes.DictType, raw: Mapping[str, object], path: Path, *, secret: bool
    ) -> dict[str, object]:
        items = {
            key: self._item(shape.value_type, item, (*path, key), secret=secret) for key, item in raw.items()
        }
        return {key: item for key, item in items.items() if item is not _MISSING}

    def _list(self, shape: shapes.VarTupleType | shapes.TupleType, raw: object, path: Path) -> tuple[object, ...]:
        if not isinstance(raw, list):
            raise RefusedError(f"give a list, in square brackets: {_as_list(raw)}")
        if isinstance(shape, shapes.TupleType):
            item_types: tuple[shapes.Type, ...] = shape.item_types
            if len(raw) != len(item_types):
                raise RefusedError(f"give a list of {len(item_types)}")
        else:
            item_types = (shape.item_type,) * len(raw)
        items = [
            self._item(item_type, item, (*path, index), secret=False)
            for index, (item_type, item) in enumerate(zip(item_types, raw, strict=True))
        ]
        if _MISSING in items:
            raise BrokenError
        return tuple(items)


def _scalar(shape: shapes.Type, raw: object, fill: Fill) -> object:
    if isinstance(shape, shapes.BoolType):
        if not isinstance(raw, bool):
            raise RefusedError("give true or false")
        return raw
    if isinstance(shape, shapes.IntType):
        return _integer(shape, raw)
    if isinstance(shape, shapes.EnumType):
        return shape.cls(_choice(tuple(member.value for member in shape.cls), raw, fill))
    assert isinstance(shape, shapes.LiteralType), shape
    return _choice(tuple(str(value) for value in shape.values), raw, fill)


def _integer(shape: shapes.IntType, raw: object) -> int:
    low = -LARGEST if shape.ge is None else shape.ge
    high = LARGEST if shape.le is None else shape.le
    if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
        raise RefusedError(f"give a whole number from {low} to {high}")
    return raw


def _choice(words: tuple[str, ...], raw: object, fill: Fill) -> str:
    chosen = fill(raw) if isinstance(raw, str) else None
    if chosen not in words:
        raise RefusedError(f"give {either(words)}")
    return chosen


def _chosen(union: shapes.UnionType, raw: object) -> shapes.Type:
    """The member that the value could be: a table's for a table, else the first that is none."""
    members = [shape for shape in union.types if not isinstance(shape, shapes.NoneType)]
    tables = [shape for shape in members if isinstance(shape, shapes.StructType)]
    others = [shape for shape in members if shape not in tables]
    return tables[0] if tables and (isinstance(raw, dict) or not others) else others[0]


@functools.cache
def _shape(struct: type[msgspec.Struct]) -> shapes.StructType:
    shape = shapes.type_info(struct)
    assert isinstance(shape, shapes.StructType)
    return shape


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> Mapping[str, shapes.Field]:
    return {field.encode_name: field for field in _shape(struct).fields}


def _example(shape: shapes.Type) -> Any:  # noqa: ANN401  (whatever the schema has)
    """What the schema gives as an example of this value; None where it has none."""
    schema = shape.extra_json_schema if isinstance(shape, shapes.Metadata) else None
    return (schema or {}).get("examples", [None])[0]


def _table_example(shape: shapes.StructType) -> dict[str, Any]:
    """A table with the first key that the schema has an example of, its own or one of a table in it."""
    for field in shape.fields:
        if _example(field.type) is not None:
            return {field.encode_name: _example(field.type)}
    for field in shape.fields:
        members = getattr(getattr(field.type, 'type', None), 'types', ())
        for inner in members:
            if isinstance(inner, shapes.StructType) and (found := _table_example(inner)):
                return {field.encode_name: found}
    return {}


def _as_list(raw: object) -> str:
    return f"[{quoted(raw)}]" if isinstance(raw, str | int | float) else "[...]"
