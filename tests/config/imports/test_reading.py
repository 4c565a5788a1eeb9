"""Which tool a file is of, and files that cannot be read."""

from __future__ import annotations

import os
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stigmerd.config.imports.reading import import_file, kind_of
from stigmerd.config.imports.result import ImportRefusedError
from stigmerd.config.imports.writing import write_import
from stigmerd.config.toml_text import key, value
from tests.config.imports.conftest import Importer


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("Procfile", "", "procfile"),
        ("Procfile.dev", "", "procfile"),
        ("compose.yaml", "", "compose"),
        ("supervisord.conf", "", "supervisord"),
        ("x.ini", "", "supervisord"),
        ("x", "services:\n", "compose"),
        ("x", "[program:a]\n", "supervisord"),
        ("x", "# y\nweb: a\n", "procfile"),
    ],
)
def test_kind_is_told_by_the_name_else_by_the_text(name: str, text: str, kind: str) -> None:
    assert kind_of(f"/x/{name}", text) == kind


def test_file_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ImportRefusedError, match="name one of these"):
        kind_of("/x/y", "hello\n")


def test_what_cannot_be_read_is_refused(importer: Importer) -> None:
    (importer.folder / "latin").write_bytes(b"a: \xff\n")
    (importer.folder / "nul").write_bytes(b"a: \0\n")
    os.mkfifo(importer.folder / "fifo")
    refused = {".": "Is a directory", "none": "No such file", "fifo": "no regular file"}
    refused |= {"latin": "line 1, is not UTF-8", "nul": "a NUL character"}
    for name, said in refused.items():
        with pytest.raises(ImportRefusedError, match=said):
            import_file(str(importer.folder / name), {})


TREES = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**63 - 1) | st.booleans(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), TREES))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_value_is_written_as_toml_that_means_it(tree: dict[str, object]) -> None:
    text = "".join(f"{key(name)} = {value(item)}\n" for name, item in tree.items())
    assert tomllib.loads(text) == tree


def test_text_of_the_file_cannot_leave_its_comment(importer: Importer) -> None:
    found = importer.read("Procfile", "web: a\n")
    found.leave("x\ny = 1", "k\x1b[31m", "why\r\n[component.evil]")
    assert list(tomllib.loads(write_import(found))["component"]) == ["web"]
    assert "\x1b" not in write_import(found)
