"""A configuration that somebody else could have written is not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stigmerd.config.files import LARGEST_FILE, TrustedFiles, variables
from stigmerd.config.load import check_file
from stigmerd.config.problems import RefusedError
from stigmerd.core.spec import LARGEST_PEM
from tests.config.conftest import Home


def refusal(path: Path | str, uid: int | None = None) -> str:
    """What is said about a file that is not read."""
    with pytest.raises(RefusedError) as caught:
        TrustedFiles(os.geteuid() if uid is None else uid).read(str(path))
    return f"{caught.value.said}: {caught.value.advice}"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o644, 0o604, 0o700])
def test_file_that_only_its_owner_can_write_is_read(home: Home, mode: int) -> None:
    path = home.write("x")
    path.chmod(mode)
    assert TrustedFiles(os.geteuid()).read(str(path)) == b"x"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o664])
def test_file_that_others_can_write_is_refused(home: Home, mode: int) -> None:
    path = home.write("x")
    path.chmod(mode)
    assert refusal(path) == f"{path} is writable by others: run chmod go-w {path}"


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_folder_that_others_can_write_is_refused(home: Home, mode: int) -> None:
    path = home.write("x")
    home.folder.chmod(mode)
    assert refusal(path) == f"{home.folder} is writable by others: run chmod go-w {home.folder}"


def test_folder_that_is_meant_for_everybody_is_refused_and_left_so(home: Home) -> None:
    path = home.write("x")
    home.folder.chmod(0o1777)
    assert refusal(path) == f"{home.folder} is writable by others: put the file into a folder of its own"


def test_ancestor_that_others_can_write_is_refused_unless_it_is_sticky(home: Home) -> None:
    middle = home.folder / "middle"
    inner = middle / "inner"
    inner.mkdir(parents=True, mode=0o700)
    path = home.write("x", "middle/inner/x.toml")
    middle.chmod(0o777)
    assert refusal(path) == f"{middle}, in which inner is, is writable by others: run chmod go-w {middle}"
    middle.chmod(0o1777)
    assert TrustedFiles(os.geteuid()).read(str(path)) == b"x"


def test_ancestor_may_belong_to_anybody(home: Home) -> None:
    if os.geteuid() != 0:
        return  # only root has other users
    middle = home.folder / "middle"
    (middle / "inner").mkdir(parents=True, mode=0o700)
    path = home.write("x", "middle/inner/x.toml")
    os.chown(middle, 5, -1)
    assert TrustedFiles(0).read(str(path)) == b"x"
    os.chown(middle / "inner", 5, -1)
    assert refusal(path).startswith(f"{middle}/inner belongs to user 5: ")


def test_file_of_another_user_is_refused(home: Home) -> None:
    path = home.write("x")
    other = os.geteuid() + 1
    if os.geteuid() == 0:  # the files of root are everybody's
        os.chown(home.folder, 5, -1)
    assert "it has to belong to the daemon's user or root, so run chown" in refusal(path, other)


def test_link_is_followed_and_both_its_ends_are_checked(home: Home) -> None:
    for name in ("here", "there"):
        (home.folder / name).mkdir(mode=0o700)
    target = home.write("x", "there/real.toml")
    link = home.folder / "here" / "stigmer.toml"
    link.symlink_to(target)
    assert TrustedFiles(os.geteuid()).read(str(link)) == b"x"
    target.parent.chmod(0o777)
    assert f"{target.parent} is writable by others" in refusal(link)


def test_what_is_no_file_is_refused_without_waiting(home: Home) -> None:
    fifo = home.folder / "fifo"
    os.mkfifo(fifo, 0o600)
    assert refusal(fifo) == f"{fifo} is no regular file: give the path of a file"
    assert refusal(home.folder / "missing").endswith(": put it there, or give another path")
    folder = home.folder / "folder"
    folder.mkdir(mode=0o700)
    assert refusal(folder).endswith(": give the path of a file")


def test_endless_file_is_refused(home: Home) -> None:
    path = home.write("")
    os.truncate(path, LARGEST_FILE + 1)
    assert refusal(path) == f"{path} is too large: keep it under 16 MiB"


def test_configuration_and_env_file_are_both_checked(home: Home) -> None:
    env_file = home.write("A=1\n", "x.env")
    path = home.write("[component.a]\ncommand = 'a'\nenv_file = 'x.env'\n")
    env_file.chmod(0o622)
    (problem,) = check_file(str(path), home=str(home.folder), environ={})
    assert problem.message == (
        f"component.a.env_file: {env_file} is writable by others: run chmod go-w {env_file}"
    )
    assert problem.line == 3
    path.chmod(0o622)
    (problem,) = check_file(str(path), home=str(home.folder), environ={})
    assert problem.message == f"{path} is writable by others: run chmod go-w {path}"


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
def test_file_for_tls_is_refused_if_no_probe_would_read_it_and_may_be_missing(home: Home, key: str) -> None:
    files = {f"{name}_file": home.folder / name for name in ("ca", "cert", "key")}
    tls = ", ".join(f"{name} = '{path.name}'" for name, path in files.items())
    text = f"[component.a]\ncommand = 'a'\nliveness.grpc = {{ address = 'a:1', tls = {{ {tls} }} }}\n"
    assert home.load(text).components.keys() == {"a"}
    path = files[key]
    os.mkfifo(path)
    place = f"component.a.liveness.grpc.tls.{key}"
    assert home.messages(text) == [f"{place}: {path} is no regular file: give the path of a file"]
    path.unlink()
    path.touch()
    os.truncate(path, LARGEST_PEM + 1)
    assert home.messages(text) == [f"{place}: {path} is too large: keep it under 1 MiB"]
    secret = text.replace(path.name + "'", "${S}'")
    assert home.messages(secret, {"S": path.name}) == [f'{place} is "${{S}}": give a regular file of at most 1 MiB']


def test_env_file_holds_variables_comments_and_blank_lines() -> None:
    content = b"""
# comment
A=1
  export B = two words
C="quoted # not a comment"\r
D='$HOME ${X} \\n'
E=
F=a=b
g.h-i=x
A=again
"""
    assert variables(content, "x") == {
        "A": "again",
        "B": "two words",
        "C": "quoted # not a comment",
        "D": "$HOME ${X} \\n",
        "E": "",
        "F": "a=b",
        "g.h-i": "x",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"A=1\nTOKEN s3cret\n", "/x.env, line 2, holds no variable"),
        (b"=s3cret\n", "/x.env, line 1, holds no variable"),
        (b"A B=s3cret\n", "/x.env, line 1, holds no variable"),
        (b"A='s3cret\n", "/x.env, line 1, has a quotation that is not closed"),
        (b"A=\"\n", "/x.env, line 1, has a quotation that is not closed"),
        (b"A=s3\0cret\n", "/x.env, line 1, holds no variable"),
        (b"A=1\nB=\xff\n", "/x.env, line 2, is not UTF-8"),
    ],
)
def test_wrong_line_is_told_by_its_number_and_not_shown(content: bytes, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        variables(content, "/x.env")
    assert caught.value.said == said
    assert "s3" not in caught.value.advice
