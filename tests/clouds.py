"""Both clouds' sites over real HTTP on this machine, for scripts that call them."""

import asyncio
import json
import os
import threading
from collections.abc import Coroutine, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from rehearsal import hub
from rehearsal.faults import parse
from rehearsal.google import apis, buckets, identity, oauth2, storage
from rehearsal.google.identity import CLOUD_PLATFORM, Identity
from rehearsal.google.metadata import INSTANCE, MetadataServer
from rehearsal.google.oauth2 import OAuth2
from rehearsal.google.storage import Storage
from rehearsal.internet import Handler, Internet
from rehearsal.store import Store
from rehearsal.world import CREDENTIALS, Accounts, World, client_environment

PROJECT, NUMBER, REGION = "team-llm", "104042781755", "us-central1"
BUCKET = "team-llm-weights"
MACHINE = f"stager@{PROJECT}.iam.gserviceaccount.com"
REFRESH_TOKEN = "1//a-refresh-token"
HUB_TOKEN = "hf_a_token_that_may_read_gated_models"

USER = f"serviceAccount:{MACHINE}"
BINDING = "gcp:storage/bucketIAMMember:BucketIAMMember"


class Seen(NamedTuple):
    """A request that a site got."""

    host: str
    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Clouds:
    """A running internet, and what leads a client into it."""

    world: World
    identity: Identity
    environment: dict[str, str]
    """As scripts get it: the proxy, the authority, the person's credentials; and for those that run
    in Google's cloud, the metadata server of a machine whose account is MACHINE."""
    store: Store
    """What exists, for the test's own thread."""
    requests: list[Seen]
    """What the sites were asked, in order."""

    def allow(self, role: str, member: str = USER) -> None:
        """Give somebody a role on the bucket."""
        binding = {"bucket": f"b/{BUCKET}", "role": role, "member": member}
        self.store.put(BINDING, f"{role}/{member}", binding)

    def forbid(self, role: str, member: str = USER) -> None:
        """Take it away again."""
        self.store.delete(BINDING, f"{role}/{member}")

    def objects(self) -> dict[str, bytes]:
        """What lies in the bucket, by name."""
        folder = buckets.folder(self.world, BUCKET)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextmanager
def clouds(directory: Path, speed: float = 1e6, faults: Iterable[str] = ()) -> Generator[Clouds]:
    """The clouds of one test, in a thread of their own. There is a bucket that nobody may use."""
    world = World(directory, speed)
    for fault in faults:
        world.faults.set(*parse(fault))
    accounts = Accounts(
        projects={PROJECT: NUMBER},
        google_refresh_tokens=[REFRESH_TOKEN],
        cloudflare_accounts={},
        cloudflare_zones={},
        hugging_face_tokens=[HUB_TOKEN],
    )
    (directory / "accounts.json").write_text(accounts.model_dump_json())
    write_credentials(directory, REFRESH_TOKEN)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    seen: list[Seen] = []

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    async def start() -> tuple[Identity, Internet, asyncio.Server, dict[str, str]]:
        identity, internet = Identity(world.store), Internet(world)
        sites: dict[str, Handler] = {
            oauth2.HOST: OAuth2(world, identity).handle,
            storage.HOST: Storage(world, identity).handle,
            **apis.sites(world, identity),
            **hub.sites(world),
        }
        for host, handler in sites.items():
            internet.site(host, partial(_record, seen, handler))
        metadata = web.Server(MetadataServer(world, identity, "stager").handle)
        server = await loop.create_server(metadata, "127.0.0.1", 0)
        environment = client_environment(directory, await internet.start_proxy())
        port = server.sockets[0].getsockname()[1]
        return identity, internet, server, environment | {"GCE_METADATA_HOST": f"127.0.0.1:{port}"}

    async def stop(internet: Internet, server: asyncio.Server) -> None:
        server.close()
        await internet.close()
        world.store.close()

    mint, internet, server, environment = run(start())
    store = Store(directory / "clouds.db")
    store.put(buckets.BUCKET, BUCKET, {"name": BUCKET, "project": PROJECT})
    store.put(identity.ACCOUNT, MACHINE, {"email": MACHINE, "project": PROJECT})
    store.put(INSTANCE, "stager", _instance())
    try:
        yield Clouds(world, mint, {"PATH": os.environ["PATH"], **environment}, store, seen)
    finally:
        store.close()
        run(stop(internet, server))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _record(
    seen: list[Seen], handler: Handler, request: web.BaseRequest
) -> web.StreamResponse:
    host = request.host.partition(":")[0]
    seen.append(Seen(host, request.method, str(request.rel_url), dict(request.headers)))
    return await handler(request)


def _instance() -> dict[str, Any]:
    """What the metadata server wants to know of its machine."""
    return {
        "name": "stager",
        "project": PROJECT,
        "group": "",
        "zone": f"{REGION}-a",
        "instanceId": "1",
        "image": "",
        "machineType": "",
        "metadata": {},
        "networkIp": "",
        "network": "",
        "scheduling": {},
        "serviceAccount": {"email": MACHINE, "scopes": [CLOUD_PLATFORM]},
        "tags": [],
    }


def write_credentials(directory: Path, refresh_token: str) -> None:
    """What `gcloud auth application-default login` leaves behind."""
    credentials = {
        "type": "authorized_user",
        "client_id": "an-id",
        "client_secret": "public",
        "refresh_token": refresh_token,
    }
    (directory / CREDENTIALS).write_text(json.dumps(credentials))
