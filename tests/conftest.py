"""What holds for every test: hypothesis' profiles, and that CI skips nothing.

``HYPOTHESIS_PROFILE`` chooses a profile by name; else it is ``ci`` where ``CI`` is set.
"""

from __future__ import annotations

import os
import sys

import hypothesis
import pytest

# As in the daemon, before anything imports grpc: its fork handlers kill children.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

ON_CI = bool(os.environ.get("CI"))

OTHER_PLATFORM = "Linux only" if sys.platform == "darwin" else "macOS only"
"""How the reason of a skip begins that is as it should be, on CI too."""

# No deadline: a neighbour that takes the processor for a moment is no bug of ours.
hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if ON_CI else "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the soak is told: ``nox -s soak -- --seed N --minutes M``."""
    parser.addoption("--seed", type=int, default=None, help="repeat the soak with this seed")
    parser.addoption("--minutes", type=float, default=1.0, help="how long to soak (default: %(default)s)")


def find_unexcused_skips(reports: list[pytest.TestReport]) -> list[str]:
    """One line for each skip that has another reason than the platform."""
    unexcused = []
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(OTHER_PLATFORM):
            unexcused.append(f"{report.nodeid}: {reason}")
    return unexcused


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """On CI a skipped test is a failure: it would have been the one that mattered."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not ON_CI or reporter is None:
        return
    unexcused = find_unexcused_skips(reporter.stats.get("skipped", []))
    if unexcused:
        reporter.section("skipped, which CI does not allow", red=True)
        for line in unexcused:
            reporter.line(line)
        session.exitstatus = exitstatus or pytest.ExitCode.TESTS_FAILED
