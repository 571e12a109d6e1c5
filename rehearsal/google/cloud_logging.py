"""logging.googleapis.com: what Google's services have written, as far as it is read here."""

import json
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from rehearsal.errors import CloudError
from rehearsal.google.identity import Identity
from rehearsal.google.rest import Api, Call, Route
from rehearsal.store import Body
from rehearsal.world import World

HOST = "logging.googleapis.com"
KNOWN = {"resourceNames", "filter", "orderBy", "pageSize", "pageToken"}
LARGEST_PAGE = 1000
_COMPARISON = re.compile(r'([\w.]+)\s*(>=|=)\s*"([^"]*)"\s*(?:AND\s+|$)')


class CloudLogging:
    """The site; `handle` answers one request, `write` adds an entry.

    Absent on purpose: the rest of the filter language, severities, writing from outside.
    """

    def __init__(self, world: World, identity: Identity) -> None:
        self._world = world
        routes = (Route("POST", "/v2/entries:list", "", self._entries),)
        denied = "Permission denied for all log views"
        self._api = Api(world, identity, HOST, routes, denied=denied, billed=False)
        self.handle = self._api.handle

    @property
    def _file(self) -> Path:
        return self._world.logs / "entries.jsonl"

    def write(self, project: str, log: str, resource: Body, text: str) -> None:
        """An entry of one line. `resource` is a monitored resource: its type and labels."""
        self._world.logs.mkdir(exist_ok=True)
        entry = {
            "insertId": secrets.token_hex(8),
            "logName": f"projects/{project}/logs/{log}",
            "resource": resource,
            "timestamp": timestamp(),
            "textPayload": text,
        }
        with self._file.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _entries(self, call: Call) -> Body:
        """entries.list"""
        for place in call.body.get("resourceNames") or ():
            self._api.authorize(call.caller, "logging.logEntries.list", place)
        return self._list(call.body)

    def _list(self, body: Body) -> Body:
        if unknown := body.keys() - KNOWN:
            message = f'Invalid JSON payload received. Unknown name "{min(unknown)}"'
            raise CloudError(400, message, "INVALID_ARGUMENT")
        wanted = _comparisons(body.get("filter", ""))
        newest_first = body.get("orderBy", "timestamp asc") == "timestamp desc"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        found = [it for line in lines if _matches(it := json.loads(line), wanted)]
        found = [it for it in found if _within(it["logName"], body["resourceNames"])]
        found.sort(key=lambda it: it["timestamp"], reverse=newest_first)
        start = int(body.get("pageToken") or 0)
        end = start + min(body.get("pageSize") or 50, LARGEST_PAGE)
        more = {"nextPageToken": str(end)} if end < len(found) else {}
        return ({"entries": found[start:end]} if found[start:end] else {}) | more


def timestamp() -> str:
    """The time as Google writes it, to the microsecond, so that lines keep their order."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _comparisons(text: str) -> list[tuple[str, str, str]]:
    """A filter of comparisons that must all hold. CloudError 400 for any other."""
    if _COMPARISON.sub("", text.strip()):
        message = f"Unparseable filter: the rehearsal does not play {text}"
        raise CloudError(400, message, "INVALID_ARGUMENT")
    return _COMPARISON.findall(text.strip())


def _matches(entry: Body, wanted: list[tuple[str, str, str]]) -> bool:
    for path, operator, value in wanted:
        found: object = entry
        for part in path.split("."):
            found = found.get(part, "") if isinstance(found, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- JSON
        if not (found == value if operator == "=" else str(found) >= value):  # pyright: ignore[reportUnknownArgumentType]
            return False
    return True


def _within(log: str, places: list[str]) -> bool:
    return any(log.startswith(f"{place}/") for place in places)
