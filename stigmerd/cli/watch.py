"""``status --watch``: the stack live, fed by the daemon's subscription, with keys to act.

One thread listens to the daemon and reconnects; the terminal belongs to the main thread alone.
"""

from __future__ import annotations

import os
import queue
import select
import sys
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from stigmerd.adapters.store import EventTail, Home
from stigmerd.cli.errors import OK, CommandError
from stigmerd.cli.escape import escape_line
from stigmerd.cli.events import render_event
from stigmerd.cli.paint import Line, Span, cut_line, line, paint, screen_width, to_rich, wants_colour
from stigmerd.cli.reach import explained, fetch_status, find_home, narrow, open_client, reached, to_document
from stigmerd.cli.render import render_status
from stigmerd.cli.status import print_status
from stigmerd.control.client import ControlError
from stigmerd.core.event import Entry
from stigmerd.core.status import StatusDocument

if TYPE_CHECKING:
    from rich.live import Live

TICK = 0.1
"""Seconds after which keys, events and the size of the terminal are looked at again."""

RECONNECT = 0.3

KEPT_EVENTS = 200

HELP = "q quit  ↑↓ select  r restart  s stop/start  l logs  e explain"

KEYS = {b"\x1b[A": "up", b"k": "up", b"\x1b[B": "down", b"j": "down", b"\x03": "q", b"\x1bOA": "up", b"\x1bOB": "down"}


def watch(names: Sequence[str], *, home: str | None, verbose: bool, as_json: bool) -> int:
    """Show the status until interrupted; on anything but a terminal, one snapshot per change."""
    place = find_home(home)
    with reached(place) as client:
        fetch_status(client, names)  # an unknown name, or no daemon, is told before the screen is taken
    feed = Feed(place)
    feed.start()
    if as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
        return _print_changes(feed, names, verbose=verbose, as_json=as_json)
    with EventTail(place) as history, Keyboard() as keyboard, _screen() as live:
        return Screen(place, names, feed, history, keyboard, live, verbose=verbose).run()


class Feed(threading.Thread):
    """Snapshots of the daemon, as they come: a document, or the sentence why there is none."""

    def __init__(self, home: Home) -> None:
        super().__init__(daemon=True)
        self.news: queue.SimpleQueue[StatusDocument | str] = queue.SimpleQueue()
        self._home = home

    def run(self) -> None:
        """Listen, for ever: a daemon that is replaced or restarted is listened to again."""
        while True:
            try:
                with explained(self._home), open_client(self._home) as client:
                    for notification in client.subscribe("status.subscribe"):
                        self.news.put(to_document(notification.params))
            except CommandError as exc:
                self.news.put(str(exc))
            time.sleep(RECONNECT)


def _print_changes(feed: Feed, names: Sequence[str], *, verbose: bool, as_json: bool) -> int:
    previous = None
    while True:
        news = feed.news.get()
        if isinstance(news, str):
            if news != previous:
                sys.stderr.write(f"{news}\n")
        else:
            print_status(narrow(news, names), verbose=verbose, as_json=as_json)
            if not as_json:
                sys.stdout.write("\n")
            sys.stdout.flush()
        previous = news


class Keyboard:
    """The terminal's keys, at once and unechoed; the terminal is as before at the end, however that comes."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._typed = b""

    def __enter__(self) -> Keyboard:
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def read(self, timeout: float) -> str:
        """The next key: a name of KEYS, a letter, or "" where none came in time.

        Raises:
            KeyboardInterrupt: the terminal has gone.
        """
        if not self._typed and select.select([self._fd], [], [], timeout)[0]:
            self._typed = os.read(self._fd, 64)
            if not self._typed:
                raise KeyboardInterrupt
        length = 3 if self._typed.startswith((b"\x1b[", b"\x1bO")) else 1
        key, self._typed = self._typed[:length], self._typed[length:]
        return KEYS.get(key) or key.decode("ascii", "replace")


class _Live:
    """The terminal's second screen, which can be left for a while."""

    def __init__(self) -> None:
        self._live = _make_live()
        self._drawn: list[Line] = []

    def enter(self) -> None:
        """Take the screen."""
        self._drawn = []
        self._live.start()

    def leave(self) -> None:
        """Give the screen back, as it was."""
        self._live.stop()
        self._live = _make_live()

    def draw(self, lines: list[Line]) -> None:
        """Show these lines, if they are not there already."""
        if lines != self._drawn:
            self._drawn = lines
            self._live.update(to_rich(lines), refresh=True)


def _make_live() -> Live:
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(), screen=True, auto_refresh=False, vertical_overflow="crop")


@contextmanager
def _screen() -> Iterator[_Live]:
    live = _Live()
    live.enter()
    try:
        yield live
    finally:
        live.leave()


