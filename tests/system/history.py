"""The event history, read on as it grows, and what must be true of it."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


class HistoryError(Exception):
    """What is in the history contradicts itself: no moment makes that good."""


class HistoryReader:
    """Reads what is new since the last time, however often the files were rotated meanwhile.

    The numbers have neither gap nor repeat; each life begins once and ends once, and the next one
    begins only after that.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: tuple[int, int] | None = None
        self._seq = 0
        self._open: dict[str, int | None] = {}
        self._last: defaultdict[str, int] = defaultdict(int)
        self._automatic: defaultdict[str, set[int]] = defaultdict(set)

    def check(self, alive: Mapping[str, int]) -> None:
        """Check what is new. ``alive``: the life that each component has now."""
        for entry in self._new():
            demand(entry["seq"] == self._seq + 1, f"seq {entry['seq']} follows {self._seq}: {entry}")
            self._seq = entry["seq"]
            if entry["component"] is not None:
                self._follow(entry["component"], entry["life"], entry["event"], entry["reason"])
        opened = {name: life for name, life in self._open.items() if life is not None}
        assert opened == dict(alive), f"open in the history: {opened}, alive: {alive}"

    def automatic(self, name: str) -> int:
        """How many lives have begun by themselves, or were about to: after a backoff, or as a trial."""
        return len(self._automatic[name])

    def _follow(self, name: str, life: int, event: str, reason: str | None) -> None:
        opened = self._open.get(name)
        where = f"{name}, life {life}, at {self._seq}"
        if event in {"starting", "start_failed"}:
            demand(opened is None, f"{where}: it begins, while life {opened} is not over")
            demand(life == self._last[name] + 1, f"{where}: it follows life {self._last[name]}")
            self._last[name] = life
            self._open[name] = life if event == "starting" else None
        elif event == "exited":
            demand(life == opened, f"{where}: it ended, while the open one is {opened}")
            self._open[name] = None
        if event == "restarting":
            self._automatic[name].add(life + 1)
        elif reason == "trial":
            self._automatic[name].add(life)

    def _new(self) -> Iterator[dict[str, Any]]:
        path = self._folder / "events.jsonl"
        with suppress(FileNotFoundError):
            for older in (3, 2, 1):
                rotated = Path(f"{path}.{older}")
                if self._file is not None and rotated.exists() and rotated.stat().st_ino == self._file[0]:
                    yield from self._read(rotated)
                    self._file = None
            yield from self._read(path)

    def _read(self, path: Path) -> Iterator[dict[str, Any]]:
        with open(path, "rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            offset = self._file[1] if self._file is not None and self._file[0] == inode else 0
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                self._file = (inode, offset)
                yield json.loads(line)


def demand(is_so: bool, complaint: str) -> None:
    """Raise if it is not so."""
    if not is_so:
        raise HistoryError(complaint)
