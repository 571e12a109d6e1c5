"""Who is let in."""

from collections.abc import Sequence
from typing import NamedTuple


class Callers(NamedTuple):
    """Who may call the endpoint, and with what."""

    consumers: Sequence[str]
    """Names of applications; each gets a service token of its own."""
    emails: Sequence[str]
    """People who may call after logging in."""
    email_domains: Sequence[str]
    """Domains all of whose people may."""
    token_duration: str
    """Life of a service token, such as `8760h`."""
