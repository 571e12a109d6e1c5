"""What stands where the image's cloudflared would: `cloudflared tunnel run`, remotely managed.

Flags, messages, rule matching and error answers follow cloudflared 2026.8 (read off its source).
Left out on purpose: websockets, TCP and private-network services, quick tunnels, configuration
files, QUIC. How it talks to the edge is told in rehearsal/cloudflare/tunnel.py.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import os
import re
import signal
import sys
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import aiohttp
import jwt
from aiohttp import web

from rehearsal import relay
from rehearsal.faults import Faults

EDGE = "region1.v2.argotunnel.com:7844"
DEFAULT_METRICS = "0.0.0.0:20241"
"""What the image's build listens on where nothing is said."""
CONNECTIONS = 4
MAX_LINE = 2**20
"""Bytes of a message from the edge: a whole configuration."""
SPARES = 2
"""Streams that each connection keeps ready."""
FAULTS = Faults(Path("/run/rehearsal/faults"))
MAX_BACKOFF = 8.0
"""Seconds between attempts to connect (the real one: up to 2^5 s)."""

# --- command line ---------------------------------------------------------------------------------

COMMON = """
credentials-file credentials-contents post-quantum! protocol features url hello-world! socks5!
proxy-connect-timeout proxy-tls-timeout proxy-tcp-keepalive proxy-no-happy-eyeballs!
proxy-keepalive-connections proxy-keepalive-timeout proxy-connection-timeout
proxy-expect-continue-timeout http-host-header origin-server-name unix-socket origin-ca-pool
no-tls-verify! no-chunked-encoding! http2-origin! management-hostname service-op-ip
local-ssh-port ssh-idle-timeout ssh-max-timeout bucket-name region-name secret-id access-key-id
session-token s3-url-host host-key-path ssh-server! bastion! proxy-address proxy-port
"""
FLAGS = {
    "tunnel": f"""{COMMON} config origincert autoupdate-freq no-autoupdate! no-prechecks! metrics
        pidfile loglevel transport-loglevel proto-loglevel logfile log-directory trace-output output
        is-autoupdated! edge region edge-ip-version edge-bind-address cacert hostname id lb-pool
        api-key api-email api-ca-key api-url metrics-update-freq tag heartbeat-interval
        heartbeat-count max-edge-addr-retries retries ha-connections rpc-timeout
        write-stream-timeout quic-disable-pmtu-discovery! label grace-period
        quic-connection-level-flow-control-limit quic-stream-level-flow-control-limit
        compression-quality use-reconnect-token! dial-edge-timeout stdin-control! name n ui!
        quick-service max-fetch-size management-diagnostics! overwrite-dns! help!""",
    "run": f"""{COMMON} token token-file icmpv4-src icmpv6-src max-active-flows dns-resolver-addrs
        help!""",
}
"""Which flags a command has; one with `!` takes no value."""

ENVIRONMENT = {
    "token": "TUNNEL_TOKEN",
    "token-file": "TUNNEL_TOKEN_FILE",
    "metrics": "TUNNEL_METRICS",
    "grace-period": "TUNNEL_GRACE_PERIOD",
    "loglevel": "TUNNEL_LOGLEVEL",
    "edge": "TUNNEL_EDGE",
    "protocol": "TUNNEL_TRANSPORT_PROTOCOL",
}


def parse(arguments: list[str]) -> dict[str, str]:
    """The flags of `cloudflared [flags] tunnel [flags] run [flags]`, environment included.

    Exits as the real one does: 0 for an unknown flag (its library prints and returns), 255 for
    what it calls a usage error.
    """
    flags = {name: os.environ[key] for name, key in ENVIRONMENT.items() if os.environ.get(key)}
    rest, commands = arguments, ["tunnel", "run"]
    for level in ("tunnel", *commands):
        rest = _take_flags(rest, FLAGS[level], flags)
        if commands and (not rest or rest[0] != commands[0]):
            sys.exit(f"This stand-in has `cloudflared tunnel run` only, not {arguments}.")
        rest, commands = (rest[1:], commands[1:]) if commands else (rest, commands)
    return flags


