"""The provider plugins that the engine attaches to: gcp, cloudflare and command over gRPC."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from rehearsal.providers import cloudflare, google, protocol, schema
from rehearsal.providers.cloudflare import Cloudflare
from rehearsal.providers.command import COMMAND, Command
from rehearsal.providers.google import Google
from rehearsal.providers.protocol import Served
from rehearsal.world import World

__all__ = ["Served", "serve"]


async def serve(
    world: World, *, ports: Mapping[str, int], environment: Mapping[str, str], cwd: Path
) -> Served:
    """Serve all packages; `environment` and `cwd` are those in which local commands run.

    `ports` (package name -> port) are taken where they are free, so that a
    restarted daemon answers where the old one did.
    """
    packages = (
        Google(await asyncio.to_thread(schema.load, "gcp", [row.token for row in google.ROWS])),
        Cloudflare(
            await asyncio.to_thread(
                schema.load, "cloudflare", [row.token for row in cloudflare.ROWS]
            )
        ),
        Command(await asyncio.to_thread(schema.load, "command", [COMMAND]), cwd, environment),
    )
    return await protocol.start(world, packages, ports)
