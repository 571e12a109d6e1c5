"""The command package: `command.local.Command`, which really runs, as pulumi-command 1.2 does."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path

from pulumi.runtime.rpc import UNKNOWN

from rehearsal.providers.resource import Change, Diff, Operation, Package, compare
from rehearsal.providers.schema import Failure, Schema
from rehearsal.store import Body

COMMAND = "command:local:Command"
NOT_PLAYED = ("archivePaths", "assetPaths")


class Command(Package):
    """pulumi-command. It has no cloud: what it knows is in the engine's state."""

    name = "command"
    interruptible = True

    def __init__(self, schema: Schema, cwd: Path, environment: Mapping[str, str]) -> None:
        self.schema = schema
        self.rows = {}
        self.functions = {}
        self.generated = {}
        self._cwd = cwd
        self._environment = dict(environment)

    def plays(self, token: str) -> bool:
        """One type."""
        return token == COMMAND

    def check(
        self, operation: Operation, olds: Body, news: Body, seed: bytes
    ) -> tuple[Body, list[Failure]]:
        """The inputs as they are: there are no defaults."""
        inputs = {key: value for key, value in news.items() if value is not None}
        failures = self.schema.failures(COMMAND, inputs)
        failures += [
            Failure(key, "the rehearsal does not collect files after a command")
            for key in NOT_PLAYED
            if key in inputs
        ]
        return inputs, failures

    def diff(self, operation: Operation, olds: Body, news: Body) -> Diff:
        """Every change is an update; only triggers that come or go as a whole replace.

        So the plugin's source has it: `triggers` replaces by the name of the
        property, and a changed element has the name `triggers[0]`.
        """
        return Diff(
            {
                path: Change(kind, path == "triggers" and kind != "update")
                for path, kind, _ in compare(olds, news)
            }
        )

    async def create(self, operation: Operation, inputs: Body, preview: bool) -> tuple[str, Body]:
        """Run `create`."""
        if preview:
            return "", inputs | {"stdout": UNKNOWN, "stderr": UNKNOWN}
        id = f"{operation.name}{secrets.token_hex(4)}"
        return id, await self._run(operation, inputs.get("create"), inputs, {})

    async def read(
        self, operation: Operation, id: str, olds: Body, inputs: Body
    ) -> tuple[str, Body, Body]:
        """Nothing to look at."""
        return id, olds, inputs

    async def update(
        self, operation: Operation, id: str, olds: Body, inputs: Body, preview: bool
    ) -> Body:
        """Run `update`, or `create` where there is none."""
        if preview:
            return inputs | {"stdout": UNKNOWN, "stderr": UNKNOWN}
        command = inputs.get("update", inputs.get("create"))
        return await self._run(operation, command, inputs, olds)

    async def delete(self, operation: Operation, id: str, olds: Body) -> None:
        """Run `delete`, with the inputs and the environment of the last create or update."""
        await self._run(operation, olds.get("delete"), olds, olds)

    async def _run(
        self, operation: Operation, command: str | None, inputs: Body, before: Body
    ) -> Body:
        """Run one command; returns outputs. ValueError with all its output when it fails."""
        printed = {key: before.get(key) or "" for key in ("stdout", "stderr")}
        if command is None:
            return inputs | printed
        environment = self._environment | inputs.get("environment", {})
        if inputs.get("addPreviousOutputInEnv", True):
            environment |= {f"PULUMI_COMMAND_{k.upper()}": v for k, v in printed.items() if v}
        process = await asyncio.create_subprocess_exec(
            *inputs.get("interpreter", ["/bin/sh", "-c"]),
            command,
            cwd=self._cwd / inputs.get("dir", ""),
            env=environment,
            stdin=asyncio.subprocess.PIPE if inputs.get("stdin") else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=2**24,  # bytes in a line
        )
        logged = inputs.get("logging", "stdoutAndStderr")
        both: list[str] = []

        async def follow(stream: asyncio.StreamReader | None, name: str) -> str:
            lines: list[str] = []
            async for raw in stream or ():
                line = raw.decode(errors="replace")
                lines.append(line)
                both.append(line)
                if name in logged or logged == "stdoutAndStderr":
                    await operation.log("info", line.rstrip("\n"))
            return "".join(lines).removesuffix("\n")

        try:
            if process.stdin:
                process.stdin.write(inputs["stdin"].encode())
                process.stdin.close()
            stdout, stderr = await asyncio.gather(
                follow(process.stdout, "stdout"), follow(process.stderr, "stderr")
            )
            status = await process.wait()
        except asyncio.CancelledError:  # what the command started must not outlive it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        if status:
            ended = f"exit status {status}"
            if status < 0:
                ended = f"signal: {signal.strsignal(-status) or -status}".lower()
            raise ValueError(f"{ended}: running {json.dumps(command)}:\n{''.join(both)}")
        return inputs | {"stdout": stdout, "stderr": stderr}
