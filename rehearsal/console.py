"""The clouds' consoles: what a person does to a cloud by hand, behind Pulumi's back.

`https://console.rehearsal.test/resources` lists, `PUT` and `DELETE` of
`/resources/<type>/<id>` change. The program never calls it; the checks do.
"""

import json
from urllib.parse import unquote

from aiohttp import web

from rehearsal.store import Store

HOST = "console.rehearsal.test"


async def handle(request: web.BaseRequest, store: Store) -> web.StreamResponse:
    """Answer one request of the console; 404 for a path that it does not have."""
    parts = request.rel_url.raw_path.strip("/").split("/")
    if parts[0] != "resources":
        raise web.HTTPNotFound
    if len(parts) == 1 and request.method == "GET":
        rows = [{"type": t, "id": i, "body": body} for t, i, body in store.everything()]
        return web.json_response(rows)
    if len(parts) == 3 and request.method in ("PUT", "DELETE"):
        type_, id_ = unquote(parts[1]), unquote(parts[2])
        if request.method == "PUT":
            store.put(type_, id_, json.loads(await request.text()))
        else:
            store.delete(type_, id_)
        return web.json_response({})
    raise web.HTTPNotFound
