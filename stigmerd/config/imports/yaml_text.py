"""YAML as a compose file means it: every scalar is the text that stands there, or nothing.

YAML 1.1, which PyYAML reads, makes a number of ``22:22`` and true of ``on``; compose files mean the text.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from stigmerd.config.imports.result import ImportRefusedError

if TYPE_CHECKING:
    import yaml


def read_yaml(text: str, source: str) -> Any:  # noqa: ANN401  (YAML is what it is)
    """Mappings, lists, strings and None.

    Raises:
        ImportRefusedError: it is no YAML, or a key is there twice.
    """
    import yaml  # a tenth of a second, for one kind of file

    try:
        return yaml.load(text, _loader())
    except yaml.MarkedYAMLError as exc:
        line = f", line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise ImportRefusedError(f"{source}{line} is no YAML for a compose file: {exc.problem}") from exc
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise ImportRefusedError(f"{source} is no YAML: {' '.join(str(exc).split())[:200]}") from exc


def _loader() -> type[yaml.SafeLoader]:
    """A loader that knows merge keys and null, and no other type."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (as its base class has it)

        def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
            text = str(super().construct_scalar(node))
            if "\0" in text:
                raise yaml.constructor.ConstructorError(None, None, "a NUL character", node.start_mark)
            # As in JSON, two escapes may stand for one character; half of one is none.
            return text.encode("utf-16", "surrogatepass").decode("utf-16")

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            twice = next((key for key, count in Counter(keys).items() if count > 1), None)
            if twice is not None:
                raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])
    Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
    return Loader
