"""The provider gRPC protocol, the same for every package; the only file that knows protobuf."""

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf import json_format, struct_pb2
from google.protobuf.empty_pb2 import Empty
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs] it has none
from pulumi.runtime.proto import engine_pb2, plugin_pb2, provider_pb2
from pulumi.runtime.proto.engine_pb2_grpc import EngineStub
from pulumi.runtime.proto.provider_pb2_grpc import (
    ResourceProviderServicer,
    add_ResourceProviderServicer_to_server,
)

from rehearsal.errors import CloudError, OperationFailed
from rehearsal.providers.resource import Change, Operation, Package
from rehearsal.store import Body
from rehearsal.world import World

Answer = TypeVar("Answer")
Context = grpc.aio.ServicerContext[Any, Any]
PropertyDiff = provider_pb2.PropertyDiff

KINDS = {
    "add": (PropertyDiff.ADD, PropertyDiff.ADD_REPLACE),
    "delete": (PropertyDiff.DELETE, PropertyDiff.DELETE_REPLACE),
    "update": (PropertyDiff.UPDATE, PropertyDiff.UPDATE_REPLACE),
}
UNLIMITED = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a taken port is an error
)


@dataclass
class Engine:
    """One engine on the other end of one connection; each has its own configuration."""

    config: dict[str, str] = field(default_factory=dict[str, str])
    stub: EngineStub | None = None
    tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])


