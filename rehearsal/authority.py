"""The world's own certificate authority: whoever trusts `ca.pem` is inside the rehearsal."""

import ssl
from functools import lru_cache
from pathlib import Path

import trustme


class Authority:
    """Makes a certificate for any host name on the spot.

    `ca.pem` (what clients trust) and `ca-key.pem` (0600) stay in the world's
    directory, so that a restarted rehearsal is still trusted by open shells.
    """

    def __init__(self, directory: Path) -> None:
        certificate, key = directory / "ca.pem", directory / "ca-key.pem"
        if certificate.exists() and key.exists():
            self._ca = trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
        else:
            self._ca = trustme.CA(organization_name="llm-endpoint rehearsal")
            key.touch(mode=0o600)
            key.write_bytes(self._ca.private_key_pem.bytes())
            certificate.write_bytes(self._ca.cert_pem.bytes())
        self.server_context = lru_cache(maxsize=None)(self._server_context)

    def _server_context(self, host: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        leaf = self._ca.issue_cert(host)
        leaf.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # pyOpenSSL is absent
        return context
