"""Cloudflare Access: who may pass to which application, decided from what the account declares.

Whoever it does not admit is answered, as published traces of the real service show, with 403 where
the application has Service Auth policies only (JSON: message, status_code, aud, ray_id; headers
Cf-Access-Aud and Cf-Access-Domain), with a redirect to the team's login where it has an Allow
policy, and with 401 to users and machines alike where `service_auth_401_redirect` is on
(developers.cloudflare.com/cloudflare-one/access-controls/applications/http-apps/self-hosted-public-app/:
"when a user (or machine) makes a request to the application without the correct service token").
Service Auth and Bypass policies are evaluated first, Allow and Deny then, by precedence
(developers.cloudflare.com/cloudflare-one/access-controls/policies/).
"""

import hmac
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from rehearsal.cloudflare import APPLICATION, POLICY, SERVICE_TOKEN
from rehearsal.store import Body
from rehearsal.world import World

FORBIDDEN = (
    "Forbidden. You don't have permission to view this. Please contact your system administrator."
)
SESSION_SECONDS = 86400


@dataclass(frozen=True)
class Visitor:
    """Whom a request's credentials prove: a service token, a person, or nobody."""

    token_id: str = ""
    client_id: str = ""
    email: str = ""


@dataclass(frozen=True)
class Verdict:
    """What Access does with a request.

    `pass` sends it on with `assertion` (empty where Access is bypassed or absent);
    `login` and `refuse` answer it with `status`.
    """

    outcome: Literal["pass", "login", "refuse"]
    status: int = 200
    assertion: str = ""


NOBODY = Visitor()

SELECTORS: dict[str, Callable[[Body, Visitor], bool]] = {
    "everyone": lambda _, who: True,
    "anyValidServiceToken": lambda _, who: who.token_id != "",
    "serviceToken": lambda rule, who: who.token_id != "" and who.token_id == rule["tokenId"],
    "email": lambda rule, who: who.email.lower() == str(rule["email"]).lower(),
    "emailDomain": lambda rule, who: (
        who.email.lower().rpartition("@")[2] == str(rule["domain"]).lower()
    ),
}
"""Whether a rule matches. A selector that is not here (groups, countries, devices) never does."""


class Access:
    """Access for every team of the world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store
        self._key = _signing_key(world.directory / "access-key.pem")

    def application(self, host: str, path: str) -> Body | None:
        """The application that guards a URL: the most specific domain that matches, or None."""
        best: tuple[int, Body | None] = (-1, None)
        for application in self._store.all(APPLICATION).values():
            for uri in _domains(application):
                if _covers(uri, host, path) and len(uri) > best[0]:
                    best = (len(uri), application)
        return best[1]

    def team(self, application: Body) -> str:
        """The team name of the account that an application belongs to."""
        return self._world.accounts.cloudflare_accounts.get(application["accountId"], "")

    def judge(
        self, application: Body, headers: Mapping[str, str], cookies: Mapping[str, str]
    ) -> Verdict:
        """What becomes of a request to `application` with these headers and cookies."""
        policies = self._policies(application)
        presented = _service_token(application, headers)
        who = self._holder(*presented) if presented else NOBODY
        match = _first(policies, who or NOBODY, "bypass", "non_identity")
        if match:
            bypassed = match["decision"] == "bypass"
            return Verdict("pass", assertion="" if bypassed else self.sign(application, who))
        person = self._person(application, headers, cookies)
        if person:
            return self.admit(application, person)
        if application.get("serviceAuth401Redirect"):
            return Verdict("refuse", 401)
        if any(policy["decision"] == "allow" for policy in policies):
            return Verdict("login", 302)
        return Verdict("refuse", 403)

    def admit(self, application: Body, person: Visitor) -> Verdict:
        """Whether a logged-in person may pass."""
        match = _first(self._policies(application), person, "allow", "deny")
        if match and match["decision"] == "allow":
            return Verdict("pass", assertion=self.sign(application, person))
        return Verdict("refuse", 403)

    def login_url(self, application: Body, host: str, path: str) -> str:
        """Where a browser without a session is sent."""
        query = urlencode({"kid": application["aud"], "redirect_url": path})
        team = self.team(application)
        return f"https://{team}.cloudflareaccess.com/cdn-cgi/access/login/{host}?{query}"

    def sign(self, application: Body, who: Visitor | None) -> str:
        """The application token (RS256) that the origin gets as Cf-Access-Jwt-Assertion."""
        who, now = who or NOBODY, int(time.time())
        claims: dict[str, Any] = {
            "type": "app",
            "aud": [application["aud"]],
            "iss": f"https://{self.team(application)}.cloudflareaccess.com",
            "iat": now,
            "nbf": now,
            "exp": now + SESSION_SECONDS,
            "sub": who.email,
        }
        claims |= {"email": who.email} if who.email else {"common_name": who.client_id}
        return jwt.encode(claims, self._key.private, "RS256", headers={"kid": self._key.id})

    def certs(self) -> Body:
        """The team's public keys, as /cdn-cgi/access/certs has them."""
        return {"keys": [self._key.public]}

    def _policies(self, application: Body) -> list[Body]:
        """An application's policies by precedence, references looked up."""
        listed: list[Body] = application.get("policies") or []
        ordered = sorted(listed, key=lambda policy: policy.get("precedence") or 0)
        found = [
            policy if "decision" in policy else self._store.get(POLICY, policy["id"])
            for policy in ordered
        ]
        return [policy for policy in found if policy]

    def _holder(self, client_id: str, secret: str) -> Visitor | None:
        """Whose service token this is; None for a wrong, disabled or expired one."""
        for id, token in self._store.all(SERVICE_TOKEN).items():
            if token["clientId"] != client_id:
                continue
            right = hmac.compare_digest(token["clientSecret"].encode(), secret.encode())
            if right and token.get("enabled") is not False and not _expired(token):
                return Visitor(token_id=id, client_id=client_id)
        return None

    def _person(
        self, application: Body, headers: Mapping[str, str], cookies: Mapping[str, str]
    ) -> Visitor | None:
        """Who is logged in, by cookie or by the header that `cloudflared access` sends."""
        session = cookies.get("CF_Authorization") or headers.get("Cf-Access-Token", "")
        try:
            claims = jwt.decode(
                session,
                self._key.private.public_key(),
                ["RS256"],
                audience=application["aud"],
                issuer=f"https://{self.team(application)}.cloudflareaccess.com",
            )
        except jwt.PyJWTError:
            return None
        return Visitor(email=claims["email"]) if "email" in claims else None


