"""The file that ``stigmer server init`` writes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from stigmerd.config import init
from stigmerd.config.init import Found, find, init_text, write_init
from stigmerd.config.load import load_stack
from stigmerd.core.spec import Condition, ProcessSpec
from tests.config.conftest import Home


def install(folder: Path, name: str, content: bytes) -> str:
    """Put a program into a folder."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("stigmer", "temporal", "docker"),
    list(itertools.product(["/a $b/${X} \"q\"/stigmer", None], ["/t", None], ["/d", None])),
)
def test_whatever_was_found_the_file_loads(
    home: Home, stigmer: str | None, temporal: str | None, docker: str | None
) -> None:
    text = write_init(Found(stigmer=stigmer, temporal=temporal, docker=docker))
    components = home.load(text).components
    if stigmer is None:
        assert list(components) == ["stigmer-server", "workflow-runner", "agent-runner"]
        return
    assert ("temporal" in components, "agent-runner" in components) == (temporal is not None, docker is not None)
    server = components["stigmer-server"]
    assert isinstance(server.runs, ProcessSpec)
    assert server.runs.argv == (stigmer, "internal-server")
    assert server.depends_on == ({"temporal": Condition.READY} if temporal else {})


def test_without_the_go_program_the_file_is_the_reference_stack(home: Home) -> None:
    written = home.load(write_init(Found())).components
    (home.folder / "stigmer.toml").unlink()
    assert dict(load_stack(None, home=str(home.folder), environ={}).components) == dict(written)


def test_programs_are_found_on_the_path(home: Home) -> None:
    folder = home.folder / "bin of mine"
    stigmer = install(folder, "stigmer", b"\x7fELF...")
    temporal = install(folder, "temporal", b"#!/bin/sh\n")
    docker = install(folder, "docker", b"#!/bin/sh\n")
    assert find({"PATH": str(folder)}, "/nowhere") == Found(stigmer=stigmer, temporal=temporal, docker=docker)


def test_our_own_command_is_never_taken_for_the_go_program(home: Home) -> None:
    first = home.folder / "first"
    install(first, "stigmer", b"#!/usr/bin/python\n")
    second = install(home.folder / "bin", "stigmer", b"\xcf\xfa\xed\xfe...")
    assert find({"PATH": str(first)}, str(home.folder)).stigmer == second


def test_relative_folders_of_the_path_are_not_searched(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    install(home.folder / "here", "stigmer", b"\x7fELF...")
    monkeypatch.chdir(home.folder)
    monkeypatch.setattr(init, "STIGMER_FOLDER", "/nowhere")
    assert find({"PATH": "here"}, "/nowhere").stigmer is None


def test_text_for_this_machine_loads(home: Home) -> None:
    home.load(init_text({"PATH": "/nowhere"}, str(home.folder)))


def test_example_at_the_end_of_the_file_is_right(home: Home) -> None:
    tail = write_init(Found()).split("# One more component:\n")[1]
    home.load("\n".join(line.removeprefix("#").strip() for line in tail.splitlines()))
