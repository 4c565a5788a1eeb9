"""``grpc.health.v1`` in a few lines, so that no generated code is needed.

Both messages have one field, number 1: the request a string (length-delimited), the response an
enum (varint). Fields of later versions are skipped.
Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

SERVICE = "grpc.health.v1.Health"
CHECK = f"/{SERVICE}/Check"
WATCH = f"/{SERVICE}/Watch"

FIRST_FIELD_TEXT = 0x0A
FIRST_FIELD_NUMBER = 0x08


class Serving(enum.IntEnum):
    """What a service says about itself."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def encode_request(service: str = "") -> bytes:
    """The question about one service; "" asks for the server as a whole."""
    name = service.encode()
    return bytes([FIRST_FIELD_TEXT]) + _varint(len(name)) + name if name else b""


def decode_request(message: bytes) -> str:
    """The service that is asked for.

    Raises:
        ValueError: the message is no HealthCheckRequest.
    """
    for tag, value in _fields(message):
        if tag == FIRST_FIELD_TEXT and isinstance(value, bytes):
            return value.decode()
    return ""


def encode_response(serving: Serving) -> bytes:
    """The answer."""
    return bytes([FIRST_FIELD_NUMBER, serving]) if serving else b""


def decode_response(message: bytes) -> Serving:
    """What the server answered; a status of a later version is UNKNOWN.

    Raises:
        ValueError: the message is no HealthCheckResponse.
    """
    for tag, value in _fields(message):
        if tag == FIRST_FIELD_NUMBER and isinstance(value, int):
            return Serving(value) if value in set(Serving) else Serving.UNKNOWN
    return Serving.UNKNOWN


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Every (tag, value): numbers for varints, bytes for everything else."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & 7
        if kind == 0:
            number, at = _read_varint(message, at)
            yield tag, number
            continue
        if kind == 2:
            length, at = _read_varint(message, at)
        elif kind in {1, 5}:
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} is none of protobuf's")
        if at + length > len(message):
            raise ValueError("the message ends inside a field")
        yield tag, message[at : at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where the next thing begins."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("the message ends inside a number")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number of more than ten bytes")
