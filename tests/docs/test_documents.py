"""The documents as the documentation shows them: every key that there is, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from stigmerd.core.event import EVENTS, REASONS
from stigmerd.core.explain import ExplainReport
from stigmerd.core.status import StatusDocument, to_plain

DOCS = Path(__file__).parents[2] / "docs"


def test_status_document_is_shown_with_every_key() -> None:
    example = re.findall(r"```json\n(.*?)```", (DOCS / "json.md").read_text(), re.DOTALL)[0]
    plain = json.loads(example)
    assert json.loads(json.dumps(to_plain(msgspec.convert(plain, StatusDocument)))) == plain


@pytest.mark.parametrize("word", [*ExplainReport.__struct_fields__, *sorted(EVENTS | REASONS)])
def test_page_of_the_commands_names_every_key_of_the_report_every_event_and_reason(word: str) -> None:
    assert f"`{word}`" in (DOCS / "cli.md").read_text()
