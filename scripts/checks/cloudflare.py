"""What Cloudflare may refuse: the token, the zone, names that are taken, Access itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import requests

from scripts.checks.check import TIMEOUT, Check, Finding, RefusedError, Subject, client

API = "https://api.cloudflare.com/client/v4"
TOKENS = "https://dash.cloudflare.com/profile/api-tokens"
ZERO_TRUST = "https://one.dash.cloudflare.com"
MAKE_TOKEN = (
    f"make one with the permissions that the README lists ({TOKENS}),"
    " then: pulumi config set --secret cloudflare:apiToken"
)
SERVICE_TOKENS = 50
"""That an account has: https://developers.cloudflare.com/cloudflare-one/account-limits/."""
NOBODY = "00000000-0000-0000-0000-000000000000"
"""An id that nothing has: to change it is refused with 404 where the token may change things, and
with 403 where it may not (seen in the API's order of checks, not documented)."""

TUNNELS = "accounts/{account}/cfd_tunnel"

EDITED = (
    ("Account", "Cloudflare Tunnel", "PATCH", "accounts/{account}/cfd_tunnel/{nobody}"),
    (
        "Account",
        "Access: Apps and Policies",
        "PUT",
        "accounts/{account}/access/apps/{nobody}",
    ),
    (
        "Account",
        "Access: Service Tokens",
        "PUT",
        "accounts/{account}/access/service_tokens/{nobody}",
    ),
    ("Zone", "DNS", "PATCH", "zones/{zone}/dns_records/{bare}"),
)
"""What the token must be able to edit: scope, permission, and a change of nothing that takes it."""


