"""Durations, sizes, signals, addresses."""

from __future__ import annotations

import contextlib
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmerd.config import values
from stigmerd.config.problems import RefusedError
from stigmerd.config.values import READERS, Fill, host_and_port, seconds, size


def as_written(text: str) -> str:
    """Fill in nothing."""
    return text


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("500ms", 0.5), ("1ms", 0.001), ("10s", 10.0), ("1.5s", 1.5), ("10m", 600.0), ("1h", 3600.0),
        ("0s", 0.0), (0, 0.0), (10, 10.0), (0.25, 0.25),
    ],
)  # fmt: skip
def test_durations_are_numbers_or_strings_with_a_unit(written: object, found: float) -> None:
    assert seconds(written, as_written) == found


@pytest.mark.parametrize(
    "written",
    [
        "", "10", "s", "10 s", " 10s", "10s\n", "1h30m", "-1s", "+1s", "1e3s", "1d", "10S", "inf", "nan", ".5s",
        -1, -0.001, math.nan, math.inf, -math.inf, 10**400, True, None, [], {}, "9" * 400 + "h", 10**10, "٣s",
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(RefusedError):
        seconds(written, as_written)


@given(st.integers(0, 10**9))
def test_a_duration_in_milliseconds_is_exact(number: int) -> None:
    assert seconds(f"{number}ms", as_written) == number / 1000


@given(st.floats(0, 1e9) | st.integers(0, 10**9))
def test_a_number_is_a_duration_in_seconds(number: float) -> None:
    assert seconds(number, as_written) == number


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_every_reader_returns_a_value_or_refuses(written: object) -> None:
    for reader in READERS.values():
        with contextlib.suppress(RefusedError):
            reader(written, as_written)


@pytest.mark.parametrize(
    ("written", "found"),
    [(1, 1), (1024, 1024), ("1B", 1), ("10KiB", 10240), ("10 MiB", 10485760), ("1GiB", 1 << 30), ("1.5KiB", 1536)],
)
def test_sizes_are_bytes_or_strings_with_a_unit(written: object, found: int) -> None:
    assert size(written, as_written) == found


@pytest.mark.parametrize(
    "written", [0, -1, 1.5, True, "10", "10MB", "10mib", "-1B", "0B", "", None, 10**30, "9" * 400 + "GiB"]
)
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(RefusedError):
        size(written, as_written)


@given(st.integers(1, 2**20), st.sampled_from(sorted(values.SIZES)))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str) -> None:
    assert size(f"{number}{unit}", as_written) == number * values.SIZES[unit]


@pytest.mark.parametrize(("written", "found"), [("SIGTERM", "SIGTERM"), ("INT", "SIGINT"), ("sigkill", "SIGKILL")])
def test_signals_have_names(written: str, found: str) -> None:
    assert values.stop_signal(written, as_written) == found


@pytest.mark.parametrize("written", ["SIGSTOP", "CONT", "SIGNOPE", "", 15, "15", "SIG_DFL"])
def test_signals_that_end_nothing_are_refused(written: object) -> None:
    with pytest.raises(RefusedError):
        values.stop_signal(written, as_written)


@pytest.mark.parametrize(
    ("written", "found"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:443", ("::1", 443)), ("web.example:65535", ("web.example", 65535))],
)
def test_addresses_are_host_and_port(written: str, found: tuple[str, int]) -> None:
    assert host_and_port(written) == found


@pytest.mark.parametrize("written", ["", ":80", "a:", "a:0", "a:65536", "::1:80", "http://a:80", "a b:80", "a:-1"])
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(RefusedError):
        host_and_port(written)


@pytest.mark.parametrize("written", ["file:///etc/passwd", "http://", "//a", "http://a:99999/", "http://a/b c", "a"])
def test_what_is_no_web_address_is_refused(written: str) -> None:
    with pytest.raises(RefusedError):
        values.url(written, as_written)


def test_password_in_a_web_address_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        values.url("http://me:secret@host/", as_written)
    assert caught.value.said == "holds a user or a password"


@pytest.mark.parametrize("written", ["", "a", "a b\tc", "Bearer ü;q=1"])
def test_headers_have_a_value_of_one_line(written: str) -> None:
    assert values.header_value(written, as_written) == written


@pytest.mark.parametrize("written", ["a\r\nX: y", "a\n", "\r", "a\0", "a\fb", " a", "a\t", 1])
def test_what_no_header_can_carry_is_refused(written: object) -> None:
    with pytest.raises(RefusedError):
        values.header_value(written, as_written)


def test_a_command_is_split_before_its_placeholders_are_filled() -> None:
    fill: Fill = lambda text: re.sub(r"\$\{X\}", "two words", text)  # noqa: E731
    assert values.command("run ${X}", fill) == ("run", "two words")


@pytest.mark.parametrize("written", [[], "", [""], ["a", 1], 3, ["a\0"], "''", {"a": 1}])
def test_what_is_no_command_is_refused(written: object) -> None:
    with pytest.raises(RefusedError):
        values.command(written, as_written)


@pytest.mark.parametrize(("written", "found"), [("022", 0o22), ("0o077", 0o77), (0o27, 0o27)])
def test_a_mask_is_octal(written: object, found: int) -> None:
    assert values.file_mode_mask(written, as_written) == found


@pytest.mark.parametrize(("written", "found"), [("off", None), ("5m", 300.0)])
def test_recovery_is_off_or_a_duration(written: object, found: float | None) -> None:
    assert values.recovery(written, as_written) == found
