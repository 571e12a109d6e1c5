"""cloudbuild.googleapis.com: builds of one step that runs a script of ours and pushes an image.

The step really runs, in a guest of its own, with a docker that really builds. What Cloud Build has
besides is refused: sources, several steps, other builders, triggers, artifacts, worker pools.
"""

import asyncio
import base64
import json
import logging
import re
import uuid
from asyncio.subprocess import Process
from collections.abc import Mapping

from aiohttp import web

from rehearsal import figures
from rehearsal.errors import CloudError
from rehearsal.google.cloud_logging import CloudLogging, timestamp
from rehearsal.google.guest import Server, Surroundings
from rehearsal.google.identity import ACCOUNT, CLOUD_PLATFORM, Caller, Identity
from rehearsal.google.rest import Api, Call, Route
from rehearsal.google.secret_manager import SecretManager
from rehearsal.machines import machine
from rehearsal.machines.machine import Machine, MachineSpec
from rehearsal.store import Body

HOST = "cloudbuild.googleapis.com"
BUILD = "google:build"
BUILDER = "gcr.io/cloud-builders/docker"
"""The only step that is played: docker, its daemon, and bash."""
HOME = "/builder/home"
ADDRESS = "192.168.10.2"
OPERATION = "BuildOperationMetadata"
LONGEST_S = 86400
TIMEOUT_FLOOR_S = 60.0
"""Added in this machine's time to a build's timeout: its own slowness is not compressed."""

KNOWN = {
    "build": {
        "availableSecrets",
        "images",
        "options",
        "serviceAccount",
        "steps",
        "tags",
        "timeout",
    },
    "build.steps[0]": {"env", "id", "name", "script", "secretEnv"},
    "build.options": {"logging"},
    "build.available_secrets": {"secretManager"},
}
"""What a build may consist of here, of what it may in life."""
ENDED = ("SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED")

_TAG = re.compile(r"[\w][\w.-]{0,127}")
_FILTER = re.compile(r'tags\s*=\s*"([^"]*)"')
_SECRET = re.compile(r"projects/([^/]+)/secrets/([^/]+)/versions/([^/]+)")
_SUBSTITUTION = re.compile(r"\$\$|\$\{(\w+)\}|\$(\w+)")
_DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64})")

log = logging.getLogger(__name__)


class BuildFailure(Exception):
    """Why a build fails, and where: a type of Cloud Build's FailureInfo."""

    def __init__(self, type: str, detail: str) -> None:
        super().__init__(detail)
        self.type = type


