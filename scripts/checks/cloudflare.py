"""What Cloudflare must grant before a stack can come up: the token, the zone, names, Access."""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from components.settings import Settings
from scripts.checks.check import Check, FailsError, Shared, UnknownError, sendable
from scripts.checks.sessions import Sessions

T = TypeVar("T")

API = "https://api.cloudflare.com/client/v4"
TIMEOUT = (10.0, 20.0)
"""Seconds to connect, and to wait for more of an answer."""
RETRIES = Retry(
    total=2,
    backoff_factor=0.5,
    status_forcelist=(429, 500, 502, 503, 504),
    respect_retry_after_header=False,  # it may name minutes
    raise_on_status=False,
)
PAGE = 50
"""Items on a page."""
TOKENS = "https://dash.cloudflare.com/profile/api-tokens"
SET_TOKEN = "pulumi config set --secret cloudflare:apiToken"  # noqa: S105 a command
NOBODY, NOTHING = "00000000-0000-0000-0000-000000000000", "0" * 32
"""Ids that nothing has: to change it takes the permission, and does nothing."""
SERVICE_TOKENS = 50
"""Service tokens that an account may have
(developers.cloudflare.com/cloudflare-one/account-limits/)."""
SOON_DAYS = 14


class Refusal(NamedTuple):
    """Cloudflare's own no."""

    status: int
    code: int
    message: str


class Permission(NamedTuple):
    """What the token must be allowed to change, and a change that does nothing."""

    name: str
    scope: str
    method: str
    """The one with which this API changes such a thing; with another it refuses everybody."""
    path: str


PERMISSIONS = (
    Permission(
        "Cloudflare Tunnel", "Account", "PATCH", f"accounts/{{account}}/cfd_tunnel/{NOBODY}"
    ),
    Permission(
        "Access: Apps and Policies", "Account", "PUT", f"accounts/{{account}}/access/apps/{NOBODY}"
    ),
    Permission(
        "Access: Service Tokens",
        "Account",
        "PUT",
        f"accounts/{{account}}/access/service_tokens/{NOBODY}",
    ),
    Permission("DNS", "Zone", "PATCH", f"zones/{{zone}}/dns_records/{NOTHING}"),
)
ASTRAY = frozenset({7000, 7003, 10000})
"""Cloudflare's codes for a question that it turned away before anything was looked up: no such
route, a method or a token that may not take it."""


