"""What a machine of the stack is, down to the last argument of its engine."""

from collections.abc import Callable, Mapping
from typing import TypedDict

import pulumi
from pulumi_gcp import compute

from components import instance
from components.catalogue import Machine, Provisioning
from components.vllm import EngineContainer


class GpuVmArgs(TypedDict):
    project: pulumi.Input[str]
    region: str
    machine: Machine
    provisioning: Provisioning
    max_run_hours: int
    """Life of a flex-start machine; the other kinds have no end."""
    boot_image: str
    boot_disk_gb: int
    subnetwork: pulumi.Input[str]
    service_account: pulumi.Input[str]
    engine: Callable[[str], EngineContainer]
    """The container of a revision: a digest, made here, of all else that makes the machine."""
    cloudflared_image: str
    registry: pulumi.Input[str]
    """What to write before the name of an image."""
    secrets: Mapping[str, pulumi.Input[str]]
    """Purpose to full version name; the machine reads the values itself."""
    startup_script: str
    labels: Mapping[str, str]


class GpuVm(pulumi.ComponentResource):
    """The template of a machine with a GPU and no public address.

    The script and the values that it reads are in the metadata; nothing there
    is secret. Whatever changes makes a new template, and a group that uses it
    replaces its machines.
    """

    template: pulumi.Output[str]
    """The template's link."""
    revision: pulumi.Output[str]
    """What the engine of such a machine answers as `system_fingerprint`."""

    def __init__(
        self, name: str, args: GpuVmArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:GpuVm", name, {}, opts)
        engine, registry = args["engine"], args["registry"]

        machine_type = args["machine"].machine_type
        disk = instance.boot_disk(args["machine"], args["boot_image"], args["boot_disk_gb"])
        accelerators = instance.accelerators(args["machine"])
        scheduling = instance.scheduling(args["provisioning"], args["max_run_hours"])
        interface = instance.network_interface(args["subnetwork"])
        identity = instance.identity(args["service_account"])
        metadata = {
            **instance.LOGIN_AND_LOGS,
            "startup-script": args["startup_script"],
            **instance.engine_metadata(engine(""), registry),
            "cloudflared-image": pulumi.Output.concat(registry, "/", args["cloudflared_image"]),
            **{f"{purpose}-secret": version for purpose, version in args["secrets"].items()},
        }
        self.revision = instance.revision(
            machine_type, disk, accelerators, scheduling, interface, identity, metadata
        )

        template = compute.RegionInstanceTemplate(
            f"{name}-template",
            project=args["project"],
            region=args["region"],
            machine_type=machine_type,
            disks=[disk],
            guest_accelerators=accelerators or None,
            scheduling=scheduling,
            network_interfaces=[interface],
            service_account=identity,
            shielded_instance_config=instance.SHIELDED,
            metadata={
                **metadata,
                "engine-args": self.revision.apply(lambda known: "\n".join(engine(known).args)),
                "revision": self.revision,
            },
            labels=args["labels"],
            opts=pulumi.ResourceOptions(parent=self),
        )

        self.template = template.self_link
        self.register_outputs({"template": self.template, "revision": self.revision})