@dataclass(frozen=True)
class _Key:
    private: rsa.RSAPrivateKey

    @cached_property
    def id(self) -> str:
        return format(self.private.public_key().public_numbers().n, "x")[:64]

    @cached_property
    def public(self) -> Body:
        key = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return key | {"kid": self.id, "alg": "RS256", "use": "sig"}


def _signing_key(path: Path) -> _Key:
    """The world's signing key, made once and kept, readable by its owner only."""
    if not path.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)  # noqa: S101  # ours: written above
    return _Key(key)


def _domains(application: Body) -> Iterable[str]:
    """Every `host[/path]` that an application covers."""
    destinations: list[Body] = application.get("destinations") or []
    uris = [item["uri"] for item in destinations if item.get("uri")]
    return {application.get("domain") or "", *uris, *(application.get("selfHostedDomains") or [])}


def _covers(uri: str, host: str, path: str) -> bool:
    """Whether `host[/path]`, with `*` allowed, covers a URL and everything below it."""
    domain, _, prefix = uri.partition("/")
    prefix = "/" + prefix.rstrip("/")
    below = prefix == "/" or path == prefix or path.startswith(prefix + "/")
    return fnmatchcase(host, domain.lower()) and (below or fnmatchcase(path, prefix))


def _service_token(application: Body, headers: Mapping[str, str]) -> tuple[str, str] | None:
    """The client id and secret that a request presents, or None when it presents neither.

    With `read_service_tokens_from_header` one header carries both as JSON, keys in lower case.
    """
    single = application.get("readServiceTokensFromHeader")
    if single and single in headers:
        try:
            pair = json.loads(headers[single])
            return pair["cf-access-client-id"], pair["cf-access-client-secret"]
        except (ValueError, TypeError, KeyError):
            return "", ""
    names = ("Cf-Access-Client-Id", "Cf-Access-Client-Secret")
    if not any(name in headers for name in names):
        return None
    return headers.get(names[0], ""), headers.get(names[1], "")


def _expired(token: Body) -> bool:
    """Whether a service token's `expiresAt` has passed; one without it lasts for ever."""
    expires = token.get("expiresAt")
    return bool(expires) and datetime.fromisoformat(expires) <= datetime.now(UTC)


def _first(policies: list[Body], who: Visitor, *decisions: str) -> Body | None:
    """The first policy with one of these decisions that matches."""
    asked = (policy for policy in policies if policy["decision"] in decisions)
    return next((policy for policy in asked if _matches(policy, who)), None)


def _matches(policy: Body, who: Visitor) -> bool:
    """Any include, every require, no exclude."""

    def rules(group: str) -> list[bool]:
        listed: list[Body] = policy.get(group) or []
        return [_holds(rule, who) for rule in listed]

    return any(rules("includes")) and all(rules("requires")) and not any(rules("excludes"))


def _holds(rule: Body, who: Visitor) -> bool:
    """Whether a rule such as `{"email": {"email": ...}}` matches a visitor."""
    given = [(name, body) for name, body in rule.items() if body is not None]
    return all(name in SELECTORS and SELECTORS[name](body, who) for name, body in given)
