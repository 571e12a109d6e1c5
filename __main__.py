"""A private LLM endpoint. Top to bottom: the project, who may call, the way in, the machine."""

from functools import partial
from pathlib import Path

import pulumi

from components import links, vllm
from components.access_application import AccessApplication, AccessApplicationArgs
from components.google_apis import GoogleApis, GoogleApisArgs
from components.gpu_vm import GpuVm, GpuVmArgs
from components.image_registry import ImageRegistry, ImageRegistryArgs
from components.instance_group import InstanceGroup, InstanceGroupArgs
from components.machine_identity import MachineIdentity, MachineIdentityArgs
from components.network import PrivateNetwork, PrivateNetworkArgs, subnet_range
from components.readiness import Readiness, ReadinessArgs
from components.settings import Settings
from components.stored_secret import StoredSecret, StoredSecretArgs, configured_secret
from components.tunnel import Tunnel, TunnelArgs, cloudflared_image

STARTUP_SCRIPT = Path(__file__).parent / "scripts" / "startup.sh"

settings = Settings.load()
name = f"llm-{settings.stack}"
labels = {"llm-endpoint-stack": settings.stack}
hugging_face_token = configured_secret("huggingFaceToken")
# All of the container but the revision, which is known where the machine is described.
engine = partial(vllm.container, settings, token=hugging_face_token is not None)

project = GoogleApis(name, GoogleApisArgs(project=settings.project)).project

identity = MachineIdentity(name, MachineIdentityArgs(project=project, account_id=f"{name}-machine"))

network = PrivateNetwork(
    name,
    PrivateNetworkArgs(
        project=project,
        region=settings.region,
        cidr=subnet_range(settings.region),
        health_check_port=vllm.PORT,
    ),
)

registry = ImageRegistry(
    name,
    ImageRegistryArgs(
        project=project,
        region=settings.region,
        repository_id=f"{name}-docker-hub",
        labels=labels,
        reader=identity.member,
    ),
)

access = AccessApplication(
    name,
    AccessApplicationArgs(
        account_id=settings.cloudflare_account_id,
        hostname=settings.hostname,
        consumers=settings.consumers,
        emails=settings.allowed_emails,
        email_domains=settings.allowed_email_domains,
        token_duration=settings.service_token_duration,
        protect=settings.protect,
    ),
)

tunnel = Tunnel(
    name,
    TunnelArgs(
        account_id=settings.cloudflare_account_id,
        zone_id=settings.cloudflare_zone_id,
        api_token=pulumi.Config("cloudflare").require_secret("apiToken"),
        tunnel_name=network.unique_name,
        hostname=settings.hostname,
        origin=f"http://127.0.0.1:{vllm.PORT}",
        public_paths=vllm.PUBLIC_PATHS,
        access_team_name=settings.access_team_name,
        access_audience=access.audience,
        protect=settings.protect,
    ),
)

secrets = {"tunnel-token": tunnel.token, "hugging-face-token": hugging_face_token}
secret_versions = {
    purpose: StoredSecret(
        f"{name}-{purpose}",
        StoredSecretArgs(
            project=project,
            secret_id=f"{name}-{purpose}",
            value=value,
            labels=labels,
            reader=identity.member,
            protect=settings.protect,
        ),
    ).version
    for purpose, value in secrets.items()
    if value is not None
}

match settings.platform:
    case "vm":
        machine = GpuVm(
            name,
            GpuVmArgs(
                project=project,
                region=settings.region,
                machine=settings.machine,
                provisioning=settings.provisioning,
                max_run_hours=settings.max_run_hours,
                boot_image=settings.boot_image,
                boot_disk_gb=settings.boot_disk_gb,
                subnetwork=network.subnetwork,
                service_account=identity.email,
                engine=engine,
                cloudflared_image=cloudflared_image(settings.cloudflared_version),
                registry=registry.url,
                secrets=secret_versions,
                startup_script=STARTUP_SCRIPT.read_text(),
                labels=labels,
            ),
        )
        group = InstanceGroup(
            name,
            InstanceGroupArgs(
                project=project,
                region=settings.region,
                zones=settings.zones,
                template=machine.template,
                revision=machine.revision,
                provisioning=settings.provisioning,
                replicas=settings.replicas,
                rollout=settings.rollout,
                health_port=vllm.PORT,
                health_path=vllm.HEALTH_PATH,
                repair_after_s=settings.ready_timeout_minutes * 60,
            ),
        ).group

if settings.wait_until_ready:
    Readiness(
        name,
        ReadinessArgs(
            hostname=tunnel.hostname,
            model=settings.model,
            api=settings.readiness_api,
            revision=machine.revision if settings.rollout != "manual" else "",
            timeout_minutes=settings.ready_timeout_minutes,
            client_id=access.probe.client_id,
            client_secret=access.probe.client_secret,
            project=settings.project,
            region=settings.region,
            group=group,
        ),
    )

# A contract with other teams' stacks: names stay as they are.
pulumi.export("baseUrl", pulumi.Output.concat("https://", tunnel.hostname, "/v1"))
pulumi.export("model", settings.model)
pulumi.export("contextLength", settings.max_model_len)
pulumi.export("clientIds", {who: token.client_id for who, token in access.tokens.items()})
pulumi.export(
    "clientSecrets",
    pulumi.Output.secret({who: token.client_secret for who, token in access.tokens.items()}),
)

# For the operator.
pulumi.export("sshCommand", links.ssh_command(settings.project, settings.region, group))
pulumi.export("logsUrl", links.logs_url(settings.project, name))
pulumi.export("consoleUrl", links.console_url(settings.project, settings.region, group))
