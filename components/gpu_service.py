"""The platform `cloud-run`: a GPU service that sleeps when idle, and a machine that leads to it."""

import pulumi
from pulumi_gcp import cloudrunv2

from components import cloud_run
from components.hardware import CONNECTOR
from components.instance_group import InstanceGroup, InstanceGroupArgs
from components.machine_template import MachineTemplate, MachineTemplateArgs
from components.ordering import after
from components.origin import Origin
from components.revision import revision
from components.serving import ServiceArgs, ServingArgs, container

CONNECTOR_PORT = 20241
"""Where cloudflared says whether it is connected."""
CONNECTOR_HEALTH_PATH = "/ready"
CONNECTOR_START_S = 300
"""Seconds that a connector gets to connect before it is replaced as broken."""


class GpuServiceArgs(ServingArgs, ServiceArgs):
    """Nothing besides."""


class GpuService(pulumi.ComponentResource):
    """A Cloud Run service that only this project's own networks reach, and its connector."""

    origin: Origin
    """Google's front end knows the service by the Host header alone."""
    revision: pulumi.Output[str]
    """A digest of all that makes the service's instances."""
    group: pulumi.Output[str]
    """Name of the connector's group, once it has been told which machines to run."""

    def __init__(
        self, name: str, args: GpuServiceArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:GpuService", name, {}, opts)
        place, network, identity = args["place"], args["network"], args["identity"]
        weights, token = args["weights"], args["weights"].token_version
        child = pulumi.ResourceOptions(parent=self)
        runs = container(args, "")

        def described(
            known: pulumi.Input[str],
        ) -> pulumi.Output[cloudrunv2.ServiceTemplateContainerArgsDict]:
            """The only container, when the revision is `known`."""
            sizes = (args["cpus"], args["memory_gib"], args["start_limit_s"])
            return container(args, known).apply(
                lambda it: cloud_run.container(it, *sizes, token=token is not None)
            )

        volumes = pulumi.Output.all(runs, token).apply(lambda it: cloud_run.volumes(*it))
        self.revision = revision(
            described(""), volumes, args["gpu"], identity.email, args["zonal_redundancy"]
        )
        service = cloudrunv2.Service(
            f"{name}-service",
            project=after(place.project, weights.staged),
            location=place.region,
            # The service asks nobody who they are, so nobody outside may reach it at all: the
            # tunnel's requests carry no identity of Google's.
            ingress="INGRESS_TRAFFIC_INTERNAL_ONLY",
            invoker_iam_disabled=True,
            deletion_protection=args["protect"],
            template={
                "containers": [described(self.revision)],
                "volumes": volumes,
                "service_account": identity.email,
                "node_selector": {"accelerator": args["gpu"]},
                "gpu_zonal_redundancy_disabled": not args["zonal_redundancy"],
                "scaling": {
                    "min_instance_count": args["min_instances"],
                    "max_instance_count": args["max_instances"],
                },
                "max_instance_request_concurrency": runs.apply(
                    lambda it: min(it.concurrency, cloud_run.MOST_CONCURRENCY)
                ),
                "timeout": f"{cloud_run.REQUEST_TIMEOUT_S}s",
                "execution_environment": "EXECUTION_ENVIRONMENT_GEN2",
            },
            labels=place.labels,
            opts=child,
        )

        template = MachineTemplate(
            f"{name}-connector",
            MachineTemplateArgs(
                place=place,
                hardware=CONNECTOR,
                boot_image=CONNECTOR.boot_image,
                subnetwork=network.subnetwork,
                service_account=identity.email,
                cloudflared_image=args["images"].image(args["cloudflared"]),
                tunnel_token=args["tunnel"].token_version,
                hugging_face_token=None,
                engine=None,
                compile_cache=None,
            ),
            opts=child,
        )
        connector = InstanceGroup(
            f"{name}-connector",
            InstanceGroupArgs(
                place=place,
                network=network.name,
                zones=[],
                template=template.template,
                needs=[network.way_out],
                revision=template.revision,
                provisioning=CONNECTOR.provisioning,
                replicas=1,
                rollout="surge",
                downtime="",  # another one is connected first
                health_port=CONNECTOR_PORT,
                health_path=CONNECTOR_HEALTH_PATH,
                repair_after_s=CONNECTOR_START_S,
            ),
            opts=child,
        )

        host = service.uri.apply(lambda uri: uri.removeprefix("https://"))
        self.origin = Origin(service.uri, host)
        self.group = connector.group
        self.register_outputs(
            {"origin": self.origin.url, "revision": self.revision, "group": self.group}
        )
