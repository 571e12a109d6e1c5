"""Whether the images exist upstream that the stack's registry will be asked for."""

from collections.abc import Iterator

from components.engine import engine, pinned_image
from scripts.checks.check import TIMEOUT, Check, Finding, RefusedError, Subject, client

REGISTRY = "https://registry-1.docker.io/v2"
TOKENS = "https://auth.docker.io/token"
ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


def engine_is_there(subject: Subject) -> Iterator[Finding]:
    """The engine's image, at the stack's version or digest."""
    settings = subject.settings
    image = engine(settings.engine).base_image(settings)
    yield from _there("engine image", image, "engineVersion")


def cloudflared_is_there(subject: Subject) -> Iterator[Finding]:
    """cloudflared's image."""
    image = pinned_image("cloudflare/cloudflared", subject.settings.cloudflared_version)
    yield from _there("cloudflared image", image, "cloudflaredVersion")


def _there(name: str, image: str, key: str) -> Iterator[Finding]:
    """Docker Hub is asked as Artifact Registry will ask it: by the registry's protocol."""
    separator = "@" if "@" in image else ":"
    repository, _, reference = image.rpartition(separator)
    with client() as http:
        scope = {"service": "registry.docker.io", "scope": f"repository:{repository}:pull"}
        token = http.get(TOKENS, params=scope, timeout=TIMEOUT).json()["token"]
        headers = {"Authorization": f"Bearer {token}", "Accept": ACCEPT}
        url = f"{REGISTRY}/{repository}/manifests/{reference}"
        status = http.head(url, headers=headers, timeout=TIMEOUT).status_code
    if status == 200:
        yield Finding(name, "ok", f"Docker Hub has {image}")
    elif status == 404:
        yield Finding(
            name,
            "fails",
            f"Docker Hub has no {image}",
            f"pulumi config rm {key}, for the version that was tried here, or set one of"
            f" https://hub.docker.com/r/{repository}/tags",
        )
    else:
        raise RefusedError(f"HTTP {status} from Docker Hub for {image}")


CHECKS: tuple[Check, ...] = (engine_is_there, cloudflared_is_there)
