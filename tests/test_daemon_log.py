"""The daemon's own log: whole records, in its own file and nowhere else."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from stigmerd.daemon.log import FileHandler


def test_file_is_not_let_go_while_a_record_is_written_to_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = FileHandler(lambda: os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    reopening = threading.Thread(target=handler.reopen)

    class Slow(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            if not reopening.ident:
                reopening.start()
                reopening.join(0.1)
                assert reopening.is_alive()
            return str(record.msg)

    handler.setFormatter(Slow())
    for text in ("one", "two"):
        handler.handle(logging.LogRecord("stigmerd", logging.INFO, "", 0, text, None, None))
    reopening.join()
    handler.reopen()
    assert path.read_text() == "one\ntwo\n"
