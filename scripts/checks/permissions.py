"""What whoever deploys must be allowed to do: by resource type, and the role that has it."""

import csv
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import NamedTuple

from components.settings import Settings

MOST = 100
"""Permissions in one question of testIamPermissions."""


class Row(NamedTuple):
    """What making, changing and deleting resources of a type takes."""

    type: str
    """Type token; empty for what a script does."""
    when: str
    """The platform or the kind of weights with which a stack has it, `prepared` where it makes its
    own boot image, or empty for every stack."""
    role: str
    """The narrowest of Google's roles that has them
    (cloud.google.com/iam/docs/roles-permissions)."""
    permissions: tuple[str, ...]


@cache
def rows() -> tuple[Row, ...]:
    """The table."""
    with Path(__file__).with_name("permissions.csv").open(newline="") as file:
        return tuple(
            Row(row["type"], row["when"], row["role"], tuple(row["permissions"].split()))
            for row in csv.DictReader(file)
        )


def _of(settings: Settings) -> list[Row]:
    prepared = settings.platform == "vm" and settings.prepared != "nothing"
    kinds = ("", settings.platform, settings.weights, *(("prepared",) if prepared else ()))
    return [row for row in rows() if row.when in kinds]


def types(settings: Settings) -> frozenset[str]:
    """Every type of Google's of which a stack has a resource."""
    return frozenset(row.type for row in _of(settings) if row.type)


def of(settings: Settings) -> list[str]:
    """Every permission that `up` needs, each once."""
    return sorted({each for row in _of(settings) for each in row.permissions})


def roles_with(missing: Collection[str]) -> list[str]:
    """The roles that have what is missing."""
    return list(dict.fromkeys(row.role for row in rows() if set(row.permissions) & set(missing)))
