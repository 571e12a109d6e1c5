"""Local commands run as pulumi-command runs them, through the protocol that the engine speaks."""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2
from pulumi.runtime.proto.provider_pb2_grpc import ResourceProviderStub
from pulumi.runtime.rpc import UNKNOWN

from rehearsal import providers
from rehearsal.providers.protocol import body_of, struct_of
from rehearsal.store import Body
from rehearsal.world import World

URN = "urn:pulumi:dev::p::command:local:Command::it"
GONE_WITHIN_S = 20


class Display(engine_pb2_grpc.EngineServicer):
    """The engine's side: what it would show."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, bool]] = []

    async def Log(self, request: engine_pb2.LogRequest, context: object) -> empty_pb2.Empty:
        self.lines.append((request.message, request.ephemeral))
        return empty_pb2.Empty()


class Engine:
    """A client of the command provider that behaves as the engine does."""

    def __init__(self, stub: Any, display: Display) -> None:
        self.stub = stub
        self.lines = display.lines

    async def create(self, preview: bool = False, **inputs: Any) -> Body:
        request = provider_pb2.CreateRequest(urn=URN, properties=struct_of(inputs), preview=preview)
        return body_of((await self.stub.Create(request)).properties)

    async def update(self, olds: Body, **inputs: Any) -> Body:
        request = provider_pb2.UpdateRequest(urn=URN, olds=struct_of(olds), news=struct_of(inputs))
        return body_of((await self.stub.Update(request)).properties)

    async def delete(self, olds: Body) -> None:
        await self.stub.Delete(provider_pb2.DeleteRequest(urn=URN, properties=struct_of(olds)))


Scene = Callable[[Engine], Awaitable[Any]]
Play = Callable[[Scene], Any]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Runs a scene against a provider whose commands run in tmp_path."""

    async def run(scene: Scene) -> Any:
        world = World(tmp_path / "world")
        environment = {"PATH": os.environ["PATH"], "GIVEN": "by the daemon"}
        served = await providers.serve(world, ports={}, environment=environment, cwd=tmp_path)
        display, server = Display(), grpc.aio.server()  # pyright: ignore[reportUnknownMemberType] its stubs leave type arguments out
        engine_pb2_grpc.add_EngineServicer_to_server(display, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served.ports['command']}") as channel:
            stub: Any = ResourceProviderStub(channel)
            await stub.Attach(plugin_pb2.PluginAttach(address=f"127.0.0.1:{port}"))
            result = await scene(Engine(stub, display))
        await served.close()
        await server.stop(None)
        return result

    return lambda scene: asyncio.run(run(scene))


def test_a_command_runs_where_and_as_it_is_told(play: Play, tmp_path: Path):
    """Working directory, environment, standard input and interpreter reach the command."""

    async def scene(engine: Engine) -> Body:
        return await engine.create(
            create="import os, sys; print(os.getcwd(), os.environ['GIVEN'], os.environ['SAID'],"
            " sys.stdin.read())",
            interpreter=["python3", "-c"],
            environment={"SAID": "by the program"},
            stdin="and this",
        )

    assert play(scene)["stdout"] == f"{tmp_path} by the daemon by the program and this"


def test_both_streams_are_kept_apart(play: Play):
    """Outputs hold each stream without its last line break."""

    async def scene(engine: Engine) -> Body:
        return await engine.create(create="echo out; echo; echo err >&2")

    outputs = play(scene)

    assert (outputs["stdout"], outputs["stderr"]) == ("out\n", "err")


def test_each_line_is_shown_as_it_comes(play: Play):
    """Lines pass over the engine's display in passing, and do not stay as diagnostics."""

    async def scene(engine: Engine) -> list[tuple[str, bool]]:
        await engine.create(create="echo one; echo two")
        return engine.lines

    assert play(scene) == [("one", True), ("two", True)]


@pytest.mark.parametrize(
    ("logging", "shown"), [("none", []), ("stdout", ["out"]), ("stderr", ["err"])]
)
def test_what_is_shown_can_be_chosen(play: Play, logging: str, shown: list[str]):
    """`logging` decides which stream is shown; both are kept all the same."""

    async def scene(engine: Engine) -> tuple[Body, list[str]]:
        outputs = await engine.create(create="echo out; echo err >&2", logging=logging)
        return outputs, [line for line, _ in engine.lines]

    outputs, lines = play(scene)

    assert (outputs["stdout"], outputs["stderr"], lines) == ("out", "err", shown)


def test_a_failing_command_says_what_it_printed(play: Play):
    """The error carries exit status, command and all output."""

    async def scene(engine: Engine) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await engine.create(create="echo before; echo wrong >&2; exit 3")
        return failure.value.details() or ""

    said = play(scene)

    assert said.startswith('exit status 3: running "echo before; echo wrong >&2; exit 3":\n')
    assert {"before", "wrong"} <= set(said.splitlines())


def test_an_update_knows_what_was_printed_before(play: Play):
    """`update` runs instead of `create`, and finds the previous output in its environment."""

    async def scene(engine: Engine) -> Body:
        made = await engine.create(create="echo first")
        return await engine.update(made, create="echo no", update="echo $PULUMI_COMMAND_STDOUT")

    assert play(scene)["stdout"] == "first"


def test_without_an_update_command_create_runs_again(play: Play):
    """A changed input runs `create` where there is no `update`."""

    async def scene(engine: Engine) -> Body:
        made = await engine.create(create="echo first")
        return await engine.update(made, create="echo second")

    assert play(scene)["stdout"] == "second"


def test_deletion_runs_with_the_inputs_of_the_last_update(play: Play, tmp_path: Path):
    """`delete` sees the environment that the state holds."""

    async def scene(engine: Engine) -> None:
        made = await engine.create(delete="echo $WHAT > deleted", environment={"WHAT": "old"})
        updated = await engine.update(
            made, delete="echo $WHAT > deleted", environment={"WHAT": "new"}
        )
        await engine.delete(updated)

    play(scene)

    assert (tmp_path / "deleted").read_text() == "new\n"


def test_preview_runs_nothing(play: Play, tmp_path: Path):
    """At preview the output is unknown."""

    async def scene(engine: Engine) -> Body:
        return await engine.create(create="touch made", preview=True)

    assert play(scene)["stdout"] == UNKNOWN
    assert not (tmp_path / "made").exists()


def test_cancelling_ends_everything_the_command_started(play: Play):
    """Ctrl-C reaches the command's children too."""

    async def scene(engine: Engine) -> int:
        running = asyncio.create_task(engine.create(create="sleep 600 & echo $!; wait"))
        async with asyncio.timeout(GONE_WITHIN_S):
            while not engine.lines:  # noqa: ASYNC110 nothing tells
                await asyncio.sleep(0.01)
        await engine.stub.Cancel(empty_pb2.Empty())
        with pytest.raises(grpc.aio.AioRpcError):
            await running
        return int(engine.lines[0][0])

    child = Path(f"/proc/{play(scene)}/status")

    deadline = time.monotonic() + GONE_WITHIN_S
    while child.exists() and not re.search(r"^State:\s+Z", child.read_text(), re.M):
        assert time.monotonic() < deadline, "the command's child still runs"
        time.sleep(0.05)


def test_a_folder_that_does_not_exist_is_an_error(play: Play):
    """No traceback: the folder's name."""

    async def scene(engine: Engine) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await engine.create(create="true", dir="nowhere")
        return failure.value.details() or ""

    assert "nowhere" in play(scene)
