"""The Hugging Face hub's site: which models exist, who may read them, what is in them.

Answers what a download of a model asks: `/api/models/MODEL`, `/api/models/MODEL/tree/REVISION`,
`/MODEL/resolve/REVISION/FILE`; and `/api/whoami-v2`, whose token it is that asks.
"""

import hashlib
import re
from functools import lru_cache
from typing import Any

from aiohttp import web

from components.models import Model
from rehearsal.hub.cdn import HUB_CDN, Cdn
from rehearsal.hub.models import config, model
from rehearsal.hub.repository import Repository
from rehearsal.world import World

HOST = "huggingface.co"
MODEL = r"(?P<model>[\w.-]+/[\w.-]+)"
ABOUT = re.compile(rf"/api/models/{MODEL}(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
FILE = re.compile(rf"/{MODEL}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
COMMIT = re.compile("[0-9a-f]{40}")
PAGE = 1000
"""Files in one answer of /tree."""


class Hub:
    """The site; accepts the tokens of the world's account holder, who may read gated models."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.cdn = Cdn(world)
        self._faults = world.faults

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """One request. Status, body and X-Error-Code as the hub's own."""
        if request.path == "/api/whoami-v2":
            return self._who(request)
        about, file = ABOUT.fullmatch(request.path), FILE.fullmatch(request.path)
        path = about or file
        if path is None:
            return _error(404, "EntryNotFound", "Entry not found")
        name, found = path["model"], model(path["model"])
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        known = token in self._world.accounts.hugging_face_tokens
        if scheme and not known:
            return _error(401, "", "Invalid credentials in Authorization header")
        if self._faults.strikes("hub-busy"):
            busy = _error(429, "", "We had to rate limit you.")
            busy.headers["Retry-After"] = "1"
            return busy
        if found is None:
            # Strangers are not told whether a repository is private or missing.
            status, words = (
                (404, "Repository not found") if known else (401, "Invalid username or password.")
            )
            return _error(status, "RepoNotFound", words)
        other = self._world.accounts.hugging_face_sizes.get(name)
        here = _repository(name, path["revision"] or "main", other or found.weights)
        if here is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {path['revision']}")
        if about and about["what"] == "tree":
            return _page(request, here.tree())
        if about:
            return web.json_response(_information(found, here))
        # What is gated are the files; anybody may see their names.
        let_in = known and name not in self._world.accounts.hugging_face_refusals
        if found.gated and (not let_in or self._faults.strikes("hub-licence")):
            return _gated(name, known)
        return self._file(here, path["file"])

    def _who(self, request: web.BaseRequest) -> web.Response:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self._world.accounts.hugging_face_tokens:
            return _error(401, "", "Invalid username or password.")
        shown = {"displayName": "rehearsal", "role": "read"}
        return web.json_response(
            {"type": "user", "name": "you", "auth": {"type": "access_token", "accessToken": shown}}
        )

    def _file(self, here: Repository, path: str) -> web.Response:
        file = here.files.get(path)
        if file is None:
            return _error(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": here.commit, "ETag": f'"{file.oid}"'}
        if not file.large:
            return web.Response(body=file.blob.content, headers=headers, content_type="text/plain")
        headers |= {
            "Location": self.cdn.link(HUB_CDN, file.blob),
            "X-Linked-Etag": f'"{file.blob.sha256}"',
            "X-Linked-Size": str(len(file.blob.content)),
        }
        return web.Response(status=302, headers=headers)


@lru_cache(maxsize=4)
def _repository(name: str, revision: str, weights: int) -> Repository | None:
    """The repository at a commit, branch or tag; None when there is no such revision.

    There are a branch, `main`, and a tag of an older commit, `v1`. Which commits exist in life
    cannot be known here, so any well-formed one does.
    """
    found = model(name)
    if found is None or not (revision in ("main", "v1") or COMMIT.fullmatch(revision)):
        return None
    commit = revision
    if revision in ("main", "v1"):
        commit = hashlib.sha1(f"{name}@{revision}".encode()).hexdigest()  # noqa: S324 as git
    return Repository(name, config(found), weights, commit)


def _page(request: web.BaseRequest, entries: list[dict[str, Any]]) -> web.Response:
    """A part of a long list, with a link to the next one."""
    start = int(request.query.get("cursor", "0"))
    answer = web.json_response(entries[start : start + PAGE])
    if len(entries) > start + PAGE:
        following = request.url.update_query(cursor=str(start + PAGE))
        answer.headers["Link"] = f'<{following}>; rel="next"'
    return answer


def _gated(name: str, known: bool) -> web.Response:
    start = f"Access to model {name} is restricted"
    if known:
        words = f" and you are not in the authorized list. Visit https://{HOST}/{name} to ask for"
        return _error(403, "GatedRepo", f"{start}{words} access.")
    words = ". You must have access to it and be authenticated to access it. Please log in."
    return _error(401, "GatedRepo", start + words)


def _information(found: Model, here: Repository) -> dict[str, Any]:
    """Sizes are those in life, of which the files here are a few bytes."""
    return {
        "id": found.name,
        "sha": here.commit,
        "gated": "manual" if found.gated else False,
        "usedStorage": sum(file.blob.real_size for file in here.files.values()),
        "siblings": [
            {"rfilename": path, "size": file.blob.real_size} for path, file in here.files.items()
        ],
    }


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": message}, status=status, headers=headers)
