"""The codec of ``grpc.health.v1``."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmerd.reference.health import (
    Serving,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)


@given(st.text())
def test_request_arrives_as_it_was_sent(service: str) -> None:
    assert decode_request(encode_request(service)) == service


@pytest.mark.parametrize("serving", Serving)
def test_response_arrives_as_it_was_sent(serving: Serving) -> None:
    assert decode_response(encode_response(serving)) is serving


def test_messages_are_what_protobuf_makes_of_them() -> None:
    assert encode_request("a.B") == b"\x0a\x03a.B"
    assert encode_request("") == b""
    assert encode_response(Serving.SERVING) == b"\x08\x01"
    assert encode_response(Serving.UNKNOWN) == b""


def test_fields_of_a_later_version_are_skipped() -> None:
    later = b"\x12\x02hi" + b"\x1d\x00\x00\x00\x00" + b"\x21" + bytes(8) + b"\x80\x01\x05"
    assert decode_response(later + encode_response(Serving.NOT_SERVING)) is Serving.NOT_SERVING
    assert decode_request(later + encode_request("a.B")) == "a.B"


def test_status_of_a_later_version_is_unknown() -> None:
    assert decode_response(b"\x08\x63") is Serving.UNKNOWN


@given(st.binary(max_size=40))
def test_any_bytes_are_decoded_or_refused(message: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_request(message)
    with contextlib.suppress(ValueError):
        decode_response(message)


@pytest.mark.parametrize("message", [b"\x08", b"\x0a\x05a", b"\x0b", b"\xff" * 11, b"\x0a\x01\xff"])
def test_broken_message_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_request(message)