def _take_flags(arguments: list[str], known: str, flags: dict[str, str]) -> list[str]:
    """Move leading flags (`-f`, `--f`, `--f=v`, `--f v`) into `flags`; the rest comes back."""
    names = known.split()
    while arguments and arguments[0].startswith("-"):
        name, equals, value = arguments.pop(0).lstrip("-").partition("=")
        if name + "!" in names:
            value = value or "true"
        elif name not in names:
            print(f"Incorrect Usage: flag provided but not defined: -{name}\n", file=sys.stdout)
            sys.exit(0)
        elif not equals:
            if not arguments:
                print(f"Incorrect Usage: flag needs an argument: -{name}\n", file=sys.stdout)
                sys.exit(0)
            value = arguments.pop(0)
        flags[name] = value
    return arguments


def tunnel_token(flags: dict[str, str]) -> dict[str, str]:
    """The tunnel token {a, t, s}, from --token or --token-file."""
    text = flags.get("token", "")
    if not text and "token-file" in flags:
        try:
            with open(flags["token-file"]) as file:
                text = file.read().strip()
        except OSError as error:
            reason = (error.strerror or "").lower()
            usage_error(f"Failed to read token file: open {flags['token-file']}: {reason}")
    if not text:
        usage_error(
            '"cloudflared tunnel run" requires the ID or name of the tunnel to run as the last'
            " command line argument or in the configuration file."
        )
    try:
        token = json.loads(base64.b64decode(text, validate=True))
        return {key: str(token[key]) for key in ("a", "t", "s")}
    except (binascii.Error, ValueError, KeyError, TypeError):
        usage_error("Provided Tunnel token is not valid.")


def seconds(duration: str) -> float:
    """A Go duration such as `1m30s` in seconds, at most three minutes as --grace-period has it."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration)
    if "".join(number + unit for number, unit in parts) != duration or not parts:
        print(f'Incorrect Usage: invalid value "{duration}" for flag -grace-period: parse error\n')
        sys.exit(0)
    total = sum(float(number) * units[unit] for number, unit in parts)
    if total > 180:
        sys.exit("grace-period must be equal or less than 3m0s")
    return total


def usage_error(message: str) -> NoReturn:
    """Exit as cloudflared does on wrong usage."""
    print(f"{message}\nSee 'cloudflared tunnel run --help'.", file=sys.stderr)
    sys.exit(255)


def log(level: str, message: str, **fields: object) -> None:
    """One line as cloudflared's console logger writes it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    pairs = [f"{name}={_quoted(fields[name])}" for name in sorted(fields, key=_error_first)]
    print(
        " ".join([now, level, *([message] if message else []), *pairs]), file=sys.stderr, flush=True
    )


def _error_first(name: str) -> tuple[bool, str]:
    return name != "error", name


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text) if re.search(r'[\s"=]', text) else text


# --- ingress rules --------------------------------------------------------------------------------

GO_LACKS = re.compile(r"\(\?(=|!|<=|<!|>|\(|P=|#)|\\[1-9]|[*+?}]\+")
TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\$", re.DOTALL)


def go_regexp(pattern: str) -> re.Pattern[str]:
    """A Go regular expression as a Python one; ValueError for what Go does not have."""
    if lacking := GO_LACKS.search(pattern):
        raise ValueError(
            f"error parsing regexp: invalid or unsupported Perl syntax: `{lacking[0]}`"
        )
    ends = {"$": r"\Z", r"\z": r"\Z"}  # Python's $ also matches before a final newline
    try:
        return re.compile(TOKEN.sub(lambda m: ends.get(m[0], m[0]), pattern), re.ASCII)
    except re.error as error:
        raise ValueError(f"error parsing regexp: {error}") from None


@dataclass(frozen=True)
class Rule:
    """One ingress rule."""

    hostname: str
    path: re.Pattern[str] | None
    service: str
    origin: dict[str, Any]
    access: dict[str, Any] = field(default_factory=dict[str, Any])

    def matches(self, host: str, path: str) -> bool:
        """Whether a request is this rule's: host exact or `*.`, path searched, not anchored."""
        named = self.hostname in ("", "*", host) or (
            self.hostname.startswith("*.") and host.endswith(self.hostname[1:])
        )
        return named and (self.path is None or self.path.search(path) is not None)


NO_RULES = [Rule("", None, "http_status:503", {})]


def ingress(config: dict[str, Any]) -> list[Rule]:
    """The rules of a configuration; ValueError in cloudflared's words when it is not valid.

    Defaults of the whole configuration reach a rule, except `access`: cloudflared enforces only
    what stands in the rule itself.
    """
    entries: list[dict[str, Any]] = config.get("ingress") or []
    defaults: dict[str, Any] = config.get("originRequest") or {}
    return [_rule(entry, i, len(entries), defaults) for i, entry in enumerate(entries)] or NO_RULES


