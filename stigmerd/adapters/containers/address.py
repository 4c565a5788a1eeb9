"""Where the Docker Engine is: ``DOCKER_HOST``, else the current docker context, else the default socket.

It reads the files that the docker command reads and writes none. It opens no connection.

Source: the docker command's ``cli/context/store`` and ``cli/command``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stigmerd.engine.ports import EngineUnavailableError

DEFAULT_URL = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAddress:
    """A url such as ``unix:///run/docker.sock`` or ``tcp://host:2376``.

    ``certificates`` is the folder of ``ca.pem``, ``cert.pem`` and ``key.pem`` where the engine
    speaks TLS, else None; ``verify`` is whether its own certificate is checked.
    """

    url: str
    certificates: Path | None = None
    verify: bool = True


def find_engine(environment: Mapping[str, str]) -> EngineAddress:
    """The address that the docker command would use with this environment.

    Raises:
        EngineUnavailableError: the address cannot be told, or is of a kind that is not supported.
    """
    address = _from_environment(environment) or _from_context(environment) or EngineAddress(url=DEFAULT_URL)
    if address.url.startswith("ssh://"):
        raise EngineUnavailableError(
            f"the Docker Engine's address {address.url} needs ssh, which is not supported: forward its socket"
            " (ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST) and set DOCKER_HOST=unix:///tmp/docker.sock"
        )
    return address


def _from_environment(environment: Mapping[str, str]) -> EngineAddress | None:
    url = environment.get("DOCKER_HOST")
    if not url:
        return None
    verify = bool(environment.get("DOCKER_TLS_VERIFY"))
    certificates = environment.get("DOCKER_CERT_PATH") or (str(_folder(environment)) if verify else None)
    return EngineAddress(url=url, certificates=Path(certificates) if certificates else None, verify=verify)


def _from_context(environment: Mapping[str, str]) -> EngineAddress | None:
    folder = _folder(environment)
    name = environment.get("DOCKER_CONTEXT") or _read(folder / "config.json").get("currentContext")
    if not isinstance(name, str) or name in {"", "default"}:
        return None
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "contexts" / "meta" / key / "meta.json"
    endpoints = _read(meta).get("Endpoints")
    endpoint = endpoints.get("docker") if isinstance(endpoints, dict) else None
    url = endpoint.get("Host") if isinstance(endpoint, dict) else None
    if not isinstance(url, str):
        raise EngineUnavailableError(
            f"the current docker context {name!r} names no engine ({meta}): run `docker context use default`,"
            " or set DOCKER_HOST"
        )
    tls = folder / "contexts" / "tls" / key / "docker"
    verify = not (isinstance(endpoint, dict) and endpoint.get("SkipTLSVerify"))
    return EngineAddress(url=url, certificates=tls if tls.is_dir() else None, verify=verify)


def _folder(environment: Mapping[str, str]) -> Path:
    home = environment.get("HOME")
    return Path(environment.get("DOCKER_CONFIG") or (Path(home) if home else Path.home()) / ".docker")


def _read(path: Path) -> dict[str, object]:
    """A JSON object, empty where there is no file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as exc:
        raise EngineUnavailableError(f"{path} cannot be read ({exc}): repair it, or set DOCKER_HOST") from exc
    return content if isinstance(content, dict) else {}
