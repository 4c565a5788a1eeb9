"""The layers: who may import whom, and a few things that no module may do.

``A -> B`` in the architecture is "A imports B", and nothing else is allowed. The modules are read,
not imported: an import inside a function or under TYPE_CHECKING counts like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import stigmerd

ROOT = Path(stigmerd.__file__).parent
CORE = "stigmerd.core"

ALLOWED = {
    "stigmerd.core": {CORE},
    "stigmerd.engine": {CORE, "stigmerd.engine"},
    "stigmerd.adapters": {CORE, "stigmerd.engine.ports", "stigmerd.adapters"},
    "stigmerd.config": {CORE, "stigmerd.config"},
    "stigmerd.control": {CORE, "stigmerd.engine", "stigmerd.control"},
    "stigmerd.control.protocol": {CORE},
    "stigmerd.control.endpoint": set(),
    "stigmerd.control.client": {"stigmerd.control.protocol", "stigmerd.control.endpoint"},
    "stigmerd.cli": {
        CORE,
        "stigmerd.config",
        "stigmerd.control.client",
        "stigmerd.control.protocol",
        "stigmerd.adapters.processes.cgroup",
        "stigmerd.adapters.containers.address",
        "stigmerd.adapters.containers.labels",
        "stigmerd.adapters.disk.home",
        "stigmerd.adapters.disk.store",
        "stigmerd.adapters.processes.identity",
        "stigmerd.adapters.disk.output",
        "stigmerd.adapters.processes.platform",
        "stigmerd.adapters.processes.proc",
        "stigmerd.adapters.disk.rotation",
        "stigmerd.engine.ports",
        "stigmerd.cli",
    },
    "stigmerd.reference": {"stigmerd.reference"},
    # The parts of the daemon itself, which its composition root alone puts together.
    "stigmerd.daemon.log": {CORE},
    "stigmerd.daemon.start": {"stigmerd.adapters.disk.home"},
    "stigmerd.daemon.reexec": {
        CORE,
        "stigmerd.adapters.processes.proc",
        "stigmerd.daemon.start",
    },
    "stigmerd.daemon.chores": {"stigmerd.adapters.disk.output"},
    "stigmerd.daemon.configuration": {
        CORE,
        "stigmerd.adapters.probes",
        "stigmerd.config",
        "stigmerd.daemon.log",
        "stigmerd.daemon.start",
    },
    "stigmerd.daemon.succession": {CORE, "stigmerd.engine", "stigmerd.adapters", "stigmerd.daemon.start"},
    "stigmerd.daemon.legacy": {
        CORE,
        "stigmerd.adapters.processes.identity",
        "stigmerd.adapters.disk.store",
        "stigmerd.daemon.configuration",
        "stigmerd.daemon.start",
    },
    "stigmerd.daemon.lookup": {"stigmerd.engine.operations"},
    "stigmerd.daemon.report": {
        CORE,
        "stigmerd.adapters.disk.output",
        "stigmerd.daemon.configuration",
        "stigmerd.daemon.lookup",
        "stigmerd.control.protocol",
        "stigmerd.engine",
    },
    "stigmerd.daemon.operations": {
        CORE,
        "stigmerd.config.problems",
        "stigmerd.daemon.configuration",
        "stigmerd.daemon.lookup",
        "stigmerd.engine",
        "stigmerd.daemon.reexec",
        "stigmerd.daemon.report",
        "stigmerd.daemon.start",
    },
}
"""What of stigmerd each part may import; the longest matching prefix rules. Whoever is not named,
the composition root, may import everything."""

HEAVY = {"trio", "trio_util", "grpc", "docker", "httpcore", "hypercorn"}
FORBIDDEN = {
    "stigmerd.core": {"trio", "trio_util", "os", "time", "socket"},
    "stigmerd.adapters.disk.store": HEAVY,
    "stigmerd.adapters.processes.identity": HEAVY,
    "stigmerd.adapters.disk.output": HEAVY,
    "stigmerd.cli": HEAVY,
    "stigmerd.config": HEAVY,
    "stigmerd.control.protocol": HEAVY,
    "stigmerd.control.client": {*HEAVY, "msgspec", "rich", "cyclopts", "psutil"},
}
"""What from outside a part must not bring in, neither itself nor through what it imports of ours."""

BULKHEADS = {
    "stigmerd.engine.supervisor",
    "stigmerd.engine.prober",
    "stigmerd.control.connection",
    "stigmerd.adapters.processes.spawner",
}
"""Where an unexpected exception may be held: around one component's task, one probe's attempt, one connection,
and in a process that was cloned and is no program yet."""

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    """The parsed module."""
    return ast.parse(path.read_text(), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """The dotted names that a module imports."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield from (_module_or_attribute(node.module, alias.name) for alias in node.names)


