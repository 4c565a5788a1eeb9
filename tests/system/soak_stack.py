"""The stack that is soaked: one component for each way in which processes make trouble.

Every command carries a token of the run in its arguments, so that its processes can be counted
without a look at their environment.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

FLOOD = """
import os, signal
life = os.environ["STIGMER_LIFE"]
number = 0
def write(count):
    global number
    for number in range(number, number + count):
        os.write(1, b"%s %d\\n" % (life.encode(), number))
    number += 1
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
while True:
    write(20000 if signal.sigtimedwait([signal.SIGUSR1], 0.05) else 1)
"""
"""Numbers its lines, and writes 20,000 of them at full speed when it is asked to."""

WEB = """
import http.server, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

DEAF = "trap '' TERM INT; while :; do sleep 1; done"
FAMILY = "setsid sh -c 'sleep {child} & exec env -i sleep {orphan}' & exec sleep {leader}"
CRASHER = "sleep $(( $$ % 10 ))e-1; case $(( $$ % 8 )) in 0) exit 78;; 1) exit 0;; *) exit 3;; esac"

STEADY = ("a", "b", "deaf", "family", "flood", "web")
"""What comes back whenever it has ended, and never gives up."""

SOLID = ("a", "deaf", "flood")
"""What never ends by itself, and for the sake of no other."""

ALL = (*STEADY, "crasher", "once", "late")


@dataclass(frozen=True, slots=True)
class Variant:
    """One configuration among those that reloads change between."""

    b: int = 1000000
    late: bool = False
    web_enabled: bool = True
    grace: float = 0.3


VARIANTS = (
    Variant(),
    Variant(b=1000001),
    Variant(late=True),
    Variant(web_enabled=False),
    Variant(b=1000002, grace=0.1),
)


@dataclass(frozen=True, slots=True)
class Program:
    """What the components of one run have in their arguments: ``token`` is a number of its own."""

    token: int
    port: int

    def argv(self, name: str, variant: Variant) -> list[str]:
        """The command of a component."""
        python = [sys.executable, "-S", "-E", "-c"]
        tag = f"{name}-{self.token}"
        return {
            "a": ["sleep", f"1000000.{self.token}"],
            "b": ["sleep", f"{variant.b}.{self.token}"],
            "late": ["sleep", f"2000000.{self.token}"],
            "deaf": ["sh", "-c", DEAF, tag],
            "family": ["sh", "-c", self._family(), tag],
            "crasher": ["sh", "-c", CRASHER, tag],
            "once": ["sh", "-c", "sleep 0.2", tag],
            "flood": [*python, FLOOD, tag],
            "web": [sys.executable, "-c", WEB, str(self.port), tag],
        }[name]

    @property
    def orphan(self) -> list[str]:
        """The grandchild that left the session and cleared its environment."""
        return ["sleep", f"3000000.{self.token}"]

    def _family(self) -> str:
        return FAMILY.format(leader=f"4000000.{self.token}", child=f"5000000.{self.token}", orphan=self.orphan[1])

    def configuration(self, variant: Variant) -> str:
        """The whole file."""
        names = [name for name in ALL if name != "late" or variant.late]
        tables = []
        for name in names:
            command = json.dumps(self.argv(name, variant)).replace("$", "$$")
            tables.append(f"[component.{name}]\ncommand = {command}\n{MORE[name]}")
        text = DEFAULTS.format(grace=variant.grace) + "\n".join(tables)
        text = text.replace("PORT", str(self.port))
        return text if variant.web_enabled else text.replace("[component.web]\n", "[component.web]\nenabled = false\n")


DEFAULTS = """
[defaults.restart]
initial_backoff = "20ms"
backoff_factor = 1.0
max_restarts = 1000000

[defaults.stop]
grace = {grace}

"""

MORE = {
    "a": 'stop = { pre_stop = ["true"] }\n',
    "b": 'depends_on = { a = "started" }\non_dependency_restart = "restart"\n',
    "late": "",
    "deaf": "",
    "family": 'readiness = { exec = { command = "true" }, period = "500ms" }\n',
    "crasher": 'optional = true\nrestart = { max_restarts = 5, window = "5s", recovery = "2s" }\n',
    "once": 'restart = { policy = "on-failure" }\n',
    "flood": 'log = { max_size = "64KiB", keep = 400 }\n',
    "web": 'liveness = { http = { url = "http://127.0.0.1:PORT/" }, period = "300ms", failure_threshold = 2 }\n',
}
