"""The platform `vm`: machines with a GPU that run the engine and their end of the tunnel."""

from functools import partial

import pulumi

from components.boot_image import BootImage, BootImageArgs
from components.compile_cache import CompileCache, CompileCacheArgs
from components.instance_group import InstanceGroup, InstanceGroupArgs
from components.machine_template import MachineTemplate, MachineTemplateArgs
from components.origin import Origin
from components.serving import MachinesArgs, ServingArgs, container


class GpuVmArgs(ServingArgs, MachinesArgs):
    """Nothing besides."""


class GpuVm(pulumi.ComponentResource):
    """GPU machines in a regional group. Each joins the tunnel when its engine answers."""

    origin: Origin
    """On the machine itself: each answers what its own end of the tunnel brings."""
    revision: pulumi.Output[str]
    """A digest of all that makes the engine's machine; empty under a manual rollout, where the
    machines change when their operator wants it."""
    group: pulumi.Output[str]
    """Name of the machines' group, once it has been told which machines to run."""

    def __init__(
        self, name: str, args: GpuVmArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:GpuVm", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        network, identity, weights = args["network"], args["identity"], args["weights"]
        cloudflared_image = args["images"].image(args["cloudflared"])

        boot_image: pulumi.Input[str] = args["hardware"].boot_image
        if args["prepared"] != "nothing":
            with_weights = args["prepared"] == "weights"
            runs = container(args, "")
            boot_image = BootImage(
                name,
                BootImageArgs(
                    place=args["place"],
                    base=boot_image,
                    disk_gb=args["hardware"].boot_disk_gb,
                    zones=args["zones"],
                    subnetwork=network.subnetwork,
                    service_account=identity.email,
                    engine_image=runs.apply(lambda it: it.image),
                    cloudflared_image=cloudflared_image,
                    weights_bucket=runs.apply(lambda it: it.weights_bucket) if with_weights else "",
                    needs=[weights.staged] if with_weights else [],
                ),
                opts=child,
            ).link
        compile_cache: pulumi.Input[str] | None = None
        if args["compile_cache"] == "bucket":
            kept = CompileCacheArgs(place=args["place"], machines=identity.member)
            compile_cache = CompileCache(name, kept, opts=child).bucket

        template = MachineTemplate(
            name,
            MachineTemplateArgs(
                place=args["place"],
                hardware=args["hardware"],
                boot_image=boot_image,
                subnetwork=network.subnetwork,
                service_account=identity.email,
                cloudflared_image=cloudflared_image,
                tunnel_token=args["tunnel"].token_version,
                hugging_face_token=weights.token_version,
                engine=partial(container, args),
                compile_cache=compile_cache,
            ),
            opts=child,
        )
        machines = InstanceGroup(
            name,
            InstanceGroupArgs(
                place=args["place"],
                network=network.name,
                zones=args["zones"],
                template=template.template,
                needs=[network.way_out, weights.staged],
                revision=template.revision,
                provisioning=args["hardware"].provisioning,
                replicas=args["replicas"],
                rollout=args["rollout"],
                downtime=args["downtime"],
                health_port=args["port"],
                health_path=args["health_path"],
                repair_after_s=args["load_time_s"],
            ),
            opts=child,
        )

        self.origin = Origin(f"http://127.0.0.1:{args['port']}")
        manual = args["rollout"] == "manual"
        self.revision = pulumi.Output.from_input("") if manual else template.revision
        self.group = machines.group
        self.register_outputs(
            {"origin": self.origin.url, "revision": self.revision, "group": self.group}
        )