class Servicer(ResourceProviderServicer):
    """Answers the engine's calls for one package.

    Secrets arrive and leave in clear: the answer to Configure says that this
    provider does not know them, so that the engine itself keeps note of which
    inputs and outputs are secret, as with Pulumi's bridged providers.
    """

    def __init__(self, world: World, package: Package) -> None:
        self._world = world
        self._package = package
        self._engines: dict[str, Engine] = {}
        self._unattended: set[asyncio.Task[Any]] = set()

    def _engine(self, context: Context) -> Engine:
        return self._engines.setdefault(context.peer(), Engine())

    def _operation(self, urn: str, context: Context) -> Operation:
        engine = self._engine(context)

        async def log(severity: str, message: str) -> None:
            if engine.stub is None:
                return
            request = engine_pb2.LogRequest(
                severity=engine_pb2.WARNING if severity == "warning" else engine_pb2.INFO,
                message=message,
                urn=urn,
                ephemeral=severity != "warning",
            )
            await engine.stub.Log(request)  # pyright: ignore[reportUnknownMemberType, reportGeneralTypeIssues] the stubs know only the synchronous channel

        return Operation(self._world, engine.config, urn, log)

    async def _answer(
        self, context: Context, operation: Operation, verb: str, body: Body, work: Awaitable[Answer]
    ) -> Answer:
        """The result of `work`; a refusal, or the engine's cancellation, ends the call.

        What a cloud was asked to do, it does, whether or not the engine lives to hear of it.
        """
        task = asyncio.ensure_future(work)
        tasks = self._engine(context).tasks
        tasks.add(task)
        try:
            return await (task if self._package.interruptible else asyncio.shield(task))
        except OperationFailed as error:
            await leave(context, self._package.words(error, operation, verb, body), error)
        except CloudError as error:
            await refuse(context, self._package.words(error, operation, verb, body))
        except (ValueError, OSError) as error:
            await refuse(context, str(error))
        except LookupError as error:
            logging.exception("%s of %s", verb, operation.urn)
            await refuse(context, f"a fault of the rehearsal, see its daemon.log: {error!r}")
        except asyncio.CancelledError:
            if self._package.interruptible:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                self._unattended.add(task)
                task.add_done_callback(self._ended_unattended)
            await context.abort(grpc.StatusCode.CANCELLED, "the operation was cancelled")
            raise
        finally:
            tasks.discard(task)

    def _ended_unattended(self, task: asyncio.Task[Any]) -> None:
        self._unattended.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logging.info("nobody heard: %s", error)

    # Acquaintance

    async def Attach(self, request: plugin_pb2.PluginAttach, context: Context) -> Empty:
        """The engine says where it takes log lines."""
        channel = grpc.aio.insecure_channel(request.address)
        self._engine(context).stub = EngineStub(channel)
        return Empty()

    async def Handshake(
        self, request: provider_pb2.ProviderHandshakeRequest, context: Context
    ) -> provider_pb2.ProviderHandshakeResponse:
        """Not spoken, as by older plugins; the engine goes on with Configure."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED)
        raise AssertionError  # abort raises; its annotation does not say so

    async def GetPluginInfo(self, request: Empty, context: Context) -> plugin_pb2.PluginInfo:
        """The version of the plugin that the stand-in imitates: the installed SDK's."""
        return plugin_pb2.PluginInfo(version=version(f"pulumi-{self._package.name}"))

    async def CheckConfig(
        self, request: provider_pb2.CheckRequest, context: Context
    ) -> provider_pb2.CheckResponse:
        """What the plugin refuses about its configuration."""
        config = {key: str(value) for key, value in body_of(request.news).items()}
        failures = self._package.check_config(config)
        return provider_pb2.CheckResponse(
            inputs=request.news,
            failures=[provider_pb2.CheckFailure(reason=reason) for reason in failures],
        )

    async def DiffConfig(
        self, request: provider_pb2.DiffRequest, context: Context
    ) -> provider_pb2.DiffResponse:
        """A changed configuration replaces nothing."""
        changed = request.news != (request.old_inputs or request.olds)
        response = provider_pb2.DiffResponse
        return response(changes=response.DIFF_SOME if changed else response.DIFF_NONE)

    async def Configure(
        self, request: provider_pb2.ConfigureRequest, context: Context
    ) -> provider_pb2.ConfigureResponse:
        """Remember what this engine configured."""
        config = {key.split(":")[-1]: value for key, value in request.variables.items()}
        self._engine(context).config = config
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    async def Cancel(self, request: Empty, context: Context) -> Empty:
        """The user pressed Ctrl-C: stop what runs for this engine, where the plugin would.

        Bridged plugins do nothing: the engine waits until what has begun is done
        (pulumi/pulumi-terraform-bridge, `Stop` of pkg/tfshim/sdk-v2/provider.go, and
        `SignalCancellationWithContext` of pkg/pf/tfbridge/provider.go).
        """
        if self._package.interruptible:
            for task in self._engine(context).tasks:
                task.cancel()
        return Empty()

    # Resources

    async def Check(
        self, request: provider_pb2.CheckRequest, context: Context
    ) -> provider_pb2.CheckResponse:
        """The plugin's defaults and refusals."""
        operation = self._operation(request.urn, context)
        if not self._package.plays(operation.type):
            await refuse(context, f"the rehearsal has no stand-in for {operation.type} yet")
        try:
            inputs, failures = self._package.check(
                operation, body_of(request.olds), body_of(request.news), request.randomSeed
            )
        except ValueError as error:
            await refuse(context, str(error))
        return provider_pb2.CheckResponse(
            inputs=struct_of(inputs),
            failures=[
                provider_pb2.CheckFailure(
                    reason=failure.reason
                    + (
                        f". Examine values at '{operation.name}.{failure.path}'."
                        if failure.path
                        else ""
                    )
                )
                for failure in failures
            ],
        )

    async def Diff(
        self, request: provider_pb2.DiffRequest, context: Context
    ) -> provider_pb2.DiffResponse:
        """What changed among the inputs, in detail."""
        operation = self._operation(request.urn, context)
        diff = self._package.diff(operation, body_of(request.old_inputs), body_of(request.news))
        ignored = tuple(request.ignoreChanges)
        changes = {
            path: change for path, change in diff.changes.items() if not path.startswith(ignored)
        }
        response = provider_pb2.DiffResponse
        return response(
            changes=response.DIFF_SOME if changes else response.DIFF_NONE,
            diffs=sorted({top(path) for path in changes}),
            replaces=sorted({top(path) for path, change in changes.items() if change.replaces}),
            detailedDiff={path: detail(change) for path, change in changes.items()},
            hasDetailedDiff=True,
            deleteBeforeReplace=diff.delete_before_replace,
        )

    async def Create(
        self, request: provider_pb2.CreateRequest, context: Context
    ) -> provider_pb2.CreateResponse:
        """Create, or at preview say what would be known."""
        operation = self._operation(request.urn, context)
        inputs = body_of(request.properties)
        work = self._package.create(operation, inputs, request.preview)
        id, outputs = await self._answer(context, operation, "create", inputs, work)
        return provider_pb2.CreateResponse(id=id, properties=struct_of(outputs))

    async def Read(
        self, request: provider_pb2.ReadRequest, context: Context
    ) -> provider_pb2.ReadResponse:
        """What the cloud has now; an empty id when it is gone."""
        operation = self._operation(request.urn, context)
        olds, inputs = body_of(request.properties), body_of(request.inputs)
        work = self._package.read(operation, request.id, olds, inputs)
        id, outputs, now = await self._answer(context, operation, "read", olds, work)
        return provider_pb2.ReadResponse(
            id=id, properties=struct_of(outputs), inputs=struct_of(now)
        )

    async def Update(
        self, request: provider_pb2.UpdateRequest, context: Context
    ) -> provider_pb2.UpdateResponse:
        """Update in place."""
        operation = self._operation(request.urn, context)
        olds, news = body_of(request.olds), body_of(request.news)
        work = self._package.update(operation, request.id, olds, news, request.preview)
        outputs = await self._answer(context, operation, "update", olds | news, work)
        return provider_pb2.UpdateResponse(properties=struct_of(outputs))

    async def Delete(self, request: provider_pb2.DeleteRequest, context: Context) -> Empty:
        """Delete."""
        operation = self._operation(request.urn, context)
        olds = body_of(request.properties)
        work = self._package.delete(operation, request.id, olds)
        await self._answer(context, operation, "delete", olds, work)
        return Empty()

    async def Invoke(
        self, request: provider_pb2.InvokeRequest, context: Context
    ) -> provider_pb2.InvokeResponse:
        """A function of the package."""
        function = self._package.functions.get(request.tok)
        if function is None:
            await refuse(context, f"the rehearsal has no stand-in for {request.tok} yet")
        operation = self._operation(f"urn:pulumi:::::{request.tok}::", context)
        arguments = body_of(request.args)
        try:
            answer = function(self._world, operation.config, arguments)
        except CloudError as error:
            words = self._package.words(error, operation, "invoke", arguments)
            await refuse(context, f"invoking {request.tok}: {words}")
        answered: Any = {"return": struct_of(answer)}  # a keyword of Python
        return provider_pb2.InvokeResponse(**answered)


