"""See to it that a tunnel is gone which Cloudflare has reported as deleted.

Runs when a stack is destroyed, right after its tunnel was deleted: it happened that the API said so
and the tunnel was still there. One that is, is deleted here. Everything comes from the environment;
components/tunnel.py sets it. Exits 1 when the tunnel stays.
"""

import os
import sys
import time
from typing import Any

import requests

from scripts.clear_tunnel_connections import (
    API,
    ATTEMPTS,
    PAUSE_SECONDS,
    CloudflareError,
    call,
    run,
)


def confirm(http: requests.Session, account: str, name: str) -> str:
    """Look for the tunnel by its name, and delete it while it is there; says what was done.

    Raises CloudflareError when that is refused, or does not help.
    """
    tunnels = f"{API}/accounts/{account}/cfd_tunnel"
    problem, deleted = "", False
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            found: list[dict[str, Any]] = (
                call(http, "GET", f"{tunnels}?name={name}&is_deleted=false") or []
            )
            ids: list[str] = [
                it["id"] for it in found if it["name"] == name and not it.get("deleted_at")
            ]
            if not ids:
                return f"tunnel {name} is gone" + (", at the second attempt" if deleted else "")
            problem = "it is still listed"
            for id in ids:
                call(http, "DELETE", f"{tunnels}/{id}/connections")
                call(http, "DELETE", f"{tunnels}/{id}")
                deleted = True
        except requests.RequestException as error:
            problem = f"no proper answer from {API}: {error.__class__.__name__}"
    raise CloudflareError(
        f"Tunnel {name} may not be gone, after {ATTEMPTS} attempts: {problem}."
        " Look for it in the dashboard (Zero Trust > Networks > Tunnels), then destroy again."
    )


if __name__ == "__main__":
    account, tunnel = os.environ["CLOUDFLARE_ACCOUNT_ID"], os.environ["TUNNEL_NAME"]
    sys.exit(run(lambda http: confirm(http, account, tunnel)))
