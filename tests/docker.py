"""Docker Engines for tests: one that is there or can be started, and one that may be broken.

Import the fixtures that a module needs. Without an engine their tests are skipped, on CI they fail.
No registry is needed: the image is a busybox of this machine.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import docker
import psutil
import pytest
import requests

IMAGE = "stigmerd-test:latest"
"""busybox, with ``/bin/sh`` and the usual commands beside it."""

HEALTH_IMAGE = "stigmerd-test:health"
"""The same with a health check, each second: it fails while there is a file ``/sick``."""

WORDS = "cat echo env false head kill rm seq sh sleep tail touch tr true yes"
"""The commands of the image."""


SCRIPT = Path(__file__).parent.parent / ".ci" / "docker-engine"


class OwnEngine:
    """A Docker Engine in a folder, which a test may stop, restart and freeze."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker.sock"

    def start(self) -> None:
        """Start it. Containers that were left running are still running."""
        done = subprocess.run(
            [SCRIPT, "start", self.folder, "--live-restore"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            absent(f"no Docker Engine could be started: {done.stderr.strip()}")

    def stop(self) -> None:
        """Stop it, and leave its containers running.

        Now and then one does not end when it is asked to, and answers nobody any more: it is killed, as by systemd.
        """
        process = psutil.Process(self._pid)
        process.terminate()
        try:
            process.wait(timeout=20)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)
            (self.folder / "docker.pid").unlink()

    def end(self) -> None:
        """End it, and take down what it set up. Its containers have to be removed."""
        self.thaw()
        subprocess.run([SCRIPT, "stop", self.folder], stdin=subprocess.DEVNULL, check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def freeze(self) -> None:
        """Let it hang: it takes connections and answers none."""
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(self._pid, signal.SIGCONT)

    @property
    def _pid(self) -> int:
        return int((self.folder / "docker.pid").read_text())


@pytest.fixture(scope="session")
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """An engine that belongs to the tests; leave it running. Needs root and dockerd."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        absent("an engine of one's own needs root and dockerd")
    folder = tmp_path_factory.mktemp("engine")
    engine = OwnEngine(folder)
    engine.start()
    try:
        make_images(engine.host)
        yield engine
    finally:
        engine.thaw()
        remove_containers(engine.host)
        engine.end()


@pytest.fixture
def restartable(own_engine: OwnEngine) -> Iterator[OwnEngine]:
    """The own engine, for a test that stops and starts it; mark the test with :data:`SDK_LEAVES_SOCKETS`."""
    yield own_engine
    own_engine.thaw()
    if not is_answering(own_engine.host):
        own_engine.start()  # a test failed in between
    gc.collect()  # so that no later test is blamed


SDK_LEAVES_SOCKETS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""The docker SDK closes no socket whose connect is refused, which happens in the instant an engine stops."""


@pytest.fixture(scope="session")
def docker_host(request: pytest.FixtureRequest) -> str:
    """The address of an engine that has :data:`IMAGE`: a present one, else one started for the tests."""
    for host in (os.environ.get("DOCKER_HOST"), "unix:///var/run/docker.sock"):
        if host and is_answering(host):
            make_images(host)
            return host
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        absent("no Docker Engine answers at DOCKER_HOST or its default socket, and only root can start one")
    own: OwnEngine = request.getfixturevalue("own_engine")
    return own.host


def absent(reason: str) -> NoReturn:
    """Skip for want of an engine; on CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def is_answering(host: str) -> bool:
    """Whether an engine answers there."""
    try:
        if host.startswith("unix://"):
            with socket.socket(socket.AF_UNIX) as door:  # the SDK leaves its own open when it is refused
                door.connect(host.removeprefix("unix://"))
        with contextlib.closing(docker.APIClient(host, version="auto", timeout=5)) as api:
            return api.ping()
    except (docker.errors.DockerException, requests.RequestException, OSError):
        return False


def make_images(host: str) -> None:
    """Make the test images where they are missing."""
    with contextlib.closing(docker.APIClient(host, version="auto")) as api:
        if api.images(HEALTH_IMAGE):
            return
        content = _busybox()
        api.import_image_from_data(content, *IMAGE.split(":"))
        check = (
            'HEALTHCHECK --interval=1s --retries=1 CMD ["/bin/sh", "-c", "if [ -e /sick ]; then echo sick; exit 1; fi"]'
        )
        api.import_image_from_data(content, *HEALTH_IMAGE.split(":"), changes=[check])


def remove_containers(host: str) -> None:
    """Remove every container of an engine that belongs to the tests."""
    with contextlib.closing(docker.APIClient(host, version="auto")) as api:
        for container in api.containers(all=True):
            api.remove_container(container["Id"], force=True)


def _busybox() -> bytes:
    busybox = shutil.which("busybox")
    if busybox is None:
        absent("the test image needs busybox: apt-get install busybox-static")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(Path(busybox).resolve(), "bin/busybox")
        for command in WORDS.split():
            link = tarfile.TarInfo(f"bin/{command}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return archive.getvalue()
