"""The first words of an HTTP/2 connection: enough to tell an HTTP/2 server from any other."""

from __future__ import annotations

import trio

from stigmerd.adapters.probes.failure import AttemptFailedError, from_tls_error

CLIENT_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The magic, and an empty SETTINGS frame. Source: RFC 9113, section 3.4."""

FRAME_HEAD = 9
SETTINGS = 4
ACK = 1


async def shake_hands(stream: trio.abc.Stream) -> None:
    """Greet, and wait for the SETTINGS frame that every HTTP/2 server begins with.

    Raises:
        AttemptFailedError: the server says something else, or nothing.
    """
    head = b""
    try:
        await stream.send_all(CLIENT_PREFACE)
        while len(head) < FRAME_HEAD:
            data = await stream.receive_some(FRAME_HEAD - len(head))
            if not data:
                break
            head += data
    except trio.BrokenResourceError as exc:
        raise from_tls_error(exc.__cause__) from exc
    if not head:
        raise AttemptFailedError("not HTTP/2: the connection was closed during the handshake")
    if len(head) < FRAME_HEAD or head[3] != SETTINGS or head[4] & ACK:
        raise AttemptFailedError(f"not HTTP/2: the server began with {head!r}")
