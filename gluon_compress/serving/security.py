"""TLS and the token that device and server share."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from gluon_compress.printable import is_plain
from gluon_compress.validation import first_line

SHORTEST, LONGEST = 16, 1024  # characters of a token


def read_token(path: str | os.PathLike) -> str:
    """Return the token that a file holds: its only line.

    Raises
    ------
    ValueError
        If it cannot be read, or is not one line of 16 to 1024 characters. What it holds
        is not shown.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LONGEST * 4 + 2).decode().strip()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not text; allowed: a token in UTF-8") from None
    if not SHORTEST <= len(text) <= LONGEST or not is_plain(text):
        allowed = f"one line of {SHORTEST} to {LONGEST} characters"
        raise ValueError(
            f"{path}: a token of {len(text)} characters; allowed: {allowed}"
        )
    return text


def server_tls(
    certificate: str | os.PathLike, key: str | os.PathLike
) -> ssl.SSLContext:
    """Return the TLS of a server.

    Parameters
    ----------
    certificate, key : path
        PEM: the certificate with those that vouch for it, and its key without a
        password.

    Raises
    ------
    ValueError
        If one cannot be read, or they do not belong together.
    """
    _readable(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{certificate} and {key}: no TLS: {_reason(error)}") from None
    return context


def client_tls(authorities: str | os.PathLike | None = None) -> ssl.SSLContext:
    """Return the TLS of a device; it checks the server's certificate and name.

    Parameters
    ----------
    authorities : path, optional
        PEM: whose certificates are believed. Default: those that the system believes.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    if authorities is None:
        return ssl.create_default_context()
    _readable(authorities)
    try:
        context = ssl.create_default_context(cafile=os.fspath(authorities))
    except ssl.SSLError as error:
        raise ValueError(f"{authorities}: no TLS: {_reason(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _no_password() -> str:
    raise ValueError("the key has a password; allowed: one without")


def _readable(*paths: str | os.PathLike) -> None:
    for path in paths:
        try:
            with open(Path(path), "rb") as file:
                file.read(1)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else first_line(error)