class CloudBuild:
    """The site, and the builds that run."""

    def __init__(self, around: Surroundings, vault: SecretManager, logs: CloudLogging) -> None:
        self._around = around
        self._world = around.world
        self._identity: Identity = around.identity
        self._vault = vault
        self._logs = logs
        self._running: dict[str, asyncio.Task[None]] = {}
        builds = "/v1/projects/{project}/locations/{location}/builds"
        build = f"{builds}/{{build}}"
        routes = (
            Route("POST", builds, "cloudbuild.builds.create", self._create),
            Route("GET", builds, "cloudbuild.builds.list", self._list, "builds"),
            Route("GET", build, "cloudbuild.builds.get", self._get),
            Route("POST", f"{build}:cancel", "cloudbuild.builds.update", self._cancel),
        )
        denied = "The caller does not have permission"
        self.handle = Api(around.world, around.identity, HOST, routes, denied=denied).handle

    def start(self) -> None:
        """Machines end with daemons, and builds with machines."""
        for name, row in self._world.store.all(BUILD).items():
            if row["status"] not in ENDED:
                self._set(name, status="INTERNAL_ERROR", finishTime=timestamp())

    async def close(self) -> None:
        """End every build at once."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    # The site

    async def _create(self, call: Call) -> Body:
        parent, project, location = call.name, call.parts["project"], call.parts["location"]
        id = str(uuid.uuid4())
        build = _expand(_checked(call.body), {"PROJECT_ID": project, "LOCATION": location})
        self._act_as(call.caller, build["serviceAccount"], project)
        name = f"{parent}/{id}"
        url = f"https://console.cloud.google.com/cloud-build/builds;region={location}/{id}"
        row = build | {
            "name": name,
            "id": id,
            "projectId": project,
            "status": "QUEUED",
            "createTime": timestamp(),
            "logUrl": f"{url}?project={self._world.accounts.projects[project]}",
        }
        self._world.store.put(BUILD, name, row)
        self._running[name] = asyncio.create_task(self._run(name))
        self._running[name].add_done_callback(lambda _: self._running.pop(name, None))
        code = base64.b64encode(id.encode()).decode().rstrip("=")
        metadata = {"@type": f"type.googleapis.com/google.devtools.cloudbuild.v1.{OPERATION}"}
        return {"name": f"operations/build/{project}/{code}", "metadata": metadata | {"build": row}}

    def _act_as(self, caller: Caller, account: str, project: str) -> None:
        email = account.rpartition("/")[2]
        if account != f"projects/{project}/serviceAccounts/{email}":
            message = f"invalid service account {account}"
            raise CloudError(400, message, "INVALID_ARGUMENT")
        permission = "iam.serviceAccounts.actAs"
        exists = any(it["email"] == email for it in self._world.store.all(ACCOUNT).values())
        if not exists or not self._identity.allowed(caller, permission, account):
            message = f"caller does not have permission to act as service account {account}"
            raise CloudError(403, message, "PERMISSION_DENIED")

    def _get(self, call: Call) -> Body:
        return self._row(call.name)

    def _list(self, call: Call) -> list[Body]:
        rows = [it for id, it in self._world.store.all(BUILD).items() if id.startswith(call.name)]
        if "filter" in call.query:
            asked = _FILTER.fullmatch(call.query["filter"])
            if not asked:
                message = f"invalid list filter: the rehearsal does not play {call.query['filter']}"
                raise CloudError(400, message, "INVALID_ARGUMENT")
            rows = [it for it in rows if asked[1] in it.get("tags", ())]
        return sorted(rows, key=lambda it: it["createTime"], reverse=True)

    def _cancel(self, call: Call) -> Body:
        name = call.name
        if self._row(name)["status"] in ENDED:
            message = "cannot cancel a build that has completed"
            raise CloudError(400, message, "FAILED_PRECONDITION")
        self._set(name, status="CANCELLED", finishTime=timestamp())
        if task := self._running.get(name):
            task.cancel()
        return self._row(name)

    def _row(self, name: str) -> Body:
        row = self._world.store.get(BUILD, name)
        if row is None:
            raise CloudError(404, "Requested entity was not found.", "NOT_FOUND")
        return row

    def _set(self, name: str, **changes: object) -> None:
        self._world.store.put(BUILD, name, self._row(name) | changes)

    # A build

    async def _run(self, name: str) -> None:
        row = self._row(name)
        limit_s = float(row["timeout"].removesuffix("s")) / self._world.speed + TIMEOUT_FLOOR_S
        build = Build(self._around, self._vault, self._logs, row)
        status: Body
        try:
            async with asyncio.timeout(limit_s):
                await self._world.take("build start", figures.seconds("build start"))
                self._set(name, status="WORKING", startTime=timestamp())
                status = {"status": "SUCCESS", "results": {"images": await build.run()}}
        except TimeoutError:
            status = {"status": "TIMEOUT", "statusDetail": "build timed out"}
        except BuildFailure as failure:
            detail = f"Build step failure: {failure}"
            failed = {"type": failure.type, "detail": detail}
            status = {"status": "FAILURE", "statusDetail": detail, "failureInfo": failed}
        except Exception as error:  # as in life, a fault of the service's own is no end of it
            log.exception("%s failed", name)
            status = {"status": "INTERNAL_ERROR", "statusDetail": str(error)}
        finally:
            await build.close()
        self._set(name, **status, **build.notes, finishTime=timestamp())


class Build:
    """One build at work."""

    def __init__(
        self, around: Surroundings, vault: SecretManager, logs: CloudLogging, row: Body
    ) -> None:
        self._around = around
        self._vault = vault
        self._logs = logs
        self._row = row
        self._machine: Machine | None = None
        self._servers: list[Server] = []
        self._process: Process | None = None
        email: str = row["serviceAccount"].rpartition("/")[2]
        self._account = Caller(email, frozenset({CLOUD_PLATFORM}))
        place = f"projects/{row['projectId']}"
        self._writes = around.identity.allowed(self._account, "logging.logEntries.create", place)
        self.notes: Body = {}
        """What is worth knowing about the build besides its outcome."""
        if not self._writes:
            text = (
                f"The service account running this build {row['serviceAccount']} does not have"
                " permission to write logs to Cloud Logging. To fix this, grant the Logs Writer"
                " (roles/logging.logWriter) role to the service account."
            )
            self.notes = {"warnings": [{"text": text, "priority": "INFO"}]}

    async def run(self) -> list[Body]:
        """Run the step and push what it built: names and digests. Raises BuildFailure."""
        step = self._row["steps"][0]
        self._log(f'starting build "{self._row["id"]}"', "", "BUILD")
        self._log(f"Already have image (with digest): {step['name']}")
        try:
            code = await self._step(step)
        except CloudError as error:
            raise self._failure(f"failed to access secret version {error}") from error
        if code:
            raise self._failure(f"step exited with non-zero status: {code}")
        self._log("PUSH")
        images = [await self._push(image) for image in self._row.get("images", ())]
        self._log("DONE")
        return images

    async def close(self) -> None:
        """End the guest, with whatever runs in it."""
        if self._machine:
            await self._machine.delete()
            self._machine = None
        while self._servers:
            self._servers.pop().close()
        if self._process:
            await self._process.communicate()  # it has ended with its machine

    async def _step(self, step: Body) -> int:
        guest = await self._boot()
        environment = dict(it.split("=", 1) for it in step.get("env", ()))
        environment |= self._secrets(step.get("secretEnv", ()))
        script: str = step["script"]
        if not script.startswith("#!"):
            script = f"#!/bin/sh\n{script}"
        path = "/workspace/script"
        await guest.run("install", "-D", "-m", "755", "/dev/stdin", path, stdin=script.encode())
        return await self._follow(guest, environment, path)

    async def _boot(self) -> Machine:
        id = f"build-{self._row['id'][:8]}"
        location = self._row["name"].split("/")[3]
        spec = MachineSpec(
            name=id,
            zone=location,
            internal_ip=ADDRESS,
            gpu_type=None,
            gpu_count=0,
            gpu_memory_gib=0,
            hosts=self._around.hosts(online=True, google=True),
            ca=self._around.ca,
        )
        self._machine = guest = await machine.boot(self._around.world, spec)
        self._servers = await self._around.furnish(guest, id, _no_metadata)
        # Steps find docker logged in to the registries of Google's as the build's account.
        token, _ = self._around.identity.mint_for(self._account)
        auth = base64.b64encode(f"oauth2accesstoken:{token}".encode()).decode()
        config = json.dumps({"auths": {f"{location}-docker.pkg.dev": {"auth": auth}}})
        install = ("install", "-D", "-m", "600", "/dev/stdin", f"{HOME}/.docker/config.json")
        await guest.run(*install, stdin=config.encode())
        return guest

    def _secrets(self, wanted: list[str]) -> Mapping[str, str]:
        """Values of the step's secrets by their variable. CloudError when one may not be read."""
        available = self._row.get("availableSecrets", {}).get("secretManager", ())
        names = {it["env"]: it["versionName"] for it in available}
        found: dict[str, str] = {}
        for variable in wanted:
            match = _SECRET.fullmatch(names[variable])
            try:
                if not match:
                    raise CloudError(400, "invalid name", "InvalidArgument")
                found[variable] = self._vault.payload(self._account, *match.groups()).decode()
            except CloudError as error:
                code = error.reason.title().replace("_", "")
                said = f"rpc error: code = {code} desc = {error.message}"
                message = f"for secret {names[variable]}: {said}"
                raise CloudError(error.code, message, error.reason) from error
        return found

    async def _push(self, image: str) -> Body:
        self._log(f"Pushing {image}")
        assert self._machine  # noqa: S101 -- it has just run the step
        self._process = await self._machine.start_command(
            "docker", "push", image, environment={"HOME": HOME}
        )
        output, _ = await self._process.communicate()
        lines = output.decode(errors="replace").splitlines()
        self._log(*lines)
        digest = _DIGEST.search(lines[-1]) if lines else None
        if self._process.returncode or not digest:
            problem = f"failed to push {image}: {lines[-1] if lines else 'no answer'}"
            self._log("ERROR", f"ERROR: {problem}")
            raise BuildFailure("PUSH_FAILED", problem)
        return {"name": image, "digest": digest[1]}

    async def _follow(self, guest: Machine, environment: Mapping[str, str], path: str) -> int:
        self._process = process = await guest.start_command(
            "env", "--chdir=/workspace", path, environment={**environment, "HOME": HOME}
        )
        assert process.stdout  # noqa: S101 -- it was asked for
        async for line in process.stdout:
            self._log(line.decode(errors="replace").rstrip("\n"))
        return await process.wait()

    def _failure(self, why: str) -> BuildFailure:
        problem = f'build step 0 "{self._row["steps"][0]["name"]}" failed: {why}'
        self._log("ERROR", f"ERROR: {problem}")
        return BuildFailure("USER_BUILD_STEP", problem)

    def _log(self, *lines: str) -> None:
        if not self._writes:
            return
        project = self._row["projectId"]
        labels = {"build_id": self._row["id"], "project_id": project, "build_trigger_id": ""}
        for line in lines:
            self._logs.write(project, "cloudbuild", {"type": "build", "labels": labels}, line)