class Cloudflare:
    """Cloudflare's API, called by threads side by side."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._shared = Shared()
        self._sessions = Sessions(self._session)

    @property
    def token_is_odd(self) -> bool:
        """There is a token, with characters that none has."""
        return bool(self._token) and not sendable(self._token)

    def ask(
        self, path: str, method: str = "GET", parameters: Mapping[str, str | int] | None = None
    ) -> dict[str, Any] | Refusal:
        """The envelope of an answer, or Cloudflare's refusal. UnknownError when it is neither."""
        if not self._token:
            raise UnknownError(
                "there is no API token here",
                f"{SET_TOKEN}; or CLOUDFLARE_API_TOKEN, or what pulumi needs to decrypt it, in the"
                " environment",
            )
        if not sendable(self._token):
            raise UnknownError("the API token cannot be one (see: Cloudflare: token)", SET_TOKEN)
        body: dict[str, Any] = {} if method == "GET" else {"json": {}}
        try:
            answer = self._sessions.mine().request(
                method, f"{API}/{path}", params=parameters, timeout=TIMEOUT, **body
            )
            envelope: Any = answer.json()
        except requests.exceptions.JSONDecodeError:
            because = "api.cloudflare.com answers something that is not JSON"
            raise UnknownError(because, "is there a proxy on the way?") from None
        except requests.RequestException as error:
            because = f"no answer from api.cloudflare.com ({type(error).__name__})"
            raise UnknownError(
                because, "check the network of this machine, then try again"
            ) from None
        if envelope["success"] is True and "result" in envelope:
            return envelope
        if answer.status_code < 500 and answer.status_code != 429:
            error = envelope["errors"][0]
            return Refusal(answer.status_code, int(error["code"]), str(error["message"]))
        because = f"Cloudflare answers HTTP {answer.status_code}, and nothing of use"
        raise UnknownError(because, "try again; its state: https://www.cloudflarestatus.com")

    def get(self, path: str, **parameters: str | int) -> dict[str, Any]:
        """The envelope, shared by all who ask for the same. UnknownError for a refusal."""

        def see() -> dict[str, Any]:
            answer = self.ask(path, parameters=parameters)
            if isinstance(answer, Refusal):
                because = f"the token may not look: {answer.message} ({answer.code})"
                raise UnknownError(because, f"give the token what README.md lists: {TOKENS}")
            return answer

        return self.once(f"{path} {parameters}", see)

    def once(self, key: str, ask: Callable[[], T]) -> T:
        """What the first who asks with this key is answered."""
        return self._shared.once(key, ask)

    def items(self, path: str, **parameters: str | int) -> list[dict[str, Any]]:
        """All items of a list, page by page."""
        found: list[dict[str, Any]] = []
        page, pages = 1, 1
        while page <= pages:
            answer = self.get(path, page=page, per_page=PAGE, **parameters)
            found += answer["result"]
            info: dict[str, int] = answer.get("result_info") or {}
            whole = -(-(info.get("total_count") or 0) // PAGE)
            pages = info.get("total_pages") or whole
            page += 1
        return found

    def close(self) -> None:
        """Close every connection."""
        self._sessions.close()

    def _session(self) -> requests.Session:
        http = requests.Session()
        http.mount("https://", HTTPAdapter(max_retries=RETRIES))
        http.headers["Authorization"] = f"Bearer {self._token}"
        return http


def checks(cloudflare: Cloudflare, settings: Settings) -> Iterator[Check]:
    """All of them. A tunnel's name ends in characters drawn at random, so it is always free."""
    yield Check("Cloudflare: token", lambda: token(cloudflare, settings))
    for permission in PERMISSIONS:
        yield Check(
            f"Cloudflare: token may edit {permission.name}",
            lambda it=permission: allowed(cloudflare, settings, it),
        )
    yield Check("Cloudflare: zone", lambda: zone(cloudflare, settings))
    yield Check("Cloudflare: host name", lambda: hostname(cloudflare, settings))
    yield Check("Cloudflare: Access application", lambda: application(cloudflare, settings))
    yield Check("Cloudflare: Access team", lambda: team(cloudflare, settings))
    yield Check("Cloudflare: service tokens", lambda: service_tokens(cloudflare, settings))


def token(cloudflare: Cloudflare, settings: Settings) -> str:
    """The token is one, and still good."""
    return cloudflare.once("token", lambda: _token(cloudflare, settings))


def _token(cloudflare: Cloudflare, settings: Settings) -> str:
    if cloudflare.token_is_odd:
        raise FailsError("it has spaces or characters that no token has", f"again: {SET_TOKEN}")
    answer = cloudflare.ask("user/tokens/verify")
    if isinstance(answer, Refusal):  # a token may be an account's own, and no person's
        answer = cloudflare.ask(f"accounts/{settings.cloudflare_account_id}/tokens/verify")
    make = f"make a new one ({TOKENS}), then: {SET_TOKEN}"
    if isinstance(answer, Refusal) and answer.status in (400, 401, 403):
        raise FailsError(f"Cloudflare does not know it: {answer.message} ({answer.code})", make)
    if isinstance(answer, Refusal):
        because = f"Cloudflare answers {answer.message} ({answer.code})"
        raise UnknownError(because, f"look: {TOKENS}")
    state: dict[str, Any] = answer["result"]
    if state["status"] != "active":
        raise FailsError(f"it is {state['status']}", make)
    ends = state.get("expires_on")
    if ends:
        left = datetime.fromisoformat(str(ends).replace("Z", "+00:00")) - datetime.now(UTC)
        soon = ", soon: make another in time" if left.days < SOON_DAYS else ""
        return f"active until {ends}{soon}"
    return "active"


def allowed(cloudflare: Cloudflare, settings: Settings, permission: Permission) -> str:
    """The token may change things of a kind; asked by a change to what does not exist."""
    path = permission.path.format(
        account=settings.cloudflare_account_id, zone=settings.cloudflare_zone_id
    )
    answer = cloudflare.ask(path, permission.method)
    if not isinstance(answer, Refusal):
        raise UnknownError("Cloudflare changed what does not exist", f"look: {TOKENS}")
    if answer.status in (400, 404) and answer.code not in ASTRAY:
        return "yes"
    grant = f"{permission.scope}: {permission.name}: Edit"
    if answer.status == 405:
        # Reported of tokens that may only read, and of some ids that do not exist.
        raise UnknownError(
            f"Cloudflare turns the question away: {answer.message} ({answer.code})",
            f"see that it has {grant}: {TOKENS}",
        )
    if answer.status in (401, 403):
        if _not_good(cloudflare, settings):
            because = "Cloudflare does not take the token (see: Cloudflare: token)"
            raise UnknownError(because, TOKENS)
        raise FailsError(
            f"it may not: {answer.message} ({answer.code})",
            f"add {grant} to it, for this {permission.scope.lower()}: {TOKENS}",
        )
    raise UnknownError(f"Cloudflare answers {answer.message} ({answer.code})", f"look: {TOKENS}")


def _not_good(cloudflare: Cloudflare, settings: Settings) -> bool:
    """Whether nothing else can be expected of the token."""
    try:
        token(cloudflare, settings)
    except (FailsError, UnknownError):
        return True
    return False


def zone(cloudflare: Cloudflare, settings: Settings) -> str:
    """The zone is the one that the host name lies in, and Cloudflare answers for it."""
    found = cloudflare.get(f"zones/{settings.cloudflare_zone_id}")["result"]
    if found["name"] != settings.cloudflare_zone_name:
        raise FailsError(
            f"the zone with this id is {found['name']}, not {settings.cloudflare_zone_name}",
            "set cloudflareZoneId to the id on the overview page of"
            f" {settings.cloudflare_zone_name}, or correct cloudflareZoneName",
        )
    if found["status"] != "active":
        raise FailsError(
            f"{found['name']} is {found['status']}: Cloudflare does not answer for it yet",
            "set the domain's name servers, at its registrar, to those that its overview page"
            f" shows: https://dash.cloudflare.com/{settings.cloudflare_account_id}/{found['name']}",
        )
    return f"{found['name']} is active"


def hostname(cloudflare: Cloudflare, settings: Settings) -> str:
    """No DNS record has the name, or this stack's."""
    path = f"zones/{settings.cloudflare_zone_id}/dns_records"
    records = cloudflare.items(path, name=settings.hostname)
    for record in records:
        target = str(record.get("content", ""))
        if not _is_ours(cloudflare, settings, target):
            raise FailsError(
                f"{settings.hostname} is taken: {record['type']} {target}",
                "delete that record, if nobody needs it, or choose another name: pulumi config set"
                f" hostname llm.{settings.cloudflare_zone_name}",
            )
    return f"{settings.hostname} is {'ours' if records else 'free'}"


def _is_ours(cloudflare: Cloudflare, settings: Settings, target: str) -> bool:
    """Whether a record leads to a tunnel of this stack's, by the tunnel's name."""
    id, dot, domain = target.partition(".")
    if (dot, domain) != (".", "cfargotunnel.com"):
        return False
    tunnels = cloudflare.items(f"accounts/{settings.cloudflare_account_id}/cfd_tunnel")
    ours = re.compile(rf"llm-{re.escape(settings.stack)}-vpc-[0-9a-f]{{7}}")
    return any(it["id"] == id and ours.fullmatch(it["name"]) for it in tunnels)


def application(cloudflare: Cloudflare, settings: Settings) -> str:
    """No Access application guards the host name, or this stack's."""
    path = f"accounts/{settings.cloudflare_account_id}/access/apps"
    found = [it for it in cloudflare.items(path) if it.get("domain") == settings.hostname]
    if others := [it for it in found if it["name"] != f"llm-{settings.stack}"]:
        raise FailsError(
            f"{others[0]['name']!r} guards {settings.hostname} already",
            "delete it (Zero Trust > Access > Applications), if nobody needs it, or choose another"
            " hostname",
        )
    return "ours" if found else "free"


def team(cloudflare: Cloudflare, settings: Settings) -> str:
    """Zero Trust is switched on, under the team name of the configuration."""
    name = settings.access_team_name
    answer = cloudflare.ask(f"accounts/{settings.cloudflare_account_id}/access/organizations")
    if isinstance(answer, Refusal):
        if "not_enabled" in answer.message:
            raise FailsError(
                "Zero Trust is not switched on for this account",
                "choose a plan (the free one will do) and a team name:"
                " https://one.dash.cloudflare.com",
            )
        because = f"the token may not look: {answer.message} ({answer.code})"
        wanted = "Account: Access: Organizations, Identity Providers, and Groups: Read"
        raise UnknownError(because, f"add {wanted} to it: {TOKENS}")
    domain: str = answer["result"]["auth_domain"]
    if domain != f"{name}.cloudflareaccess.com":
        own = domain.removesuffix(".cloudflareaccess.com")
        raise FailsError(
            f"the account's team is {own}, not {name}", f"pulumi config set accessTeamName {own}"
        )
    return name


def service_tokens(cloudflare: Cloudflare, settings: Settings) -> str:
    """There is room for one a consumer, and the stack's own."""
    path = f"accounts/{settings.cloudflare_account_id}/access/service_tokens"
    names = [str(it["name"]) for it in cloudflare.items(path)]
    others = sum(not name.startswith(f"llm-{settings.stack}: ") for name in names)
    wanted = len(settings.consumers) + 1
    if others + wanted > SERVICE_TOKENS:
        raise FailsError(
            f"{wanted} needed; the account has {others} others and may have {SERVICE_TOKENS}",
            "delete those that nobody needs: Zero Trust > Access > Service Auth",
        )
    return f"{wanted} of {SERVICE_TOKENS}, {others} taken"
