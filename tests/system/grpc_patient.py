"""A program: a health service on the port of its argument that falls ill as the signal says that it is sent.

SIGUSR1: it hangs in the handler. SIGUSR2: it answers NOT_SERVING. SIGHUP: an HTTP/1 server takes its place.
"""

from __future__ import annotations

import http.server
import signal
import sys
import time
from typing import Any

from tests.adapters.probes.servers import grpc_serving

SERVING, NOT_SERVING = 1, 2
ILLNESSES = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP}


class Patient:
    """What the health service answers, which changes with a signal."""

    status = SERVING
    delay = 0.0

    def check(self, request: bytes, context: Any) -> bytes:
        """Answer as the present state of health is."""
        time.sleep(self.delay)
        return bytes([8, self.status])


def main(port: int) -> None:
    """Serve until replaced by a web server, or killed."""
    patient = Patient()
    with grpc_serving(patient.check, f"127.0.0.1:{port}"):
        while (illness := signal.sigwait(ILLNESSES)) is not signal.SIGHUP:
            if illness is signal.SIGUSR1:
                patient.delay = 1000.0
            else:
                patient.status = NOT_SERVING
    http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, ILLNESSES)
    main(int(sys.argv[1]))