def _aged(document: StatusDocument, seconds: float) -> StatusDocument:
    """The document as it would be some seconds later if nothing had changed: only then another one comes."""
    if document.daemon is None:
        return document
    daemon = msgspec.structs.replace(document.daemon, uptime=document.daemon.uptime + seconds)
    components = tuple(
        component if component.uptime is None else msgspec.structs.replace(component, uptime=component.uptime + seconds)
        for component in document.components
    )
    return msgspec.structs.replace(document, daemon=daemon, components=components)


class Screen:
    """What is on the screen, and what a key does to it."""

    def __init__(
        self,
        home: Home,
        names: Sequence[str],
        feed: Feed,
        history: EventTail,
        keyboard: Keyboard,
        live: _Live,
        *,
        verbose: bool,
    ) -> None:
        self._home = home
        self._names = names
        self._feed = feed
        self._history = history
        self._keyboard = keyboard
        self._live = live
        self._verbose = verbose
        self._document: StatusDocument | None = None
        self._arrived = 0.0
        self._events: deque[Entry] = deque(maxlen=KEPT_EVENTS)
        self._selected = 0
        self._message = ""
        self._actions: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self) -> int:
        """Draw and obey until ``q``."""
        while True:
            self._take_news()
            self._live.draw(self._lines())
            key = self._keyboard.read(TICK)
            if key == "q":
                return OK
            self._obey(key)

    def _take_news(self) -> None:
        while not self._feed.news.empty():
            news = self._feed.news.get()
            if isinstance(news, str):
                self._message = news
                if self._document is not None:
                    self._document = msgspec.structs.replace(self._document, daemon=None, healthy=False)
            else:
                if self._document is None or self._document.daemon is None:
                    self._message = ""
                self._document = narrow(news, self._names)
                self._arrived = time.monotonic()
        while not self._actions.empty():
            self._message = self._actions.get()
        self._events.extend(e for e in self._history.poll() if not self._names or e.component in self._names)

    def _lines(self) -> list[Line]:
        width, height = os.get_terminal_size(sys.stdout.fileno())
        now = time.time()
        body: list[Line] = [line("waiting for the daemon …")]
        if self._document is not None:
            document = _aged(self._document, time.monotonic() - self._arrived)
            name = self._selected_name()
            body = render_status(document, now=now, width=width, verbose=self._verbose, selected=name)
        foot = [line(Span(self._message, "busy")), line(Span(HELP, "faint"))]
        room = height - len(body) - len(foot) - 2
        events = [render_event(entry, now) for entry in list(self._events)[-room:]] if room > 0 else []
        middle = [line(), *events] if events else []
        padding = [line()] * max(0, height - len(body) - len(middle) - len(foot))
        lines = [*body, *middle, *padding][: height - len(foot)] + foot
        return [cut_line(spans, width) for spans in lines]

    def _selected_name(self) -> str | None:
        if self._document is None or not self._document.components:
            return None
        self._selected = max(0, min(self._selected, len(self._document.components) - 1))
        return self._document.components[self._selected].name

    def _obey(self, key: str) -> None:
        name = self._selected_name()
        if key:
            self._message = ""
        if key in {"up", "down"}:
            self._selected += -1 if key == "up" else 1
        elif name is None or self._document is None:
            return
        elif key == "r":
            self._act("restart", name)
        elif key == "s":
            state = self._document.components[self._selected].state
            self._act("start" if state in {"stopped", "failed", "completed"} else "stop", name)
        elif key == "l":
            self._leave_for_logs(name)
        elif key == "e":
            self._leave_for_report(name)

    def _act(self, method: str, name: str) -> None:
        """Ask the daemon in the background, so that the screen goes on."""
        self._message = f"{method} {escape_line(name)} …"

        def ask() -> None:
            try:
                with open_client(self._home) as client:
                    answers = client.call(method, names=[name])["components"]
                text = "; ".join(f"{a['name']}: {a['state']} {a['message']}".strip() for a in answers)
            except ControlError as exc:
                text = str(exc)
            self._actions.put(escape_line(f"{method}: {text}"))

        threading.Thread(target=ask, daemon=True).start()

    def _leave_for_logs(self, name: str) -> None:
        """Follow a component's log on the first screen until Ctrl-C."""
        from stigmerd.cli.logs import Wish, logs

        self._live.leave()
        sys.stdout.write(f"--- {escape_line(name)}: Ctrl-C goes back\n")
        try:
            logs(Wish(names=(name,), follow=True), home=self._home.path)
        except KeyboardInterrupt:
            pass
        except CommandError as exc:
            self._message = str(exc)
        finally:
            self._live.enter()

    def _leave_for_report(self, name: str) -> None:
        """Show the report on a component on the first screen until a key."""
        from stigmerd.cli.explain import fetch_report, render_report

        try:
            report = fetch_report(self._home, name)
        except CommandError as exc:
            self._message = str(exc)
            return
        self._live.leave()
        lines = render_report(report, now=time.time(), command=report.command, width=screen_width(sys.stdout))
        sys.stdout.write(paint(lines, colour=wants_colour(sys.stdout)) + "--- any key goes back\n")
        sys.stdout.flush()
        while not self._keyboard.read(TICK):
            pass
        self._live.enter()
