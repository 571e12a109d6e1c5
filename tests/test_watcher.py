"""Whoever tries every door without a token notices one that is open."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from rehearsal.errors import RehearsalError
from rehearsal.internet import Internet
from rehearsal.watcher import Watch, Watcher
from rehearsal.world import World, client_environment

HOST = "llm.example.com"


def tried(folder: Path, status: int, text: str) -> Watch:
    """What a watcher sees of a name that answers so, when it has tried it twice."""
    asked: list[str] = []

    async def main() -> Watch:
        twice = asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.Response:
            asked.append(request.method)
            if len(asked) > 2:
                twice.set()
            return web.Response(status=status, text=text)

        net = Internet(World.open(folder))
        net.site(HOST, answer)
        watcher = Watcher(HOST, client_environment(folder, await net.start_proxy()))
        try:
            await twice.wait()
            return await asyncio.to_thread(watcher.seen)
        finally:
            await asyncio.to_thread(watcher.close)
            await net.close()

    watch = asyncio.run(main())
    assert {"GET", "POST"} <= {*asked}
    return watch


@pytest.mark.parametrize(
    ("status", "text"), [(403, "Forbidden"), (401, ""), (530, "error code: 1033")]
)
def test_a_closed_door_is_closed(tmp_path: Path, status: int, text: str) -> None:
    """What Access and the edge say to strangers is no way in."""
    watch = tried(tmp_path, status, text)

    assert watch.tried["public name"] > 1
    assert watch.let_in == []


@pytest.mark.parametrize(
    ("status", "text"), [(200, "hello"), (404, '{"object": "error"}'), (302, "")]
)
def test_an_open_door_is_noticed(tmp_path: Path, status: int, text: str) -> None:
    """An answer that is not a refusal, or that an engine has written, means that one got in."""
    watch = tried(tmp_path, status, text)

    assert str(status) in watch.let_in[0]


def test_nobody_mistakes_a_watcher_that_died_for_closed_doors(tmp_path: Path) -> None:
    """A fault whose doors nobody tried has not kept its promise."""
    watcher = Watcher(HOST, client_environment(tmp_path, 1) | {"SSL_CERT_FILE": "/nothing"})
    try:
        with pytest.raises(RehearsalError, match="nobody tries the doors"):
            watcher.seen()
    finally:
        watcher.close()