def _rule(entry: dict[str, Any], index: int, total: int, defaults: dict[str, Any]) -> Rule:
    hostname, path, service = entry.get("hostname") or "", entry.get("path") or "", entry["service"]
    origin: dict[str, Any] = entry.get("originRequest") or {}
    access: dict[str, Any] = origin.get("access") or {}
    _check_service(service)
    if access.get("required") and not access.get("teamName") and access.get("audTag"):
        raise ValueError("access.TeamName cannot be blank when access.audTags are present")
    if ":" in hostname:
        raise ValueError("Hostname cannot contain a port")
    if hostname.rfind("*") > 0:
        raise ValueError(
            'Hostname patterns can have at most one wildcard character ("*") and it can only be'
            ' used for subdomains, e.g. "*.example.com"'
        )
    catches_all, last = hostname in ("", "*") and not path, index == total - 1
    if last and not catches_all:
        raise ValueError(
            "The last ingress rule must match all URLs"
            " (i.e. it should not have a hostname or path filter)"
        )
    if catches_all and not last:
        raise ValueError(
            f"Rule #{index + 1} is matching the hostname '{hostname}', but this will match every"
            " hostname, meaning the rules which follow it will never be triggered."
        )
    try:
        pattern = go_regexp(path) if path else None
    except ValueError as error:
        raise ValueError(f"Rule #{index + 1} has an invalid regex: {error}") from None
    return Rule(hostname, pattern, service, defaults | origin, access)


def _check_service(service: str) -> None:
    if service.startswith("http_status:"):
        if not service.removeprefix("http_status:").isdigit():
            raise ValueError("invalid HTTP status code")
        return
    url = urlsplit(service)
    if not url.scheme or not url.hostname:
        raise ValueError(
            f"{service} is an invalid address, please make sure it has a scheme and a hostname"
        )
    if url.path:
        raise ValueError(
            f"{service} is an invalid address, ingress rules don't support proxying to a different"
            " path on the origin service. The path will be the same as the eyeball request's path"
        )
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{service}: this stand-in proxies to http and https services only")


# --- proxy ----------------------------------------------------------------------------------------

REFUSED = (
    "Unable to reach the origin service."
    " The service may be down or it may not be responding to traffic from cloudflared"
)
META_ORIGIN = {"Cf-Cloudflared-Response-Meta": '{"src":"origin"}'}
META_OWN = {"Cf-Cloudflared-Response-Meta": '{"src":"cloudflared"}'}


