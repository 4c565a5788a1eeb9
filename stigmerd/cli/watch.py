"""``status --watch``: the stack live, fed by the daemon's subscription, with keys to act.

Threads listen to the daemon and reconnect; the terminal belongs to the main thread alone.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from stigmerd.adapters.disk.output import DAEMON
from stigmerd.adapters.disk.store import EventTail, Home
from stigmerd.cli.errors import NOT_RUNNING, OK, CommandError
from stigmerd.cli.escape import escape_line
from stigmerd.cli.events import NAME_ROOM, render_event
from stigmerd.cli.paint import Line, Span, cut_line, line
from stigmerd.cli.reach import explained, fetch_status, find_home, narrow, open_client, reached, to_document
from stigmerd.cli.render import below, heading
from stigmerd.cli.status import last_known, print_status, status
from stigmerd.cli.table import Table
from stigmerd.cli.terminal import LiveTerminal, can_be_taken, ended_by_signals
from stigmerd.control.client import Client, ControlError
from stigmerd.core.event import Entry
from stigmerd.core.status import ComponentDocument, StatusDocument

TICK = 0.1
"""Seconds after which keys, events and the size of the terminal are looked at again."""

REDRAW = 0.5
"""Seconds after which what only grows older is drawn anew: a thousand rows take a while."""

RECONNECT = 0.3

USAGE_PERIOD = 2.0
"""Seconds between two measurements of CPU and memory, which no subscription tells."""

KEPT_EVENTS = 200

SEARCHED_EVENTS = 5000
"""The last events among which those of some components are looked for: a whole history takes seconds."""

EVENTS_SHARE = 4
"""One line of so many is kept for events where the table would take them all."""

HELP = "q quit  ↑↓ select  r restart  s stop/start  l logs  e explain"

DOWN = frozenset({"stopped", "failed", "completed"})


def watch(names: Sequence[str], *, home: str | None, verbose: bool, as_json: bool) -> int:
    """Show the status until interrupted; on anything but a terminal, one snapshot per change."""
    place = find_home(home)
    try:
        with reached(place) as client:
            fetch_status(client, names)  # an unknown name is told before the screen is taken
    except CommandError as exc:
        if exc.exit_code != NOT_RUNNING:
            raise
        return status(names, home=home, verbose=verbose, as_json=as_json)
    feed = Feed(place, names)
    feed.start()
    if as_json or not can_be_taken():
        return _print_changes(feed, verbose=verbose, as_json=as_json)
    if verbose:
        feed.start_measuring()
    history = EventTail.of_last(place, SEARCHED_EVENTS if names else KEPT_EVENTS)
    with history, ended_by_signals(), LiveTerminal() as screen:
        return Watch(place, names, feed, history, screen, verbose=verbose).run()


class Feed:
    """Snapshots of the named components, as they come: a document, or the sentence why there is none."""

    def __init__(self, home: Home, names: Sequence[str]) -> None:
        self.news: queue.SimpleQueue[StatusDocument | str] = queue.SimpleQueue()
        self._home = home
        self._names = names

    def start(self) -> None:
        """Listen, for ever: a daemon that is replaced or restarted is listened to again."""
        threading.Thread(target=self._listen, daemon=True).start()

    def start_measuring(self) -> None:
        """Ask for what is told only on demand, too: CPU and memory."""
        threading.Thread(target=self._measure, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                with explained(self._home), open_client(self._home) as client:
                    for notification in client.subscribe("status.subscribe"):
                        self.news.put(narrow(to_document(notification.params), self._names))
            except CommandError as exc:
                self.news.put(str(exc))
            time.sleep(RECONNECT)

    def _measure(self) -> None:
        while True:
            try:
                with open_client(self._home) as client:
                    self.news.put(narrow(fetch_status(client, verbose=True), self._names))
            except (ControlError, CommandError):
                pass  # the listener says it
            time.sleep(USAGE_PERIOD)


def _print_changes(feed: Feed, *, verbose: bool, as_json: bool) -> int:
    previous = None
    while True:
        news = feed.news.get()
        if isinstance(news, str):
            if news != previous:
                sys.stderr.write(f"{news}\n")
        else:
            print_status(news, verbose=verbose, as_json=as_json)
            if not as_json:
                sys.stdout.write("\n")
            sys.stdout.flush()
        previous = news


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


def with_usage(document: StatusDocument, before: StatusDocument | None) -> StatusDocument:
    """The document with the last measurement of each life that it does not measure itself."""
    if before is None:
        return document
    known = {(c.name, c.life): c for c in before.components if c.memory_bytes is not None}
    components = []
    for component in document.components:
        measured = known.get((component.name, component.life))
        if measured is not None and component.memory_bytes is None and component.uptime is not None:
            usage = {"cpu_percent": measured.cpu_percent, "memory_bytes": measured.memory_bytes}
            component = msgspec.structs.replace(component, **usage)
        components.append(component)
    return msgspec.structs.replace(document, components=tuple(components))


def _opposite(client: Client, name: str) -> str:
    """What turns a component round: decided by its state now, of which the screen is told a moment later."""
    (component,) = fetch_status(client, [name]).components
    return "start" if component.state in DOWN else "stop"


class Listing:
    """The table cut to the rows that there are: what is selected stays in sight."""

    def __init__(self) -> None:
        self._top = 0

    def lines(
        self,
        components: Sequence[ComponentDocument],
        selected: str | None,
        *,
        now: float,
        width: int,
        room: int,
        verbose: bool,
    ) -> list[Line]:
        """At most ``room`` lines. Where that is too few, only the selected component has remarks."""
        if not components:
            return []
        table = Table.fitting(components, now, width)
        groups = [
            [table.row(c, selected=c.name == selected), *below(c, now, width, verbose=verbose)] for c in components
        ]
        if 1 + sum(map(len, groups)) > room:
            groups = [
                group if component.name == selected else group[:1]
                for component, group in zip(components, groups, strict=True)
            ]
        return [table.header(), *self._in_sight(groups, selected, components, max(0, room - 1))]

    def _in_sight(
        self, groups: list[list[Line]], selected: str | None, components: Sequence[ComponentDocument], room: int
    ) -> list[Line]:
        number = next((n for n, component in enumerate(components) if component.name == selected), 0)
        first = sum(map(len, groups[:number]))
        lines = [text for group in groups for text in group]
        self._top = min(max(self._top, first + len(groups[number]) - room), first, max(0, len(lines) - room))
        return lines[self._top : self._top + room]


class Watch:
    """What is on the screen, and what a key does to it."""

    def __init__(
        self,
        home: Home,
        names: Sequence[str],
        feed: Feed,
        history: EventTail,
        screen: LiveTerminal,
        *,
        verbose: bool,
    ) -> None:
        self._home = home
        self._names = names
        self._feed = feed
        self._history = history
        self._screen = screen
        self._verbose = verbose
        self._document: StatusDocument | None = None
        self._arrived = 0.0
        self._events: deque[Entry] = deque(maxlen=KEPT_EVENTS)
        self._listing = Listing()
        self._selected = 0
        self._message = ""
        self._actions: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self) -> int:
        """Draw and obey until ``q``."""
        size, due = (0, 0), 0.0
        while True:
            has_news = self._take_news()
            if has_news or size != self._screen.size() or time.monotonic() >= due:
                size, due = self._screen.size(), time.monotonic() + REDRAW
                self._screen.draw(self._lines())
            key = self._screen.read_key(TICK)
            if key == "q":
                return OK
            if key:
                self._obey(key)
                due = 0.0

    def _take_news(self) -> bool:
        """Take in what has come from the daemon, from what was asked for, and into the history. Whether any has."""
        has_news = False
        while not self._feed.news.empty():
            self._take(self._feed.news.get())
            has_news = True
        while not self._actions.empty():
            self._message = self._actions.get()
            has_news = True
        events = [e for e in self._history.poll() if not self._names or e.component in self._names]
        self._events.extend(events)
        return has_news or bool(events)

    def _take(self, news: StatusDocument | str) -> None:
        if isinstance(news, str):
            self._message = news
            self._document = self._without_daemon()
        else:
            if self._document is None or self._document.daemon is None:
                self._message = ""
            self._document = with_usage(news, self._document)
        self._arrived = time.monotonic()

    def _without_daemon(self) -> StatusDocument | None:
        """What a daemon that does not answer left, and which of its processes are alive."""
        try:
            return last_known(self._home, self._names)
        except CommandError:
            return self._document  # the state tells nothing, or not of these

    def _lines(self) -> list[Line]:
        width, height = self._screen.size()
        now = time.time()
        head, body = [line("waiting for the daemon …")], list[Line]()
        foot = [line(Span(self._message, "busy")), line(Span(HELP, "faint"))]
        if self._document is not None:
            document = _aged(self._document, time.monotonic() - self._arrived)
            head = [*heading(document, width), line()]
            room = height - len(head) - len(foot) - (1 + height // EVENTS_SHARE if self._events else 0)
            name = self._selected_name()
            body = self._listing.lines(
                document.components, name, now=now, width=width, room=room, verbose=self._verbose
            )
        room = height - len(head) - len(body) - len(foot) - 1
        newest = list(self._events)[-room:] if room > 0 else []
        names = max((len(entry.component or DAEMON) for entry in newest), default=0)
        events = [line(), *(render_event(entry, now, min(names, NAME_ROOM)) for entry in newest)] if newest else []
        padding = [line()] * (height - len(head) - len(body) - len(events) - len(foot))
        lines = [*head, *body, *events, *padding][: max(0, height - len(foot))] + foot
        return [cut_line(spans, width) for spans in lines]

    def _selected_name(self) -> str | None:
        if self._document is None or not self._document.components:
            return None
        self._selected = max(0, min(self._selected, len(self._document.components) - 1))
        return self._document.components[self._selected].name

    def _obey(self, key: str) -> None:
        name = self._selected_name()
        self._message = ""
        if key in {"up", "down"}:
            self._selected += -1 if key == "up" else 1
        elif name is None:
            return
        elif key in {"r", "s"}:
            self._act(key, name)
        elif key == "l":
            self._leave_for_logs(name)
        elif key == "e":
            self._leave_for_report(name)

    def _act(self, key: str, name: str) -> None:
        """Ask the daemon in the background, so that the screen goes on."""
        self._message = f"{'restart' if key == 'r' else 'stop or start'} {escape_line(name)} …"

        def ask() -> None:
            method = ""
            try:
                with explained(self._home), open_client(self._home) as client:
                    method = "restart" if key == "r" else _opposite(client, name)
                    answers = client.call(method, names=[name])["components"]
                text = "; ".join(f"{a['name']}: {a['state']} {a['message']}".strip() for a in answers)
            except CommandError as exc:
                text = str(exc)
            self._actions.put(escape_line(": ".join(filter(None, (method, text)))))

        threading.Thread(target=ask, daemon=True).start()

    def _leave_for_logs(self, name: str) -> None:
        """Follow a component's log on the first screen until Ctrl-C."""
        from stigmerd.cli.logs import Wish, logs

        with self._screen.left():
            sys.stdout.write(f"--- {escape_line(name)}: Ctrl-C goes back\n")
            try:
                logs(Wish(names=(name,), follow=True), home=self._home.path)
            except KeyboardInterrupt:
                pass
            except CommandError as exc:
                self._message = str(exc)

    def _leave_for_report(self, name: str) -> None:
        """Show the report on a component on the first screen until a key."""
        from stigmerd.cli.explain import fetch_report, print_report

        try:
            report = fetch_report(self._home, name)
        except CommandError as exc:
            self._message = str(exc)
            return
        with self._screen.left():
            print_report(report)
            sys.stdout.write("--- any key goes back\n")
            sys.stdout.flush()
            while not self._screen.read_key(TICK):
                pass
