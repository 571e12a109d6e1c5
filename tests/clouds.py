"""Both clouds' sites over real HTTP on this machine, for scripts that call them."""

import asyncio
import json
import os
import threading
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rehearsal import hub
from rehearsal.google import oauth2, storage
from rehearsal.google.identity import Identity
from rehearsal.google.oauth2 import OAuth2
from rehearsal.google.storage import Storage
from rehearsal.internet import Internet
from rehearsal.store import Store
from rehearsal.world import CREDENTIALS, Accounts, World, client_environment

PROJECT, NUMBER, REGION = "team-llm", "104042781755", "us-central1"
REFRESH_TOKEN = "1//a-refresh-token"
HUB_TOKEN = "hf_a_token_that_may_read_gated_models"


@dataclass
class Clouds:
    """A running internet, and what leads a client into it."""

    world: World
    identity: Identity
    internet: Internet
    environment: dict[str, str]
    """As scripts get it: the proxy, the authority, the person's credentials."""
    store: Store
    """What exists, for the test's own thread."""


@contextmanager
def clouds(
    directory: Path, speed: float = 1e6, faults: frozenset[str] = frozenset()
) -> Generator[Clouds]:
    """The clouds of one test, in a thread of their own."""
    world = World(directory, speed, faults=faults)
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

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    async def start() -> tuple[Identity, Internet, int]:
        identity, internet = Identity(world.store), Internet(world)
        internet.site(oauth2.HOST, OAuth2(world, identity).handle)
        internet.site(storage.HOST, Storage(world, identity).handle)
        for host, handler in hub.sites(world).items():
            internet.site(host, handler)
        return identity, internet, await internet.start_proxy()

    async def stop(internet: Internet) -> None:
        await internet.close()
        world.store.close()

    identity, internet, port = run(start())
    environment = {"PATH": os.environ["PATH"], **client_environment(directory, port)}
    store = Store(directory / "clouds.db")
    try:
        yield Clouds(world, identity, internet, environment, store)
    finally:
        store.close()
        run(stop(internet))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def write_credentials(directory: Path, refresh_token: str) -> None:
    """What `gcloud auth application-default login` leaves behind."""
    credentials = {
        "type": "authorized_user",
        "client_id": "an-id",
        "client_secret": "public",
        "refresh_token": refresh_token,
    }
    (directory / CREDENTIALS).write_text(json.dumps(credentials))
