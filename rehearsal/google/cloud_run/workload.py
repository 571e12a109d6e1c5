"""What runs in an instance: a container, read off a service's or a job's template."""

from collections.abc import Iterator
from dataclasses import dataclass

from rehearsal.google.cloud_run.gpus import GPUS, Gpu, gpu_of, redundant
from rehearsal.google.identity import CLOUD_PLATFORM, Caller
from rehearsal.store import Body

DEFAULT_PORT = 8080


@dataclass(frozen=True)
class SecretFile:
    """A version of a secret, and where it comes in the volume that it is part of."""

    secret: str
    version: str
    path: str
    mode: int


@dataclass(frozen=True)
class Workload:
    """A container and its surroundings, the same for every instance of a revision or execution."""

    owner: str
    """Id of the service or job."""
    name: str
    """Of the revision or execution: its instances and its log are called so."""
    template: Body
    """Of a revision or a task, in Pulumi's spelling."""
    environment: dict[str, str]
    """Variables that Cloud Run itself sets."""

    @property
    def project(self) -> str:
        """Project id."""
        return self.owner.split("/")[1]

    @property
    def region(self) -> str:
        """Region."""
        return self.owner.split("/")[3]

    @property
    def container(self) -> Body:
        """The only container: others are not played."""
        return self.template["containers"][0]

    @property
    def port(self) -> int:
        """Where a service's container has to listen."""
        return port_of(self.container)

    @property
    def gpu(self) -> Gpu | None:
        """Its GPU."""
        return GPUS.get(gpu_of(self.template))

    @property
    def gpu_row(self) -> Body | None:
        """The same, as rows have it."""
        name = gpu_of(self.template)
        return {"type": name, "zonalRedundancy": redundant(self.template)} if name else None

    @property
    def caller(self) -> Caller:
        """The service account that it runs as."""
        return Caller(self.template["serviceAccount"], frozenset({CLOUD_PLATFORM}))

    def values(self) -> dict[str, str]:
        """Variables that are written in the template."""
        envs: list[Body] = self.container.get("envs") or []
        return {it["name"]: it.get("value") or "" for it in envs if not it.get("valueSource")}

    def secret_values(self) -> Iterator[tuple[int, str, SecretFile]]:
        """Variables that come from secrets: place in the list, name, and where from."""
        envs: list[Body] = self.container.get("envs") or []
        for index, env in enumerate(envs):
            source: Body = env.get("valueSource") or {}
            if reference := source.get("secretKeyRef"):
                yield index, env["name"], self._file(reference["secret"], reference, 0)

    def secret_volumes(self) -> Iterator[tuple[int, str, list[SecretFile]]]:
        """Volumes of secrets: place in the list, name, files."""
        for index, volume in enumerate(self._volumes):
            source: Body = volume.get("secret") or {}
            if source:
                secret: str = source["secret"]
                items: list[Body] = source.get("items") or [{"path": secret.rpartition("/")[2]}]
                mode: int = source.get("defaultMode") or 0o444
                yield index, volume["name"], [self._file(secret, it, mode) for it in items]

    def buckets(self) -> Iterator[tuple[str, str, bool]]:
        """Volumes of Cloud Storage: name, bucket, and whether it is read-only."""
        for volume in self._volumes:
            source: Body = volume.get("gcs") or {}
            if source:
                yield volume["name"], source["bucket"], bool(source.get("readOnly"))

    def mounts(self) -> list[tuple[str, str]]:
        """Which volume is where in the container."""
        mounts: list[Body] = self.container.get("volumeMounts") or []
        return [(it["name"], it["mountPath"]) for it in mounts]

    @property
    def _volumes(self) -> list[Body]:
        return self.template.get("volumes") or []

    def _file(self, secret: str, item: Body, mode: int) -> SecretFile:
        if "/" not in secret:
            secret = f"projects/{self.project}/secrets/{secret}"
        version = str(item.get("version") or "latest")
        return SecretFile(secret, version, item.get("path") or "", item.get("mode") or mode)


def port_of(container: Body) -> int:
    """The port of a service's container."""
    ports: Body = container.get("ports") or {}
    return int(ports.get("containerPort") or DEFAULT_PORT)
