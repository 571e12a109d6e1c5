"""Services: which revision serves, and how the next one takes over."""

import asyncio
import logging
import secrets
import string
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from rehearsal.errors import CloudError
from rehearsal.google.cloud_run import INSTANCE, REVISION, SERVICE
from rehearsal.google.cloud_run.platform import Platform
from rehearsal.google.cloud_run.revision import Limits, Revision
from rehearsal.google.cloud_run.workload import Workload, port_of
from rehearsal.store import Body, Change

log = logging.getLogger(__name__)


class Services:
    """Follows every service in the store: deploys what changes, and knows what serves."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._store = platform.world.store
        self._serving: dict[str, Revision] = {}
        self._deploying: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self) -> None:
        """Follow the store from now on; what served before serves again, from zero."""
        for id in self._store.all(INSTANCE):
            self._store.delete(INSTANCE, id)  # they ended with the last daemon
        self._store.subscribe(self._changed)
        for id, body in self._store.all(SERVICE).items():
            ready: str = body.get("latestReadyRevision") or ""
            if row := self._store.get(REVISION, ready):
                revision = self._serving[id] = self._revision(id, body, row)
                revision.settle(revision.limits)
            if body["reconciling"]:
                self._deploy_soon(id)

    async def close(self) -> None:
        """End every instance at once."""
        self._closed = True
        for task in [*self._deploying.values(), *self._tasks]:
            task.cancel()
        await asyncio.gather(*self._deploying.values(), *self._tasks, return_exceptions=True)
        await asyncio.gather(*(it.close(grace_s=0) for it in self._serving.values()))

    def hosts(self) -> list[str]:
        """The run.app hosts of every service."""
        urls: list[str] = [
            url for body in self._store.all(SERVICE).values() for url in body["urls"]
        ]
        return [urlsplit(url).netloc for url in urls]

    def find(self, host: str) -> tuple[Body, Revision | None] | None:
        """The service that has this host, and what serves it."""
        for id, body in self._store.all(SERVICE).items():
            if f"https://{host}" in body["urls"]:
                return body, self._serving.get(id)
        return None

    # Changes

    def _changed(self, change: Change, type: str, id: str, body: Body) -> None:
        if type != SERVICE or self._closed:
            return
        if change == "deleted":
            self._later(self._remove(id))
        elif body["reconciling"] and body["generation"] != body.get("observedGeneration"):
            self._deploy_soon(id)

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _deploy_soon(self, id: str) -> None:
        self._set(id, observedGeneration=(self._store.get(SERVICE, id) or {})["generation"])
        if before := self._deploying.pop(id, None):
            before.cancel()
        self._deploying[id] = asyncio.create_task(self._deploy(id))

    async def _remove(self, id: str) -> None:
        if deploying := self._deploying.pop(id, None):
            deploying.cancel()
            await asyncio.gather(deploying, return_exceptions=True)
        if revision := self._serving.pop(id, None):
            await revision.close()
        for name, row in self._store.all(REVISION).items():
            if row["service"] == id:
                self._store.delete(REVISION, name)

    async def _deploy(self, id: str) -> None:
        """Bring the service to what it says; its conditions tell how that went."""
        body = self._store.get(SERVICE, id)
        if body is None:
            return
        serving = self._serving.get(id)
        if serving and serving.workload.template == body["template"]:
            serving.settle(Limits.read(body, body["template"]))
            self._finish(id)
            return
        name = self._new_name(id)
        row: Body = {"service": id, "name": name, "template": body["template"], "ready": False}
        path = f"{id}/revisions/{name}"
        self._store.put(REVISION, path, row)
        self._set(id, latestCreatedRevision=path)
        revision = self._revision(id, body, row)
        try:
            await self._platform.admit(revision.workload)
            await revision.deploy()
        except CloudError as error:
            await revision.close()
            self._finish(id, error, name)
        except BaseException:
            await revision.close(grace_s=0)
            raise
        else:
            self._store.put(REVISION, path, row | {"ready": True})
            self._serving[id] = revision
            self._set(id, latestReadyRevision=path)
            self._finish(id)
            revision.settle(revision.limits)
            if serving:
                self._later(serving.drain())

    def _revision(self, id: str, body: Body, row: Body) -> Revision:
        template: Body = row["template"]
        service: str = id.rpartition("/")[2]
        environment = {
            "PORT": str(port_of(template["containers"][0])),
            "K_SERVICE": service,
            "K_REVISION": row["name"],
            "K_CONFIGURATION": service,
        }
        workload = Workload(id, row["name"], template, environment)
        return Revision(self._platform, workload, Limits.read(body, template))

    def _new_name(self, id: str) -> str:
        rows = self._store.all(REVISION).values()
        numbers = [int(row["name"].split("-")[-2]) for row in rows if row["service"] == id]
        letters = string.ascii_lowercase + string.digits
        suffix = "".join(secrets.choice(letters) for _ in range(3))
        return f"{id.rpartition('/')[2]}-{max(numbers, default=0) + 1:05d}-{suffix}"

    def _finish(self, id: str, error: CloudError | None = None, revision: str = "") -> None:
        """Say in the service's conditions how the last change went."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        state: Body = {"state": "CONDITION_SUCCEEDED", "lastTransitionTime": now}
        if error:
            prefix = f"Revision '{revision}' is not ready and cannot serve traffic. "
            message = "" if error.message.startswith("spec.") else prefix
            state |= {"state": "CONDITION_FAILED", "message": message + error.message}
            state["code"] = error.code
        self._set(
            id,
            reconciling=False,
            conditions=[state | {"type": it} for it in ("RoutesReady", "ConfigurationsReady")],
            terminalConditions=[state | {"type": "Ready"}],
        )

    def _set(self, id: str, **changes: Any) -> None:
        if body := self._store.get(SERVICE, id):
            self._store.put(SERVICE, id, body | changes)
