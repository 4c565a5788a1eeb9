"""Where each key stands."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stigmerd.config.toml_lines import Path, key_lines, repeated_key

TEXT = '''\
# a comment with [brackets] and "quotes"
top = 1
[a.b]       # another
c = "x = y ["
"d e" = { f = 1, g = { h = [1, { i = 2 }] } }
j = [
  "one",    # ]
  """two
  lines""",
]
k.l = 2026-01-22T04:00:01.25Z

[[m]]
n = \'\'\'
[no.table]
\'\'\'
o = -1.5e3
'''


def test_every_key_has_the_line_it_stands_on() -> None:
    assert dict(key_lines(TEXT)) == {
        ("top",): 2, ("a",): 3, ("a", "b"): 3, ("a", "b", "c"): 4,
        ("a", "b", "d e"): 5, ("a", "b", "d e", "f"): 5, ("a", "b", "d e", "g"): 5, ("a", "b", "d e", "g", "h"): 5,
        ("a", "b", "d e", "g", "h", 0): 5, ("a", "b", "d e", "g", "h", 1): 5,
        ("a", "b", "d e", "g", "h", 1, "i"): 5,
        ("a", "b", "j"): 6, ("a", "b", "j", 0): 7, ("a", "b", "j", 1): 8,
        ("a", "b", "k"): 11, ("a", "b", "k", "l"): 11, ("m",): 13, ("m", "n"): 14, ("m", "o"): 17,
    }  # fmt: skip


def test_lines_are_counted_whatever_ends_them() -> None:
    assert dict(key_lines("a = 1\r\n\r\n[b]\r\nc = 2\r\n"))["b", "c"] == 4


def test_repeated_key_is_found() -> None:
    assert repeated_key("[x]\na = 1\n[y]\na = 2\n[x]\n", 5) == ("x",)


@given(st.text(alphabet='ab=.[]{},"\'#\\\n 1', max_size=40))
def test_any_text_is_scanned_without_an_error(text: str) -> None:
    key_lines(text)


def test_deep_nesting_is_given_up_silently() -> None:
    assert key_lines("a = " + "[" * 100_000)[0] == (("a",), 1)


@given(st.text(alphabet='ab=.[]{},"\'#\\\n 1', max_size=40))
def test_every_key_of_a_valid_text_is_found(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    if "[[" not in text:
        assert _paths(document, ()) <= {path for path, _ in key_lines(text)}


def _paths(value: Any, path: Path) -> set[Path]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, item in value.items():
            found |= _paths(item, (*path, key))
    return found
