"""What a machine of the stack is, down to the last argument of its engine."""

from collections.abc import Callable, Mapping
from typing import TypedDict

import pulumi
from pulumi_gcp import compute

from components import instance
from components.engine import EngineContainer
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
    tunnel_token: pulumi.Input[str]
    """Full name of the version of a secret, which the machine reads itself; never its value."""
    hugging_face_token: pulumi.Input[str] | None
    """The same, if the engine needs it."""
    engine: Callable[[pulumi.Input[str]], pulumi.Output[EngineContainer]] | None
    """The container in a machine of a revision; None for one that only connects the tunnel."""
    compile_cache: pulumi.Input[str] | None
    """The bucket that keeps what the engine compiles, if one does."""


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

        hub_token, kept = args["hugging_face_token"], args["compile_cache"]
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
            "tunnel-token-secret": args["tunnel_token"],
            **({} if hub_token is None else {"hugging-face-token-secret": hub_token}),
        }

        def engine_of(known: pulumi.Input[str]) -> Mapping[str, pulumi.Input[str]]:
            """What is said of the engine, if there is one here."""
            if args["engine"] is None:
                return {"shutdown-timeout": str(instance.CONNECTOR_SHUTDOWN_S)}
            return instance.engine_metadata(args["engine"](known))

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
