"""How an output says that it waits for more than the resource it comes from."""

from typing import TypeVar

import pulumi

T = TypeVar("T")

Ready = pulumi.Output[None]
"""Worth nothing but the wait: known once what it was made of exists."""


def after(value: pulumi.Input[T], *others: pulumi.Resource | Ready) -> pulumi.Output[T]:
    """`value`, once `others` exist; whoever uses it is also deleted before them.

    A URN is known even in a preview, so waiting for a resource that is yet to
    be created does not make a known value unknown.
    """
    waits = [other.urn if isinstance(other, pulumi.Resource) else other for other in others]
    return pulumi.Output.all(value, *waits).apply(lambda known: known[0])


def ready(*others: pulumi.Resource | Ready) -> Ready:
    """The same without a value: for whoever needs something to be there, and nothing from it."""
    return after(None, *others)
