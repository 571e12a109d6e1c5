"""Faults that strike a number of times, or always: `hub-breaks-off-2`, `hub-wrong-byte`."""

from collections.abc import Iterable


class Faults:
    """What one service has still to go through, of World.faults."""

    def __init__(self, names: Iterable[str]) -> None:
        self._always = frozenset(names)
        self._left: dict[str, int] = {}
        for each in self._always:
            name, _, number = each.rpartition("-")
            if number.isdecimal():
                self._left[name] = int(number)

    def strikes(self, name: str) -> bool:
        """Whether the fault happens this time; one that has a number happens that often."""
        left = self._left.get(name, 0)
        if left:
            self._left[name] = left - 1
        return left > 0 or name in self._always
