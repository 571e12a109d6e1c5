"""The rehearsal's Hugging Face hub, served over HTTP on this machine."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Generator
from pathlib import Path

from aiohttp import web

from rehearsal.hub import Hub
from rehearsal.world import Accounts, World

TOKEN = "hf_a_good_token"
"""Of an account that may read gated models."""


@contextlib.contextmanager
def hub_site(directory: Path) -> Generator[str]:
    """The address of the hub, whose world lies in `directory`."""
    world = World(directory)
    accounts = Accounts(
        projects={}, cloudflare_accounts={}, cloudflare_zones={}, hugging_face_tokens=[TOKEN]
    )
    (world.directory / "accounts.json").write_text(accounts.model_dump_json())
    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.new_event_loop()

    async def start() -> None:
        server = web.Server(Hub(world).handle)
        await loop.create_server(server, sock=listener)

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        listener.close()
