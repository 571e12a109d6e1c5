"""Google's APIs over HTTP: who calls, whether the API is on, what the caller may.

An API is a table of routes. What all of them have in common is here and nowhere else.
"""

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiohttp import web
from multidict import MultiMapping

from components import catalogue
from rehearsal.errors import CloudError
from rehearsal.google import project
from rehearsal.google.identity import CLOUD_PLATFORM, Caller, Identity
from rehearsal.store import Body
from rehearsal.world import PERSON, World

PAGE = 500
"""Items on a page, at most and where nobody asks for fewer."""
USE = "serviceusage.services.use"
"""The permission to have calls counted to a project."""
DENIED = "Permission '{permission}' denied on resource '{name}' (or it may not exist)."


class Refusal(CloudError):
    """A refusal with a reason of google.rpc.ErrorInfo's, which clients look for."""

    def __init__(
        self, message: str, reason: str, short: str = "forbidden", **metadata: str
    ) -> None:
        super().__init__(403, message, "PERMISSION_DENIED")
        self.details = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "googleapis.com",
            "metadata": metadata,
        }
        self.short = short
        """The same in the older APIs' words."""


@dataclass(frozen=True)
class Call:
    """One request that may be answered."""

    caller: Caller
    name: str
    """What the path names, without version and verb: `projects/P/secrets/S`."""
    parts: Mapping[str, str]
    """The same in parts, by the names in the route's path."""
    query: MultiMapping[str]
    body: Body


Answer = Callable[[Call], Any | Awaitable[Any]]


class Route(NamedTuple):
    """One method of an API."""

    method: str
    path: str
    """`/v1/projects/{project}/secrets/{secret}:access`; a part has neither / nor : in it."""
    permission: str
    """Held on what the path names; empty where everybody may, or the answer sees to it."""
    answer: Answer
    listed: str = ""
    """Of a list: the key of its items. The answer has all of them; a page is cut from it."""
    most: int = PAGE
    """Items on a page of it, whatever is asked for."""


