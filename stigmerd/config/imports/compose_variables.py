"""The ``${}`` of a compose file, turned into ours.

Compose fills in nothing where a variable is missing, knows a ``.env`` beside the file, and has five
forms; ours has two. What ours cannot say is filled in at the import.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stigmerd.config.interpolate import escape, substitute

_VARIABLE = re.compile(
    r"""
    \$ (?:
        (?P<dollar> \$ )
      | (?P<bare> [A-Za-z_]\w* )
      | \{ (?P<name> [A-Za-z_]\w* ) (?: (?P<operator> :?[-?+] ) (?P<word> (?: [^{}] | \{ [^{}]* \} )* ) )? \}
    )
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variables:
    """Where the values come from: the environment of now, and under it the ``.env`` of the project."""

    environ: Mapping[str, str]
    dotenv: Mapping[str, str]

    def carried(self, text: str) -> str:
        """The text as our file has it: what is variable stays so."""
        parts: list[str] = []
        end = 0
        for match in _VARIABLE.finditer(text):
            parts += [escape(text[end : match.start()]), self._ours(match)]
            end = match.end()
        return "".join([*parts, escape(text[end:])])

    def filled(self, text: str) -> str:
        """The text as it is now, for what cannot be variable in our file."""
        return substitute(self.carried(text), {**self.dotenv, **self.environ})

    def _ours(self, match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$$"
        name, operator = match["bare"] or match["name"], match["operator"] or ""
        word = self.filled(match["word"]) if match["word"] else ""
        if operator.endswith("+"):
            value = self.dotenv.get(name, self.environ.get(name))
            return escape(word) if value or (value is not None and operator == "+") else ""
        if operator.endswith("?") and name not in self.dotenv:
            return f"${{{name}}}"
        return self._with_default(name, self.dotenv.get(name) or word)

    def _with_default(self, name: str, default: str) -> str:
        if "}" in default or "${" in default or default.endswith("$"):
            return escape(self.environ.get(name) or default)  # ours cannot write it as a default
        return f"${{{name}:-{default.replace('$', '$$')}}}"
