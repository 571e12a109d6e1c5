"""A revision at work: its instances, as many as are needed, and the requests that wait for one."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from rehearsal import figures, relay
from rehearsal.errors import CloudError
from rehearsal.google import quotas
from rehearsal.google.cloud_run import INSTANCE, gpus
from rehearsal.google.cloud_run.instance import GRACE_S, Instance
from rehearsal.google.cloud_run.platform import Platform
from rehearsal.google.cloud_run.probes import Probe, default_startup_probe
from rehearsal.google.cloud_run.transport import InstanceConnector
from rehearsal.google.cloud_run.workload import Workload
from rehearsal.store import Body

DEFAULT_MAX = 100
DEFAULT_CONCURRENCY = 80
DEFAULT_TIMEOUT = "300s"
STARTUP_FLOOR_S = 60.0
"""A container has at least so long to start, in this machine's time, which is not compressed."""
IDLE_FLOOR_S = 2.0
WAIT_FLOOR_S = 5.0
"""Likewise for an idle instance, and for a request that waits for one."""
UNMEASURED_STARTUP_S = 60.0
"""What is taken for the average startup before any was seen, in this machine's time."""
WAIT_FACTOR = 3.5
"""Of the average startup: how long a request waits for an instance (see figures.py)."""
PAUSE_S = 10.0
"""Life seconds until a failed instance that must be there is started again (U)."""

NO_INSTANCE = "The request was aborted because there was no available instance."
NOT_STARTED = "The request failed because the instance could not start successfully."

log = logging.getLogger(__name__)


