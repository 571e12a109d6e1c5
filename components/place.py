"""Where a stack's resources on Google Cloud live."""

from collections.abc import Mapping
from typing import NamedTuple

import pulumi


class Place(NamedTuple):
    """What every resource of a stack on Google Cloud has in common."""

    project: pulumi.Input[str]
    """Once its APIs are on: to take the project from here is to wait for them."""
    region: str
    labels: Mapping[str, str]
    """Carried by whatever can carry labels."""
