"""``${}`` and ``$$``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmerd.config.interpolate import display, escape, split, substitute
from stigmerd.config.problems import RefusedError

ENVIRON = {"TOKEN": "s3cret", "EMPTY": "", "SPACED": "a 'b"}

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain", "plain"),
        ("${TOKEN}", "s3cret"),
        ("a${TOKEN}b${TOKEN}", "as3cretbs3cret"),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${MISSING:-x y}", "x y"),
        ("${MISSING:-}", ""),
        ("${MISSING:-a$$b}", "a$b"),
        ("${TOKEN:-x}", "s3cret"),
        ("$$", "$"),
        ("$${TOKEN}", "${TOKEN}"),
        ("$$${TOKEN}", "$s3cret"),
        ("echo $HOME $1 $", "echo $HOME $1 $"),
    ],
)
def test_placeholders_are_filled_in(text: str, filled: str) -> None:
    assert substitute(text, ENVIRON) == filled


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A-B}", "${TOKEN", "${A:-${TOKEN}}", "${TOKEN:+x}"])
def test_what_only_begins_like_a_placeholder_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        substitute(text, ENVIRON)


def test_missing_name_is_refused_by_name() -> None:
    with pytest.raises(RefusedError) as caught:
        substitute("x${MISSING}", ENVIRON)
    assert caught.value.said == "needs ${MISSING}, which is not in the environment"
    assert caught.value.advice == "set it where the daemon is started, or write ${MISSING:-default}"


def test_display_shows_the_text_of_the_file() -> None:
    assert display("--token=${TOKEN} $$5") == "--token=${TOKEN} $5"


@given(st.text())
def test_escaped_text_means_itself(text: str) -> None:
    assert substitute(escape(text), {}) == text
    assert display(escape(text)) == text


@given(NAMES, st.text())
def test_a_value_is_never_interpreted_again(name: str, value: str) -> None:
    assert substitute(f"<${{{name}}}>", {name: value}) == f"<{value}>"


@given(NAMES, st.text(min_size=1))
def test_a_secret_stays_one_word_whatever_it_holds(name: str, value: str) -> None:
    words = [substitute(word, {name: value}) for word in split(f"run --token ${{{name}}} 'a b'")]
    assert words == ["run", "--token", value, "a b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b  c", ["a", "b", "c"]),
        ("a 'b c' \"d e\" f\\ g", ["a", "b c", "d e", "f g"]),
        ("a ${X:-b c} d", ["a", "${X:-b c}", "d"]),
        ("a ${X:-'} d", ["a", "${X:-'}", "d"]),
        ("a'${X} b'c", ["a${X} bc"]),
        ("a && b | c; d > e", ["a", "&&", "b", "|", "c;", "d", ">", "e"]),
        ("", []),
    ],
)
def test_a_string_is_split_like_a_shell_would(text: str, words: list[str]) -> None:
    assert split(text) == words


@pytest.mark.parametrize("text", ["a 'b", 'a "b', "a\\", "a\0b"])
def test_what_cannot_be_split_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        split(text)
