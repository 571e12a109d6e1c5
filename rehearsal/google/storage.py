"""storage.googleapis.com: the objects of buckets, by the JSON API and by plain addresses."""

import json
import re
import secrets
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from rehearsal.byte_range import part_of
from rehearsal.errors import CloudError
from rehearsal.google import buckets
from rehearsal.google.identity import CLOUD_PLATFORM, Caller, Identity
from rehearsal.google.rest import cut
from rehearsal.store import Body
from rehearsal.world import World

HOST = "storage.googleapis.com"
QUANTUM = 262144
"""Bytes: parts of a resumable upload are multiples of it, but for the last."""
PAGE = 1000
"""Objects in one answer to a listing."""

_UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o")
_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)")
_BUCKET = re.compile(r"/storage/v1/b/([^/]+)")
_BUCKETS = "/storage/v1/b"
_PLAIN = re.compile(r"/([^/]+)/(.+)")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")

_TOO_SMALL = (
    "Invalid request.  The number of bytes uploaded is required to be equal or greater than"
    " 262144, except for the final request (it's recommended to be the exact multiple of 262144)."
    "  The received request contained {} bytes, which does not meet this requirement."
)


@dataclass
class Upload:
    """A resumable upload: whoever has its address may go on with it, for as long as we live."""

    bucket: str
    name: str
    about: Body
    part: Path
    done: Body | None = None

    @property
    def received(self) -> int:
        """Bytes that are kept."""
        return self.part.stat().st_size


class Piece(NamedTuple):
    """What a PUT to a resumable upload brings, as its Content-Range says."""

    start: int | None
    """None when it brings nothing and only asks."""
    total: int | None