async def _no_metadata(request: web.BaseRequest) -> web.Response:
    return web.Response(status=404)


def _checked(build: Body) -> Body:
    """The build with its defaults. CloudError 400 for what is wrong, and for what is not played."""

    def no(message: str) -> CloudError:
        return CloudError(400, message, "INVALID_ARGUMENT")

    steps: list[Body] = build.get("steps") or []
    if len(steps) != 1:
        raise no("invalid build: the rehearsal plays builds of one step")
    parts = {
        "build": build,
        "build.steps[0]": steps[0],
        "build.options": build.get("options", {}),
        "build.available_secrets": build.get("availableSecrets", {}),
    }
    for where, part in parts.items():
        if unknown := part.keys() - KNOWN[where]:
            said = f"Unknown name \"{min(unknown)}\" at '{where}'"
            raise no(f"Invalid JSON payload received. {said}: Cannot find field here.")
    if steps[0].get("name") != BUILDER or not steps[0].get("script"):
        raise no(f"invalid build: the rehearsal plays {BUILDER} with a script only")
    if not build.get("serviceAccount"):
        raise no("invalid build: the rehearsal has no default service account of Cloud Build's")
    if build.get("options", {}).get("logging") not in ("CLOUD_LOGGING_ONLY", "NONE"):
        raise no(
            "if 'build.service_account' is specified, the build must either (a) specify"
            " 'build.logs_bucket', (b) use the REGIONAL_USER_OWNED_BUCKET"
            " build.options.default_logs_bucket_behavior option, or (c) use either"
            " CLOUD_LOGGING_ONLY / NONE logging options: invalid argument"
        )
    available = {it["env"] for it in build.get("availableSecrets", {}).get("secretManager", ())}
    if odd := available ^ {*steps[0].get("secretEnv", ())}:
        raise no(f"secret environment variable {min(odd)!r} is not both available and used")
    if bad := [it for it in build.get("tags", ()) if not _TAG.fullmatch(it)]:
        raise no(f'invalid build tag {bad[0]!r}: must match format "{_TAG.pattern}"')
    timeout = re.fullmatch(r"(\d+)s", build.get("timeout", "3600s"))
    if not timeout or int(timeout[1]) > LONGEST_S:
        raise no(f"invalid timeout: must be between 1s and {LONGEST_S}s")
    return {"timeout": "3600s", "queueTtl": "3600s"} | build


def _expand(build: Body, values: Mapping[str, str]) -> Body:
    """The build with its substitutions made, where Cloud Build makes them.

    Not in scripts. `$$` stands for a dollar. CloudError 400 for a name that nobody defines.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name is None:
            return "$"
        if name not in values:
            message = (
                f"invalid value for 'build.substitutions': key in the template \"{name}\" is not a"
                " valid built-in substitution"
            )
            raise CloudError(400, message, "INVALID_ARGUMENT")
        return values[name]

    def all_of(texts: list[str]) -> list[str]:
        return [_SUBSTITUTION.sub(value, it) for it in texts]

    step = build["steps"][0]
    return build | {
        "images": all_of(build.get("images", [])),
        "tags": all_of(build.get("tags", [])),
        "steps": [step | {"env": all_of(step.get("env", []))}],
    }
