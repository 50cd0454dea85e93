"""Certificates for tests."""

import ssl
from dataclasses import dataclass

import trustme


@dataclass(frozen=True)
class Certificates:
    """A certificate authority of a test's own."""

    ca: trustme.CA

    @classmethod
    def make(cls) -> "Certificates":
        return cls(trustme.CA())

    def issue(self) -> tuple[str, str]:
        """Issue a certificate of this machine; returns its PEM with the key, as an EdgeState has it, and its serial."""
        issued = self.ca.issue_cert("localhost", "127.0.0.1")
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return (chain + issued.private_key_pem.bytes()).decode(), ssl.PEM_cert_to_DER_cert(
            issued.cert_chain_pems[0].bytes().decode()
        ).hex()

    def build_context(self, **options: ssl.TLSVersion) -> ssl.SSLContext:
        """Build a client's context, with its minimum_version and maximum_version."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        for name, value in options.items():
            setattr(context, name, value)
        return context

    @property
    def root(self) -> bytes:
        """PEM of the authority's own certificate."""
        return self.ca.cert_pem.bytes()
