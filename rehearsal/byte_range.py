"""Which bytes of a file an HTTP request asks for, and how an answer says so."""

from typing import NamedTuple

from aiohttp import web


class Part(NamedTuple):
    """What to answer."""

    status: int
    bytes: range
    headers: dict[str, str]


def part_of(request: web.BaseRequest, size: int) -> Part:
    """The whole of a file of `size` bytes, the part that a Range header names, or 416.

    A header that cannot be understood counts as none, as RFC 9110 has it (14.2).
    """
    try:
        wanted = request.http_range
    except ValueError:
        wanted = slice(None)
    headers = {"Accept-Ranges": "bytes"}
    if (wanted.start, wanted.stop) == (None, None):
        return Part(200, range(size), headers)
    part = range(*wanted.indices(size))
    if not part:
        return Part(416, part, headers | {"Content-Range": f"bytes */{size}"})
    said = f"bytes {part.start}-{part.stop - 1}/{size}"
    return Part(206, part, headers | {"Content-Range": said})
