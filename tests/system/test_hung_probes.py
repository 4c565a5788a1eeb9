"""A thousand hung exec probes under a real daemon."""

from __future__ import annotations

import pytest

from tests.system.daemons import Stack, wait_until

pytestmark = pytest.mark.slow

COMPONENTS = 10
ATTEMPTS = 1000
LONGEST = 1.1
"""Seconds that no attempt may exceed."""

HANGING = """
[component.{name}.readiness]
exec = {{ command = ["sh", "-c", "setsid sleep 1000 & sleep 1000 & wait"] }}
period = "20ms"
timeout = "20ms"
"""


def configure(home: Stack, probe: str) -> None:
    """Some sleepers with this probe."""
    names = [f"c{number}" for number in range(COMPONENTS)]
    home.configure("".join(f'[component.{name}]\ncommand = "sleep 1000"\n{probe.format(name=name)}' for name in names))


def test_thousand_hung_exec_probes_leave_no_process(home: Stack) -> None:
    configure(home, HANGING)
    home.start()
    longest = 0.0

    def failures() -> int:
        nonlocal longest
        probes = [probe for one in home.call("status")["components"] for probe in one["probes"]]
        longest = max([longest, *(probe["duration"] or 0.0 for probe in probes)])
        return sum(probe["consecutive_failures"] for probe in probes)

    wait_until(lambda: failures() >= ATTEMPTS, limit=600)
    assert longest < LONGEST
    configure(home, "")
    assert home.cli("reload").returncode == 0
    leaders = {one["name"]: [one["pid"]] for one in home.call("status")["components"]}
    wait_until(lambda: home.processes() == leaders)
    assert home.call("stop")["components"]
    assert home.processes() == {}
