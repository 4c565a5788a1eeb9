"""Whatever a child writes, a terminal only ever gets text."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from stigmerd.cli.escape import escape, escape_bytes, escape_line

BIDIRECTIONAL = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

any_text = st.text(st.characters(exclude_categories=()))


def is_harmless(text: str, allowed: str = "\n\t") -> bool:
    """Whether a terminal shows the text and does nothing else."""
    controls = [c for c in text if unicodedata.category(c) in {"Cc", "Cs"} and c not in allowed]
    return not controls and not BIDIRECTIONAL & set(text)


@given(any_text)
def test_escaped_text_is_harmless_and_can_be_encoded(text: str) -> None:
    escaped = escape(text)
    assert is_harmless(escaped)
    escaped.encode("utf-8")


@given(any_text)
def test_escaped_line_is_one_line(text: str) -> None:
    assert is_harmless(escape_line(text), allowed="")


@given(st.binary())
def test_escaped_bytes_are_harmless(data: bytes) -> None:
    assert is_harmless(escape_bytes(data))


@given(st.text(st.characters(categories=("L", "N", "P", "S"))))
def test_plain_text_of_any_script_is_left_alone(text: str) -> None:
    assert escape(text) == text


def test_what_is_hidden_is_shown_as_a_programmer_would_write_it() -> None:
    assert escape("\x1b[31mred\r\x7f\x9b") == "\\x1b[31mred\\r\\x7f\\x9b"
    assert escape("a\u202eb\U000e0041") == "a\\u202eb\\U000e0041"
    assert escape_bytes(b"caf\xe9\xff \xc3\xa9\n") == "caf\\xe9\\xff é\n"
    assert escape("\udcff") == "\\xff"


def test_newline_and_tab_stay_but_not_within_one_line() -> None:
    assert escape("a\tb\n") == "a\tb\n"
    assert escape_line("a\tb\n") == "a\\tb\\n"


def test_no_character_of_a_control_category_is_forgotten() -> None:
    every = "".join(map(chr, range(0x110000)))
    left = re.sub(r"\\(x|u|U)[0-9a-f]+", "", escape(every))
    assert {unicodedata.category(c) for c in left} & {"Cc", "Cs", "Zl", "Zp"} <= {"Cc"}
    assert is_harmless(left)
