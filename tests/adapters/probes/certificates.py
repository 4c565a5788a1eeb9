"""Certificates for tests, made by the ``openssl`` command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """PEM files: an authority, and one certificate from it for 127.0.0.1 and probe.test."""

    ca: Path
    cert: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """Write them into ``folder``."""
    made = Certificates(ca=folder / "ca.pem", cert=folder / "cert.pem", key=folder / "key.pem")
    ca_key, request, names = folder / "ca-key.pem", folder / "request.pem", folder / "names.cnf"
    names.write_text("subjectAltName = IP:127.0.0.1, DNS:probe.test\n")
    _openssl("req", "-x509", *KEY, "-keyout", ca_key, "-out", made.ca, "-days", "2", "-subj", "/CN=authority")
    _openssl("req", *KEY, "-keyout", made.key, "-out", request, "-subj", "/CN=probe.test")
    _openssl(
        *("x509", "-req", "-in", request, "-CA", made.ca, "-CAkey", ca_key, "-CAcreateserial"),
        *("-out", made.cert, "-days", "2", "-extfile", names),
    )
    return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
