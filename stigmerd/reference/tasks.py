"""What the workers ask the server for: ``stigmer.reference.Tasks/Next``.

The request is the worker's name, the answer the number of its next task, both as UTF-8 text.
"""

from __future__ import annotations

SERVICE = "stigmer.reference.Tasks"
NEXT = f"/{SERVICE}/Next"


def encode_name(name: str) -> bytes:
    """The request of a worker."""
    return name.encode()


def decode_name(message: bytes) -> str:
    """Who asks."""
    return message.decode(errors="replace")


def encode_task(number: int) -> bytes:
    """The answer."""
    return str(number).encode()


def decode_task(message: bytes) -> int:
    """The number of the task."""
    return int(message)
