"""``python -m tests.docs.screens`` takes the pictures in docs/screens: real commands on a real stack.

Each command runs in a terminal of its own against a daemon in a throw-away home; what it sent is drawn
as SVG. Takes half a minute, and needs nothing but the checkout.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cli.terminals import OWN_CODES, Terminal
from tests.docs.picture import picture
from tests.system.daemons import Stack, kill, stack, wait_until

FOLDER = Path(__file__).parents[2] / "docs" / "screens"
SHOWN_HOME = b"/home/u/.stigmer"

CODES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\r")

PYTHON = re.compile(rb"/[\w./+-]*/python[0-9.]*")
"""Where this checkout's Python is, is nobody's business."""

API = """
import http.server, logging, sys, time
logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO", stream=sys.stdout)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words):
        pass

logging.info("loading the catalogue")
time.sleep(2)
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
logging.info("listening on port %s", sys.argv[1])
server.serve_forever()
"""

GO_LOG = 'echo "$$(date -u +%Y/%m/%d\\ %H:%M:%S) {}"'

HEALTHY = """
[component.db]
command = ["sh", "-c", '''{ready}; exec sleep 1000''']
liveness = {{ exec = {{ command = ["true"] }}, period = "0.3s" }}

[component.api]
command = ["{python}", "api.py", "{port}"]
depends_on = {{ db = "started" }}
startup = {{ tcp = {{ address = "127.0.0.1:{port}" }}, period = "0.3s" }}
readiness = {{ http = {{ url = "http://127.0.0.1:{port}/" }}, period = "0.3s" }}

[component.worker]
command = ["sh", "-c", '''{worker}''']
depends_on = {{ api = "ready" }}

[component.migrate]
command = "true"
restart.policy = "never"

[component.mailer]
command = "sleep 1000"
enabled = false
"""

FAILING = """
[component.db]
command = ["sh", "-c", "echo $$$$ > db.pid; exec sleep 1000"]

[component.api]
command = ["sh", "-c", "sleep 1; while [ -d /proc/$$(cat db.pid) ]; do sleep 0.1; done; echo lost the database; exit 1"]
depends_on = {{ db = "started" }}

[component.billing]
command = ["billing-service", "--port", "8080"]
restart.max_restarts = 1

[component.cache]
command = ["sh", "-c", "sleep 1; kill -SEGV $$$$"]
restart.policy = "never"

[component.search]
command = ["sh", "-c", "echo 'building the index'; exec sleep 1000"]
startup = {{ tcp = {{ address = "127.0.0.1:{port}" }}, period = "0.2s", failure_threshold = 3 }}
restart.max_restarts = 0

[component.mailer]
command = ["sh", "-c", "echo 'config: smtp.host is not set' >&2; exit 78"]
readiness = {{ process = {{ min_uptime = "5s" }} }}

[component.front]
command = "sleep 1000"
depends_on = {{ mailer = "ready" }}

[component.metrics]
command = "sleep 1000"
ports = [{taken}]
"""


def free_port() -> tuple[int, socket.socket]:
    """A port, and what holds it until it is closed."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder.getsockname()[1], holder


def take(home: Stack, name: str, *words: str, columns: int = 80) -> None:
    """Draw all that a command prints."""
    screen = Terminal(["server", *words, "--home", str(home.home)], columns=columns, rows=50)
    try:
        output = screen.read_to_end()
    finally:
        screen.close()
    draw(home, name, words, output, columns)


def take_live(home: Stack, name: str, keys: bytes, until: bytes, *, columns: int = 100, rows: int = 26) -> None:
    """Draw what the live view shows once a text has come after some keys."""
    words = ("status", "--watch")
    screen = Terminal(["server", *words, "--home", str(home.home)], columns=columns, rows=rows)
    try:
        screen.read_until(b"q quit")
        screen.type(keys)
        screen.read_until(until)
        screen.read_until(b"q quit")
        frames = screen.seen.split(b"\x1b[H")
    finally:
        screen.close()
    draw(home, name, words, next(frame for frame in reversed(frames) if b"q quit" in frame), columns)


