"""The image that machines boot from, with everything on it that they would fetch."""

from collections.abc import Sequence
from typing import TypedDict

import pulumi
from pulumi_command import local
from pulumi_gcp import compute

from components.ordering import Ready, after
from components.place import Place

SCRIPT = ".venv/bin/python -m scripts.boot_disk"


class BootImageArgs(TypedDict):
    place: Place
    base: str
    """What it is made from, such as a family of images."""
    disk_gb: int
    """Of the machines: a disk can be larger than its image, and not smaller."""
    zones: Sequence[str]
    """Where a machine may be had."""
    subnetwork: pulumi.Input[str]
    service_account: pulumi.Input[str]
    """As whom the machine fetches: it may read what the stack's machines may."""
    engine_image: pulumi.Input[str]
    cloudflared_image: pulumi.Input[str]
    weights_bucket: pulumi.Input[str]
    """Its content comes onto the disk, too; empty for none."""
    needs: Sequence[Ready]
    """What must be there before anything is fetched."""


class BootImage(pulumi.ComponentResource):
    """An image of a disk that a short-lived machine without a GPU has prepared.

    Made anew when what is on it changes; the old one goes when the machines have changed over.
    Between times nothing of it but the image is left, or billed.
    """

    link: pulumi.Output[str]

    def __init__(
        self, name: str, args: BootImageArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:BootImage", name, {}, opts)
        place = args["place"]
        child = pulumi.ResourceOptions(parent=self)
        where = {"PROJECT": place.project, "STACK": place.labels["llm-endpoint-stack"]}

        # No resource is the machine: it would have to stay, and its disk be paid for, only to be
        # known (docs/decisions/0019-machines-boot-from-a-prepared-image.md).
        disk = local.Command(
            f"{name}-boot-disk",
            create=SCRIPT,
            delete=f"{SCRIPT} --remove",
            environment={
                **where,
                "REGION": place.region,
                "ZONES": " ".join(args["zones"]),
                "BASE_IMAGE": args["base"],
                "DISK_GB": str(args["disk_gb"]),
                "SUBNETWORK": args["subnetwork"],
                "SERVICE_ACCOUNT": args["service_account"],
                "ENGINE_IMAGE": args["engine_image"],
                "CLOUDFLARED_IMAGE": args["cloudflared_image"],
                "WEIGHTS_BUCKET": after(args["weights_bucket"], *args["needs"]),
            },
            opts=child,
        )
        image = compute.Image(
            f"{name}-boot-image",
            project=place.project,
            source_disk=disk.stdout,
            storage_locations=[place.region],
            labels=place.labels,
            opts=child,
        )
        # The disk has served: an image does not need what it was made of.
        local.Command(
            f"{name}-boot-disk-gone",
            create=f"{SCRIPT} --remove",
            environment={**where, "IMAGE": image.self_link},
            opts=child,
        )

        self.link = image.self_link
        self.register_outputs({"link": self.link})
