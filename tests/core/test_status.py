"""The status document as it goes over the wire."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from stigmerd.core.status import ComponentDocument, StatusDocument, to_json, to_plain

TEXT = st.text(alphabet=st.characters(), max_size=20) | st.just("\ud800\u2028\n\x85")


@given(TEXT)
def test_document_is_one_line_of_ascii_whatever_text_is_in_it(text: str) -> None:
    component = ComponentDocument(name="web", kind="process", state="failed", healthy=False, last_error=text)
    document = StatusDocument(daemon=None, healthy=False, components=(component,))
    encoded = to_json(document)
    assert encoded.isascii()
    assert len(encoded.splitlines()) == 1
    assert json.loads(encoded) == json.loads(json.dumps(to_plain(document)))
