"""Procfiles."""

from __future__ import annotations

import pytest

from stigmerd.config.imports.procfile import command
from stigmerd.config.imports.result import ImportRefusedError
from tests.config.imports.conftest import Importer


def test_every_line_becomes_a_component_in_the_folder_of_the_file(importer: Importer) -> None:
    found = importer.components("Procfile", "# comment\nweb: ./serve --port 80\n\nworker:sleep 10\n")
    assert list(found) == ["web", "worker"]
    assert found["web"].runs.argv == (f"{importer.folder}/serve", "--port", "80")  # type: ignore[union-attr]
    assert found["worker"].runs.cwd == str(importer.folder)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("sleep 1", ["sleep", "1"]),
        ("run 'a b'", ["run", "a b"]),
        ("serve -p $PORT", ["sh", "-c", "serve -p $PORT"]),
        ("A=1 serve", ["sh", "-c", "A=1 serve"]),
        ("a && b", ["sh", "-c", "a && b"]),
        ("echo ${HOME} $$", ["sh", "-c", "echo $${HOME} $$$"]),
        ("don't", ["sh", "-c", "don't"]),
    ],
)
def test_shell_runs_what_needs_one(line: str, argv: list[str]) -> None:
    assert command(line) == argv


def test_port_and_env_file_are_those_of_foreman(importer: Importer) -> None:
    found = importer.components("Procfile", "web: a\nworker: b\n")
    assert [dict(component.runs.env) for component in found.values()] == [{"PORT": "5000"}, {"PORT": "5100"}]
    (importer.folder / ".env").write_text("PORT=3000\nKEY=x\n")
    (importer.folder / ".env").chmod(0o600)
    found = importer.components("Procfile", "web: a\nworker: b\n")
    assert dict(found["worker"].runs.env) == {"PORT": "3100", "KEY": "x"}


def test_env_file_that_others_can_write_is_told_with_the_remedy(importer: Importer) -> None:
    (importer.folder / ".env").write_text("A=1\n")
    (importer.folder / ".env").chmod(0o666)
    (left,) = importer.read("Procfile", "web: a\n").left
    assert f"chmod go-w {importer.folder}/.env" in str(left)


def test_names_are_made_valid_unique_and_told(importer: Importer) -> None:
    found = importer.read("Procfile", "Web: a\nweb: b\nall: c\n_: d\n")
    assert list(found.components) == ["web", "web-2", "all-2", "component"]
    assert [left.key for left in found.left] == ["name"] * 4


def test_line_that_is_none_is_told_by_its_number(importer: Importer) -> None:
    assert importer.left("Procfile", "web: a\nnonsense\n") == [("line 2", "")]


@pytest.mark.parametrize("text", ["", "nonsense\n", "\n# x\n"])
def test_file_without_a_line_is_refused(importer: Importer, text: str) -> None:
    with pytest.raises(ImportRefusedError, match="is it a Procfile"):
        importer.read("Procfile", text)
