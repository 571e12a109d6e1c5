"""A name for all that makes a machine or a service: it changes when they do."""

import hashlib

import pulumi


def revision(*parts: object) -> pulumi.Output[str]:
    """A digest of plain values and outputs, twelve hexadecimal digits."""
    return pulumi.Output.json_dumps(parts, sort_keys=True).apply(
        lambda text: hashlib.sha256(text.encode()).hexdigest()[:12]
    )
