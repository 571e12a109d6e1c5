"""The process that plays both clouds: wires the parts together and waits to be stopped."""

import argparse
import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rehearsal import console, hub, providers
from rehearsal.cloudflare.edge import Edge
from rehearsal.docker_hub import DockerHub
from rehearsal.google import apis, cloud_build, cloud_logging, oauth2, storage
from rehearsal.google.cloud_build import CloudBuild
from rehearsal.google.cloud_logging import CloudLogging
from rehearsal.google.cloud_run.cloud_run import CloudRun
from rehearsal.google.cloud_run.platform import Platform
from rehearsal.google.guest import Surroundings
from rehearsal.google.identity import Identity
from rehearsal.google.instance_groups import InstanceGroups
from rehearsal.google.oauth2 import OAuth2
from rehearsal.google.registry import Registry
from rehearsal.google.secret_manager import SecretManager
from rehearsal.google.single_instances import SingleInstances
from rehearsal.google.storage import Storage
from rehearsal.internet import Internet
from rehearsal.machines import machine
from rehearsal.world import World, command_environment


async def run(world: World, clock: float = 1.0) -> None:
    """Play the clouds until SIGTERM or SIGINT; daemon.json says when they are ready.

    `clock` seconds pass in one for the commands that `pulumi up` runs.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _outlive_parent)
    before = _previous_ports(world)
    async with AsyncExitStack() as stack:
        identity = Identity(world.store)
        internet = Internet(world)
        stack.push_async_callback(internet.close)
        registry = Registry(world, identity)
        secret_manager = SecretManager(world, identity)
        internet.site(oauth2.HOST, OAuth2(world, identity).handle)
        internet.site("secretmanager.googleapis.com", secret_manager.handle)
        logs = CloudLogging(world, identity)
        internet.site(cloud_logging.HOST, logs.handle)
        internet.site(storage.HOST, Storage(world, identity).handle)
        looks = apis.sites(world, identity) | DockerHub().sites()
        for host, handler in looks.items():
            internet.site(host, handler)
        internet.site("*.pkg.dev", registry.handle, names=registry.names)
        internet.site(console.HOST, partial(console.handle, world=world))
        for host, handler in hub.sites(world).items():
            internet.site(host, handler)
        edge = Edge(world, internet)
        stack.push_async_callback(edge.close)

        internet_port = await _same_port(internet.start_proxy, before.get("internet", 0))
        around = Surroundings(
            world=world,
            identity=identity,
            boot=machine.boot,
            names=lambda: [name for name in internet.names() if name != console.HOST],
            serve_https=internet.serve,
            accept_tunnels=edge.tunnels.serve,
            ca=world.directory / "ca.pem",
        )
        builds = CloudBuild(around, secret_manager, logs)
        builds.start()
        stack.push_async_callback(builds.close)
        internet.site(cloud_build.HOST, builds.handle)
        cloud_run = CloudRun(Platform(around, registry, secret_manager), internet)
        cloud_run.start()
        stack.push_async_callback(cloud_run.close)
        groups = InstanceGroups(around)
        groups.start()
        stack.push_async_callback(groups.close)
        singles = SingleInstances(around)
        singles.start()
        stack.push_async_callback(singles.close)
        served = await providers.serve(
            world,
            ports=before.get("providers", {}),
            environment=command_environment(world.directory, internet_port, clock),
            cwd=Path.cwd(),
        )
        stack.push_async_callback(served.close)
        ready = {"pid": os.getpid(), "internet": internet_port, "providers": served.ports}
        _write(world, ready)
        await stop.wait()


def _outlive_parent() -> None:
    """The rehearsal that started these clouds leaves them up: no longer die with it."""
    ctypes.CDLL(None).prctl(1, 0)  # PR_SET_PDEATHSIG: none


async def _same_port(start: Any, port: int) -> int:
    """The port of a previous daemon, so that its exports go on working, or a free one."""
    try:
        return await start(port)
    except OSError:
        logging.warning("port %d is taken; using another one", port)
        return await start(0)


def _previous_ports(world: World) -> dict[str, Any]:
    try:
        return json.loads((world.directory / "ports.json").read_text())
    except (OSError, ValueError):
        return {}


def _write(world: World, ready: dict[str, Any]) -> None:
    """daemon.json appears whole or not at all; ports.json outlives the daemon."""
    (world.directory / "ports.json").write_text(json.dumps(ready))
    draft = world.directory / "daemon.json.new"
    draft.write_text(json.dumps(ready))
    draft.rename(world.directory / "daemon.json")


def main() -> None:
    """The command line that scripts/rehearse uses."""
    parser = argparse.ArgumentParser(prog="rehearsal.daemon")
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--speed", type=float, required=True)
    parser.add_argument("--clock", type=float, default=1.0)
    parser.add_argument("--gguf", type=Path, default=None)
    options = parser.parse_args()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s"
    )
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    world = World(options.world.resolve(), options.speed, gguf=options.gguf)
    asyncio.run(run(world, options.clock))


if __name__ == "__main__":
    main()
