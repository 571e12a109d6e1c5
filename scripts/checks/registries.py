"""Whether images and Ollama's models exist under the names that will be fetched.

Images come through an Artifact Registry repository that hands on what Docker Hub has; it does not
exist before the first `up`, so Docker Hub itself is asked. Asking for a manifest's head is no pull
(docs.docker.com/docker-hub/usage/pulls/).
"""

from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from components.engine import engine as engine_named
from components.engine import pinned_image
from components.scripts import PYTHON_IMAGE
from components.settings import Settings
from scripts import hugging_face
from scripts.checks.check import Check, FailsError, UnknownError
from scripts.checks.hugging_face import TIMEOUT, room

DOCKER_HUB, TOKENS = "https://registry-1.docker.io", "https://auth.docker.io/token"
OLLAMA = "registry.ollama.ai"
"""Where models are whose name has no host."""
MANIFESTS = ", ".join(
    f"application/vnd.{kind}"
    for kind in (
        "oci.image.index.v1+json",
        "oci.image.manifest.v1+json",
        "docker.distribution.manifest.list.v2+json",
        "docker.distribution.manifest.v2+json",
    )
)


def checks(settings: Settings) -> Iterator[Check]:
    """One for each image; and for the model, where it is Ollama's."""
    engine = engine_named(settings.engine)
    images = {
        "Engine: image": (engine.base_image(settings), "engineVersion"),
        "Engine: cloudflared's image": (
            pinned_image("cloudflare/cloudflared", settings.cloudflared_version),
            "cloudflaredVersion",
        ),
    }
    if settings.weights == "bucket":
        images["Engine: image that fetches weights"] = (PYTHON_IMAGE, "")
    for name, (image, key) in images.items():
        yield Check(name, lambda it=image, key=key: image_exists(it, key))
    if engine.SOURCE == "ollama":
        yield Check("Ollama: model", lambda: model_exists(settings))


def _session() -> requests.Session:
    http = requests.Session()
    http.mount("https://", HTTPAdapter(max_retries=hugging_face.RETRIES))
    return http


def image_exists(image: str, key: str) -> str:
    """Docker Hub has the image at that tag or digest."""
    name, _, reference = image.partition("@") if "@" in image else image.partition(":")
    scope = f"repository:{name}:pull"
    try:
        with _session() as http:
            asked = {"service": "registry.docker.io", "scope": scope}
            token: str = http.get(TOKENS, params=asked, timeout=TIMEOUT).json()["token"]
            headers = {"Authorization": f"Bearer {token}", "Accept": MANIFESTS}
            url = f"{DOCKER_HUB}/v2/{name}/manifests/{reference}"
            answer = http.head(url, headers=headers, timeout=TIMEOUT)
    except requests.exceptions.JSONDecodeError:
        because = "Docker Hub answers something that is not JSON"
        raise UnknownError(because, "is there a proxy on the way?") from None
    except requests.RequestException as error:
        because = f"no answer from Docker Hub ({type(error).__name__})"
        raise UnknownError(because, "check the network of this machine, then try again") from None
    if answer.ok and answer.headers.get("Docker-Content-Digest"):
        return image
    # The registry names its protocol; whoever else answers does not.
    if answer.status_code == 404 and answer.headers.get("Docker-Distribution-Api-Version"):
        change = f", then: pulumi config set {key} VERSION" if key else ""
        page = f"https://hub.docker.com/r/{name}/tags"
        raise FailsError(f"Docker Hub has no {image}", f"look: {page}{change}")
    because = f"Docker Hub answers HTTP {answer.status_code}"
    raise UnknownError(because, "try again; its state: https://www.dockerstatus.com")


def model_exists(settings: Settings) -> str:
    """Ollama's registry has the model."""
    name, _, tag = settings.model.partition(":")
    host, _, rest = name.partition("/")
    host, name = (host, rest) if "." in host else (OLLAMA, name)
    path = name if "/" in name else f"library/{name}"
    url = f"https://{host}/v2/{path}/manifests/{tag or 'latest'}"
    try:
        with _session() as http:
            answer = http.get(url, headers={"Accept": MANIFESTS}, timeout=TIMEOUT)
            found: Any = answer.json()
    except requests.exceptions.JSONDecodeError:
        because = f"{host} answers something that is not JSON"
        raise UnknownError(because, "is there a proxy on the way?") from None
    except requests.RequestException as error:
        because = f"no answer from {host} ({type(error).__name__})"
        raise UnknownError(because, "check the network of this machine, then try again") from None
    if answer.status_code == 404 and found["errors"]:
        page = f"https://ollama.com/{path}/tags" if host == OLLAMA else f"https://{host}/{path}"
        raise FailsError(f"{host} has no model {settings.model}", f"look: {page}")
    if answer.status_code != 200:
        raise UnknownError(f"{host} answers HTTP {answer.status_code}", "try again")
    return f"{settings.model}, {room(settings, sum(int(it['size']) for it in found['layers']))}"
