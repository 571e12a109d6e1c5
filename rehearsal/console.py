"""The clouds' consoles: what a person does to a cloud by hand, behind Pulumi's back.

`https://console.rehearsal.test/resources` lists, `PUT` and `DELETE` of
`/resources/<type>/<id>` change; of `/faults/<name>`, they set and clear what
goes wrong (see faults.py); `/doors` lists where a stranger would get into a machine. The program
never calls it; the checks do.
"""

import json
from collections.abc import Iterator
from urllib.parse import unquote

from aiohttp import web

from rehearsal import faults
from rehearsal.google.metadata import INSTANCE
from rehearsal.google.network import admits
from rehearsal.world import World

HOST = "console.rehearsal.test"

STRANGER = "203.0.113.7/32"
"""Somebody on the internet (RFC 5737)."""
DOORS = (22, 443, 8000, 11434, 20241)
"""Ports of a machine on which something may listen: SSH, engines, cloudflared's figures."""


async def handle(request: web.BaseRequest, world: World) -> web.StreamResponse:
    """Answer one request of the console; 404 for a path that it does not have."""
    kind, *names = [unquote(it) for it in request.rel_url.raw_path.strip("/").split("/")]
    match request.method, kind, names:
        case "GET", "resources", []:
            rows = [{"type": t, "id": i, "body": body} for t, i, body in world.store.everything()]
            return web.json_response(rows)
        case "PUT", "resources", [type_, id_]:
            world.store.put(type_, id_, json.loads(await request.text()))
        case "DELETE", "resources", [type_, id_]:
            world.store.delete(type_, id_)
        case "GET", "doors", []:
            return web.json_response([*open_doors(world)])
        case "GET", "faults", []:
            return web.json_response(world.faults.all())
        case "PUT", "faults", [name]:
            try:
                world.faults.set(*faults.parse(name))
            except ValueError as error:
                raise web.HTTPBadRequest(text=str(error)) from None
        case "DELETE", "faults", [name]:
            world.faults.clear(name)
        case _:
            raise web.HTTPNotFound
    return web.json_response({})


def open_doors(world: World) -> Iterator[str]:
    """`machine:port` for every port on which the network lets a stranger in."""
    for row in world.store.all(INSTANCE).values():
        for port in DOORS:
            if row["externalIp"] and admits(world.store, row, STRANGER, port):
                yield f"{row['name']}:{port}"
