"""The two messages of ``grpc.health.v1``, in as much of protobuf's wire format as they need.

Source: grpc/health/v1/health.proto; protobuf.dev, "Encoding".
"""

from __future__ import annotations

METHOD = "/grpc.health.v1.Health/Check"

STATUS_NAMES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
"""HealthCheckResponse.ServingStatus."""

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def encode_request(service: str) -> bytes:
    """HealthCheckRequest: ``service`` is field 1, left out where it is empty."""
    text = service.encode()
    return b"\x0a" + _varint(len(text)) + text if text else b""


def decode_status(message: bytes) -> int:
    """HealthCheckResponse: the number of its status, field 1, which is 0 where it is left out.

    Raises ValueError for what is no such message. Other fields are skipped, as protobuf asks.
    """
    status, at = 0, 0
    while at < len(message):
        key, at = _read_varint(message, at)
        value, at = _read_value(message, at, key & 7)
        if key == 1 << 3 | VARINT:
            status = value
    return status


def _read_value(message: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """A varint's value, or 0 for a field that is skipped; and where the next field begins."""
    if wire_type == VARINT:
        return _read_varint(message, at)
    if wire_type == LENGTH:
        length, at = _read_varint(message, at)
    elif wire_type in (FIXED64, FIXED32):
        length = 8 if wire_type == FIXED64 else 4
    else:
        raise ValueError(f"wire type {wire_type}")
    if at + length > len(message):
        raise ValueError("cut off")
    return 0, at + length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    raise ValueError("cut off")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
