"""Requests are understood or refused, whatever the bytes; what is encoded is always one line of ASCII."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmerd.control.protocol import (
    MAX_DEPTH,
    MAX_LINE,
    ErrorCode,
    LineFramer,
    LineTooLongError,
    ProtocolError,
    decode_request,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
    quote,
)

GOOD = '{"jsonrpc":"2.0","id":1,"method":"hello","params":{}}'

PARSE_ERRORS = {
    "empty": b"",
    "blank": b" \t\r",
    "text": b"hello",
    "cut off": GOOD[:-1].encode(),
    "two on a line": (GOOD + GOOD).encode(),
    "trailing comma": b'{"jsonrpc":"2.0","id":1,"method":"hello",}',
    "single quotes": GOOD.replace('"', "'").encode(),
    "byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-16 without a mark": GOOD.encode("utf-16-le"),
    "UTF-32": GOOD.encode("utf-32-be"),
    "Latin-1": GOOD.replace("hello", "h\xe4llo").encode("latin-1"),
    "a surrogate as bytes": GOOD.encode().replace(b"hello", b"\xed\xa0\x80"),
    "an overlong NUL": GOOD.encode().replace(b"hello", b"\xc0\x80"),
    "a control character": GOOD.replace("hello", "he\x01llo").encode(),
    "NaN": GOOD.replace("{}", '{"timeout":NaN}').encode(),
    "Infinity": GOOD.replace("{}", '{"timeout":Infinity}').encode(),
    "-Infinity": GOOD.replace("{}", '{"timeout":-Infinity}').encode(),
    "an integer of too many digits": GOOD.replace('"id":1', '"id":' + "1" * 5000).encode(),
    "binary": bytes(range(256)),
}

INVALID_REQUESTS = {
    "a batch": f"[{GOOD}]",
    "an empty batch": "[]",
    "a number": "1",
    "null": "null",
    "a string": '"hello"',
    "an empty object": "{}",
    "no id": GOOD.replace('"id":1,', ""),
    "null as id": GOOD.replace('"id":1', '"id":null'),
    "true as id": GOOD.replace('"id":1', '"id":true'),
    "a fraction as id": GOOD.replace('"id":1', '"id":1.5'),
    "an object as id": GOOD.replace('"id":1', '"id":{}'),
    "a list as id": GOOD.replace('"id":1', '"id":[1]'),
    "no jsonrpc": GOOD.replace('"jsonrpc":"2.0",', ""),
    "another jsonrpc": GOOD.replace('"2.0"', '"1.0"'),
    "a number as jsonrpc": GOOD.replace('"2.0"', "2.0"),
    "no method": GOOD.replace('"method":"hello",', ""),
    "a number as method": GOOD.replace('"hello"', "1"),
    "null as method": GOOD.replace('"hello"', "null"),
    "an unknown member": GOOD.replace('"id":1', '"id":1,"extra":1'),
    "a key twice": GOOD.replace('"method":"hello"', '"method":"hello","method":"stop"'),
    "a key twice, one of them escaped": GOOD.replace('"id":1', '"id":1,"\\u0069d":2'),
    "a key twice in params": GOOD.replace("{}", '{"now":false,"now":true}'),
    "too deep lists": GOOD.replace("{}", "[" * 40 + "]" * 40),
    "too deep objects": GOOD.replace("{}", '{"a":' * 40 + "1" + "}" * 40),
    "deep and never closed": "[" * 60_000,
}


DAMAGE = st.binary(max_size=4) | st.sampled_from(
    [b"", b'"', b"{", b"]", b":", b"null", b"-0", b"1e999", b"NaN", b"\\ud800", b"\xed\xa0\x80", b"\xef\xbb\xbf"]
)


def error_of(line: bytes) -> ProtocolError:
    """How a line is refused."""
    with pytest.raises(ProtocolError) as refused:
        decode_request(line)
    return refused.value


@pytest.mark.parametrize("line", PARSE_ERRORS.values(), ids=PARSE_ERRORS)
def test_line_that_is_no_json_is_a_parse_error_without_an_id(line: bytes) -> None:
    error = error_of(line)
    assert (error.code, error.request_id) == (ErrorCode.PARSE_ERROR, None)


@pytest.mark.parametrize("line", INVALID_REQUESTS.values(), ids=INVALID_REQUESTS)
def test_json_that_is_no_request_is_an_invalid_request(line: str) -> None:
    assert error_of(line.encode()).code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("params", ["[]", '["web"]', "null", "1", '"x"', "true"])
def test_params_that_are_no_object_are_invalid_params(params: str) -> None:
    error = error_of(GOOD.replace("{}", params).encode())
    assert (error.code, error.request_id) == (ErrorCode.INVALID_PARAMS, 1)


def test_refusal_names_the_id_unless_the_id_itself_is_in_doubt() -> None:
    assert error_of(GOOD.replace('"2.0"', "2").encode()).request_id == 1
    assert error_of(GOOD.replace("{}", '{"a":1,"a":1}').encode()).request_id == 1
    assert error_of(GOOD.replace('"id":1', '"id":1,"id":2').encode()).request_id is None


@pytest.mark.parametrize("request_id", [0, -1, 10**300, "", "a", "\u2028", "\ud800"])
def test_request_keeps_its_id_and_its_answer_repeats_it(request_id: int | str) -> None:
    request = decode_request(encode_request(request_id, "hello", {}))
    assert request.request_id == request_id
    assert json.loads(encode_result(request.request_id, {}))["id"] == request_id


def test_params_may_be_left_out() -> None:
    assert decode_request(b'{"jsonrpc":"2.0","id":1,"method":"hello"}\r').params == {}


def test_depth_is_counted_up_to_its_limit_and_not_in_strings() -> None:
    inner = MAX_DEPTH - 2
    deep = GOOD.replace("{}", '{"a":' + "[" * inner + "]" * inner + "}")
    assert decode_request(deep.encode()).method == "hello"
    assert error_of(deep.replace("[]", "[[]]").encode()).code is ErrorCode.INVALID_REQUEST
    quoted = GOOD.replace("{}", '{"a":"' + "[" * 1000 + '\\"' + "{" * 1000 + '\\\\"}')
    assert decode_request(quoted.encode()).method == "hello"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_protocol_error(line: bytes) -> None:
    try:
        decode_request(line)
    except ProtocolError as error:
        json.loads(encode_error(error.request_id, error.code, error.message))


@given(st.text(alphabet='[]{}",:\\u0d8a1eE.-tfnI \n', max_size=300))
def test_anything_that_looks_like_json_is_a_request_or_a_protocol_error(text: str) -> None:
    try:
        decode_request(text.encode())
    except ProtocolError as error:
        json.loads(encode_error(error.request_id, error.code, error.message))


@given(data=st.data())
def test_damaged_request_is_a_request_or_a_protocol_error(data: st.DataObject) -> None:
    line = bytearray(encode_request(7, "events.subscribe", {"since": 3, "names": ["a", "\u20ac"]}).rstrip(b"\n"))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(line)))
        end = data.draw(st.integers(start, min(start + 10, len(line))))
        line[start:end] = data.draw(DAMAGE | st.just(bytes(line[start:end]) * 2))
    try:
        request = decode_request(bytes(line))
    except ProtocolError as error:
        json.loads(encode_error(error.request_id, error.code, error.message))
    else:
        assert isinstance(request.params, dict)
        assert isinstance(request.request_id, int | str)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_params_arrive_as_they_were_sent(params: dict[str, object]) -> None:
    line = encode_request(1, "status", params)
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        assert decode_request(line).params == params


@given(key=st.text(), other=JSON)
def test_key_that_appears_twice_is_always_refused(key: str, other: object) -> None:
    name = json.dumps(key)
    line = GOOD.replace("{}", f'{{"a":{{{name}:1,"":{{}},{name}:{json.dumps(other)}}}}}')
    assert error_of(line.encode()).code is ErrorCode.INVALID_REQUEST


@given(st.text(alphabet=st.characters(), max_size=50) | st.just("\ud800\u2028\n\x00\x85"))
def test_whatever_is_encoded_is_one_line_of_ascii(text: str) -> None:
    for line in (encode_notification("event", {text: text}), encode_error(text, ErrorCode.FAILED, text)):
        assert line.isascii()
        assert line.endswith(b"\n")
        assert len(line.splitlines()) == 1
    assert json.loads(encode_notification("event", {text: text}))["params"] == {text: text}


def test_error_carries_a_stable_word() -> None:
    error = json.loads(encode_error(None, ErrorCode.UNKNOWN_COMPONENT, "no"))["error"]
    assert error == {"code": 1, "message": "no", "data": {"code": "unknown_component"}}


def test_quoted_text_is_short_and_printable() -> None:
    assert quote("a\x1b\u202e") == r"'a\x1b\u202e'"
    assert len(quote("x" * 60_000)) < 100


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)), st.data())
def test_framer_finds_the_same_lines_however_they_arrive(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    framer = LineFramer()
    found = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        framer.feed(stream[:size])
        stream = stream[size:]
        while (line := framer.next_line()) is not None:
            found.append(line)
    assert found == lines
    assert not framer.has_partial_line


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_framer_refuses_a_line_beyond_the_limit_ended_or_not(end: bytes) -> None:
    framer = LineFramer()
    framer.feed(b"x" * MAX_LINE + b"\n")
    assert framer.next_line() == b"x" * MAX_LINE
    framer.feed(b"x" * (MAX_LINE + 1) + end)
    with pytest.raises(LineTooLongError, match="65536"):
        framer.next_line()


@given(JSON)
def test_what_is_encoded_already_is_put_in_as_it_is(value: object) -> None:
    encoded = json.dumps(value).encode()
    assert json.loads(encode_result("one", encoded)) == {"jsonrpc": "2.0", "id": "one", "result": value}
    told = encode_notification("status", encoded)
    assert json.loads(told) == {"jsonrpc": "2.0", "method": "status", "params": value}
    assert told.endswith(b"\n")
    assert told.count(b"\n") == 1
