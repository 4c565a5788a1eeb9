"""Where the engine is looked for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from stigmerd.adapters.containers.address import EngineAddress, find_engine
from stigmerd.engine.ports import EngineUnavailableError


def write_context(folder: Path, name: str, url: str) -> Path:
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / ".docker" / "contexts" / "meta" / key
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": url}}}))
    return folder / ".docker" / "contexts" / "tls" / key / "docker"


def write_config(folder: Path, text: str) -> None:
    (folder / ".docker").mkdir(exist_ok=True)
    (folder / ".docker" / "config.json").write_text(text)


def test_default_socket_is_used_where_nothing_else_is_said(tmp_path: Path) -> None:
    assert find_engine({"HOME": str(tmp_path)}) == EngineAddress(url="unix:///var/run/docker.sock")


def test_docker_host_comes_before_the_context(tmp_path: Path) -> None:
    write_context(tmp_path, "desk", "unix:///desk.sock")
    write_config(tmp_path, '{"currentContext": "desk"}')
    found = find_engine({"HOME": str(tmp_path), "DOCKER_HOST": "unix:///other.sock"})
    assert found == EngineAddress(url="unix:///other.sock", verify=False)


def test_current_context_is_used(tmp_path: Path) -> None:
    write_context(tmp_path, "desk", "unix:///desk.sock")
    write_config(tmp_path, '{"currentContext": "desk"}')
    assert find_engine({"HOME": str(tmp_path)}).url == "unix:///desk.sock"


def test_docker_context_names_another_context(tmp_path: Path) -> None:
    write_context(tmp_path, "lab", "tcp://lab:2376")
    assert find_engine({"HOME": str(tmp_path), "DOCKER_CONTEXT": "lab"}).url == "tcp://lab:2376"


def test_docker_config_is_another_folder(tmp_path: Path) -> None:
    write_context(tmp_path, "desk", "unix:///desk.sock")
    write_config(tmp_path, '{"currentContext": "desk"}')
    assert find_engine({"HOME": "/nowhere", "DOCKER_CONFIG": str(tmp_path / ".docker")}).url == "unix:///desk.sock"


def test_certificates_of_a_context_are_found(tmp_path: Path) -> None:
    tls = write_context(tmp_path, "lab", "tcp://lab:2376")
    tls.mkdir(parents=True)
    found = find_engine({"HOME": str(tmp_path), "DOCKER_CONTEXT": "lab"})
    assert found == EngineAddress(url="tcp://lab:2376", certificates=tls, verify=True)


def test_certificates_of_the_environment_are_found(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "DOCKER_HOST": "tcp://lab:2376", "DOCKER_TLS_VERIFY": "1"}
    assert find_engine(environment).certificates == tmp_path / ".docker"
    assert find_engine({**environment, "DOCKER_CERT_PATH": "/certs"}).certificates == Path("/certs")


@pytest.mark.parametrize("content", ["{", "[]", '{"currentContext": 7}', '{"currentContext": "default"}'])
def test_configuration_that_says_nothing_is_told_or_passed_over(tmp_path: Path, content: str) -> None:
    write_config(tmp_path, content)
    if content == "{":
        with pytest.raises(EngineUnavailableError, match=r"config\.json cannot be read"):
            find_engine({"HOME": str(tmp_path)})
    else:
        assert find_engine({"HOME": str(tmp_path)}).url == "unix:///var/run/docker.sock"


def test_context_that_is_gone_is_told(tmp_path: Path) -> None:
    write_config(tmp_path, '{"currentContext": "gone"}')
    with pytest.raises(EngineUnavailableError, match="'gone' names no engine"):
        find_engine({"HOME": str(tmp_path)})


def test_ssh_is_told_to_be_forwarded(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="forward its socket"):
        find_engine({"HOME": str(tmp_path), "DOCKER_HOST": "ssh://somewhere"})
