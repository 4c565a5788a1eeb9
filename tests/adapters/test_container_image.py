"""Images are pulled where that is asked for, with progress, and for as long as somebody waits.

The registry is a small one of our own: it serves one image of three layers, the last of which it
can withhold.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trio

from stigmerd.adapters.containers import image as container_image
from stigmerd.adapters.containers.image import Pull
from stigmerd.engine.ports import Shut, SpawnFailedError
from tests.adapters.containers import Yard, open_yard
from tests.docker import OwnEngine, own_engine

__all__ = ["own_engine"]

pytestmark = pytest.mark.docker

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """One image. Its last layer is ``asked`` for, and sent once it is ``released``."""

    def __init__(self, port: int) -> None:
        self.image = f"127.0.0.1:{port}/image:{hashlib.sha256(str(port).encode()).hexdigest()[:8]}"
        self.released = threading.Event()
        self.asked = threading.Event()
        layers = [_layer(f"{port} {number}") for number in range(3)]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/none"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(content) for content in layers]},
        }
        packed = [gzip.compress(content, mtime=0) for content in layers]
        self.blobs = {_digest(blob): blob for blob in [json.dumps(config).encode(), *packed]}
        self.withheld = _digest(packed[-1])
        described = [{"size": len(blob), "digest": digest} for digest, blob in self.blobs.items()]
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **described[0]},
                "layers": [
                    {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", **one} for one in described[1:]
                ],
            }
        ).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _layer(content: str) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo(content.replace(" ", "-"))
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content.encode()))
    return archive.getvalue()


class _Handler(BaseHTTPRequestHandler):
    registry: Registry

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if "/manifests/" in self.path:
            self._answer(self.registry.manifest, MANIFEST)
        elif "/blobs/" in self.path:
            self._send_blob(name)
        else:
            self._answer(b"{}", "application/json")

    do_HEAD = do_GET

    def _send_blob(self, digest: str) -> None:
        if digest == self.registry.withheld:
            self.registry.asked.set()
            self.registry.released.wait(30)
        self._answer(self.registry.blobs[digest], "application/octet-stream")

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Docker-Content-Digest", _digest(content))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(OSError):  # the engine may have given up
                self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class calls it so)
        """Say nothing."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        served = Registry(server.server_address[1])
        server.RequestHandlerClass = type("Handler", (_Handler,), {"registry": served})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            served.released.set()
            server.shutdown()
            thread.join()


@pytest.fixture
async def yard(own_engine: OwnEngine, tmp_path: Path) -> AsyncIterator[Yard]:
    async with open_yard(own_engine.host, tmp_path) as yard:
        yield yard


async def test_gate_is_shut_while_the_image_is_pulled_and_tells_how_far_it_is(yard: Yard, registry: Registry) -> None:
    spec = yard.order(image=registry.image, pull="missing").spec
    shut = await yard.launcher.check_gate(spec)
    assert shut == Shut(reason="engine", message=f"pulling image {registry.image}")
    with trio.fail_after(10):
        while not (shut and shut.message.endswith(": 2 of 3 layers")):
            shut = await yard.launcher.check_gate(spec)
            await trio.sleep(0.05)
        registry.released.set()
        while await yard.launcher.check_gate(spec) is not None:
            await trio.sleep(0.05)
    assert await yard.launcher.has_image(registry.image)


async def test_pull_that_nobody_waits_for_is_cancelled(
    yard: Yard, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_image, "PATIENCE", 0.5)
    pull = Pull(registry.image)
    pull.want()
    with trio.fail_after(5):
        await pull.run(yard.engine)
    assert (pull.over, pull.failure) == (True, None)
    assert registry.asked.is_set()
    registry.released.set()
    await trio.sleep(0.3)  # a pull that goes on in the engine would be done by now
    assert not await yard.launcher.has_image(registry.image)


async def test_pull_that_fails_is_a_failed_attempt_and_the_next_tries_again(yard: Yard) -> None:
    order = yard.order(image="127.0.0.1:9/absent:1", pull="missing")
    with trio.fail_after(10):
        while await yard.launcher.check_gate(order.spec) is not None:
            await trio.sleep(0.05)
    with pytest.raises(SpawnFailedError, match=r"could not be pulled: .*docker pull 127\.0\.0\.1:9/absent:1"):
        await yard.launcher.launch(order)
    assert await yard.launcher.check_gate(order.spec) is not None


async def test_pull_that_fails_is_no_failure_of_who_does_not_pull(yard: Yard) -> None:
    image = "127.0.0.1:9/absent:2"
    pulling = yard.order(image=image, pull="missing")
    with trio.fail_after(10):
        while await yard.launcher.check_gate(pulling.spec) is not None:
            await trio.sleep(0.05)
    with pytest.raises(SpawnFailedError, match="is missing: get it with"):
        await yard.launcher.launch(yard.order(image=image, pull="never"))
    with pytest.raises(SpawnFailedError, match="could not be pulled"):
        await yard.launcher.launch(pulling)


async def test_missing_image_is_not_pulled_unasked(yard: Yard, registry: Registry) -> None:
    order = yard.order(image=registry.image, pull="never")
    assert await yard.launcher.check_gate(order.spec) is None
    with pytest.raises(SpawnFailedError, match=f"docker pull {registry.image}"):
        await yard.launcher.launch(order)
    assert not registry.asked.is_set()
