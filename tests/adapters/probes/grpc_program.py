"""A program: a health service that says SERVING, on the port of its argument; it prints that port."""

from __future__ import annotations

import signal
import sys

from tests.adapters.probes.servers import answering, grpc_serving

if __name__ == "__main__":
    with grpc_serving(answering(1), f"127.0.0.1:{sys.argv[1]}") as port:
        print(port, flush=True)
        signal.pause()
