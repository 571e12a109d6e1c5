"""Make Cloudflare forget a tunnel's connections, so that the tunnel can be deleted.

Runs when a stack is destroyed, between its machines and its tunnel. Cloudflare
refuses to delete a tunnel (error 1022) while it counts connections, and it
counts those of a machine that died for a while. Everything comes from the
environment; components/tunnel.py sets it. Exits 1 when connections remain.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import requests

API = "https://api.cloudflare.com/client/v4"
TIMEOUT = 30.0
ATTEMPTS = 10
PAUSE_SECONDS = 3.0
"""A machine that is still shutting down may connect once more."""
GONE = 404


class CloudflareError(Exception):
    """Cloudflare said no, and will again."""


def call(http: requests.Session, method: str, url: str) -> Any:
    """The result of one call; None when there is no such tunnel.

    Raises CloudflareError when it is refused, requests.RequestException when there is no answer.
    """
    response = http.request(method, url, timeout=TIMEOUT)
    if response.status_code == GONE:
        return None
    if response.status_code in (401, 403):
        raise CloudflareError(
            "Cloudflare refuses the API token that this stack was last deployed with"
            f" (HTTP {response.status_code}). If it was replaced since: run `pulumi up`, which"
            " stores the new one, then destroy again. It needs the permission"
            " Account: Cloudflare Tunnel: Edit."
        )
    response.raise_for_status()
    return response.json()["result"] or []


def clear(http: requests.Session, account: str, tunnel: str) -> str:
    """Delete the tunnel's connections until none is listed; says what was done.

    Raises CloudflareError when that is refused, or when some remain.
    """
    url = f"{API}/accounts/{account}/cfd_tunnel/{tunnel}/connections"
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            clients = call(http, "GET", url)
            if clients is None:
                return f"tunnel {tunnel} is gone already"
            if not clients:
                return f"tunnel {tunnel} has no connections"
            problem = f"{len(clients)} cloudflared still connected"
            call(http, "DELETE", url)
        except requests.RequestException as error:
            problem = f"no proper answer from {API}: {error.__class__.__name__}"
    raise CloudflareError(
        f"Could not clear the connections of tunnel {tunnel} in {ATTEMPTS} attempts: {problem}."
        " Something outside of this stack may run cloudflared with this tunnel's token: stop it"
        " (dashboard: Zero Trust > Networks > Tunnels), then destroy again."
    )


def run(work: Callable[[requests.Session], str]) -> int:
    """Do a piece of work with the API token from the environment, and tell; the exit status."""
    with requests.Session() as http:
        http.headers["Authorization"] = f"Bearer {os.environ['CLOUDFLARE_API_TOKEN']}"
        try:
            print(work(http))
        except CloudflareError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    account, tunnel = os.environ["CLOUDFLARE_ACCOUNT_ID"], os.environ["TUNNEL_ID"]
    sys.exit(run(lambda http: clear(http, account, tunnel)))
