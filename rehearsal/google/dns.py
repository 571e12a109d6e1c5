"""A guest's name server: names that have come since it booted resolve, too, as in life.

By TCP, which is the guest's resolver told to use (`options use-vc`): sockets of that kind reach
out of a guest. RFC 1035, as far as a question for addresses needs it.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

ADDRESS = ("127.1.0.1", 53)
A, IN, TTL_S = 1, 1, 1
ANSWER, NO_SUCH_NAME = 0x8180, 0x8183
"""Flags of a reply, with recursion: no error, and NXDOMAIN."""
HEADER = 12


async def serve(sock: socket.socket, find: Callable[[str], str | None]) -> asyncio.Server:
    """Answer on a listening socket; `find` has a name's IPv4 address, or None."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                told = reply(await reader.readexactly(size), find)
                writer.write(len(told).to_bytes(2, "big") + told)
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, sock=sock)


def reply(query: bytes, find: Callable[[str], str | None]) -> bytes:
    """The reply to a query with one question. A known name has no address of another family."""
    labels, at = list[str](), HEADER
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode("ascii", "replace"))
        at += 1 + size
    question = query[HEADER : at + 5]
    kind = int.from_bytes(query[at + 1 : at + 3], "big")
    address = find(".".join(labels).lower())
    records = b""
    if address and kind == A:
        fields = (0xC00C, 2), (A, 2), (IN, 2), (TTL_S, 4), (4, 2)
        records = b"".join(value.to_bytes(width, "big") for value, width in fields)
        records += socket.inet_aton(address)
    flags = ANSWER if address else NO_SUCH_NAME
    counts = (1, 1 if records else 0, 0, 0)
    header = query[:2] + flags.to_bytes(2, "big") + b"".join(n.to_bytes(2, "big") for n in counts)
    return header + question + records
