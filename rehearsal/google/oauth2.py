"""oauth2.googleapis.com: turns the rehearsing person's refresh token into access tokens."""

from aiohttp import web

from rehearsal.google.identity import CLOUD_PLATFORM, Caller, Identity, granted
from rehearsal.world import PERSON, World

HOST = "oauth2.googleapis.com"


class OAuth2:
    """The site; `handle` answers one request. Of the grants, the refresh token is played."""

    def __init__(self, world: World, identity: Identity) -> None:
        self._world = world
        self._identity = identity

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """The answer of RFC 6749, section 6, in Google's words."""
        if request.path != "/token" or request.method != "POST":
            return web.Response(status=404, text="Not Found", content_type="text/html")
        form = await request.post()
        if form.get("grant_type") != "refresh_token":
            kind = f"Invalid grant_type: {form.get('grant_type', '')}"
            return _refusal("unsupported_grant_type", kind)
        accounts = self._world.accounts
        if form.get("refresh_token") not in accounts.google_refresh_tokens:
            return _refusal("invalid_grant", "Token has been expired or revoked.")
        person = Caller(
            PERSON,
            frozenset({CLOUD_PLATFORM}),
            owns=frozenset(accounts.projects),
            may=granted(accounts.google_roles),
        )
        token, lifetime = self._identity.mint_for(person)
        reply = {"access_token": token, "expires_in": lifetime, "scope": CLOUD_PLATFORM}
        return web.json_response(reply | {"token_type": "Bearer"})


def _refusal(error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=400)
