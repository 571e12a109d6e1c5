"""What runs right after the tunnel's deletion."""

import json
from io import BytesIO
from typing import Any

import pytest
import requests

from scripts import confirm_tunnel_deletion
from scripts.clear_tunnel_connections import ATTEMPTS, CloudflareError
from scripts.confirm_tunnel_deletion import confirm

ACCOUNT, NAME = "0123456789abcdef0123456789abcdef", "llm-dev-vpc-1a2b3c4"


class Cloudflare(requests.Session):
    """Cloudflare's API, in which a tunnel survives so many deletions."""

    def __init__(self, stubborn: int, status: int = 200) -> None:
        super().__init__()
        self.stubborn = stubborn
        self.status = status
        self.asked: list[str] = []

    def request(self, method: str, url: str, **_: Any) -> requests.Response:  # type: ignore[override]  # the script passes a timeout only
        path = url.partition(f"/accounts/{ACCOUNT}/cfd_tunnel")[2]
        self.asked.append(f"{method} {path}")
        if method == "DELETE" and not path.endswith("/connections"):
            self.stubborn -= 1
        listed = [{"id": "t1", "name": NAME, "deleted_at": None}] if self.stubborn > 0 else []
        gone = {"id": "t0", "name": NAME, "deleted_at": "2026-01-01T00:00:00Z"}
        response = requests.Response()
        response.status_code = self.status
        body: dict[str, Any] = {
            "success": True,
            "result": [gone, *listed] if method == "GET" else {},
        }
        response.raw = BytesIO(json.dumps(body).encode())
        return response


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm_tunnel_deletion, "PAUSE_SECONDS", 0)


def test_a_tunnel_that_is_gone_is_only_looked_for() -> None:
    """One that Cloudflare lists as deleted is gone."""
    cloudflare = Cloudflare(stubborn=0)

    assert confirm(cloudflare, ACCOUNT, NAME) == f"tunnel {NAME} is gone"
    assert cloudflare.asked == [f"GET ?name={NAME}&is_deleted=false"]


def test_a_tunnel_that_is_still_there_is_deleted_once_more() -> None:
    """With its connections, and until Cloudflare lists it no more."""
    cloudflare = Cloudflare(stubborn=1)

    assert "at the second attempt" in confirm(cloudflare, ACCOUNT, NAME)
    assert cloudflare.asked[1:3] == ["DELETE /t1/connections", "DELETE /t1"]
    assert cloudflare.asked[-1].startswith("GET")


def test_a_tunnel_that_stays_is_named_with_where_to_look() -> None:
    """After so many attempts, and never in silence."""
    with pytest.raises(CloudflareError, match="dashboard"):
        confirm(Cloudflare(stubborn=ATTEMPTS + 1), ACCOUNT, NAME)


def test_a_refused_token_ends_it_at_once() -> None:
    """With what to do about it."""
    cloudflare = Cloudflare(stubborn=1, status=403)

    with pytest.raises(CloudflareError, match="run `pulumi up`"):
        confirm(cloudflare, ACCOUNT, NAME)
    assert len(cloudflare.asked) == 1
