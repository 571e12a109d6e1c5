"""What goes wrong at Cloudflare."""

from rehearsal.cloudflare import CONNECTION, TUNNEL
from rehearsal.fault_library.fault import Fault, creates, sets
from rehearsal.scene import Scene


def stranger_connects(scene: Scene) -> None:
    """Somebody else runs a cloudflared with the tunnel's token."""
    tunnel = scene.find(TUNNEL)["id"]
    stranger = {"tunnelId": tunnel, "connectorId": "stranger", "connIndex": 0}
    scene.create(CONNECTION, "stranger", stranger | {"openedAt": "2026-01-01T00:00:00Z"})


FAULTS = (
    Fault(
        name="access-broken",
        life="The Access API answers 503 while the application is created.",
        source="github.com/cloudflare/cloudflare-go, README: asked again twice for 5xx",
        when="up",
        begin=(sets("broken-create-ZeroTrustAccessApplication"),),
        says=r"503 Service Unavailable",
    ),
    Fault(
        name="dns-record-exists",
        life="Somebody else's record has the endpoint's name.",
        source="https://developers.cloudflare.com/dns/manage-dns-records/troubleshooting/"
        "records-with-same-name/ (error 81053)",
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
        name="tunnel-used-elsewhere",
        life="A cloudflared outside of the stack stays connected to the tunnel.",
        source="https://github.com/cloudflare/terraform-provider-cloudflare/issues/5255"
        " (error 1022)",
        when="destroy",
        begin=(stranger_connects, sets("tunnel-used-elsewhere")),
        says=r"stop it",
    ),
)
