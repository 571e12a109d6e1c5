"""How an output says that it waits for more than the resource it comes from."""

from typing import TypeVar

import pulumi

T = TypeVar("T")


def after(value: pulumi.Input[T], *resources: pulumi.Resource) -> pulumi.Output[T]:
    """`value`, once `resources` exist; whoever uses it is also deleted before them.

    A URN is known even in a preview, so waiting for a resource that is yet to
    be created does not make a known value unknown.
    """
    urns = [resource.urn for resource in resources]
    return pulumi.Output.all(value, *urns).apply(lambda known: known[0])