class Proxy:
    """Carries requests of the edge to origins by the ingress rules."""

    def __init__(self) -> None:
        self.rules = NO_RULES
        self.version, self.config = -1, dict[str, Any]()
        self.requests = self.errors = 0
        self._client = relay.client()
        self._keys: dict[str, jwt.PyJWKSet] = {}

    async def close(self) -> None:
        """Let go of the origins."""
        await self._client.close()

    def update(self, version: int, config: dict[str, Any]) -> None:
        """Take a configuration that the edge sent; one that is not valid changes nothing."""
        if version <= self.version:
            return
        try:
            self.rules = ingress(config)
        except (ValueError, KeyError) as error:
            log("ERR", "Failed to update ingress", error=error, version=version)
            return
        self.version, self.config = version, config
        log("INF", "Updated to new configuration", config=json.dumps(config), version=version)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of the edge."""
        self.requests += 1
        host, path = request.host.partition(":")[0], unquote(request.raw_path.partition("?")[0])
        number, rule = next(
            (number, rule) for number, rule in enumerate(self.rules) if rule.matches(host, path)
        )
        fields = {"ingressRule": number, "originService": rule.service}
        try:
            if rule.access.get("required") and (refused := await self._refusal(rule, request)):
                why = "request filtered by middleware handler (AccessJWTValidator) due to"
                log("ERR", "", error=f"{why}: {refused}", **fields)
                return web.Response(status=403, headers=META_ORIGIN)
            if rule.service.startswith("http_status:"):
                status = int(rule.service.removeprefix("http_status:"))
                return web.Response(status=status, headers=META_ORIGIN)
            return await self._carry(request, rule)
        except (aiohttp.ClientError, jwt.PyJWTError, OSError) as error:
            self.errors += 1
            log("ERR", "", error=f"{REFUSED}: {error}", **fields)
            return web.Response(status=502, headers=META_OWN)

    async def _refusal(self, rule: Rule, request: web.BaseRequest) -> str:
        """Why Access's token does not admit the request; empty when it does.

        Raises jwt.PyJWTError for a token that is not the team's or has expired (answered 502,
        as the real one does).
        """
        assertion = request.headers.get("Cf-Access-Jwt-Assertion", "")
        if not assertion:
            return "no access token in request"
        issuer = f"https://{rule.access.get('teamName', '')}.cloudflareaccess.com"
        key = await self._key(issuer, jwt.get_unverified_header(assertion).get("kid", ""))
        if FAULTS.strikes("clock-skew"):
            raise jwt.ImmatureSignatureError(
                "oidc: current time is before the nbf (not before) time of the token"
            )
        claims = jwt.decode(assertion, key, ["RS256"], issuer=issuer, options={"verify_aud": False})
        audiences: list[str] = [claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"]
        accepted: list[str] = rule.access.get("audTag") or []
        return "" if set(audiences) & set(accepted) else f"Invalid token in jwt: {audiences}"

    async def _key(self, issuer: str, id: str) -> jwt.PyJWK:
        """The team's public key of that id, fetched again when it is not known."""
        if issuer not in self._keys or id not in {key.key_id for key in self._keys[issuer].keys}:
            async with (
                aiohttp.ClientSession(trust_env=True) as client,
                client.get(f"{issuer}/cdn-cgi/access/certs", raise_for_status=True) as answer,
            ):
                self._keys[issuer] = jwt.PyJWKSet.from_dict(await answer.json())
        try:
            return self._keys[issuer][id]
        except KeyError:
            raise jwt.PyJWTError(f"no key {id!r} at {issuer}") from None

    async def _carry(self, request: web.BaseRequest, rule: Rule) -> web.StreamResponse:
        headers = relay.headers_of(request)
        if rule.origin.get("httpHostHeader"):
            headers["X-Forwarded-Host"] = request.host
            headers["Host"] = rule.origin["httpHostHeader"]
        connect = rule.origin.get("connectTimeout") or 30
        upstream = await relay.send(
            self._client,
            request,
            rule.service,
            headers,
            ssl=not rule.origin.get("noTLSVerify"),
            server_hostname=rule.origin.get("originServerName") or None,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect),
        )
        async with upstream:
            back = relay.headers_of(upstream)
            back.update(META_ORIGIN)
            return await relay.answer(request, upstream, back)


# --- connections ----------------------------------------------------------------------------------


class Connector:
    """This process's connections to the edge."""

    def __init__(self, token: dict[str, str], edge: str) -> None:
        self.id = str(uuid.uuid4())
        self.registered: dict[int, str] = {}
        self.stopping = asyncio.Event()
        self.proxy = Proxy()
        self._token = token
        self._host, _, self._port = edge.rpartition(":")
        self._first = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: set[web.Server] = set()

    async def run(self, grace: float) -> None:
        """Keep all connections up until told to stop; then let requests finish, `grace` seconds."""
        await asyncio.gather(*(self._keep(index) for index in range(CONNECTIONS)))
        # The edge has closed the spare streams; on those that it took a request may be on its way.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while any(it.connections for it in self._streams):  # noqa: ASYNC110 nothing tells
                    await asyncio.sleep(0.02)
        await self.proxy.close()

    async def _keep(self, index: int) -> None:
        """Keep one connection up; the others wait until the first has been made."""
        attempt = 0
        if index:
            await _either(self._first, self.stopping)
        while not self.stopping.is_set():
            try:
                await self._connection(index)
                attempt = 0
            except (OSError, ValueError) as error:
                refused = "Unauthorized" in str(error)
                what = "Register tunnel error from server side"
                unreachable = "Unable to establish connection with Cloudflare edge"
                log("ERR", what if refused else unreachable, connIndex=index, error=error)
                attempt += 1
            if self.stopping.is_set():
                return
            delay = min(2.0**attempt, MAX_BACKOFF)
            log("INF", f"Retrying connection in up to {delay:g}s", connIndex=index)
            await _either(self.stopping, at_most=delay)

    async def _connection(self, index: int) -> None:
        """Register, offer streams, follow the configuration; unregister when told to stop."""
        reader, writer = await asyncio.open_connection(self._host, int(self._port), limit=MAX_LINE)
        where = {"connIndex": index, "event": 0, "ip": writer.get_extra_info("peername")[0]}
        try:
            _send(writer, {"register": self._token, "connector": self.id, "index": index})
            answer = json.loads(await reader.readline() or b"{}")
            if "registered" not in answer:
                raise ConnectionError(answer.get("error", "the edge closed the connection"))
            id = self.registered[index] = answer["registered"]
            self._first.set()
            known = {"connection": id, "location": answer["location"], "protocol": "http2"}
            log("INF", "Registered tunnel connection", **where, **known)
            self._offer(id)
            follow = asyncio.create_task(self._follow(reader))
            await _either(follow, self.stopping)
            if self.stopping.is_set():
                _send(writer, {"unregister": True})
            await follow
            if self.stopping.is_set():
                log("INF", "Unregistered tunnel connection", **where)
        finally:
            self.registered.pop(index, None)
            writer.close()

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        """Take configurations until the edge hangs up."""
        while line := await reader.readline():
            message = json.loads(line)
            self.proxy.update(message["version"], message["config"])

    def _offer(self, id: str) -> None:
        """Offer streams on connection `id`, each replaced as soon as a request takes it."""

        async def serve(request: web.BaseRequest) -> web.StreamResponse:
            add()
            return await self.proxy.handle(request)

        def add() -> None:
            if id in self.registered.values():
                task = asyncio.create_task(dial())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        async def dial() -> None:
            loop = asyncio.get_running_loop()
            with contextlib.suppress(OSError):  # the connection is being lost: it tells
                transport, _ = await loop.create_connection(server, self._host, int(self._port))
                transport.write(json.dumps({"stream": id}).encode() + b"\n")

        server = web.Server(serve, **relay.SERVER)
        self._streams.add(server)
        for _ in range(SPARES):
            add()


