"""Certificates are made once for all tests."""

from __future__ import annotations

import shutil

import pytest

from tests.adapters.probes.certificates import Certificates, make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and a certificate from it; skipped where there is no openssl command."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed")
    return make_certificates(tmp_path_factory.mktemp("certificates"))
