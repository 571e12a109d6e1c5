"""The platform `vm`: machines with a GPU that run the engine and their end of the tunnel."""

import pulumi

from components.boot_image import BootImage, BootImageArgs
from components.compile_cache import CompileCache, CompileCacheArgs
from components.instance_group import InstanceGroup, InstanceGroupArgs
from components.machine_template import MachineTemplate, MachineTemplateArgs
from components.serving import MachinesArgs, ServingArgs


class GpuVmArgs(ServingArgs, MachinesArgs):
    """Nothing besides."""


class GpuVm(pulumi.ComponentResource):
    """GPU machines in a regional group. Each joins the tunnel when its engine answers."""

    origin: pulumi.Output[str]
    """The engine, as cloudflared reaches it."""
    origin_host: pulumi.Output[str] | None
    """The Host header that the origin wants, if it wants one."""
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
        secrets = {"tunnel-token": args["tunnel_token"]}
        if args["hugging_face_token"] is not None:
            secrets["hugging-face-token"] = args["hugging_face_token"]

        boot_image: pulumi.Input[str] = args["hardware"].boot_image
        if args["prepared"] != "nothing":
            with_weights = args["prepared"] == "weights"
            container = pulumi.Output.all(args["registry"], args["weights_location"], "").apply(
                lambda known: args["engine"](*known)
            )
            boot_image = BootImage(
                name,
                BootImageArgs(
                    place=args["place"],
                    base=boot_image,
                    disk_gb=args["hardware"].boot_disk_gb,
                    zones=args["zones"],
                    subnetwork=args["subnetwork"],
                    service_account=args["service_account"],
                    engine_image=container.apply(lambda it: it.image),
                    cloudflared_image=args["cloudflared_image"],
                    weights_bucket=container.apply(lambda it: it.weights_bucket)
                    if with_weights
                    else "",
                    needs=[args["staged"]] if with_weights else [],
                ),
                opts=child,
            ).link
        compile_cache: pulumi.Input[str] | None = None
        if args["compile_cache"] == "bucket":
            kept = CompileCacheArgs(place=args["place"], machines=args["machine"])
            compile_cache = CompileCache(name, kept, opts=child).bucket

        template = MachineTemplate(
            name,
            MachineTemplateArgs(
                place=args["place"],
                hardware=args["hardware"],
                boot_image=boot_image,
                subnetwork=args["subnetwork"],
                service_account=args["service_account"],
                registry=args["registry"],
                cloudflared_image=args["cloudflared_image"],
                engine=args["engine"],
                weights=args["weights_location"],
                compile_cache=compile_cache,
                secrets=secrets,
            ),
            opts=child,
        )
        machines = InstanceGroup(
            name,
            InstanceGroupArgs(
                place=args["place"],
                network=args["network"],
                zones=args["zones"],
                template=template.template,
                needs=[args["way_out"], args["staged"]],
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

        self.origin = pulumi.Output.from_input(f"http://127.0.0.1:{args['port']}")
        self.origin_host = None
        manual = args["rollout"] == "manual"
        self.revision = pulumi.Output.from_input("") if manual else template.revision
        self.group = machines.group
        self.register_outputs({"revision": self.revision, "group": self.group})