def _module_or_attribute(module: str, name: str) -> str:
    """``stigmerd.core.spec`` for ``from stigmerd.core import spec``, else the module itself."""
    path = ROOT.parent.joinpath(*module.split("."), name)
    return f"{module}.{name}" if path.is_dir() or path.with_suffix(".py").exists() else module


def is_within(name: str, prefix: str) -> bool:
    """Whether a dotted name is the prefix or below it."""
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_only_what_its_layer_may(path: Path) -> None:
    name = name_of(path)
    layer = max((prefix for prefix in ALLOWED if is_within(name, prefix)), key=len, default=None)
    if layer is None:
        return
    for imported in imports_of(path):
        if is_within(imported, "stigmerd") and imported != "stigmerd":
            assert any(is_within(imported, prefix) for prefix in ALLOWED[layer]), f"{name} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_brings_in_no_library_that_its_layer_must_not_know(path: Path) -> None:
    name = name_of(path)
    forbidden = {library for prefix in FORBIDDEN if is_within(name, prefix) for library in FORBIDDEN[prefix]}
    if is_within(name, CORE):
        # What the standard library imports for itself is no business of the core's: look at its own lines.
        assert not {top_of(imported) for imported in imports_of(path)} & forbidden
    assert not (libraries_behind(path) - {"os", "time", "socket"}) & forbidden


def libraries_behind(path: Path) -> set[str]:
    """The top-level names outside stigmerd that importing a module brings in, through ours."""
    seen: set[Path] = set()
    pending = [path]
    libraries: set[str] = set()
    while pending:
        module = pending.pop()
        if module in seen:
            continue
        seen.add(module)
        for imported in imports_of(module):
            if is_within(imported, "stigmerd"):
                pending.extend(files_behind(imported))
            else:
                libraries.add(top_of(imported))
    return libraries


def files_behind(name: str) -> list[Path]:
    """The file of one of our modules, and those of the packages it lies in."""
    path = ROOT.parent.joinpath(*name.split("."))
    own = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    packages = [parent / "__init__.py" for parent in own.parents if parent.is_relative_to(ROOT)]
    return [file for file in [own, *packages] if file.exists()]


def top_of(name: str) -> str:
    """``grpc`` for ``grpc.aio``."""
    return name.partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_unexpected_exceptions_are_held_at_bulkheads_alone(path: Path) -> None:
    held = _lines_that_hold_everything(path)
    assert not held or (name_of(path) in BULKHEADS and len(held) == 1), f"{path}: {held}"


def _lines_that_hold_everything(path: Path) -> list[int]:
    """Where a module catches any exception and does not raise it again once it has cleaned up."""
    handlers = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ExceptHandler)]
    return [h.lineno for h in handlers if _catches_everything(h) and not _raises_again(h)]


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def _catches_everything(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {node.id if isinstance(node, ast.Name) else "" for node in caught if node is not None}
    return handler.type is None or bool(names & {"Exception", "BaseException"})


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_runs_between_fork_and_exec(path: Path) -> None:
    keywords = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.keyword)]
    assert not [keyword.lineno for keyword in keywords if keyword.arg == "preexec_fn"]


def test_fork_support_of_grpc_is_off_before_grpc_is_imported() -> None:
    importers = [path for path in MODULES if any(is_within(name, "grpc") for name in imports_of(path))]
    for path in importers:
        if not is_within(name_of(path), "stigmerd.reference"):  # programs of their own, which spawn nothing
            assert _switches_fork_support_off_first(tree_of(path)), path


def _switches_fork_support_off_first(module: ast.Module) -> bool:
    """Whether GRPC_ENABLE_FORK_SUPPORT is set, at module level, above the first import of grpc."""
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            if any(is_within(name, "grpc") for name in names):
                return False
        is_prose = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if "GRPC_ENABLE_FORK_SUPPORT" in ast.unparse(node) and not is_prose:
            return True
    return False