async def _either(*things: asyncio.Event | asyncio.Task[Any], at_most: float | None = None) -> None:
    """Wait for the first of events and tasks, for `at_most` seconds; a task is not cancelled."""
    waits = [
        thing if isinstance(thing, asyncio.Task) else asyncio.create_task(thing.wait())
        for thing in things
    ]
    await asyncio.wait(waits, timeout=at_most, return_when=asyncio.FIRST_COMPLETED)
    for thing, wait in zip(things, waits, strict=True):
        if isinstance(thing, asyncio.Event):
            wait.cancel()


def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")


# --- metrics and main -----------------------------------------------------------------------------


class Metrics:
    """The metrics address: /ready, /healthcheck, /metrics, /config."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def start(self, address: str) -> None:
        """Listen on `host:port`; OSError when it cannot."""
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            web.Server(self._handle, **relay.SERVER), host or None, int(port)
        )
        name = "{}:{}".format(*server.sockets[0].getsockname()[:2])
        log("INF", f"Starting metrics server on {name}/metrics")

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        ready, proxy = len(self._connector.registered), self._connector.proxy
        match request.path:
            case "/ready":
                status = 200 if ready else 503
                known = {"readyConnections": ready, "connectorId": self._connector.id}
                return web.json_response({"status": status, **known}, status=status)
            case "/healthcheck":
                return web.Response(text="OK\n")
            case "/config":
                return web.json_response({"version": proxy.version, "config": proxy.config})
            case "/metrics":
                figures = {
                    "tunnel_ha_connections": ready,
                    "tunnel_total_requests": proxy.requests,
                    "tunnel_request_errors": proxy.errors,
                }
                lines = (f"cloudflared_{name} {value}\n" for name, value in figures.items())
                return web.Response(text="".join(lines))
            case _:
                return web.Response(status=404, text="404 page not found\n")


async def main(flags: dict[str, str]) -> None:
    """Run the tunnel until SIGTERM or SIGINT."""
    token, grace = tunnel_token(flags), seconds(flags.get("grace-period", "30s"))
    log("INF", f"Starting tunnel tunnelID={token['t']}")
    connector = Connector(token, flags.get("edge", EDGE))
    log("INF", f"Generated Connector ID: {connector.id}")
    try:
        await Metrics(connector).start(flags.get("metrics", DEFAULT_METRICS))
    except OSError as error:
        sys.exit(f"Error opening metrics server listener: {error}")

    def stop(name: str) -> None:
        log("INF", f"Initiating graceful shutdown due to signal {name} ...")
        connector.stopping.set()

    loop = asyncio.get_running_loop()
    for number, name in ((signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupt")):
        loop.add_signal_handler(number, stop, name)
    await connector.run(grace)
    log("INF", "Tunnel server stopped")
    log("INF", "Metrics server stopped")


if __name__ == "__main__":
    asyncio.run(main(parse(sys.argv[1:])))
