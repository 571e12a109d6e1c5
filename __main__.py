"""A private LLM endpoint. Top to bottom: the project, who may call, the way in, what answers."""

from functools import partial

import pulumi

from components import links
from components.access_application import AccessApplication
from components.bill import bill
from components.engine import engine as engine_named
from components.google_apis import GoogleApis, called, used_later
from components.gpu_service import GpuService
from components.gpu_vm import GpuVm
from components.image_registry import ImageRegistry
from components.machine_identity import MachineIdentity
from components.model_weights import ModelWeights
from components.network import PrivateNetwork
from components.ordering import after
from components.place import Place
from components.preflight import Preflight
from components.public_hostname import PublicHostname
from components.readiness import Readiness
from components.serving import ServingArgs
from components.settings import Settings
from components.stored_secret import configured_secret
from components.tunnel import Tunnel, cloudflared_image

settings = Settings.load()
name = f"llm-{settings.stack}"
engine = engine_named(settings.engine)
token = configured_secret("huggingFaceToken")
api_token = pulumi.Config("cloudflare").require_secret("apiToken")
project, domain = pulumi.Output.from_input(settings.project), settings.domain
cost = bill(settings, secrets=1 if token is None else 2)
pulumi.log.info(cost.sentence)

if settings.preflight:
    checked = Preflight(name, {"settings": settings, "api_token": api_token, "token": token})
    project, domain = checked.project, domain._replace(account_id=checked.account_id)

build = settings.weights == "image"
apis = GoogleApis(name, {"project": project, "services": called(build=build)})
place = Place(apis.project, settings.region, labels={"llm-endpoint-stack": settings.stack})
identity = MachineIdentity(name, {"place": place})
network = PrivateNetwork(name, {"place": place})
registry = ImageRegistry(name, {"place": place, "reader": identity.member})

access = AccessApplication(name, {"domain": domain, "callers": settings.callers})
tunnel = Tunnel(
    name,
    {
        "domain": domain,
        "api_token": api_token,
        "tunnel_name": network.name,
        "place": place,
        "connector": identity.member,
    },
)

weights = ModelWeights(
    name,
    {
        "place": place,
        "source": settings.model_source,
        "engine": settings.engine,
        "base_image": engine.base_image(settings),
        "token": token,
        "registry": registry.url,
        "registry_id": registry.id,
        "reader": identity.member,
        "protect": settings.protect,
    },
)
serving = ServingArgs(
    place=place,
    network=network.name,
    subnetwork=network.subnetwork,
    way_out=network.way_out,
    service_account=identity.email,
    machine=identity.member,
    registry=registry.url,
    cloudflared_image=cloudflared_image(registry.url, settings.cloudflared_version),
    engine=partial(engine.container, settings, token=token is not None),
    port=engine.PORT,
    health_path=engine.HEALTH_PATH,
    weights_location=weights.location,
    staged=weights.staged,
    tunnel_token=tunnel.token_version,
    hugging_face_token=weights.token_version,
    load_time_s=settings.ready_timeout_minutes * 60,
)
match settings.platform:
    case "vm":
        server = GpuVm(name, {**serving, **settings.machines})
    case "cloud-run":
        server = GpuService(name, {**serving, **settings.service})

public = PublicHostname(
    name,
    {
        "domain": domain,
        "platform": settings.platform,
        "engine": settings.engine,
        "tunnel_id": tunnel.id,
        "origin": server.origin,
        "origin_host": server.origin_host,
        "public_paths": engine.PUBLIC_PATHS,
        "access_audience": access.audience,
    },
)
if settings.wait_until_ready:
    Readiness(
        name,
        {
            "hostname": public.hostname,
            "probe": server.revision.apply(partial(engine.probe, settings)),
            "api": settings.readiness_api,
            "timeout_minutes": settings.ready_timeout_minutes,
            "client_id": access.probe.client_id,
            "client_secret": access.probe.client_secret,
            "platform": settings.platform,
            "place": place,
            "group": server.group,
        },
    )

# By then nothing that the machine waits for wants their places.
meanwhile = after(apis.project, network.way_out)
GoogleApis(f"{name}-later", {"project": meanwhile, "services": used_later(build=build)})

# A contract with other teams' stacks: names stay as they are.
secrets = {who: consumer.client_secret for who, consumer in access.tokens.items()}
pulumi.export("baseUrl", pulumi.Output.concat("https://", public.hostname, "/v1"))
pulumi.export("model", settings.model)
pulumi.export("contextLength", settings.max_model_len)
pulumi.export("clientIds", {who: consumer.client_id for who, consumer in access.tokens.items()})
pulumi.export("clientSecrets", pulumi.Output.secret(secrets))
# For the operator.
pulumi.export("sshCommand", links.ssh_command(settings.project, settings.region, server.group))
pulumi.export("logsUrl", links.logs_url(settings.project, name))
pulumi.export(
    "consoleUrl",
    links.console_url(settings.platform, settings.project, settings.region, server.group),
)
pulumi.export("cost", cost.card)