class UnavailableError(Exception):
    """No instance takes a request: the status that Cloud Run answers, and what it logs."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class NotReadyError(Exception):
    """The container ended, or did not pass its startup probe."""


@dataclass(eq=False)
class Running:
    """An instance that starts or is ready."""

    instance: Instance
    client: Any
    """An HTTP client that reaches its container."""
    task: asyncio.Task[None] | None = None
    ready: bool = False
    failure: Exception | None = None
    busy: int = 0
    """Requests in flight."""
    rest: asyncio.TimerHandle | None = None
    """Ends it when it has been idle for long."""


@dataclass(frozen=True)
class Limits:
    """How many instances, and what one takes."""

    least: int
    most: int
    concurrency: int
    timeout_s: float
    """Life seconds for a request."""

    @classmethod
    def read(cls, service: Body, template: Body) -> "Limits":
        """What a service and the template of its revision say."""
        whole: Body = service.get("scaling") or {}
        own: Body = template.get("scaling") or {}
        most = min(
            (it for it in (own.get("maxInstanceCount"), whole.get("maxInstanceCount")) if it),
            default=DEFAULT_MAX,
        )
        least = max(own.get("minInstanceCount") or 0, whole.get("minInstanceCount") or 0)
        return cls(
            least=min(least, most),
            most=most,
            concurrency=template.get("maxInstanceRequestConcurrency") or DEFAULT_CONCURRENCY,
            timeout_s=float((template.get("timeout") or DEFAULT_TIMEOUT).rstrip("s")),
        )


class Revision:
    """Scales between its limits, to zero where they allow it; a request at zero starts one."""

    def __init__(self, platform: Platform, workload: Workload, limits: Limits) -> None:
        self._platform = platform
        self._world = platform.world
        self.workload = workload
        self.limits = limits
        startup: Body | None = workload.container.get("startupProbe")
        liveness: Body | None = workload.container.get("livenessProbe")
        port = workload.port
        self._startup = Probe.read(startup, port) if startup else default_startup_probe(port)
        self._liveness = Probe.read(liveness, port) if liveness else None
        self._running: list[Running] = []
        self._waiting: deque[asyncio.Future[Running]] = deque()
        self._startups: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._closed = False

    # Life

    async def deploy(self) -> None:
        """Start a first instance; return when it is ready. CloudError when it never is."""
        if obstacle := self._obstacle():
            raise CloudError(8, obstacle)
        running = self._begin()
        while not running.ready and running.failure is None:  # noqa: ASYNC110 a plain state
            await asyncio.sleep(0.02)
        if isinstance(running.failure, NotReadyError):
            default = self._startup == default_startup_probe(self.workload.port)
            raise CloudError(9, _not_started(self.workload, default))
        if running.failure:
            raise CloudError(9, str(running.failure))

    def settle(self, limits: Limits) -> None:
        """Keep to these limits from now on."""
        self.limits = limits
        self._scale()

    async def drain(self) -> None:
        """Serve what has come already, then end: another revision has taken over."""
        while self._waiting or any(it.busy for it in self._running):  # noqa: ASYNC110 a plain state
            await asyncio.sleep(0.05)
        await self.close()

    async def close(self, grace_s: float = GRACE_S) -> None:
        """End every instance."""
        self._closed = True
        if self._again:
            self._again.cancel()
        for running in [*self._running]:
            self._leave(running, grace_s)
        while self._tasks:
            await asyncio.wait(self._tasks)

    # Requests

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[Running]:
        """An instance that takes one more request, for as long as the block lasts.

        Raises UnavailableError when none does in time. Whoever goes away while they wait are
        forgotten; the instance that was started for them comes up nevertheless.
        """
        running = await self._acquire()
        try:
            yield running
        finally:
            self._release(running)

    async def _acquire(self) -> Running:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._hand_out()
        self._scale()
        try:
            async with asyncio.timeout(self._patience_s()):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self._release(turn.result())  # it came at the very moment
            if isinstance(error, TimeoutError):
                self._platform.log(self.workload.name, "", NO_INSTANCE)
                full = len(self._running) >= self.limits.most
                raise UnavailableError(429 if full else 500, NO_INSTANCE) from None
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(turn)

    def _patience_s(self) -> float:
        """How long a request waits, in this machine's time."""
        starts = self._startups or [UNMEASURED_STARTUP_S]
        shortest = figures.seconds("request waits") / self._world.speed
        return max(WAIT_FACTOR * sum(starts) / len(starts), shortest, WAIT_FLOOR_S)

    def _hand_out(self) -> None:
        """Give instances that have room to those who wait, first come, first served."""
        while self._waiting:
            free = [it for it in self._running if it.ready and it.busy < self.limits.concurrency]
            if not free:
                return
            turn = self._waiting.popleft()
            if not turn.done():
                running = min(free, key=lambda it: it.busy)
                running.busy += 1
                if running.rest:
                    running.rest.cancel()
                    running.rest = None
                turn.set_result(running)

    def _release(self, running: Running) -> None:
        running.busy -= 1
        self._hand_out()
        self._let_rest(running)

    # Instances

    def _scale(self) -> None:
        """Start as many instances as are missing for what is asked just now."""
        if self._closed:
            return
        asked = sum(it.busy for it in self._running) + len(self._waiting)
        wanted = max(self.limits.least, math.ceil(asked / self.limits.concurrency))
        for _ in range(min(wanted, self.limits.most) - len(self._running)):
            if obstacle := self._obstacle():
                log.warning("%s: %s", self.workload.name, obstacle)
                self._try_again()
                return
            self._begin()

    def _try_again(self) -> None:
        if self._again is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._again = loop.call_later(PAUSE_S / self._world.speed, self._retry)

    def _retry(self) -> None:
        self._again = None
        self._scale()

    def _obstacle(self) -> str:
        """Why no instance can be started now; empty when one can."""
        gpu, mine = self.workload.gpu, self.workload.gpu_row
        if gpu is None or mine is None:
            return ""
        if self._world.faults.strikes("cloud-run-stockout"):
            return f"There is no {mine['type']} left in {self.workload.region}."
        redundancy: bool = mine["zonalRedundancy"]
        rows = self._world.store.all(INSTANCE).values()
        used = sum(row["gpu"] == mine and row["region"] == self.workload.region for row in rows)
        name = gpus.quota_name(gpu, redundancy)
        allowed = quotas.limit(self._world, name) // gpu.units
        if used < allowed:
            return ""
        requested = (used + 1) * gpu.units
        return f"Quota violated:\n  {name} requested: {requested} allowed: {allowed * gpu.units}"

    def _begin(self) -> Running:
        instance = Instance(self._platform, self.workload)
        client = relay.client(InstanceConnector(instance, self.workload.port))
        running = Running(instance, client)
        running.task = self._do(self._live(running))
        self._running.append(running)
        return running

    async def _live(self, running: Running) -> None:
        began = time.monotonic()
        try:
            await running.instance.start()
            await self._become_ready(running.instance)
        except Exception as error:  # an instance that cannot start must not end its service
            if not isinstance(error, CloudError | NotReadyError):
                log.exception("%s did not start", running.instance.name)
            running.instance.log(f"{error} The instance was not started.")
            await self._let_go(running)
            running.failure = error
            for turn in self._waiting:
                if not turn.done():
                    turn.set_exception(UnavailableError(500, NOT_STARTED))
            self._try_again()
            return
        self._startups.append(time.monotonic() - began)
        running.ready = True
        self._hand_out()
        self._let_rest(running)
        running.instance.log(await self._until_it_fails(running.instance))
        await self._let_go(running, grace_s=0)
        self._scale()

    async def _become_ready(self, instance: Instance) -> None:
        probe, speed = self._startup, self._world.speed
        probing = asyncio.create_task(probe.succeeds(instance.connect, speed, STARTUP_FLOOR_S))
        exiting = asyncio.create_task(instance.wait())
        try:
            await asyncio.wait([probing, exiting], return_when=asyncio.FIRST_COMPLETED)
            if exiting.done():
                raise NotReadyError(f"Container called exit({exiting.result()}).")
            if not probing.result():
                kind = "TCP" if probe.path is None else "HTTP"
                raise NotReadyError(f"STARTUP {kind} probe failed on port {probe.port}.")
        finally:
            probing.cancel()
            exiting.cancel()

    async def _until_it_fails(self, instance: Instance) -> str:
        """Why an instance that was ready has to go."""
        exiting = asyncio.create_task(instance.wait())
        watches: set[asyncio.Task[Any]] = {exiting}
        if self._liveness:
            watching = self._liveness.fails(instance.connect, self._world.speed)
            watches.add(asyncio.create_task(watching))
        try:
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            if exiting.done():
                return f"Container called exit({exiting.result()})."
            return "LIVENESS probe failed. The instance is shut down."
        finally:
            for watch in watches:
                watch.cancel()

    def _let_rest(self, running: Running) -> None:
        """Have an instance end when it stays idle."""
        if running.busy or running.rest or running not in self._running:
            return
        figure = "instance with GPU idle" if self.workload.gpu else "instance idle"
        idle_s = max(figures.seconds(figure) / self._world.speed, IDLE_FLOOR_S)
        loop = asyncio.get_running_loop()
        running.rest = loop.call_later(idle_s, self._retire, running)

    def _retire(self, running: Running) -> None:
        running.rest = None
        if len(self._running) > self.limits.least:
            running.instance.log("Shutting down idle instance.")
            self._leave(running, GRACE_S)
        else:
            self._let_rest(running)

    def _leave(self, running: Running, grace_s: float) -> None:
        """Take an instance out of service, and end it."""
        self._do(self._end(running, grace_s))
        self._running.remove(running)

    def _do(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin something that `close` waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _end(self, running: Running, grace_s: float) -> None:
        if running.task:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
        await self._let_go(running, grace_s)

    async def _let_go(self, running: Running, grace_s: float = GRACE_S) -> None:
        if running.rest:
            running.rest.cancel()
        if running in self._running:
            self._running.remove(running)
        await running.client.close()
        await running.instance.stop(grace_s)


def _not_started(workload: Workload, default_probe: bool) -> str:
    """What Cloud Run says of a revision whose container does not come up (gcpdiag's patterns)."""
    service = workload.owner.rpartition("/")[2]
    wanted = (
        'resource.type="cloud_run_revision"\n'
        f'resource.labels.service_name="{service}"\n'
        f'resource.labels.revision_name="{workload.name}"'
    )
    said = (
        "The user-provided container failed to start and listen on the port defined provided by the"
        f" PORT={workload.port} environment variable within the allocated timeout. This can happen"
        " when the container port is misconfigured or if the timeout is too short. The health check"
        " timeout can be extended."
    )
    if not default_probe:
        said = "The user-provided container failed the configured startup probe checks."
    return (
        f"{said} Logs for this revision might contain more information.\n\nLogs URL:"
        f" https://console.cloud.google.com/logs/viewer?project={workload.project}"
        f"&resource=cloud_run_revision/service_name/{service}/revision_name/{workload.name}"
        f"&advancedFilter={quote(wanted)} \nFor more troubleshooting guidance, see"
        " https://cloud.google.com/run/docs/troubleshooting#container-failed-to-start"
    )
