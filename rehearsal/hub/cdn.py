"""The hosts from which large files really come: the hub and the registries only point there."""

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from functools import cached_property

from aiohttp import web

from rehearsal import figures
from rehearsal.byte_range import part_of
from rehearsal.world import World

HUB_CDN = "cas-bridge.xethub.hf.co"
"""Of the hub's."""
OLLAMA_CDN = "dd20bb891979d25aebc8bec07b2b3bbc.r2.cloudflarestorage.com"
"""Of registry.ollama.ai's."""
HOSTS = (HUB_CDN, OLLAMA_CDN)
PIECES = 8
"""Into which an answer is cut, each with its share of the time."""


@dataclass(frozen=True)
class Blob:
    """A file's bytes, few as they are here, and how many they would be in life."""

    content: bytes
    real_size: int

    @cached_property
    def sha256(self) -> str:
        """The file's name in stores of large files."""
        return hashlib.sha256(self.content).hexdigest()


class Cdn:
    """The site of both hosts. Who has a signed link may read, and nobody else.

    Downloads share the machine's line, so that they take as long in life when several run at once.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._faults = world.faults
        self._key = secrets.token_bytes(16)
        self._blobs: dict[str, Blob] = {}
        self._line = asyncio.Lock()

    def link(self, host: str, blob: Blob) -> str:
        """The address of a file for whoever may have it."""
        self._blobs[blob.sha256] = blob
        return f"https://{host}/{blob.sha256}?X-Amz-Signature={self._sign(blob.sha256)}"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The file, or a part of it; refusals in the words of S3."""
        name = request.path.strip("/")
        if "Authorization" in request.headers:  # a link's signature is one already
            return _refusal(400, "InvalidArgument", "Only one auth mechanism allowed")
        signature = request.query.get("X-Amz-Signature", "")
        if not hmac.compare_digest(signature.encode(), self._sign(name).encode()):
            return _refusal(403, "AccessDenied", "Access Denied")
        return await self._send(request, self._blobs[name])

    async def _send(self, request: web.BaseRequest, blob: Blob) -> web.StreamResponse:
        content = blob.content
        if self._faults.strikes("hub-wrong-byte"):
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        status, part, headers = part_of(request, len(content))
        answer = web.StreamResponse(status=status, headers=headers | {"ETag": f'"{blob.sha256}"'})
        answer.content_length = len(part)
        await answer.prepare(request)
        if request.method == "HEAD":
            return answer
        broken = bool(part) and self._faults.strikes("hub-breaks-off")
        wanted = part[: len(part) // 2] if broken else part
        step = max(1, len(content) // PIECES)
        for start in range(wanted.start, wanted.stop, step):
            piece = content[start : min(start + step, wanted.stop)]
            await self._wait(blob.real_size * len(piece) / len(content))
            await answer.write(piece)
        if broken and request.transport:
            request.transport.abort()
        return answer

    async def _wait(self, real_bytes: float) -> None:
        async with self._line:
            life = real_bytes / 1e9 * figures.seconds("weights download, 1 GB")
            await asyncio.sleep(life / self._world.speed)

    def _sign(self, name: str) -> str:
        return hmac.new(self._key, name.encode(), "sha256").hexdigest()


def _refusal(status: int, code: str, message: str) -> web.Response:
    page = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return web.Response(status=status, text=page, content_type="application/xml")
