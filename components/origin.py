"""What a tunnel leads to."""

from typing import NamedTuple

import pulumi


class Origin(NamedTuple):
    """The engine, as cloudflared reaches it."""

    url: pulumi.Input[str]
    """`http://127.0.0.1:8000`."""
    host: pulumi.Input[str] | None = None
    """The Host header that it wants, if not the public one."""
