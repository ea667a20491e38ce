"""Certificates of an authority of the tests' own."""

import shutil
import subprocess
from pathlib import Path

import pytest


def certify(directory: Path) -> None:
    """An authority `ca`, a server's certificate for 127.0.0.1 and engines.test, and a client's, as PEM files.

    Skips the test where there is no openssl.
    """
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
    for name in ("server", "client"):
        (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:engines.test\n")
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    (directory / "both.pem").write_text((directory / "client.pem").read_text() + (directory / "client.key").read_text())
