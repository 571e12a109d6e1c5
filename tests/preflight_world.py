"""Both clouds, the hub and Docker Hub over real HTTP, in which a stack would come up.

They run in a process of their own. What it is told in `manner.json` spoils its answers.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from components.settings import Settings
from rehearsal import hub
from rehearsal.cloudflare.edge import Edge
from rehearsal.docker_hub import DockerHub
from rehearsal.google import apis, oauth2
from rehearsal.google.identity import Identity
from rehearsal.google.oauth2 import OAuth2
from rehearsal.internet import Handler, Internet
from rehearsal.store import Store
from rehearsal.world import Accounts, World, client_environment
from scripts import preflight
from scripts.checks import check
from scripts.checks.check import Finding
from scripts.checks.google import ASKED
from scripts.preflight import Secrets
from tests.clouds import HUB_TOKEN, NUMBER, REFRESH_TOKEN, write_credentials
from tests.stack_config import API_TOKEN, SECRET_KEYS, configuration

ROOT = Path(__file__).parents[1]
PROJECT, REGION = "example-project", "us-central1"
ACCOUNT, ZONE = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
SECRETS = Secrets(API_TOKEN, HUB_TOKEN)
ASKED_APIS = [f"{name}.googleapis.com" for name in ASKED]
OWNED = Accounts(
    projects={PROJECT: NUMBER},
    google_refresh_tokens=[REFRESH_TOKEN],
    google_apis=ASKED_APIS,
    cloudflare_accounts={ACCOUNT: "example"},
    cloudflare_zones={ZONE: "example.com"},
    cloudflare_tokens=[API_TOKEN],
    hugging_face_tokens=[HUB_TOKEN],
)
"""With it, the committed stacks would come up."""
PORTAL = "<!DOCTYPE html><html><body>Log in to the hotel's network.</body></html>"


def settings_of(stack: str = "dev", changes: Mapping[str, str] | None = None) -> Settings:
    """A committed stack's settings, with changes (`gpuCount`) to its configuration."""
    keys = {
        key if ":" in key else f"llm-endpoint:{key}": value
        for key, value in (changes or {}).items()
    }
    return Settings.parse(configuration(stack, keys), SECRET_KEYS)


@dataclass
class Here:
    """A running world."""

    directory: Path
    store: Store
    """What exists."""
    environment: dict[str, str]
    """What leads a client here."""

    def own(self, **changes: Any) -> None:
        """What the rehearsing person has, but for changes."""
        owned = OWNED.model_copy(update=changes)
        (self.directory / "accounts.json").write_text(owned.model_dump_json())

    def answer(self, **manner: Any) -> None:
        """How the sites answer from now on: see `_spoilt`."""
        draft = self.directory / "manner.new"
        draft.write_text(json.dumps(manner))
        draft.rename(self.directory / "manner.json")

    def begin(self) -> None:
        """Everything as it was at first."""
        self.own()
        self.answer()
        write_credentials(self.directory, REFRESH_TOKEN)
        for type, id, _ in list(self.store.everything()):
            self.store.delete(type, id)

    def look(
        self,
        stack: str = "dev",
        changes: Mapping[str, str] | None = None,
        secrets: Secrets = SECRETS,
        limit_s: float = check.LIMIT_S,
    ) -> dict[str, Finding]:
        """What the preflight of a stack finds, by check; with the environment of `here`."""
        with preflight.checks(settings_of(stack, changes), secrets) as wanted:
            return {finding.name: finding for finding in check.run(wanted, limit_s)}

    def command(
        self, *arguments: str, of: str = "preflight", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command itself, as somebody with both tokens in the environment."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "CLOUDFLARE_API_TOKEN": SECRETS.cloudflare,
            "HF_TOKEN": SECRETS.hugging_face,
            **self.environment,
            **more,
        }
        return subprocess.run(
            [*f"scripts/{of}".split(), *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )


@contextmanager
def running(directory: Path) -> Generator[Here]:
    """A world in which the committed stacks would come up."""
    (directory / "accounts.json").write_text(OWNED.model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.preflight_world", str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    port = int(process.stdout.readline())
    store = Store(directory / "clouds.db")
    try:
        yield Here(directory, store, client_environment(directory, port))
    finally:
        store.close()
        process.stdin.close()
        process.stdout.close()
        process.wait(30)


# The process


async def _serve(world: World) -> None:
    """Serve until nobody holds our input any more."""
    identity, internet = Identity(world.store), Internet(world)
    sites: dict[str, Handler] = {
        oauth2.HOST: OAuth2(world, identity).handle,
        **apis.sites(world, identity),
        **DockerHub().sites(),
        **hub.sites(world),
    }
    site = internet.site

    def spoilable(pattern: str, handler: Handler, *rest: Any, **more: Any) -> None:
        site(pattern, partial(_spoilt, world.directory, handler), *rest, **more)

    internet.site = spoilable
    for host, handler in sites.items():
        internet.site(host, handler)
    edge = Edge(world, internet)
    print(await internet.start_proxy(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await edge.close()


async def _spoilt(
    directory: Path, handler: Handler, request: web.BaseRequest
) -> web.StreamResponse:
    """The site's answer, or what stands in the way of it.

    `delay_s` comes before it; `status` and `text` in its place; of one that is `cut`, only so many
    bytes come. `only` names the hosts that are meant.
    """
    path = directory / "manner.json"
    manner: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    host = request.host.partition(":")[0]
    if host not in manner.get("only", [host]):
        return await handler(request)
    await asyncio.sleep(manner.get("delay_s", 0))
    if "text" in manner:
        kind = "text/html" if manner["text"].startswith("<") else "application/json"
        return web.Response(status=manner["status"], text=manner["text"], content_type=kind)
    answer = await handler(request)
    if "cut" in manner and request.transport and isinstance(answer, web.Response):
        body = bytes(answer.body or b"")  # pyright: ignore[reportArgumentType] -- of bytes here
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body) + 10}\r\n\r\n"
        request.transport.write(head.encode() + body[: manner["cut"]])
        request.transport.close()
    return answer


if __name__ == "__main__":
    asyncio.run(_serve(World(Path(sys.argv[1]), 1e6)))
