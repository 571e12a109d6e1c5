"""What a machine of the stack is, down to the last argument of its engine."""

from collections.abc import Mapping
from typing import TypedDict

import pulumi
from pulumi_gcp import compute

from components import instance
from components.engine import Containers
from components.hardware import Hardware
from components.place import Place
from components.revision import revision
from components.scripts import script


class MachineTemplateArgs(TypedDict):
    place: Place
    hardware: Hardware
    boot_image: pulumi.Input[str]
    subnetwork: pulumi.Input[str]
    service_account: pulumi.Input[str]
    cloudflared_image: pulumi.Input[str]
    registry: pulumi.Input[str]
    """What to write before the name of an image of Docker Hub's."""
    engine: Containers | None
    """None for a machine that only connects the tunnel."""
    weights: pulumi.Input[str]
    """Where they are; see components/engine.py."""
    compile_cache: pulumi.Input[str] | None
    """The bucket that keeps what the engine compiles, if one does."""
    secrets: Mapping[str, pulumi.Input[str]]
    """Purpose to full version name; the machine reads the values itself."""


class MachineTemplate(pulumi.ComponentResource):
    """The template of a machine with no public address.

    The script and the values that it reads are in the metadata; nothing there
    is secret. Whatever changes makes a new template, and a group that uses it
    replaces its machines.
    """

    template: pulumi.Output[str]
    """The template's link."""
    revision: pulumi.Output[str]
    """A digest of all that makes such a machine; its engine can be told by it."""

    def __init__(
        self, name: str, args: MachineTemplateArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:MachineTemplate", name, {}, opts)
        place, hardware = args["place"], args["hardware"]

        kept = args["compile_cache"]
        disk = instance.boot_disk(hardware, args["boot_image"])
        accelerators = instance.accelerators(hardware)
        scheduling = instance.scheduling(hardware)
        interface = instance.network_interface(args["subnetwork"])
        identity = instance.identity(args["service_account"])
        metadata = {
            **instance.LOGIN_AND_LOGS,
            "startup-script": script("startup.sh"),
            "cloudflared-image": args["cloudflared_image"],
            **({} if kept is None else {"compile-cache-bucket": kept}),
            **{f"{purpose}-secret": version for purpose, version in args["secrets"].items()},
        }

        def engine_of(known: pulumi.Input[str]) -> Mapping[str, pulumi.Input[str]]:
            """What is said of the engine, if there is one here."""
            if args["engine"] is None:
                return {"shutdown-timeout": str(instance.CONNECTOR_SHUTDOWN_S)}
            return instance.engine_metadata(
                args["engine"], args["registry"], args["weights"], known
            )

        self.revision = revision(
            hardware.machine_type,
            disk,
            accelerators,
            scheduling,
            interface,
            identity,
            metadata,
            engine_of(""),
        )
        template = compute.RegionInstanceTemplate(
            f"{name}-template",
            project=place.project,
            region=place.region,
            machine_type=hardware.machine_type,
            disks=[disk],
            guest_accelerators=accelerators or None,
            scheduling=scheduling,
            network_interfaces=[interface],
            service_account=identity,
            shielded_instance_config=instance.SHIELDED,
            metadata={**metadata, **engine_of(self.revision), "revision": self.revision},
            labels=place.labels,
            opts=pulumi.ResourceOptions(parent=self),
        )

        self.template = template.self_link
        self.register_outputs({"template": self.template, "revision": self.revision})