class Api:
    """One API, as a site: `handle` answers one request."""

    def __init__(
        self,
        world: World,
        identity: Identity,
        host: str,
        routes: Sequence[Route],
        *,
        denied: str = DENIED,
        needs_quota_project: bool = False,
        billed: bool = True,
        older: bool = False,
    ) -> None:
        """`denied` says no for want of a permission. Where an API `needs_quota_project`, a person's
        calls must say which project they count to. `billed`: it wants a project with billing.
        `older`: its errors are of the kind that Compute Engine and Cloud Storage have."""
        self._world = world
        self._identity = identity
        self._host = host
        self._routes = [(route, _pattern(route.path)) for route in routes]
        self._denied = denied
        self._needs_quota_project = needs_quota_project
        self._billed = billed
        self._older = older

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """The answer in Google's JSON, refusals included."""
        for route, pattern in self._routes:
            match = pattern.fullmatch(request.path)
            if match and route.method == request.method:
                try:
                    return _json(await self._answer(request, route, match.groupdict()), 200)
                except CloudError as error:
                    return _json({"error": self._error(error)}, error.code)
        return web.Response(status=404, text="Not Found", content_type="text/html")

    async def _answer(
        self, request: web.BaseRequest, route: Route, parts: dict[str, str]
    ) -> object:
        caller = self._identity.caller(request.headers.get("Authorization"))
        if CLOUD_PLATFORM not in caller.scopes:
            message = "Request had insufficient authentication scopes."
            raise Refusal(message, "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
        name = _name(request.path)
        if "project" in parts:
            parts["project"] = project.id_of(self._world, parts["project"])
            name = re.sub("^projects/[^/:]+", f"projects/{parts['project']}", name)
        payer = request.headers.get("X-Goog-User-Project", "")
        self._count(caller, payer, parts.get("project", ""))
        if route.permission and not project.public(parts.get("project", "")):
            self.authorize(caller, route.permission, name)
        location = parts.get("location", "")
        if location in self._world.accounts.closed_locations:
            message = f"Permission denied on 'locations/{location}' (or it may not exist)."
            where = {"consumer": f"projects/{parts['project']}", "location": location}
            raise Refusal(message, "LOCATION_POLICY_VIOLATED", **where)
        text = await request.text()
        call = Call(caller, name, parts, request.query, json.loads(text) if text else {})
        answer = route.answer(call)
        found = await answer if inspect.isawaitable(answer) else answer
        return page(route, found, request.query) if route.listed else found

    def authorize(self, caller: Caller, permission: str, name: str) -> None:
        """CloudError 403 unless the caller has a permission on what is named."""
        if not self._identity.allowed(caller, permission, name):
            message = self._denied.format(permission=permission, name=name)
            raise Refusal(message, "IAM_PERMISSION_DENIED", permission=permission)

    def _count(self, caller: Caller, payer: str, owner: str) -> None:
        """Refuse a call that no project answers for. CloudError 403."""
        if payer and not self._identity.allowed(caller, USE, f"projects/{payer}"):
            message = (
                f"Caller does not have required permission to use project {payer}. Grant the caller"
                " the roles/serviceusage.serviceUsageConsumer role, or a custom role with the"
                f" {USE} permission, by visiting https://console.developers.google.com/iam-admin/"
                f"iam/project?project={payer} and then retry."
            )
            raise Refusal(message, "USER_PROJECT_DENIED", consumer=f"projects/{payer}")
        if self._needs_quota_project and not payer and caller.email == PERSON:
            message = (
                "Your application is authenticating by using local Application Default Credentials."
                f" The {self._host} API requires a quota project, which is not set by default. To"
                " learn how to set your quota project, see"
                " https://cloud.google.com/docs/authentication/adc-troubleshooting/user-creds ."
            )
            raise Refusal(message, "SERVICE_DISABLED", service=self._host)
        consumer = payer or owner
        if consumer and not project.public(consumer):
            self._serve(consumer)

    def _serve(self, consumer: str) -> None:
        """Refuse a project that is nobody's here, or has the API or its billing off."""
        number = self._world.accounts.projects.get(consumer)
        if number is None:
            message = f"Permission denied on resource project {consumer}."
            raise Refusal(message, "CONSUMER_INVALID", consumer=f"projects/{consumer}")
        if not project.enabled(self._world, consumer, self._host):
            raise Refusal(
                project.disabled(self._host, number),
                "SERVICE_DISABLED",
                "accessNotConfigured",
                service=self._host,
                consumer=f"projects/{number}",
            )
        if self._billed and consumer in self._world.accounts.unbilled_projects:
            raise Refusal(
                project.unbilled(number), "BILLING_DISABLED", consumer=f"projects/{number}"
            )

    def _error(self, error: CloudError) -> Body:
        details = [error.details] if isinstance(error, Refusal) else []
        said: Body = {"code": error.code, "message": error.message}
        if self._older:
            short = error.short if isinstance(error, Refusal) else error.reason
            said["errors"] = [{"message": error.message, "domain": "global", "reason": short}]
        if details or not self._older:
            said["status"] = error.reason
        return said | ({"details": details} if details else {})


def locations(permission: str) -> Route:
    """locations.list, which is the same in many APIs: every region that the catalogue knows."""

    def answer(call: Call) -> list[Body]:
        owner = call.parts["project"]
        return [
            {"name": f"projects/{owner}/locations/{region}", "locationId": region}
            for region in catalogue.regions()
        ]

    return Route("GET", "/v1/projects/{project}/locations", permission, answer, "locations")


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", path))


def _name(path: str) -> str:
    """`projects/P/secrets/S` of `/v1/projects/P/secrets/S:access`."""
    return re.sub(r"^(/compute)?/[^/]+/", "", path).partition(":")[0]


def page(route: Route, found: list[Body], query: Mapping[str, str]) -> Body:
    """A part of a list and where the next one begins; Google leaves an empty list out."""
    items, more = cut(found, query, route.most)
    return ({route.listed: items} if items else {}) | more


def cut(found: list[Any], query: Mapping[str, str], most: int = PAGE) -> tuple[list[Any], Body]:
    """A page of a list, and the token of the next. CloudError 400 for what is no page's."""
    token = query.get("pageToken", "")
    if token and not (token.isdecimal() and int(token) < len(found)):
        raise CloudError(400, f"Invalid value for field 'pageToken': '{token}'.", "invalid")
    asked = query.get("pageSize") or query.get("maxResults") or str(most)
    if not asked.isdecimal():
        raise CloudError(400, f"Invalid value for field 'maxResults': '{asked}'.", "invalid")
    start, size = int(token or 0), min(int(asked) or most, most)
    more = {"nextPageToken": str(start + size)} if len(found) > start + size else {}
    return found[start : start + size], more


def _json(body: object, status: int) -> web.Response:
    return web.json_response(body, status=status, dumps=lambda it: json.dumps(it, indent=2) + "\n")
