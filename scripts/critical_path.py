"""The longest chain of things that wait for one another."""

from collections.abc import Collection, Mapping


def critical_path(
    seconds: Mapping[str, float], needs: Mapping[str, Collection[str]], last: str
) -> list[str]:
    """What `last` waits for longest, in order, `last` included.

    `seconds` has how long each thing takes, `needs` what must be done before it begins; a name
    without an entry takes no time, or waits for nothing. Nothing may wait for itself.
    """
    ends: dict[str, float] = {}
    before: dict[str, str] = {}

    def end(name: str) -> float:
        if name not in ends:
            latest = max(sorted(needs.get(name, ())), key=end, default="")
            before[name] = latest
            ends[name] = (end(latest) if latest else 0.0) + seconds.get(name, 0.0)
        return ends[name]

    end(last)
    path = [last]
    while before[path[0]]:
        path.insert(0, before[path[0]])
    return path
