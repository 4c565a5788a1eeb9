"""The control channel's language: JSON-RPC 2.0, one object a line, without any input or output.

Here is decided what is a well-formed request. Which methods there are, and what they take, is the
business of ``handlers``. Nothing here raises anything but the exceptions defined here, whatever
the bytes; and whatever is encoded is ASCII, hence valid UTF-8, even where a text holds lone surrogates.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

PROTOCOL = 1
"""Grows when a client of the older number could misunderstand. See ``hello``."""

MAX_LINE = 64 * 1024
"""Bytes of one request, its newline not counted."""

MAX_DEPTH = 32
"""Objects and arrays inside each other, the request itself included."""

QUOTED = 64
"""Characters of a stranger's text that a message repeats: an answer must not grow with the request."""

# An unterminated string runs to the end: what follows it never reaches the parser's recursion either.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class ErrorCode(enum.IntEnum):
    """The ``code`` of an error; its name in lower case is ``data.code``."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    UNKNOWN_COMPONENT = 1
    BAD_CONFIGURATION = 2
    FAILED = 3
    SHUTTING_DOWN = 4
    BUSY = 5


class ProtocolError(Exception):
    """A request was not understood, and nothing of it is carried out.

    ``request_id`` is the request's id where it could be told, else None, as JSON-RPC wants it.
    """

    def __init__(self, code: ErrorCode, message: str, request_id: str | int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id


class LineTooLongError(Exception):
    """The other end sent a line beyond the limit: where the next one begins cannot be told."""


class Request(NamedTuple):
    """One well-formed request. Method and parameters are not checked against anything yet."""

    request_id: str | int
    method: str
    params: dict[str, Any]


class LineFramer:
    """Cuts a stream of bytes into lines. Holds at most one limit and one chunk."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0

    @property
    def has_partial_line(self) -> bool:
        """Whether bytes wait for a newline."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    def next_line(self) -> bytes | None:
        """The next whole line without its newline, or None until more is fed.

        Raises:
            LineTooLongError: the line is beyond the limit, whether its end has come or not.
        """
        end = self._buffer.find(b"\n", self._searched)
        self._searched = len(self._buffer) if end < 0 else 0
        if max(end, self._searched) > self._limit:
            raise LineTooLongError(f"a line is longer than {self._limit} bytes")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


def decode_request(line: bytes) -> Request:
    """Understand one line as a request.

    Raises:
        ProtocolError: it is none; and nothing else, whatever the bytes are.
    """
    duplicates: set[str] = set()
    value = _parse(line, duplicates)
    if isinstance(value, list):
        raise ProtocolError(ErrorCode.INVALID_REQUEST, "a batch is not accepted: send one request a line")
    if not isinstance(value, dict):
        raise ProtocolError(ErrorCode.INVALID_REQUEST, "a request is a JSON object")
    request_id = _find_id(value, duplicates)

    def refuse(code: ErrorCode, message: str) -> NoReturn:
        raise ProtocolError(code, message, request_id)

    if duplicates:
        refuse(ErrorCode.INVALID_REQUEST, f"the key {quote(min(duplicates))} appears twice in one object")
    if request_id is None:
        refuse(ErrorCode.INVALID_REQUEST, "a request needs an id, a string or an integer")
    if value.get("jsonrpc") != "2.0":
        refuse(ErrorCode.INVALID_REQUEST, 'a request says "jsonrpc": "2.0"')
    if unknown := value.keys() - {"jsonrpc", "id", "method", "params"}:
        refuse(ErrorCode.INVALID_REQUEST, f"a request has no member {quote(min(unknown))}")
    method = value.get("method")
    if not isinstance(method, str):
        refuse(ErrorCode.INVALID_REQUEST, "a request names its method in a string")
    params = value.get("params", {})
    if not isinstance(params, dict):
        refuse(ErrorCode.INVALID_PARAMS, "params is an object: parameters are given by name")
    return Request(request_id, method, params)


def _parse(line: bytes, duplicates: set[str]) -> object:
    """The JSON value of a line; keys that an object holds twice are put into ``duplicates``."""
    # json.loads(bytes) would accept UTF-16 and UTF-32; a BOM is refused by it in a str.
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as exc:
        message = f"the line is not UTF-8: {exc.reason} at byte {exc.start}"
        raise ProtocolError(ErrorCode.PARSE_ERROR, message) from exc
    # Before the parser: it recurses, and answers depth with RecursionError.
    if _depth(line) > MAX_DEPTH:
        raise ProtocolError(ErrorCode.INVALID_REQUEST, f"the line is nested deeper than {MAX_DEPTH}")

    def to_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made: dict[str, object] = {}
        for key, value in pairs:
            if key in made:
                duplicates.add(key)
            made[key] = value
        return made

    try:
        return json.loads(text, object_pairs_hook=to_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        message = f"the line is not JSON: {exc.msg} at column {exc.colno}"
        raise ProtocolError(ErrorCode.PARSE_ERROR, message) from exc
    except ValueError as exc:  # an integer of more digits than the interpreter converts
        raise ProtocolError(ErrorCode.PARSE_ERROR, "the line holds a number of too many digits") from exc


def _depth(line: bytes) -> int:
    """How deep objects and arrays are nested, or a bound of it that is no more than the limit."""
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return MAX_DEPTH
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", line)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse_constant(name: str) -> NoReturn:
    raise ProtocolError(ErrorCode.PARSE_ERROR, f"the line is not JSON: {name} is no JSON number")


def _find_id(value: Mapping[str, object], duplicates: set[str]) -> str | int | None:
    request_id = value.get("id")
    if "id" in duplicates or isinstance(request_id, bool) or not isinstance(request_id, str | int):
        return None
    return request_id


def quote(text: str) -> str:
    """A stranger's text, fit for a message: short, in quotes, nothing in it but printable ASCII."""
    return ascii(text if len(text) <= QUOTED else text[:QUOTED] + "…")


def encode_request(request_id: str | int, method: str, params: Mapping[str, object]) -> bytes:
    """A request as one line."""
    return _encode({"id": request_id, "method": method, "params": params})


def encode_result(request_id: str | int, result: Mapping[str, object] | bytes) -> bytes:
    """The answer to a request that was carried out, as one line. ``result`` may be JSON in ASCII already."""
    if isinstance(result, bytes):
        return _embed({"id": request_id}, "result", result)
    return _encode({"id": request_id, "result": result})


def encode_error(request_id: str | int | None, code: ErrorCode, message: str) -> bytes:
    """The answer to a request that was refused, as one line. ``message`` is a sentence for the operator."""
    error = {"code": code.value, "message": message, "data": {"code": code.name.lower()}}
    return _encode({"id": request_id, "error": error})


def encode_notification(method: str, params: object) -> bytes:
    """What a subscriber is told, as one line. ``params`` may be JSON in ASCII already."""
    if isinstance(params, bytes):
        return _embed({"method": method}, "params", params)
    return _encode({"method": method, "params": params})


def _embed(members: Mapping[str, object], name: str, encoded: bytes) -> bytes:
    """One line of ``members``, and of one more that is encoded already."""
    return b'%s,"%s":%s}\n' % (_encode(members)[:-2], name.encode("ascii"), encoded)


def _encode(members: Mapping[str, object]) -> bytes:
    # ASCII alone: lone surrogates stay escapes, and no character that ends a line is left as it is.
    text = json.dumps({"jsonrpc": "2.0", **members}, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii") + b"\n"
