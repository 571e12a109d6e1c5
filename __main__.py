"""A private LLM endpoint. Top to bottom: the project, who may call, the way in, what answers."""

from functools import partial

import pulumi

from components.access_application import AccessApplication
from components.bill import bill
from components.engine import engine as engine_named
from components.google_apis import GoogleApis, called, used_later
from components.gpu_service import GpuService
from components.gpu_vm import GpuVm
from components.image_registry import ImageRegistry
from components.links import links
from components.machine_identity import MachineIdentity
from components.model_weights import ModelWeights
from components.network import PrivateNetwork
from components.ordering import after
from components.place import Place
from components.preflight import Preflight
from components.public_hostname import PublicHostname
from components.readiness import Readiness
from components.serving import ServingArgs, SurroundingsArgs
from components.settings import Settings
from components.stored_secret import configured_secret
from components.tunnel import Tunnel

settings = Settings.load()
name = f"llm-{settings.stack}"
engine = engine_named(settings.engine)
token = configured_secret("huggingFaceToken")
api_token = pulumi.Config("cloudflare").require_secret("apiToken")
project, domain = pulumi.Output.from_input(settings.project), settings.domain(api_token)
cost = bill(settings, secrets=1 if token is None else 2)
pulumi.log.info(cost.sentence)

if settings.preflight:
    checked = Preflight(name, {"settings": settings, "domain": domain, "token": token})
    project, domain = checked.project, domain._replace(account_id=checked.account_id)

build = settings.weights == "image"
apis = GoogleApis(name, {"project": project, "services": called(build=build)})
place = Place(apis.project, settings.region, labels={"llm-endpoint-stack": settings.stack})
identity = MachineIdentity(name, {"place": place})
reader = identity.member
network = PrivateNetwork(name, {"place": place})
images = ImageRegistry(name, {"place": place, "reader": reader})

access = AccessApplication(name, {"domain": domain, "callers": settings.callers})
tunnel = Tunnel(
    name, {"domain": domain, "tunnel_name": network.name, "place": place, "connector": reader}
)

model = settings.model_source
weights = ModelWeights(
    name, {"place": place, "source": model, "token": token, "images": images, "reader": reader}
)
around = SurroundingsArgs(
    place=place, network=network, identity=identity, images=images, tunnel=tunnel, weights=weights
)
serving: ServingArgs = {**around, **settings.serving(token=token is not None)}
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
        "public_paths": engine.PUBLIC_PATHS,
        "access_audience": access.audience,
    },
)
if settings.wait_until_ready:
    Readiness(
        name,
        {
            "hostname": public.hostname,
            "settings": settings,
            "probe": server.revision.apply(partial(engine.probe, settings)),
            "caller": access.probe,
            "place": place,
            "group": server.group,
        },
    )

# By then nothing that the machine waits for wants their places.
meanwhile = after(apis.project, network.way_out)
GoogleApis(f"{name}-later", {"project": meanwhile, "services": used_later(build=build)})

secrets = {who: consumer.client_secret for who, consumer in access.tokens.items()}
# A contract with other teams' stacks: names stay as they are.
pulumi.export("baseUrl", pulumi.Output.concat("https://", public.hostname, "/v1"))
pulumi.export("model", settings.model)
pulumi.export("contextLength", settings.max_model_len)
pulumi.export("clientIds", {who: consumer.client_id for who, consumer in access.tokens.items()})
pulumi.export("clientSecrets", pulumi.Output.secret(secrets))
# For the operator.
operator = links(settings, name, server.group)
pulumi.export("sshCommand", operator.ssh_command)
pulumi.export("logsUrl", operator.logs_url)
pulumi.export("consoleUrl", operator.console_url)
pulumi.export("cost", cost.card)