def draw(home: Stack, name: str, words: Sequence[str], output: bytes, columns: int) -> None:
    """Write the picture of what a terminal was sent."""
    kept = CODES.sub(lambda code: code.group() if OWN_CODES.fullmatch(code.group()) else b"", output)
    kept = PYTHON.sub(b"python3", kept.replace(str(home.home).encode(), SHOWN_HOME))
    shown = kept.decode().replace(f" --home {SHOWN_HOME.decode()}", "")
    rows = [row for line in shown.rstrip().splitlines() for row in folded(line, columns)]
    lines = [f"\x1b[1m$ stigmer server {' '.join(words)}\x1b[0m", *rows]
    (FOLDER / f"{name}.svg").write_text(picture(lines, columns))


def folded(line: str, columns: int) -> list[str]:
    """The line as a terminal shows it. What is coloured was cut to the width, or is a path."""
    if "\x1b" in line or len(line) <= columns:
        return [line]
    return [line[start : start + columns] for start in range(0, len(line), columns)]


def configure(home: Stack, text: str, **values: object) -> None:
    """Write the configuration, and what it runs."""
    (home.home / "api.py").write_text(API)
    home.configure(text.format(python=sys.executable, **values))


def take_healthy(home: Stack) -> None:
    """A stack that runs, one that is on its way, one in a crash loop, and one without a daemon."""
    port, holder = free_port()
    holder.close()
    ready, tick = GO_LOG.format("ready for connections"), GO_LOG.format("took a job")
    works = f"{GO_LOG.format('worker is up')}; while :; do sleep 0.7; {tick}; done"
    crashes = f"{GO_LOG.format('connecting')}; sleep 0.3; echo 'panic: no route to the queue' >&2; exit 2"
    configure(home, HEALTHY, port=port, ready=ready, worker=works)
    home.start()
    wait_until(lambda: any(probe["consecutive_failures"] > 1 for probe in home.component("api")["probes"]))
    take(home, "status-starting", "status")
    home.wait_state("worker", "running")
    wait_until(lambda: home.component("db")["uptime"] > 5)
    take(home, "status-healthy", "status")
    take(home, "status-verbose", "status", "db", "api", "--verbose")
    take(home, "status-wide", "status", "--verbose", columns=160)
    take(home, "logs-all", "logs", "--all", "--no-follow", "--tail", "6", columns=100)
    take(home, "events", "events", "--tail", "12", columns=100)
    configure(home, HEALTHY, port=port, ready=ready, worker=crashes)
    home.cli("reload")
    wait_until(lambda: home.component("worker")["restarts"] >= 2 and home.component("worker")["state"] == "restarting")
    take(home, "status-unhealthy", "status")
    take(home, "explain-crash", "explain", "worker")
    take_live(home, "watch-crash-loop", b"jj", b"restarts in")
    home.kill()
    take(home, "status-dead", "status")


def take_failing(home: Stack) -> None:
    """A failure of each kind."""
    port, holder = free_port()
    holder.close()
    taken, stranger = free_port()
    stranger.listen()
    with stranger:
        configure(home, FAILING, port=port, taken=taken)
        home.start()
        for name in ("billing", "cache", "search", "mailer"):
            home.wait_state(name, "failed")
        take(home, "status-failed", "status")
        take(home, "explain-spawn", "explain", "billing")
        take(home, "explain-fault", "explain", "cache")
        take(home, "explain-probe", "explain", "search")
        take(home, "explain-fatal-exit", "explain", "mailer")
        take(home, "explain-dependency", "explain", "front")
        take(home, "explain-port", "explain", "metrics")
        wait_until(lambda: home.component("api")["uptime"] > 2)
        kill(home.component("db")["pid"])
        wait_until(lambda: home.component("api")["state"] == "restarting")
        take(home, "explain-killed", "explain", "db")
        take(home, "explain-root-cause", "explain", "api")


def main() -> None:
    """Take all pictures anew."""
    FOLDER.mkdir(exist_ok=True)
    os.environ["PATH"] = os.defpath  # messages tell where they looked
    for scene in (take_healthy, take_failing):
        with tempfile.TemporaryDirectory(prefix="stigmer-") as folder, stack(Path(folder)) as home:
            scene(home)


if __name__ == "__main__":
    main()
