"""TLS of the API over TCP."""

import ssl
from pathlib import Path

from hopline.errors import InvalidInput


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return a context of TLS 1.2 or later with this certificate (chain) and key; InvalidInput says what is wrong."""
    for field, path in (("tls-cert", cert), ("tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InvalidInput(field, f"{path}: {reason}", "give a PEM file that can be read") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # a client that asks for new keys over and over costs the event loop, and nobody needs it
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _Encrypted:
        hint = "give a key without a passphrase, which only root can read"
        raise InvalidInput("tls-key", f"{key} needs a passphrase", hint) from None
    except (ssl.SSLError, ValueError) as error:
        raise _wrong(cert, key, error) from None
    return context


class _Encrypted(ValueError):
    """The key's file asks for a passphrase, which a daemon has nobody to ask for."""


def _no_password() -> str:
    raise _Encrypted


def _wrong(cert: Path, key: Path, error: Exception) -> InvalidInput:
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        detail = f"{key} is not the key of {cert}"
        return InvalidInput("tls-key", detail, "give the certificate and its own key")
    text = cert.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" not in text:
        return InvalidInput("tls-cert", f"{cert} holds no certificate", "give a PEM file with one")
    if b"PRIVATE KEY-----" not in key.read_bytes():
        return InvalidInput("tls-key", f"{key} holds no private key", "give a PEM file with one")
    reason = str(getattr(error, "reason", None) or error).replace("_", " ").lower()
    return InvalidInput("tls-cert", f"cannot be used with --tls-key ({reason})", "give a PEM certificate and its key")
