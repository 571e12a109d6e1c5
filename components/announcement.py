"""What `pulumi up` says before it interrupts somebody."""

from collections.abc import Mapping

import pulumi
from pulumi_command import local


def announcement(
    name: str,
    text: str | None,
    causes: Mapping[str, pulumi.Input[str]],
    opts: pulumi.ResourceOptions,
) -> local.Command:
    """Says `text` when one of the causes has changed; silent when created, and without a text.

    Whatever waits for it begins after it has spoken.
    """
    return local.Command(
        name, update=f"echo '{text}'" if text else None, environment=causes, opts=opts
    )
