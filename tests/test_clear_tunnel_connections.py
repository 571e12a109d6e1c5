"""What runs between the machines' deletion and the tunnel's."""

from io import BytesIO
from typing import Any

import pytest
import requests

from scripts import clear_tunnel_connections
from scripts.clear_tunnel_connections import ATTEMPTS, CloudflareError, clear

ACCOUNT, TUNNEL = "0123456789abcdef0123456789abcdef", "a-tunnel"


class Cloudflare(requests.Session):
    """Cloudflare's API as far as a tunnel's connections go."""

    def __init__(self, connections: int, status: int = 200, returning: int = 0) -> None:
        super().__init__()
        self.connections = connections
        self.status = status
        self.returning = returning
        self.deleted = 0

    def request(self, method: str, url: str, **_: Any) -> requests.Response:  # type: ignore[override]  # the script passes a timeout only
        expected = f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNT}/cfd_tunnel/{TUNNEL}"
        assert url == f"{expected}/connections"
        response = requests.Response()
        response.status_code = self.status
        if method == "DELETE":
            self.deleted += 1
            self.connections, self.returning = self.returning, 0
            response.raw = BytesIO(b'{"success": true, "result": {}}')
        else:
            listed = ",".join(['{"id": "a-client"}'] * self.connections)
            response.raw = BytesIO(f'{{"success": true, "result": [{listed}]}}'.encode())
        return response


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clear_tunnel_connections, "PAUSE_SECONDS", 0)


def test_connections_are_cleared_and_that_is_checked() -> None:
    """It succeeds only after Cloudflare itself lists none."""
    cloudflare = Cloudflare(connections=2)

    assert "no connections" in clear(cloudflare, ACCOUNT, TUNNEL)
    assert cloudflare.deleted == 1


def test_a_machine_that_comes_back_once_is_cleared_again() -> None:
    """cloudflared may reconnect while its machine shuts down."""
    cloudflare = Cloudflare(connections=1, returning=1)

    clear(cloudflare, ACCOUNT, TUNNEL)

    assert cloudflare.deleted == 2


def test_a_quiet_tunnel_is_left_alone() -> None:
    """Where nothing is connected, nothing is deleted."""
    cloudflare = Cloudflare(connections=0)

    clear(cloudflare, ACCOUNT, TUNNEL)

    assert cloudflare.deleted == 0


def test_a_tunnel_that_is_gone_is_no_trouble() -> None:
    """A tunnel deleted by hand does not hold up a destroy."""
    assert "gone" in clear(Cloudflare(connections=0, status=404), ACCOUNT, TUNNEL)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_explained_at_once(status: int) -> None:
    """A token replaced since the last `up` fails with the way out, not after many attempts."""
    with pytest.raises(CloudflareError, match="run `pulumi up`"):
        clear(Cloudflare(connections=1, status=status), ACCOUNT, TUNNEL)


def test_it_gives_up_when_somebody_else_holds_the_tunnel() -> None:
    """A cloudflared outside of the stack ends in an error that names it and the next step."""

    class Held(Cloudflare):
        def request(self, method: str, url: str, **_: Any) -> requests.Response:  # type: ignore[override]  # as above
            self.returning = 1
            return super().request(method, url)

    cloudflare = Held(connections=1)

    with pytest.raises(CloudflareError, match="1 cloudflared still connected"):
        clear(cloudflare, ACCOUNT, TUNNEL)
    assert cloudflare.deleted == ATTEMPTS


def test_a_hiccup_of_the_api_is_tried_again() -> None:
    """One failed call does not leave a stack half destroyed."""

    class Shaky(Cloudflare):
        calls = 0

        def request(self, method: str, url: str, **_: Any) -> requests.Response:  # type: ignore[override]  # as above
            self.calls += 1
            if self.calls == 1:
                raise requests.ConnectionError
            self.status = 500 if self.calls == 2 else 200
            return super().request(method, url)

    assert "no connections" in clear(Shaky(connections=1), ACCOUNT, TUNNEL)


def test_the_token_is_printed_nowhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Failing or not, the output names the tunnel and never the token."""
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "planted-token")
    cloudflare = Cloudflare(connections=1, status=403)
    monkeypatch.setattr(clear_tunnel_connections.requests, "Session", lambda: cloudflare)

    assert clear_tunnel_connections.run(lambda http: clear(http, ACCOUNT, TUNNEL)) == 1
    out, err = capsys.readouterr()
    assert cloudflare.headers["Authorization"] == "Bearer planted-token"
    assert "refuses the API token" in err
    assert "planted-token" not in out + err
