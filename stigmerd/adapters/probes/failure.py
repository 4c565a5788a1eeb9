"""Why an attempt failed, in words that never name the configured address: it may hold a ``${}`` secret."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable

from stigmerd.core.health import Outcome

MESSAGE_LIMIT = 256
"""Characters of another program's text that a message may quote."""

OUR_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
"""What this machine or the daemon lacks; it says nothing about the component."""


class AttemptFailedError(Exception):
    """The attempt is over, and failed. The message is the evidence.

    ``conclusive`` is False where the cause is the daemon's or the machine's, not the component's.
    """

    def __init__(self, message: str, *, conclusive: bool = True) -> None:
        super().__init__(message)
        self.conclusive = conclusive

    @property
    def outcome(self) -> Outcome:
        """The same as an outcome."""
        return Outcome(passed=False, message=str(self), conclusive=self.conclusive)


def from_os_error(exc: OSError, where: str = "") -> AttemptFailedError:
    """The failure that ``exc`` stands for: ``connection refused``, ``no route to host``; after ``where``, if given."""
    # Trio puts the address into strerror, so the number's own text is taken.
    text = os.strerror(exc.errno) if exc.errno else str(exc)
    said = text[:1].lower() + text[1:]
    return AttemptFailedError(f"{where}: {said}" if where else said, conclusive=exc.errno not in OUR_SHORTAGES)


def from_tls_error(exc: BaseException | None) -> AttemptFailedError:
    """The failure behind a broken TLS stream, from the exception that broke it."""
    match exc:
        case ssl.SSLCertVerificationError():
            return AttemptFailedError(f"TLS: the certificate is not trusted: {exc.verify_message}")
        case ssl.SSLError():
            return AttemptFailedError(f"TLS: {(exc.reason or str(exc)).replace('_', ' ').lower()}")
        case _:
            return AttemptFailedError("the connection broke")


def no_more_threads() -> AttemptFailedError:
    """The failure to start a thread, which Python reports as a bare RuntimeError."""
    return AttemptFailedError("the daemon cannot start a thread now", conclusive=False)


Conceal = Callable[[str], str]
"""Takes the secrets out of a text. It has to come before any cut: of a secret that was cut it finds nothing."""


def quote(text: str, conceal: Conceal) -> str:
    """Another program's text, without secrets, on one line and cut to what a message may hold."""
    return " ".join(conceal(text).split())[:MESSAGE_LIMIT]