async def refuse(context: Context, message: str) -> NoReturn:
    """End the call with an error that the engine prints."""
    await context.abort(grpc.StatusCode.UNKNOWN, message)
    raise AssertionError  # abort raises; its annotation does not say so


async def leave(context: Context, message: str, error: OperationFailed) -> NoReturn:
    """End the call with an error about a resource that exists: the engine notes both."""
    code = grpc.StatusCode.UNKNOWN
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(
        provider_pb2.ErrorResourceInitFailed(
            id=error.id, properties=struct_of(error.outputs), reasons=[message]
        )
    )
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, message, trailing)
    raise AssertionError  # abort raises; its annotation does not say so


def detail(change: Change) -> PropertyDiff:
    """A changed input in the protocol's words."""
    return PropertyDiff(kind=KINDS[change.kind][change.replaces], inputDiff=True)


def top(path: str) -> str:
    """The top-level property of a path."""
    return path.split(".")[0].split("[")[0]


def body_of(struct: struct_pb2.Struct) -> Body:
    """A protobuf struct as JSON values, whole numbers as integers."""
    return integers(json_format.MessageToDict(struct))


def integers(value: Any) -> Any:
    """Struct knows only floating-point numbers."""
    match value:
        case dict():
            return {key: integers(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType] JSON
        case list():
            return [integers(each) for each in value]  # pyright: ignore[reportUnknownVariableType] JSON
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def struct_of(body: Mapping[str, Any]) -> struct_pb2.Struct:
    """JSON values as a protobuf struct."""
    return json_format.ParseDict(dict(body), struct_pb2.Struct())


@dataclass(frozen=True)
class Served:
    """Running providers."""

    ports: dict[str, int]
    """Package name -> port on 127.0.0.1, as PULUMI_DEBUG_PROVIDERS wants them."""
    servers: list[grpc.aio.Server]

    async def close(self) -> None:
        """Stop serving; what is under way is cancelled."""
        await asyncio.gather(*(server.stop(grace=None) for server in self.servers))


async def start(world: World, packages: Iterable[Package], ports: Mapping[str, int]) -> Served:
    """Serve each package on a port of 127.0.0.1: that of `ports` where it is free, else any."""
    served = Served({}, [])
    for package in packages:
        server = grpc.aio.server(options=UNLIMITED)  # pyright: ignore[reportUnknownMemberType] its stubs leave type arguments out
        add_ResourceProviderServicer_to_server(Servicer(world, package), server)
        try:
            port = server.add_insecure_port(f"127.0.0.1:{ports.get(package.name, 0)}")
        except RuntimeError:  # taken
            port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        served.ports[package.name] = port
        served.servers.append(server)
    return served
