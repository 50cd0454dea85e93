"""Network: what a cluster that other machines can reach needs, checked before anything starts."""

from cluster.local import secrets
from cluster.local.ray_environment import LOOPBACK
from cluster.local.tls import check_tls
from cluster.settings import Settings
from training.errors import UserError

MIN_SECRET_LENGTH = 32
"""Of 16 random bytes in hexadecimal; `shoal init` makes 32."""


def check_network(settings: Settings, *, takes_requests: bool = True) -> None:
    """Check that whoever opens Ray's ports to a network has said that it may carry their traffic, and has real secrets.

    Args:
        settings: of the cluster.
        takes_requests: whether callers reach it; their requests have to be encrypted, too.

    Raises:
        UserError: something is missing.
    """
    if takes_requests:
        check_tls(settings)
    if settings.host == LOOPBACK:
        return
    if not settings.allow_plaintext_nodes:
        raise UserError(
            f"SHOAL_HOST is {settings.host}, and Ray's traffic between nodes, with its token, would cross the network "
            "unencrypted; set SHOAL_ALLOW_PLAINTEXT_NODES=true where the network is the cluster's own, or a VPN; one "
            "machine alone can keep SHOAL_HOST=127.0.0.1 behind a proxy that ends TLS"
        )
    for name in secrets.ALL_SECRETS:
        file = settings.home / "secrets" / name
        if file.is_file() and len(secrets.read_secret(settings.home, name)) < MIN_SECRET_LENGTH:
            raise UserError(
                f"{file} has fewer than {MIN_SECRET_LENGTH} characters, too few for a network; delete it and run "
                "`shoal init`, which makes a random one"
            )
