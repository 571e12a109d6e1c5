"""The internet of a rehearsal: which hosts exist, and whom ordinary clients trust."""

import asyncio
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import requests
from aiohttp import web

from rehearsal.internet import CALLER, Internet
from rehearsal.world import World, client_environment


async def hello(request: web.BaseRequest) -> web.Response:
    length = 0
    async for chunk in request.content.iter_any():
        length += len(chunk)
    return web.Response(text=f"{request.host} {length}")


async def greet_caller(request: web.BaseRequest) -> web.Response:
    return web.Response(text=f"hello {request[CALLER]}")


@asynccontextmanager
async def internet(directory: Path) -> AsyncGenerator[dict[str, str]]:
    """A running proxy with two sites; yields the environment that leads into it."""
    net = Internet(World.open(directory))
    net.site("api.example.com", hello)
    net.site("*.pkg.dev", hello, names=lambda: ["europe-docker.pkg.dev"])
    port = await net.start_proxy()
    try:
        yield client_environment(directory, port)
    finally:
        await net.close()


async def curl(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        ["curl", "--silent", "--show-error", "--max-time", "10", *arguments],
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    async def main() -> subprocess.CompletedProcess[str]:
        async with internet(directory) as environment:
            return await curl(environment, *arguments)

    return asyncio.run(main())


def test_curl_reaches_a_known_host_and_trusts_its_certificate(tmp_path: Path) -> None:
    """With the rehearsal's environment, curl speaks verified HTTPS to a known host."""
    assert run(tmp_path, "https://api.example.com/x").stdout == "api.example.com 0"


def test_a_large_upload_arrives_whole(tmp_path: Path) -> None:
    """A body above one megabyte, for which curl first asks to continue, is taken."""
    (tmp_path / "body").write_bytes(b"x" * 2_000_000)

    result = run(tmp_path, "--data-binary", f"@{tmp_path}/body", "https://api.example.com/")

    assert result.stdout == "api.example.com 2000000"


def test_an_unknown_host_does_not_resolve_and_the_known_ones_are_listed(tmp_path: Path) -> None:
    """A host outside the rehearsal is refused: no real cloud is reached by mistake."""
    refused = run(tmp_path, "https://compute.googleapis.com/")
    listed = run(tmp_path, "--proxy-header", "X: y", "--include", "https://nowhere.test/", "-v")

    assert refused.returncode == 56
    assert "502" in refused.stderr
    assert "502 Bad Gateway" in listed.stdout


def test_a_wildcard_site_knows_only_the_hosts_it_names(tmp_path: Path) -> None:
    """Where a site lists its hosts, another host of the same pattern does not exist."""
    assert run(tmp_path, "https://europe-docker.pkg.dev/").stdout == "europe-docker.pkg.dev 0"
    assert run(tmp_path, "https://asia-docker.pkg.dev/").returncode == 56


def test_plain_http_is_sent_to_https(tmp_path: Path) -> None:
    """A proxied http:// request to a known host is redirected, to an unknown one refused."""

    async def main() -> tuple[str, str]:
        async with internet(tmp_path) as environment:
            proxy = environment["HTTPS_PROXY"]
            known = await curl({}, "--proxy", proxy, "--include", "http://api.example.com/a")
            unknown = await curl({}, "--proxy", proxy, "--include", "http://nowhere.test/a")
            return known.stdout, unknown.stdout

    known, unknown = asyncio.run(main())

    assert "301 Moved Permanently\nLocation: https://api.example.com/a" in known.replace("\r", "")
    assert "502 Bad Gateway" in unknown
    assert "api.example.com" in unknown


def test_a_restarted_rehearsal_is_still_trusted(tmp_path: Path) -> None:
    """The authority survives the daemon, and only its owner can read its key."""
    first = run(tmp_path, "https://api.example.com/")
    certificate = (tmp_path / "ca.pem").read_bytes()
    second = run(tmp_path, "https://api.example.com/")

    assert first.stdout == second.stdout == "api.example.com 0"
    assert (tmp_path / "ca.pem").read_bytes() == certificate
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o777 == 0o600


def test_a_client_without_the_authority_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that trusts only the public authorities does not talk to the rehearsal."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)

    async def main() -> None:
        async with internet(tmp_path) as environment:
            proxies = {"https": environment["HTTPS_PROXY"]}
            with pytest.raises(requests.exceptions.SSLError):
                await asyncio.to_thread(
                    requests.get, "https://api.example.com/", proxies=proxies, timeout=10
                )

    asyncio.run(main())


def test_a_guest_reaches_the_same_sites_on_its_own_port(tmp_path: Path) -> None:
    """`serve` answers TLS by the name the client asks for, and tells the site who calls."""

    async def main() -> tuple[bytes, bool]:
        net = Internet(World.open(tmp_path))
        net.site("api.example.com", greet_caller)
        server = await net.serve(socket.create_server(("127.0.0.1", 0)), "a-guest")
        port = server.sockets[0].getsockname()[1]
        trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trust, server_hostname="api.example.com"
        )
        writer.write(b"GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        try:
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=trust, server_hostname="nowhere.test"
            )
            unknown_refused = False
        except OSError:  # the handshake is broken off
            unknown_refused = True
        server.close()
        await net.close()
        return answer, unknown_refused

    answer, unknown_refused = asyncio.run(main())

    assert answer.endswith(b"hello a-guest")
    assert unknown_refused