class Refusal(RefusedError):
    """Cloudflare said no: HTTP status, its own number, and its words."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(f"{message} (HTTP {status}, {code})")
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Api:
    """Cloudflare's API for a stack. Methods raise Refusal, or what requests raises."""

    http: requests.Session
    account: str
    zone: str

    def ask(self, path: str, method: str = "GET", **query: str) -> Any:
        """The result of one call. `{account}`, `{zone}`, `{nobody}` and `{bare}` are filled in."""
        where = path.format(
            account=self.account, zone=self.zone, nobody=NOBODY, bare=NOBODY.replace("-", "")
        )
        body: dict[str, Any] | None = {} if method != "GET" else None
        answer = self.http.request(
            method, f"{API}/{where}", params=query, json=body, timeout=TIMEOUT
        )
        said: Mapping[str, Any] = answer.json()
        if not said["success"]:
            first = said["errors"][0]
            raise Refusal(answer.status_code, first["code"], first["message"])
        return said["result"]

    def everything(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """All items of a list, page by page."""
        page = 1
        while found := self.ask(path, page=str(page), per_page="50", **query):
            yield from found
            if len(found) < 50:
                return
            page += 1


def token_is_valid(subject: Subject) -> Iterator[Finding]:
    """It exists, and has neither expired nor been revoked."""
    yield _token(subject)


def _token(subject: Subject) -> Finding:
    name = "Cloudflare token"
    if not subject.cloudflare_token:
        return Finding(name, "fails", "cloudflare:apiToken is not set", MAKE_TOKEN)
    refusals: list[Refusal] = []
    with client(subject.cloudflare_token) as http:
        api = Api(http, subject.settings.cloudflare_account_id, "")
        # A token is a person's or an account's; each is verified at a place of its own.
        for path in ("user/tokens/verify", "accounts/{account}/tokens/verify"):
            try:
                status = api.ask(path)["status"]
            except Refusal as error:
                refusals.append(error)
                continue
            if status == "active":
                return Finding(name, "ok", "active")
            return Finding(name, "fails", f"it is {status}", MAKE_TOKEN)
    if all(error.status in (400, 401, 403) for error in refusals):
        return Finding(name, "fails", f"Cloudflare does not know it: {refusals[0]}", MAKE_TOKEN)
    raise refusals[-1]


def with_it(check: Check) -> Check:
    """The check, where the token is valid; else enough is said of it."""

    def checked(subject: Subject) -> Iterator[Finding]:
        if _token(subject).state == "ok":
            yield from check(subject)

    return wraps(check)(checked)


@with_it
def token_may_edit(subject: Subject) -> Iterator[Finding]:
    """It may change each kind of thing that a stack is made of."""
    name = "Cloudflare permissions"
    missing: list[str] = []
    with client(subject.cloudflare_token) as http:
        api = Api(http, subject.settings.cloudflare_account_id, subject.settings.cloudflare_zone_id)
        for scope, permission, method, path in EDITED:
            try:
                api.ask(path, method)
            except Refusal as error:
                if error.status in (401, 403):
                    missing.append(f"{scope} > {permission} > Edit")
    if missing:
        yield Finding(
            name,
            "fails",
            f"the token lacks {', '.join(missing)}",
            f"edit the token: {TOKENS}; its value stays",
        )
    else:
        yield Finding(name, "ok", f"it may edit {', '.join(row[1] for row in EDITED)}")


@with_it
def zone_is_active(subject: Subject) -> Iterator[Finding]:
    """The zone is the account's, has the name that the stack gives it, and serves."""
    name, settings = "Cloudflare zone", subject.settings
    expected = settings.cloudflare_zone_name
    with client(subject.cloudflare_token) as http:
        api = Api(http, settings.cloudflare_account_id, settings.cloudflare_zone_id)
        try:
            zone = api.ask("zones/{zone}")
        except Refusal as error:
            if error.status not in (400, 403, 404):
                raise
            yield Finding(
                name,
                "fails",
                f"{settings.cloudflare_zone_id} is no zone that the token may read: {error}",
                "compare cloudflareZoneId with the zone's overview page, and give the token"
                " Zone > Zone > Read",
            )
            return
    if zone["name"] != expected:
        yield Finding(
            name,
            "fails",
            f"{settings.cloudflare_zone_id} is {zone['name']}, not {expected}",
            f"pulumi config set cloudflareZoneName {zone['name']}, or another cloudflareZoneId",
        )
    elif zone["status"] != "active":
        yield Finding(
            name,
            "fails",
            f"{expected} is {zone['status']}: names in it do not resolve to Cloudflare",
            "point the domain's name servers at Cloudflare's:"
            " https://developers.cloudflare.com/dns/zone-setups/full-setup/setup/",
        )
    else:
        yield Finding(name, "ok", f"{expected} is active")


@with_it
def hostname_is_free(subject: Subject) -> Iterator[Finding]:
    """No record has the name, or one of this stack's."""
    name, settings = "host name", subject.settings
    with client(subject.cloudflare_token) as http:
        api = Api(http, settings.cloudflare_account_id, settings.cloudflare_zone_id)
        records: list[dict[str, Any]] = api.ask(
            "zones/{zone}/dns_records", **{"name": settings.hostname}
        )
        tunnels = {it["id"]: it["name"] for it in api.everything(TUNNELS, is_deleted="false")}
    for record in records:
        tunnel = str(record["content"]).removesuffix(".cfargotunnel.com")
        if tunnels.get(tunnel, "").startswith(f"llm-{settings.stack}-vpc-"):
            yield Finding(name, "ok", f"{settings.hostname} leads to this stack's tunnel")
        else:
            yield Finding(
                name,
                "fails",
                f"{settings.hostname} is taken: {record['type']} {record['content']}",
                "delete that record, if nothing uses it, or: pulumi config set hostname ANOTHER",
            )
        return
    yield Finding(name, "ok", f"{settings.hostname} is free")


@with_it
def application_is_free(subject: Subject) -> Iterator[Finding]:
    """No Access application guards the name already, but for this stack's."""
    name, settings = "Access application", subject.settings
    with client(subject.cloudflare_token) as http:
        api = Api(http, settings.cloudflare_account_id, "")
        found = [
            it
            for it in api.everything("accounts/{account}/access/apps")
            if it.get("domain") == settings.hostname
        ]
    others = [it["name"] for it in found if it["name"] != f"llm-{settings.stack}"]
    if others:
        yield Finding(
            name,
            "fails",
            f"{settings.hostname} is guarded by the application {others[0]!r} already",
            f"delete it in {ZERO_TRUST} (Access > Applications), or choose another hostname",
        )
    else:
        yield Finding(name, "ok", "it is this stack's" if found else "none has the name yet")


@with_it
def team_is_right(subject: Subject) -> Iterator[Finding]:
    """Zero Trust is switched on, under the team name that the stack says."""
    name, settings = "Zero Trust team", subject.settings
    with client(subject.cloudflare_token) as http:
        api = Api(http, settings.cloudflare_account_id, "")
        try:
            domain: str = api.ask("accounts/{account}/access/organizations")["auth_domain"]
        except Refusal as error:
            if error.code == 9999:
                yield Finding(
                    name,
                    "fails",
                    "Zero Trust is not switched on in this account",
                    f"choose a team name and a plan (there is a free one) at {ZERO_TRUST}",
                )
            else:
                yield Finding(
                    name,
                    "unknown",
                    str(error),
                    "give the token Account > Access: Organizations, Identity Providers, and"
                    f" Groups > Read, or compare accessTeamName at {ZERO_TRUST}",
                )
            return
    team = domain.removesuffix(".cloudflareaccess.com")
    if team == settings.access_team_name:
        yield Finding(name, "ok", domain)
    else:
        yield Finding(
            name,
            "fails",
            f"the account's team is {team!r}, not {settings.access_team_name!r}",
            f"pulumi config set accessTeamName {team}",
        )


@with_it
def service_tokens_fit(subject: Subject) -> Iterator[Finding]:
    """There is room for one token a consumer, and the stack's own."""
    name, settings = "service tokens", subject.settings
    own = f"llm-{settings.stack}: "
    with client(subject.cloudflare_token) as http:
        api = Api(http, settings.cloudflare_account_id, "")
        names = [it["name"] for it in api.everything("accounts/{account}/access/service_tokens")]
    others = sum(not it.startswith(own) for it in names)
    wanted = len(settings.consumers) + 1
    told = f"{others} of {SERVICE_TOKENS} are others', {wanted} are wanted"
    if others + wanted > SERVICE_TOKENS:
        yield Finding(
            name,
            "fails",
            told,
            f"delete those that nobody uses ({ZERO_TRUST}, Access > Service auth), or name fewer"
            " consumers",
        )
    else:
        yield Finding(name, "ok", told)


CHECKS: tuple[Check, ...] = (
    token_is_valid,
    token_may_edit,
    zone_is_active,
    hostname_is_free,
    application_is_free,
    team_is_right,
    service_tokens_fit,
)
