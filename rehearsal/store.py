"""What exists in the clouds: one table of resources, on disk, so that it survives the daemon."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

Body = dict[str, Any]
Change = Literal["created", "updated", "deleted"]
Listener = Callable[[Change, str, str, Body], None]


class Store:
    """Resources by type token and id; a body is the resource's outputs in Pulumi's spelling.

    Everything in a cloud lives here under a type token: what Pulumi declares
    under its own token (`gcp:compute/network:Network`), what a cloud makes by
    itself under ours (`google:instance`, `cloudflare:connection`).

    Listeners are told after a change is on disk; a controller that reacts to
    resources (the instance group, the edge) subscribes instead of polling.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS resource"
            " (type TEXT, id TEXT, body TEXT, PRIMARY KEY (type, id))"
        )
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Tell `listener(change, type, id, body)` of every change from now on."""
        self._listeners.append(listener)

    def get(self, type: str, id: str) -> Body | None:
        """The resource's body, or None."""
        row = self._db.execute(
            "SELECT body FROM resource WHERE type = ? AND id = ?", (type, id)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def all(self, type: str) -> dict[str, Body]:
        """Every resource of one type, by id."""
        rows = self._db.execute("SELECT id, body FROM resource WHERE type = ? ORDER BY id", (type,))
        return {id: json.loads(body) for id, body in rows}

    def everything(self) -> Iterator[tuple[str, str, Body]]:
        """Every resource of both clouds as (type, id, body)."""
        for type, id, body in self._db.execute("SELECT type, id, body FROM resource").fetchall():
            yield type, id, json.loads(body)

    def put(self, type: str, id: str, body: Body) -> None:
        """Create the resource, or replace its body."""
        change: Change = "created" if self.get(type, id) is None else "updated"
        self._db.execute(
            "INSERT OR REPLACE INTO resource VALUES (?, ?, ?)", (type, id, json.dumps(body))
        )
        self._tell(change, type, id, body)

    def delete(self, type: str, id: str) -> None:
        """Remove the resource; no error when it is not there."""
        body = self.get(type, id)
        if body is None:
            return
        self._db.execute("DELETE FROM resource WHERE type = ? AND id = ?", (type, id))
        self._tell("deleted", type, id, body)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _tell(self, change: Change, type: str, id: str, body: Body) -> None:
        for listener in self._listeners:
            listener(change, type, id, body)
