"""``python -P -m stigmerd.reference NAME`` runs one program of the built-in stack.

Exit codes: 0 after SIGTERM or SIGINT; 1 it could not go on; 2 usage; 78 (EX_CONFIG) the
environment is wrong, so that a restart cannot help.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping

NAMES = ("stigmer-server", "workflow-runner", "agent-runner")
EX_CONFIG = 78

Program = Callable[[str, Mapping[str, str]], Coroutine[None, None, None]]


def main() -> int:
    """Run the program that the command line names."""
    # A SIGTERM while gRPC is being imported is a stop like any other.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        print(f"usage: python -P -m stigmerd.reference {{{','.join(NAMES)}}}", file=sys.stderr)
        return 2
    name = sys.argv[1]
    start_log()
    return run_server(name) if name == "stigmer-server" else run_worker(name)


def start_log() -> None:
    """Write to stdout, one line at a time, each with the time it was written."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines have no date
    line = logging.Formatter("%(asctime)s.%(msecs)03dZ %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    line.converter = time.gmtime
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(line)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def run_server(name: str) -> int:
    """Serve until the end; the exit code."""
    from stigmerd.reference.server import BadPortError, PortTakenError, port_from, serve

    try:
        return run_until_signal(name, serve(port_from(os.environ)))
    except BadPortError as exc:
        logging.getLogger(name).error("%s", exc)
        return EX_CONFIG
    except PortTakenError as exc:
        logging.getLogger(name).error("%s", exc)
        return 1


def run_worker(name: str) -> int:
    """Work until the end; the exit code."""
    from stigmerd.reference.worker import ServerAwayError, Worker, endpoint_from

    try:
        return run_until_signal(name, Worker(name=name, endpoint=endpoint_from(os.environ)).run())
    except ServerAwayError as exc:
        logging.getLogger(name).error("%s", exc)
        return 1


def run_until_signal(name: str, program: Coroutine[None, None, None]) -> int:
    """Run ``program`` until SIGTERM or SIGINT cancels it; 0, or the exception that ended it."""

    async def body() -> None:
        task = asyncio.ensure_future(program)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task
            return
        logging.getLogger(name).info("stopped")

    asyncio.run(body())
    return 0


if __name__ == "__main__":
    sys.exit(main())
