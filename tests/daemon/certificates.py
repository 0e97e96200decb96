"""Certificates for a test, made by openssl."""

import subprocess
from pathlib import Path


def self_signed(directory: Path, name: str = "server", *more: str) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    output = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *names, *output, *(more or ["-nodes"])], check=True, capture_output=True)
    return cert, key
