"""The checks of this project: ``nox`` runs the first four, ``nox -s NAME`` any one.

``nox -R`` uses the environments as they are, without installing anything again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "tests", "crashes"]
nox.options.reuse_existing_virtualenvs = True
# Not every machine has every Python, and a CI machine need not either.
nox.options.error_on_missing_interpreters = False

OWN_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER_VERSIONS = [version for version in ("3.11", "3.12", "3.13") if version != OWN_VERSION]

AT_ONCE = ("-n", "2")
"""Most of these tests wait for real processes, seldom for a processor."""


def install(session: nox.Session) -> None:
    """Install the checkout with all that its tests need."""
    # Editable: `nox -R` after an edit runs what is in the checkout, in subprocesses too.
    session.install("-e", ".[dev]", silent=True)


def is_present(version: str) -> bool:
    """Whether ``pythonX.Y`` is here and runs: a version manager's shim may be here and not run."""
    try:
        probe = subprocess.run([f"python{version}", "-c", ""], capture_output=True, check=False)
    except OSError:
        return False
    return probe.returncode == 0


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely mistakes."""
    session.install("ruff>=0.6", silent=True)
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Every type, of the package and of its tests."""
    install(session)
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite here; the core and engine rings on the other Pythons that are present."""
    for version in OTHER_VERSIONS:
        if is_present(version):
            session.notify(f"rings-{version}")
        else:
            session.warn(f"Python {version} is not on this machine: its core and engine rings are skipped")
    install(session)
    session.run("pytest", *AT_ONCE, "-m", "not crashes and not slow", *session.posargs)


@nox.session(python=OTHER_VERSIONS)
def rings(session: nox.Session) -> None:
    """The core and engine rings on one more Python; `tests` asks for it."""
    install(session)
    session.run("pytest", "-m", "not crashes and not slow", "tests/core", "tests/engine", *session.posargs)


@nox.session
def crashes(session: nox.Session) -> None:
    """Crashes of components and of the daemon, simulated from outside."""
    install(session)
    session.run("pytest", *AT_ONCE, "-m", "crashes and not slow", *session.posargs)


@nox.session
def mutate(session: nox.Session) -> None:
    """Change every cell of the lifecycle table, one at a time: the tests must see each change."""
    install(session)
    session.run("python", "-m", "tests.mutation", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, beside a minimal supervisor in C; `nox -s bench -- --help` lists the benchmarks."""
    install(session)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Check the documentation: links, examples, and what is generated from the code."""
    install(session)
    session.run("pytest", "tests/docs", *session.posargs)


@nox.session
def sweep(session: nox.Session) -> None:
    """The tests that take minutes or hours: a death at every system call, a race at every offset."""
    install(session)
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Minutes of random trouble; `nox -s soak -- --seed N --minutes M` repeats a run, or makes it longer."""
    install(session)
    session.run("pytest", "-s", "tests/system/test_soak.py", "--minutes", "5", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz what reads strangers' bytes, where atheris installs; `nox -s fuzz -- state -runs=1000000`."""
    install(session)
    session.install("atheris", silent=True)
    for target in session.posargs[:1] or ("request", "state", "history"):
        session.run("python", "-m", "tests.fuzzing", target, *session.posargs[1:])


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the distribution, install it alone, and run what it installs."""
    session.install("build", silent=True)
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--wheel", "--outdir", folder, silent=True)
        (built,) = Path(folder).glob("*.whl")
        session.install("--force-reinstall", str(built), silent=True)
        session.run("stigmerd", "--version")
        session.run("stigmer", "--version")
