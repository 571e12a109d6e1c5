"""What goes wrong at Cloudflare."""

from rehearsal.fault_library.fault import Fault, creates, sets

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
        begin=(sets("tunnel-used-elsewhere"),),
        says=r"stop it",
    ),
)
