"""Makes text that came from a child, a probe or a container harmless on a terminal.

Nothing is dropped: what could move the cursor, recolour, retitle, reorder or hide is shown as the
escape a programmer would write for it. Source: Unicode TR 36 (bidirectional text spoofing).
"""

from __future__ import annotations

import re

_HOSTILE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 other than tab and newline, DEL, C1
    "\u00ad\u061c\u180e\u200b\u200e\u200f"  # invisible, and the marks of direction
    "\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # separators, embeddings, isolates, fillers
    "\ud800-\udfff"  # lone surrogates: what surrogateescape made of invalid UTF-8
    "\U000e0000-\U000e007f"  # tags: invisible text
    "]"
)
_HOSTILE_IN_LINE = re.compile(_HOSTILE.pattern[:-1] + "\t\n]")
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def escape(text: str) -> str:
    """The text with newlines and tabs as they are, and all that a terminal might obey made visible."""
    return _HOSTILE.sub(_visible, text)


def escape_line(text: str) -> str:
    """Like escape, for one cell or line: newlines and tabs become visible too."""
    return text if text.isprintable() else _HOSTILE_IN_LINE.sub(_visible, text)


def quoted(text: str) -> str:
    """A word that was typed, as it is named in a message."""
    return f"'{escape_line(text)}'"


def escape_bytes(data: bytes) -> str:
    """Bytes as escaped text; invalid UTF-8 becomes ``\\xff``."""
    return escape(data.decode("utf-8", "backslashreplace"))


def _visible(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # the byte that surrogateescape hid
    if character in _SHORT:
        return _SHORT[character]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
