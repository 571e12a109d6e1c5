"""Several engines at once, and a daemon that comes back, find their providers."""

import asyncio
import os
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from pulumi.runtime.proto import provider_pb2
from pulumi.runtime.proto.provider_pb2_grpc import ResourceProviderStub

from rehearsal import providers
from rehearsal.providers import Served, google
from rehearsal.providers.protocol import body_of, struct_of
from rehearsal.store import Body
from rehearsal.world import World

URN = f"urn:pulumi:dev::p::{google.ROUTER}::router"


async def serve(world: World, ports: dict[str, int]) -> Served:
    return await providers.serve(world, ports=ports, environment=os.environ, cwd=world.directory)


def test_two_engines_keep_their_own_configuration(tmp_path: Path):
    """Two stacks may go up at the same time, each in its own region."""

    async def check(port: int, region: str) -> Any:
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own, as in life
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options)
        stub: Any = ResourceProviderStub(channel)
        await stub.Configure(provider_pb2.ConfigureRequest(variables={"gcp:config:region": region}))

        async def ask() -> Body:
            request = provider_pb2.CheckRequest(urn=URN, news=struct_of({"network": "n"}))
            return body_of((await stub.Check(request)).inputs)

        return ask, channel

    async def scene() -> list[str]:
        served = await serve(World(tmp_path), {})
        engines = [await check(served.ports["gcp"], region) for region in ("here-1", "there-1")]
        regions = [(await ask())["region"] for ask, _ in engines]
        for _, channel in engines:
            await channel.close()
        await served.close()
        return regions

    assert asyncio.run(scene()) == ["here-1", "there-1"]


def test_a_daemon_comes_back_on_its_ports(tmp_path: Path):
    """Ports asked for are given where they are free, and others where they are not."""

    async def scene() -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        first = await serve(World(tmp_path), {})
        beside = await serve(World(tmp_path), first.ports)
        await first.close()
        again = await serve(World(tmp_path), first.ports)
        for each in (beside, again):
            await each.close()
        return first.ports, beside.ports, again.ports

    first, beside, again = asyncio.run(scene())

    assert first == again
    assert not set(first.values()) & set(beside.values())


def test_a_type_without_a_row_is_refused_by_name(tmp_path: Path):
    """What the rehearsal cannot play it says, instead of playing something else."""

    async def scene() -> str:
        served = await serve(World(tmp_path), {})
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served.ports['gcp']}") as channel:
            stub: Any = ResourceProviderStub(channel)
            urn = "urn:pulumi:dev::p::gcp:redis/instance:Instance::cache"
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.Check(provider_pb2.CheckRequest(urn=urn))
        await served.close()
        return refusal.value.details() or ""

    assert (
        asyncio.run(scene()) == "the rehearsal has no stand-in for gcp:redis/instance:Instance yet"
    )