class Storage:
    """The site; `handle` answers one request.

    Absent on purpose: multipart uploads, preconditions, versions, and what else neither our
    scripts nor the engines use. Making and deleting buckets is the providers' part.
    """

    def __init__(self, world: World, identity: Identity) -> None:
        self._world = world
        self._identity = identity
        self._uploads: dict[str, Upload] = {}
        self._faults = world.faults

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer of the JSON API or, to a plain address, of the XML API; refusals included."""
        plain = not request.path.startswith(("/storage/", "/upload/", "/download/"))
        try:
            return self._plain(request) if plain else await self._json(request)
        except CloudError as error:
            if plain:
                page = f"<Code>{error.reason}</Code><Message>{error.message}</Message>"
                text = f"<?xml version='1.0' encoding='UTF-8'?><Error>{page}</Error>"
                return web.Response(status=error.code, text=text, content_type="application/xml")
            told = {"message": error.message, "domain": "global", "reason": error.reason}
            reply = {"code": error.code, "message": error.message, "errors": [told]}
            return web.json_response({"error": reply}, status=error.code)

    async def _json(self, request: web.BaseRequest) -> web.StreamResponse:
        path, method = request.path, request.method
        if match := _UPLOAD.fullmatch(path):
            if method in ("PUT", "DELETE") and "upload_id" in request.query:
                return await self._continue(request)
            if method == "POST":
                return await self._upload(request, match[1])
        elif (match := _LIST.fullmatch(path)) and method == "GET":
            return self._list(request, match[1])
        elif match := _OBJECT.fullmatch(path):
            if method == "GET" and request.query.get("alt") == "media":
                return _content(request, self._read(request, *match.groups()), self._world)
            if method == "GET":
                return web.json_response(self._read(request, *match.groups()))
            if method == "DELETE":
                return self._delete(request, *match.groups())
        elif (match := _BUCKET.fullmatch(path)) and method == "GET":
            bucket = self._bucket(request, match[1], "storage.buckets.get")
            return web.json_response(_public(bucket))
        elif path == _BUCKETS and method == "GET":
            return self._list_buckets(request)
        raise CloudError(404, f"The rehearsal does not play {method} {path}.", "notFound")

    def _plain(self, request: web.BaseRequest) -> web.Response:
        match = _PLAIN.fullmatch(request.path)
        if not match or request.method not in ("GET", "HEAD"):
            message = f"The rehearsal does not play {request.method} {request.path}."
            raise CloudError(400, message, "InvalidArgument")
        try:
            return _content(request, self._read(request, *match.groups()), self._world)
        except CloudError as error:
            code = {401: "AccessDenied", 403: "AccessDenied", 404: "NoSuchKey"}
            raise CloudError(error.code, error.message, code[error.code]) from None

    # Who may

    def _bucket(self, request: web.BaseRequest, name: str, *permissions: str) -> Body:
        """The bucket, if the caller has all these permissions on it. CloudError 401, 403 or 404."""
        caller = self._caller(request.headers.get("Authorization"), permissions[0])
        bucket = self._world.store.get(buckets.BUCKET, name)
        if bucket is None:
            raise CloudError(404, "The specified bucket does not exist.", "notFound")
        places = (f"b/{name}", f"projects/{bucket['project']}")
        for permission in permissions:
            if CLOUD_PLATFORM not in caller.scopes or not self._identity.allowed(
                caller, permission, *places
            ):
                raise CloudError(403, _denied(caller.email, permission), "forbidden")
        return bucket

    def _caller(self, authorization: str | None, permission: str) -> Caller:
        if not authorization:
            raise CloudError(401, _denied("Anonymous caller", permission), "required")
        try:
            return self._identity.caller(authorization)
        except CloudError:
            raise CloudError(401, "Invalid Credentials", "authError") from None

    def _list_buckets(self, request: web.BaseRequest) -> web.Response:
        """A project's buckets, page by page."""
        permission, owner = "storage.buckets.list", request.query.get("project", "")
        caller = self._caller(request.headers.get("Authorization"), permission)
        if not self._identity.allowed(caller, permission, f"projects/{owner}"):
            raise CloudError(403, _denied(caller.email, permission), "forbidden")
        rows = self._world.store.all(buckets.BUCKET).values()
        found = [_public(row) for row in rows if row["project"] == owner]
        items, more = cut(found, request.query, PAGE)
        listed = {"items": items} if items else {}
        return web.json_response({"kind": "storage#buckets"} | listed | more)

    # Reading and deleting

    def _read(self, request: web.BaseRequest, bucket: str, name: str) -> Body:
        """An object's row. CloudError 404, or 403 for who may not know what there is."""
        self._bucket(request, bucket, "storage.objects.get")
        found = buckets.get(self._world, bucket, name)
        if found is None:
            self._bucket(request, bucket, "storage.objects.list")
            raise CloudError(404, f"No such object: {bucket}/{name}", "notFound")
        return found

    def _delete(self, request: web.BaseRequest, bucket: str, name: str) -> web.Response:
        self._bucket(request, bucket, "storage.objects.delete")
        found = buckets.get(self._world, bucket, name)
        if found is None:
            raise CloudError(404, f"No such object: {bucket}/{name}", "notFound")
        buckets.remove(self._world, found)
        return web.Response(status=204)

    def _list(self, request: web.BaseRequest, bucket: str) -> web.Response:
        """By `prefix`, in pages; a page's token is the last name of the one before.

        Of each object all, or what `fields` asks for (`items(name,size)`); in many lines, as Google
        answers unless `prettyPrint` is false (cloud.google.com/apis/docs/system-parameters).
        """
        self._bucket(request, bucket, "storage.objects.list")
        prefix, after = request.query.get("prefix", ""), request.query.get("pageToken", "")
        rows = [
            it
            for it in buckets.contents(self._world, bucket)
            if it["name"].startswith(prefix) and it["name"] > after
        ]
        size = min(int(request.query.get("maxResults", PAGE)), PAGE)
        asked = re.search(r"items\(([\w,]+)\)", request.query.get("fields", ""))
        keys = asked[1].split(",") if asked else None
        items = [{key: it[key] for key in keys or it if key in it} for it in rows[:size]]
        reply: Body = {"kind": "storage#objects", "items": items}
        if len(rows) > size:
            reply["nextPageToken"] = rows[size - 1]["name"]
        return web.json_response(reply, dumps=partial(json.dumps, indent=2))

    # Uploading

    async def _upload(self, request: web.BaseRequest, bucket: str) -> web.Response:
        """A whole object (`uploadType=media`), or the beginning of a resumable upload."""
        kind = request.query.get("uploadType")
        if kind not in ("media", "resumable"):
            raise CloudError(400, f"The rehearsal does not play uploadType={kind}.", "invalid")
        about: Body = await request.json() if kind == "resumable" and request.can_read_body else {}
        name = request.query.get("name") or about.get("name")
        if not name:
            raise CloudError(400, "Required", "required")
        permissions = ["storage.objects.create"]
        if buckets.get(self._world, bucket, name):
            if request.query.get("ifGenerationMatch") == "0":
                message = "At least one of the pre-conditions you specified did not hold."
                raise CloudError(412, message, "conditionNotMet")
            permissions.append("storage.objects.delete")
        self._bucket(request, bucket, *permissions)
        header = "Content-Type" if kind == "media" else "X-Upload-Content-Type"
        about.setdefault("contentType", request.headers.get(header))
        id = secrets.token_urlsafe(64)
        part = self._world.directory / "uploads" / id
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(await request.read() if kind == "media" else b"")
        if kind == "media":
            return web.json_response(buckets.put(self._world, bucket, name, part, about))
        self._uploads[id] = Upload(bucket, name, about, part)
        location = f"https://{HOST}{request.path}?uploadType=resumable&upload_id={id}"
        return web.Response(headers={"Location": location, "X-GUploader-UploadID": id})

    async def _continue(self, request: web.BaseRequest) -> web.Response:
        """More of a resumable upload, or a question after it. Its address is its permission."""
        id = request.query["upload_id"]
        upload = self._uploads.get(id)
        if upload is None:
            raise CloudError(404, "No such upload", "notFound")
        if request.method == "DELETE":
            del self._uploads[id]
            upload.part.unlink(missing_ok=True)
            return web.Response(status=499, reason="Client Closed Request")
        piece, body = _piece(request), await request.read()
        if upload.done is None and piece.start is not None:
            self._take(request, upload, piece, body)
        if upload.done is None and piece.total == upload.received:
            upload.done = buckets.put(
                self._world, upload.bucket, upload.name, upload.part, upload.about
            )
        if upload.done is not None:
            return web.json_response(upload.done)
        kept = {"Range": f"bytes=0-{upload.received - 1}"} if upload.received else {}
        return web.Response(status=308, reason="Resume Incomplete", headers=kept)

    def _take(self, request: web.BaseRequest, upload: Upload, piece: Piece, body: bytes) -> None:
        """Keep what is new of a piece, in whole quanta unless it is the last."""
        start = piece.start or 0
        if start > upload.received:
            message = f"Invalid request. Bytes {upload.received} to {start} are missing."
            raise CloudError(400, message, "invalid")
        last = piece.total == start + len(body)
        if not last and len(body) < QUANTUM:
            raise CloudError(400, _TOO_SMALL.format(len(body)), "badRequest")
        broken = self._faults.strikes("upload-breaks-off")
        if broken:
            body = body[: len(body) // 2]
        if broken or not last:
            body = body[: len(body) - len(body) % QUANTUM]
        with upload.part.open("ab") as file:
            file.write(body[upload.received - start :])
        if broken and request.transport:
            request.transport.abort()


def _piece(request: web.BaseRequest) -> Piece:
    said = request.headers.get("Content-Range")
    if said is None:
        return Piece(0, request.content_length or 0)
    match = _CONTENT_RANGE.fullmatch(said)
    if not match:
        raise CloudError(400, f"Failed to parse Content-Range header: {said}", "badContent")
    start, _, total = match.groups()
    return Piece(None if start is None else int(start), None if total == "*" else int(total))


def _content(request: web.BaseRequest, about: Body, world: World) -> web.Response:
    """An object's bytes, or the part that a Range header asks for."""
    content = buckets.file(world, about).read_bytes()
    status, part, headers = part_of(request, len(content))
    headers |= {
        "ETag": about["etag"],
        "X-Goog-Generation": about["generation"],
        "X-Goog-Hash": f"md5={about['md5Hash']}",
        "X-Goog-Stored-Content-Length": about["size"],
    }
    body = content[part.start : part.stop]
    type = about["contentType"]
    return web.Response(status=status, body=body, headers=headers, content_type=type)


def _public(bucket: Body) -> Body:
    """A bucket as the JSON API shows it, as far as anybody here looks."""
    keys = ("name", "location", "storageClass", "timeCreated", "updated", "selfLink")
    shown = {"kind": "storage#bucket", "id": bucket["name"]}
    shown |= {"labels": bucket.get("effectiveLabels") or {}}
    return shown | {key: bucket.get(key) for key in keys}


def _denied(who: str, permission: str) -> str:
    of_bucket = permission.startswith("storage.buckets.") or permission == "storage.objects.list"
    noun = "bucket" if of_bucket else "object"
    return (
        f"{who} does not have {permission} access to the Google Cloud Storage {noun}."
        f" Permission '{permission}' denied on resource (or it may not exist)."
    )
