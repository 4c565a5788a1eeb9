"""Values as TOML writes them, on one line."""

from __future__ import annotations

import json
import re


def key(name: str) -> str:
    """A key, quoted where it has to be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def value(item: object) -> str:
    """A table, a list, a string, a number or a truth."""
    if isinstance(item, dict):
        return f"{{ {', '.join(f'{key(name)} = {value(each)}' for name, each in item.items())} }}" if item else "{}"
    if isinstance(item, list):
        return f"[{', '.join(value(each) for each in item)}]"
    return _string(item) if isinstance(item, str) else json.dumps(item)


def _string(text: str) -> str:
    # JSON leaves DEL alone, which TOML does not.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
