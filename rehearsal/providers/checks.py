"""What plugins refuse at preview, as functions that make a check for a property."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from rehearsal.providers.resource import PluginCheck, places
from rehearsal.providers.schema import Failure, as_object
from rehearsal.store import Body


def texts(path: str, pattern: str) -> PluginCheck:
    """The texts at `path` must match `pattern`."""

    def check(body: Body) -> Iterator[Failure]:
        for holder, key in places(body, path):
            if not re.fullmatch(pattern, holder[key]):
                reason = f'"{key}" ("{holder[key]}") doesn\'t match regexp "^{pattern}$"'
                yield Failure(path.replace("[]", ""), reason)

    return check


def one_of(path: str, *values: str) -> PluginCheck:
    """The text at `path` must be one of `values`."""

    def check(body: Body) -> Iterator[Failure]:
        for holder, key in places(body, path):
            if holder[key] not in values:
                listed = " ".join(f'"{value}"' for value in values)
                reason = f"expected {path} to be one of [{listed}], got {holder[key]}"
                yield Failure(path, reason)

    return check


def between(outer: str, key: str, low: int, high: int) -> PluginCheck:
    """The number `key` of object `outer` must lie in a range."""

    def check(body: Body) -> Iterator[Failure]:
        value = as_object(body.get(outer)).get(key)
        if isinstance(value, int | float) and not low <= value <= high:
            reason = f"expected {outer}.0.{key} to be in the range ({low} - {high}), got {value:g}"
            yield Failure(f"{outer}.{key}", reason)

    return check


def cidr(path: str) -> PluginCheck:
    """The texts at `path` must be address ranges."""

    def check(body: Body) -> Iterator[Failure]:
        for holder, key in places(body, path):
            try:
                ipaddress.ip_network(holder[key])
            except ValueError as error:
                yield Failure(path, f'"{key}" is not a valid IP range {holder[key]}: {error}')

    return check


def not_played(path: str, value: Any, instead: str) -> PluginCheck:
    """The rehearsal has no stand-in for this value of `path`, and says so."""

    def check(body: Body) -> Iterator[Failure]:
        if body.get(path) == value:
            yield Failure(path, f"the rehearsal does not play {path}={value}: {instead}")

    return check
