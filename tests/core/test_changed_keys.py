"""What a reload names as changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stigmerd.core.changed_keys import changed_keys
from stigmerd.core.order import difference, followers
from stigmerd.core.spec import (
    ComponentSpec,
    Condition,
    ContainerSpec,
    ExecHandler,
    HttpHandler,
    LogPolicy,
    ProbeSpec,
    ProcessSpec,
    RestartPolicy,
    RestartWhen,
    StopPolicy,
    TcpHandler,
)

PROCESS = ProcessSpec(argv=("a",), cwd="/", env={"A": "1", "B": "2"})
CONTAINER = ContainerSpec(image="x", name="y", env={"A": "1"})
HTTP = ProbeSpec(handler=HttpHandler(url="http://a", headers={"K": "secret"}), period=1.0, failure_threshold=3)
BASE = ComponentSpec(name="a", runs=PROCESS, display_command=("a",), liveness=HTTP)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, ()),
        ({"runs": replace(PROCESS, argv=("b",))}, ("command",)),
        ({"runs": replace(PROCESS, env={"A": "1", "C": "3"}, cwd="/x")}, ("cwd", "env.B", "env.C")),
        ({"runs": CONTAINER}, ("container",)),
        ({"display_command": ("${A}",)}, ("command",)),
        ({"ports": (80,), "enabled": False}, ("ports", "enabled")),
        ({"depends_on": {"b": Condition.READY}}, ("depends_on.b",)),
        ({"restart_with_dependency": True}, ("on_dependency_restart",)),
        ({"restart": RestartPolicy(when=RestartWhen.NEVER, window=1.0)}, ("restart.policy", "restart.window")),
        ({"stop": StopPolicy(signal="SIGINT")}, ("stop.signal",)),
        ({"log": LogPolicy(keep=1)}, ("log.keep",)),
        ({"liveness": None}, ("liveness",)),
        ({"startup": HTTP}, ("startup",)),
        ({"liveness": replace(HTTP, period=2.0)}, ("liveness.period",)),
        ({"liveness": replace(HTTP, handler=TcpHandler(host="a", port=1))}, ("liveness.tcp",)),
        (
            {"liveness": replace(HTTP, handler=HttpHandler(url="http://b"))},
            ("liveness.http.url", "liveness.http.headers.K"),
        ),
    ],
)
def test_keys_are_named_as_the_file_spells_them(changes: dict[str, Any], keys: tuple[str, ...]) -> None:
    assert changed_keys(BASE, replace(BASE, **changes)) == keys


def test_keys_of_a_container_and_of_an_exec_probe() -> None:
    old = replace(BASE, runs=CONTAINER, liveness=replace(HTTP, handler=ExecHandler(command=("a",))))
    new = replace(
        old,
        runs=replace(CONTAINER, image="z", env={"A": "2"}, extra_hosts={"h": "1"}),
        liveness=replace(HTTP, handler=ExecHandler(command=("b",))),
    )
    assert changed_keys(old, new) == ("container.image", "env.A", "preset", "liveness.exec.command")


def test_difference_tells_what_is_enabled_and_disabled_now() -> None:
    on, off = replace(BASE, name="on"), replace(BASE, name="off", enabled=False)
    change = difference({"x": on, "y": off}, {"x": replace(on, enabled=False), "y": replace(off, enabled=True)})
    assert (change.started, change.stopped) == (("y",), ("x",))
    assert change.keys == {"x": ("enabled",), "y": ("enabled",)}


def test_followers_are_those_that_ask_for_it_through_each_other() -> None:
    a = replace(BASE, name="a")
    b = replace(BASE, name="b", depends_on={"a": Condition.READY}, restart_with_dependency=True)
    c = replace(b, name="c", depends_on={"b": Condition.READY})
    d = replace(c, name="d", restart_with_dependency=False)
    assert followers(["a"], {"d": d, "c": c, "b": b, "a": a}) == ("b", "c")
