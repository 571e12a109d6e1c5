"""An HTTP hop: what the edge and cloudflared have in common when they pass requests on."""

from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
    *("te", "trailer", "transfer-encoding", "upgrade"),
}
SERVER: dict[str, Any] = {
    "handler_cancellation": True,  # a client that hangs up must stop the engine's work
    "access_log": None,
    "auto_decompress": False,
    "max_line_size": 32768,
    "max_field_size": 32768,
}
"""Arguments of every aiohttp Server here."""


def client(connector: aiohttp.BaseConnector | None = None, **timeouts: float) -> Any:
    """An HTTP client that adds nothing of its own to what it carries; `timeouts` in seconds."""
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, **timeouts),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
    )


def headers_of(
    message: web.BaseRequest | aiohttp.ClientResponse, dropped: Iterable[str] = ()
) -> CIMultiDict[str]:
    """A message's headers without those of the hop and without `dropped` (lower case)."""
    gone = {*HOP_BY_HOP, *dropped}
    return CIMultiDict((k, v) for k, v in message.headers.items() if k.lower() not in gone)


async def send(
    session: aiohttp.ClientSession,
    request: web.BaseRequest,
    origin: str,
    headers: Mapping[str, str],
    **options: Any,
) -> aiohttp.ClientResponse:
    """Send a request on to `origin` (scheme and authority), its path byte for byte as it came."""
    return await session.request(
        request.method,
        URL(f"{origin}{request.raw_path}", encoded=True),
        headers=headers,
        data=request.content if request.body_exists else None,
        allow_redirects=False,
        **options,
    )


async def answer(
    request: web.BaseRequest, upstream: aiohttp.ClientResponse, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Pass an answer on as it comes, nothing held back; one that breaks off breaks off here too."""
    response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
    await response.prepare(request)
    try:
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, TimeoutError):
        if request.transport:
            request.transport.abort()
    return response
