"""HTTP into an instance, whose network nobody else can reach."""

import asyncio
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from rehearsal.google.cloud_run.instance import Instance


class InstanceConnector(aiohttp.BaseConnector):
    """Gives an HTTP client connections to the port of one instance, whatever the URL's host."""

    def __init__(self, instance: Instance, port: int) -> None:
        super().__init__(force_close=True, limit=0)
        self._instance = instance
        self._port = port

    async def _create_connection(
        self,
        req: Any,
        traces: Any,
        timeout: Any,  # noqa: ASYNC109  # aiohttp's own signature
    ) -> ResponseHandler:
        loop = asyncio.get_running_loop()
        sock = await self._instance.connect(self._port)
        sock.setblocking(False)
        _, protocol = await loop.create_connection(lambda: ResponseHandler(loop), sock=sock)
        return protocol
