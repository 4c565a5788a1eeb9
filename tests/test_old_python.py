"""Pythons that are too old: they get one sentence and exit code 2, not what they stumble over first."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stigmerd

ROOT = Path(stigmerd.__file__).parent

AS_OLD = "import runpy, sys; sys.version_info = (3, 10, 13, 'final', 0); runpy.run_module({!r}, run_name='__main__')"

READ_FIRST = ["__init__.py", "__main__.py", "cli/__init__.py", "cli/__main__.py"]
"""What a Python has to be able to read before it can be told."""


@pytest.mark.parametrize("module", ["stigmerd", "stigmerd.cli"])
def test_python_that_is_too_old_is_told_in_one_sentence(module: str) -> None:
    command = [sys.executable, "-c", AS_OLD.format(module)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert "Python 3.11 or later" in done.stderr
    assert "this is 3.10" in done.stderr


@pytest.mark.parametrize("name", READ_FIRST)
def test_what_is_read_first_can_be_read_by_python_3_6(name: str) -> None:
    module = ast.parse((ROOT / name).read_text(), feature_version=(3, 6))
    imports = [node.module for node in module.body if isinstance(node, ast.ImportFrom)]
    assert "__future__" not in imports  # it knows no annotations there
