"""A network that nobody can enter, with a way out for downloads and the tunnel."""

import zlib
from typing import TypedDict

import pulumi
from pulumi_gcp import compute

from components.ordering import Ready, ready
from components.place import Place

IAP_FORWARDERS = ["35.235.240.0/20"]
"""Identity-Aware Proxy, https://cloud.google.com/iap/docs/using-tcp-forwarding."""


def subnet_range(region: str) -> str:
    """The /24 that a region's subnet gets, always the same one.

    A stack that moves has a subnet in both regions of one VPC for a while: the ranges of two
    regions must differ. They lie below 10.128.0.0, where Google's default networks begin.
    """
    number = zlib.crc32(region.encode()) % 2**15
    return f"10.{number >> 8}.{number & 255}.0/24"


class PrivateNetworkArgs(TypedDict):
    place: Place


class PrivateNetwork(pulumi.ComponentResource):
    """A VPC with one subnet and Cloud NAT. Its only rule admits SSH through Google's
    Identity-Aware Proxy."""

    subnetwork: pulumi.Output[str]
    """The subnet's id."""
    way_out: Ready
    """Its machines can reach Cloudflare and the hub; Google's own services they reach without."""
    name: pulumi.Output[str]
    """The VPC's name, which ends in characters that Pulumi drew at random."""

    def __init__(
        self, name: str, args: PrivateNetworkArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:PrivateNetwork", name, {}, opts)
        place = args["place"]
        child = pulumi.ResourceOptions(parent=self)

        vpc = compute.Network(
            f"{name}-vpc", project=place.project, auto_create_subnetworks=False, opts=child
        )
        subnet = compute.Subnetwork(
            f"{name}-subnet",
            project=place.project,
            region=place.region,
            network=vpc.id,
            ip_cidr_range=subnet_range(place.region),
            private_ip_google_access=True,
            opts=child,
        )
        router = compute.Router(
            f"{name}-router", project=place.project, region=place.region, network=vpc.id, opts=child
        )
        nat = compute.RouterNat(
            f"{name}-nat",
            project=place.project,
            region=place.region,
            router=router.name,
            nat_ip_allocate_option="AUTO_ONLY",
            source_subnetwork_ip_ranges_to_nat="ALL_SUBNETWORKS_ALL_IP_RANGES",
            # The usual 64 are used up by a download that opens many connections to one host. There
            # is room for the 25 machines that a tunnel takes.
            min_ports_per_vm=2048,
            log_config={"enable": True, "filter": "ERRORS_ONLY"},
            opts=child,
        )
        compute.Firewall(
            f"{name}-iap-ssh",
            project=place.project,
            network=vpc.id,
            direction="INGRESS",
            source_ranges=IAP_FORWARDERS,
            allows=[{"protocol": "tcp", "ports": ["22"]}],
            opts=child,
        )

        self.subnetwork = subnet.id
        self.way_out = ready(nat)
        self.name = vpc.name
        self.register_outputs({"subnetwork": self.subnetwork, "name": self.name})
