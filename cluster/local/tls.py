"""TLS: what the certificate of a cluster has to be, checked before anything starts."""

import ssl
from pathlib import Path

from cluster.local.ray_environment import LOOPBACK
from cluster.settings import Settings
from training.errors import UserError


def check_tls(settings: Settings) -> None:
    """Check that requests are encrypted where they cross a network, and that certificate and key fit.

    Raises:
        UserError: one is missing, cannot be read, or does not belong to the other; or plain HTTP would leave this
            machine.
    """
    cert, key = settings.tls_cert, settings.tls_key
    if not cert and not key:
        if settings.host != LOOPBACK and not settings.allow_plaintext:
            raise UserError(
                f"SHOAL_HOST is {settings.host}, and requests with their keys would cross the network in plain HTTP; "
                "set SHOAL_TLS_CERT and SHOAL_TLS_KEY, or SHOAL_ALLOW_PLAINTEXT=true where a proxy in front ends TLS"
            )
        return
    if not cert or not key:
        raise UserError("SHOAL_TLS_CERT and SHOAL_TLS_KEY belong together; set both, or neither")
    for file in (cert, key):
        if not Path(file).is_file():
            raise UserError(f"{file} is no file; SHOAL_TLS_CERT and SHOAL_TLS_KEY name PEM files")
    if Path(key).stat().st_mode & 0o077:
        raise UserError(f"{key} can be read by others; run `chmod 600 {key}`")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_refuse_password)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{cert} and {key} are no certificate and its private key in PEM: {_describe(error)}; make them anew"
        ) from None


def _refuse_password() -> str:
    raise ValueError("the private key is encrypted")


def _describe(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
