"""What goes wrong at Cloudflare."""

from rehearsal.cloudflare import APPLICATION, CONNECTION, SERVICE_TOKEN, TUNNEL
from rehearsal.fault_library.fault import Fault, creates, edits, sets
from rehearsal.scene import Scene

API = "https://developers.cloudflare.com/fundamentals/api/troubleshooting/"
CLIENT = "github.com/cloudflare/cloudflare-go, README: asked again twice for 408, 409, 429, 5xx"
IN_USE = (
    "https://developers.cloudflare.com/cloudflare-one/connections/connect-networks/"
    "troubleshoot-tunnels/ and cloudflare/terraform-provider-cloudflare#5255 (error 1022)"
)
CONSUMER = "app"
"""Of the stack `dev`."""
LOOK_AGAIN = ("pulumi refresh --yes --skip-preview",)


def stranger_connects(scene: Scene) -> None:
    """Somebody else runs a cloudflared with the tunnel's token."""
    tunnel = scene.find(TUNNEL)["id"]
    stranger = {"tunnelId": tunnel, "connectorId": "stranger", "connIndex": 0}
    scene.create(CONNECTION, "stranger", stranger | {"openedAt": "2026-01-01T00:00:00Z"})


def revoke(scene: Scene) -> None:
    """Somebody deletes the consumer's service token in the dashboard."""
    scene.remove(SERVICE_TOKEN, name=f"llm-{scene.stack}: {CONSUMER}")


def look_again(scene: Scene) -> str:
    """Clients get no answer, so somebody runs `pulumi refresh` and `pulumi up`."""
    scene.suffers()
    scene.asked("refresh", "--yes", "--skip-preview")
    return scene.up().text


FAULTS = (
    Fault(
        name="token-lacks-permission",
        life="The API token may not make service tokens.",
        source=f"{API} (10000, Authentication error)",
        when="up",
        begin=(sets("denied-create-ZeroTrustAccessServiceToken"),),
        says=r"Authentication error",
    ),
    Fault(
        name="access-broken",
        life="The Access API answers 503 while the application is created.",
        source=CLIENT,
        when="up",
        begin=(sets("broken-create-ZeroTrustAccessApplication"),),
        says=r"503 Service Unavailable",
    ),
    Fault(
        name="access-broken-for-a-moment",
        life="The Access API answers 503 twice while the application is created.",
        source=CLIENT,
        when="up",
        begin=(sets("broken-create-ZeroTrustAccessApplication:2"),),
    ),
    Fault(
        name="api-throttles",
        life="Cloudflare's API answers 429 to its first calls.",
        source="https://developers.cloudflare.com/fundamentals/api/reference/limits/",
        when="up",
        begin=(sets("throttled-create-ZeroTrustTunnelCloudflared:2"),),
    ),
    Fault(
        name="tunnel-name-taken",
        life="A tunnel that was deleted still holds the name.",
        source="https://developers.cloudflare.com/api/ (409, 1013)",
        when="up",
        begin=(sets("taken-create-ZeroTrustTunnelCloudflared:3"),),
        says=r"You already have a tunnel with this name",
    ),
    Fault(
        name="dns-record-exists",
        life="Somebody else's record has the endpoint's name.",
        source="https://developers.cloudflare.com/dns/manage-dns-records/troubleshooting/"
        "records-with-same-name/ (81053)",
        when="up",
        begin=(
            creates(
                "cloudflare:index/dnsRecord:DnsRecord",
                "somebody-elses",
                {
                    "name": "{hostname}",
                    "type": "A",
                    "content": "192.0.2.1",
                    "proxied": False,
                    "ttl": 300,
                    "zoneId": "{zone}",
                },
            ),
        ),
        says=r"An A, AAAA, or CNAME record with that host already exists",
    ),
    Fault(
        name="configuration-applied-late",
        life="The tunnel's configuration reaches cloudflared minutes later.",
        source="nothing found: played as two minutes more",
        when="update",
        begin=(sets("tunnel-config-late"),),
    ),
    Fault(
        name="edge-drops-tunnel",
        life="Cloudflare's edge loses the tunnel's connections.",
        source="https://developers.cloudflare.com/cloudflare-one/connections/connect-networks/"
        "troubleshoot-tunnels/common-errors/",
        when="serving",
        begin=(sets("edge-drops-tunnel:2"),),
    ),
    Fault(
        name="edge-broken",
        life="Cloudflare's edge answers 503 for a while.",
        source="https://www.cloudflarestatus.com/history",
        when="serving",
        begin=(sets("broken-edge:200"),),
    ),
    Fault(
        name="tunnel-deleted-outside",
        life="Somebody deletes the tunnel; the API goes on answering for it.",
        source="https://developers.cloudflare.com/api/ (deleted_at); the plugin does not look",
        when="serving",
        begin=(edits(TUNNEL, {"deletedAt": "2026-01-01T00:00:00Z"}),),
        act=look_again,
        says=r"pulumi up --replace '\*\*-tunnel'",
        repair=("pulumi up --yes --skip-preview --replace **-tunnel",),
    ),
    Fault(
        name="service-token-revoked",
        life="Somebody deletes a consumer's service token.",
        source="https://developers.cloudflare.com/cloudflare-one/identity/service-tokens/",
        when="serving",
        begin=(revoke,),
        act=lambda scene: scene.suffers(),
        says=r"401",
        repair=LOOK_AGAIN,
    ),
    Fault(
        name="access-application-deleted",
        life="Somebody deletes the Access application; cloudflared goes on demanding its token.",
        source="https://developers.cloudflare.com/cloudflare-one/applications/configure-apps/",
        when="serving",
        begin=(lambda scene: scene.remove(APPLICATION),),
        act=lambda scene: scene.suffers(),
        says=r"403",
        repair=LOOK_AGAIN,
    ),
    Fault(
        name="tunnel-used-elsewhere",
        life="A cloudflared outside of the stack stays connected to the tunnel.",
        source=IN_USE,
        when="destroy",
        begin=(stranger_connects, sets("tunnel-used-elsewhere")),
        says=r"stop it",
    ),
    Fault(
        name="tunnel-stays",
        life="Cloudflare reports the tunnel's deletion as done, and it is still there.",
        source="https://github.com/cloudflare/terraform-provider-cloudflare/issues/2533",
        when="destroy",
        begin=(sets("tunnel-stays:1"),),
    ),
    Fault(
        name="api-broken-at-destroy",
        life="Cloudflare's API answers 503 while connections are to be cleared.",
        source=CLIENT,
        when="destroy",
        begin=(sets("broken-api.cloudflare.com"),),
        says=r"no proper answer",
    ),
    Fault(
        name="tunnel-deletion-broken",
        life="Cloudflare answers 503 to the deletion of the tunnel.",
        source=CLIENT,
        when="destroy",
        begin=(sets("broken-delete-ZeroTrustTunnelCloudflared"),),
        says=r"503 Service Unavailable",
    ),
)
