"""The cloudflare package: Cloudflare's resource types, one row each, and its rules."""

import base64
import json
import re
import secrets
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from rehearsal.cloudflare import (
    APPLICATION,
    CONNECTION,
    DNS_RECORD,
    POLICY,
    SERVICE_TOKEN,
    TUNNEL,
    TUNNEL_CONFIG,
    TUNNEL_SECRET,
    permissions,
)
from rehearsal.errors import CloudError
from rehearsal.providers.outages import Patience, Refusal
from rehearsal.providers.resource import Life, Operation, Package, Reference, ResourceType
from rehearsal.providers.schema import Failure, Schema, as_array, as_object
from rehearsal.store import Body
from rehearsal.world import World

PATHS = {
    TUNNEL: "accounts/{accountId}/cfd_tunnel",
    TUNNEL_CONFIG: "accounts/{accountId}/cfd_tunnel/{tunnelId}/configurations",
    DNS_RECORD: "zones/{zoneId}/dns_records",
    APPLICATION: "accounts/{accountId}/access/apps",
    POLICY: "accounts/{accountId}/access/policies",
    SERVICE_TOKEN: "accounts/{accountId}/access/service_tokens",
}
METHODS = {"create": "POST", "read": "GET", "update": "PUT", "delete": "DELETE", "invoke": "GET"}
DURATION = re.compile(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")
CALL = Life("Cloudflare call", "Cloudflare call", "Cloudflare call")


def now() -> str:
    """The time as Cloudflare writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def refuse(code: int, number: int, message: str) -> CloudError:
    """A refusal with Cloudflare's error number."""
    return CloudError(code, message, str(number))


# What the plugin refuses at preview


def single_selectors(body: Body) -> Iterator[Failure]:
    """Each rule of a policy has one selector."""
    for kind in ("includes", "requires", "excludes"):
        for index, rule in enumerate(as_array(body.get(kind))):
            if len(as_object(rule)) > 1:
                path = f"{kind}[{index}]"
                reason = f"Invalid Attribute Value. {path} must have at most 1 attribute set"
                yield Failure(path, reason)


def one_kind_of_policy(body: Body) -> Iterator[Failure]:
    """An application's policy is a reference or written in place, not both."""
    for index, policy in enumerate(as_array(body.get("policies"))):
        if policy.get("id") and policy.get("includes"):
            reason = (
                "Invalid Attribute Combination. id cannot be specified when include is specified"
            )
            yield Failure(f"policies[{index}]", reason)


def no_401_for_bookmarks(body: Body) -> Iterator[Failure]:
    """Bookmarks answer nobody."""
    if body.get("type") == "bookmark" and body.get("serviceAuth401Redirect") is not None:
        reason = "Invalid Attribute Combination. not supported for applications of type bookmark"
        yield Failure("serviceAuth401Redirect", reason)


# What the service refuses during up


def free_tunnel_name(operation: Operation, body: Body) -> None:
    """Names of tunnels are unique in an account, deleted ones aside."""
    for id, other in operation.world.store.all(TUNNEL).items():
        same = (other["name"], other["accountId"]) == (body["name"], body["accountId"])
        if same and id != body.get("id") and not other.get("deletedAt"):
            message = (
                "You already have a tunnel with this name. Please choose another name for this"
                " tunnel."
            )
            raise refuse(409, 1013, message)


def catch_all_last(operation: Operation, body: Body) -> None:
    """The last ingress rule matches everything, and no other does."""
    rules = as_array(as_object(body.get("config")).get("ingresses"))
    for index, rule in enumerate(rules, 1):
        narrow = rule.get("hostname") or rule.get("path")
        if index == len(rules) and narrow:
            message = (
                "Bad Configuration: The last ingress rule must match all URLs (i.e. it should not"
                " have a hostname or path filter)"
            )
            raise refuse(400, 1056, message)
        if index < len(rules) and not narrow:
            message = (
                f"Bad Configuration: Rule #{index} is matching the hostname '', but this will match"
                " every hostname, meaning the rules which follow it will never be triggered."
            )
            raise refuse(400, 1056, message)


def sound_record(operation: Operation, body: Body) -> None:
    """What a DNS record may be, and that no other holds its name."""
    if body.get("proxied") and body["ttl"] != 1:
        raise ValueError(
            "ttl must be set to 1 when `proxied` is true: When a DNS record is marked as `proxied`"
            " the TTL must be 1 as Cloudflare will control the TTL internally."
        )
    if body.get("proxied") and body["type"] not in ("A", "AAAA", "CNAME"):
        raise refuse(400, 9004, "This record type cannot be proxied.")
    for id, other in operation.world.store.all(DNS_RECORD).items():
        if other["name"] != body["name"] or id == body.get("id"):
            continue
        if (other["type"], other.get("content")) == (body["type"], body.get("content")):
            raise refuse(400, 81058, "An identical record already exists.")
        if "CNAME" in (body["type"], other["type"]):
            message = "An A, AAAA, or CNAME record with that host already exists."
            raise refuse(400, 81053, message)


def sound_policy(operation: Operation, body: Body) -> None:
    """A policy includes somebody."""
    if not body.get("includes"):
        message = "access.api.error.invalid_request: policy must have at least one include rule"
        raise refuse(400, 12130, message)


def own_domain(operation: Operation, body: Body) -> None:
    """An application lies in a domain of the account, and there is one of it."""
    destinations = [each.get("uri", "") for each in as_array(body.get("destinations"))]
    names = [name for name in (body.get("domain"), *destinations) if name]
    if body.get("type", "self_hosted") == "self_hosted" and not names:
        message = "access.api.error.invalid_request: domain is required"
        raise refuse(400, 12130, message)
    zones = operation.world.accounts.cloudflare_zones.values()
    for name in names:
        if not any(name.split("/")[0] == z or name.split("/")[0].endswith(f".{z}") for z in zones):
            message = f"access.api.error.invalid_request: domain {name} does not belong to zone"
            raise refuse(400, 12130, message)
    for id, other in operation.world.store.all(APPLICATION).items():
        if other.get("domain") == body.get("domain") and id != body.get("id"):
            message = "access.api.error.application_already_exists"
            raise refuse(409, 11010, message)


def sound_duration(operation: Operation, body: Body) -> None:
    """Durations are Go's, or `forever`."""
    duration = body["duration"]
    if duration != "forever" and not DURATION.fullmatch(duration):
        message = f"access.api.error.invalid_request: invalid duration {duration}"
        raise refuse(400, 12130, message)


# What the service makes


def new_id(operation: Operation, body: Body) -> Body:
    """Most things are named by a UUID."""
    return {"id": str(uuid.uuid4())}


def tunnel_outputs(operation: Operation, body: Body) -> Body:
    """Identity and state of a tunnel that nobody has connected yet."""
    return new_id(operation, body) | {
        "accountTag": body["accountId"],
        "createdAt": now(),
        "metadata": "{}",
        "remoteConfig": body["configSrc"] == "cloudflare",
        "status": "inactive",
        "tunType": "cfd_tunnel",
    }


def keep_secret(operation: Operation, body: Body) -> None:
    """The secret that a connector must know; Cloudflare makes one when none was given."""
    secret = body.get("tunnelSecret") or base64.b64encode(secrets.token_bytes(32)).decode()
    operation.world.store.put(TUNNEL_SECRET, body["id"], {"secret": secret})


def config_outputs(operation: Operation, body: Body) -> Body:
    """A configuration counts its versions."""
    before = operation.world.store.get(TUNNEL_CONFIG, body["tunnelId"]) or {"version": 0}
    return {"createdAt": now(), "version": before["version"] + 1}


def record_outputs(operation: Operation, body: Body) -> Body:
    """Ids of records are older than UUIDs."""
    return {
        "id": secrets.token_hex(16),
        "createdOn": now(),
        "modifiedOn": now(),
        "meta": "{}",
        "proxiable": body["type"] in ("A", "AAAA", "CNAME"),
    }


def application_outputs(operation: Operation, body: Body) -> Body:
    """The audience tag by which an application's tokens are known."""
    outputs = new_id(operation, body) | {"aud": secrets.token_hex(32)}
    if body.get("domain"):
        outputs["destinations"] = [{"type": "public", "uri": body["domain"]}]
        outputs["selfHostedDomains"] = [body["domain"]]
    return outputs


def expiry(duration: str) -> str:
    """When a token made now ends. The API has an end for `forever` too, ages away."""
    units = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", duration)
    seconds = sum(float(amount) * units[unit] for amount, unit in parts) or 3e9
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    return end.isoformat(timespec="seconds").replace("+00:00", "Z")


def token_outputs(operation: Operation, body: Body) -> Body:
    """Both halves of a service token; the secret is shown this once."""
    return new_id(operation, body) | {
        "clientId": f"{secrets.token_hex(16)}.access",
        "clientSecret": secrets.token_hex(32),
        "expiresAt": expiry(body["duration"]),
    }


def renew_token(operation: Operation, old: Body, new: Body) -> None:
    """A higher secret version is a new secret; a new duration a new end."""
    if new["clientSecretVersion"] != old.get("clientSecretVersion"):
        new["clientSecret"] = secrets.token_hex(32)
    if new["duration"] != old.get("duration"):
        new["expiresAt"] = expiry(new["duration"])


# What deletion does besides


async def delete_tunnel(operation: Operation, id: str, body: Body) -> None:
    """A connected tunnel stays; the configuration goes with the tunnel."""
    store = operation.world.store
    if operation.world.faults.strikes("tunnel-stays"):
        return
    if any(each["tunnelId"] == id for each in store.all(CONNECTION).values()):
        raise refuse(400, 1022, "Cannot delete tunnel because it has active connections")
    for token in (TUNNEL_CONFIG, TUNNEL_SECRET, TUNNEL):
        store.delete(token, id)


async def keep_config(operation: Operation, id: str, body: Body) -> None:
    """The plugin never deletes a configuration, and says so every time."""
    await operation.log(
        "warning",
        "Resource Destruction Considerations: Applying this resource destruction will remove the"
        " resource from the Pulumi state but will not change it in the API. If you would like to"
        " destroy or reset this resource in the API, refer to the documentation for how to do it"
        " manually.",
    )


ACCOUNT_REPLACES = ("accountId", "zoneId")

ROWS: tuple[ResourceType, ...] = (
    ResourceType(
        token=TUNNEL,
        id="{id}",
        life=CALL,
        outputs={"configSrc": "local"},
        replaces=("accountId", "configSrc"),
        service=(free_tunnel_name,),
        computed=tunnel_outputs,
        created=keep_secret,
        deleting=delete_tunnel,
    ),
    ResourceType(
        token=TUNNEL_CONFIG,
        id="{tunnelId}",
        life=CALL,
        outputs={"source": "cloudflare"},
        replaces=("accountId", "tunnelId"),
        references={
            "tunnelId": Reference(
                (TUNNEL,), deletion="allowed", missing=(404, "Tunnel not found", "1003")
            )
        },
        service=(catch_all_last,),
        computed=config_outputs,
        deleting=keep_config,
    ),
    ResourceType(
        token=DNS_RECORD,
        id="{id}",
        life=CALL,
        outputs={
            "proxied": False,
            "settings": {"flattenCname": False, "ipv4Only": False, "ipv6Only": False},
        },
        replaces=("type", "zoneId"),
        service=(sound_record,),
        computed=record_outputs,
    ),
    ResourceType(
        token=SERVICE_TOKEN,
        id="{id}",
        life=CALL,
        defaults={"duration": "8760h"},
        outputs={"clientSecretVersion": 1},
        replaces=ACCOUNT_REPLACES,
        service=(sound_duration,),
        computed=token_outputs,
        updated=renew_token,
    ),
    ResourceType(
        token=POLICY,
        id="{id}",
        life=CALL,
        outputs={"sessionDuration": "24h"},
        replaces=ACCOUNT_REPLACES,
        references={
            f"{kind}[].serviceToken.tokenId": Reference((SERVICE_TOKEN,))
            for kind in ("includes", "requires", "excludes")
        },
        preview=(single_selectors,),
        service=(sound_policy,),
        computed=new_id,
    ),
    ResourceType(
        token=APPLICATION,
        id="{id}",
        life=CALL,
        outputs={
            "appLauncherVisible": True,
            "httpOnlyCookieAttribute": True,
            "sessionDuration": "24h",
        },
        replaces=ACCOUNT_REPLACES,
        references={"policies[].id": Reference((POLICY,))},
        preview=(one_kind_of_policy, no_401_for_bookmarks),
        service=(own_domain,),
        computed=application_outputs,
    ),
)


def authenticate(world: World, config: Mapping[str, str], body: Body) -> None:
    """The token must be Cloudflare's, the account and the zone the caller's."""
    accounts = world.accounts
    known = {"accountId": accounts.cloudflare_accounts, "zoneId": accounts.cloudflare_zones}
    if config.get("apiToken") not in accounts.cloudflare_tokens:
        raise refuse(403, 10000, "Authentication error")
    for key, ours in known.items():
        id = body.get(key)
        if id and not re.fullmatch("[0-9a-f]{32}", id):
            kind = key.removesuffix("Id")
            message = (
                f"Could not route to /client/v4/{kind}s/{id}, perhaps your object identifier is"
                " invalid?"
            )
            raise refuse(404, 7003, message)
        if id and id not in ours:
            raise refuse(403, 10000, "Authentication error")


def tunnel_token(world: World, config: Mapping[str, str], arguments: Body) -> Body:
    """`getZeroTrustTunnelCloudflaredToken`: what `cloudflared tunnel run --token` takes."""
    authenticate(world, config, arguments)
    account, tunnel = arguments["accountId"], arguments["tunnelId"]
    kept = world.store.get(TUNNEL_SECRET, tunnel)
    if not kept:
        raise refuse(404, 1003, "Tunnel not found")
    text = json.dumps({"a": account, "t": tunnel, "s": kept["secret"]}, separators=(",", ":"))
    return {
        "accountId": account,
        "tunnelId": tunnel,
        "token": base64.b64encode(text.encode()).decode(),
        "id": account,
    }


PATIENCE = Patience(attempts=2, seconds=60)
REFUSALS: dict[str, Refusal] = {
    "unauthenticated": (401, "Invalid API Token", "1000"),
    "denied": (403, "Authentication error", "10000"),
    "unpropagated": (403, "Authentication error", "10000"),
    "taken": (
        409,
        "You already have a tunnel with this name. Please choose another name for this tunnel.",
        "1013",
    ),
    "held": (400, "access.api.error.in_use: it is used", "12132"),
    "throttled": (429, "Please wait and consider throttling your request speed", "971"),
    "broken": (503, "Service Unavailable", "10013"),
}
"""The number of the last one is a guess."""


class Cloudflare(Package):
    """pulumi-cloudflare."""

    name = "cloudflare"
    patience = PATIENCE
    refusals = REFUSALS
    functions = {  # noqa: RUF012 as Package declares it
        "cloudflare:index/getZeroTrustTunnelCloudflaredToken:getZeroTrustTunnelCloudflaredToken": (
            tunnel_token
        ),
    }
    volatile = frozenset({"version", "modifiedOn"})

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.rows = {row.token: row for row in ROWS}
        self.generated = {}

    def check_config(self, config: Mapping[str, str]) -> list[str]:
        """The form of the API token is checked before any call."""
        if re.fullmatch(r"[0-9A-Za-z\-_]{40,80}|", config.get("apiToken", "")):
            return []
        return [
            "could not validate provider configuration: Invalid Attribute Value Match. Attribute"
            " api_token API tokens must only contain characters a-z, A-Z, 0-9, hyphens and"
            " underscores. Check `pulumi config get cloudflare:apiToken`."
        ]

    def words(self, error: CloudError, operation: Operation, verb: str, body: Body) -> str:
        """`failed to make http request: POST "https://...": 409 Conflict {...}`."""
        path = PATHS.get(operation.type, "").format_map({"accountId": "", "zoneId": ""} | body)
        if verb != "create" and operation.type != TUNNEL_CONFIG:
            path += f"/{body.get('id', '')}"
        said = {
            "success": False,
            "errors": [{"code": int(error.reason), "message": error.message}],
            "messages": [],
            "result": None,
        }
        return (
            f'failed to make http request: {METHODS[verb]} "https://api.cloudflare.com/client/v4/'
            f'{path}": {error.code} {HTTPStatus(error.code).phrase} {json.dumps(said)}'
        )

    def authorise(self, operation: Operation, row: ResourceType, body: Body) -> None:
        """As every call to Cloudflare's API."""
        authenticate(operation.world, operation.config, body)
        if not permissions.permitted(operation.world, permissions.OF_TYPE[row.token], "Edit"):
            raise refuse(403, 10000, "Authentication error")

    def absent(self, value: str) -> CloudError:
        """What a policy or an application names must exist."""
        return refuse(400, 12130, f"access.api.error.invalid_request: {value} not found")

    def in_use(self, row: ResourceType, id: str, by: str) -> CloudError:
        """What a policy or an application names cannot go."""
        noun = "policy" if row.token == POLICY else "service token"
        return refuse(400, 12132, f"access.api.error.in_use: {noun} {id} is used by {by}")

    def complete(self, operation: Operation, row: ResourceType, body: Body) -> None:
        """Cloudflare completes a record's name with its zone's."""
        zone = operation.world.accounts.cloudflare_zones.get(body.get("zoneId", ""))
        name = body.get("name", "")
        if row.token == DNS_RECORD and zone and name != zone and not name.endswith(f".{zone}"):
            body["name"] = zone if name == "@" else f"{name}.{zone}"

    def look(self, operation: Operation, row: ResourceType, id: str, body: Body) -> Body:
        """A tunnel's status is its connections'."""
        if row.token != TUNNEL:
            return body
        connections = operation.world.store.all(CONNECTION).values()
        connected = any(each["tunnelId"] == id for each in connections)
        return body | {"status": "healthy" if connected else "inactive"}
