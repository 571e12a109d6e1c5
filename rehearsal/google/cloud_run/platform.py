"""What Cloud Run has at hand, and what it makes sure of before it starts a container."""

from dataclasses import dataclass
from datetime import UTC, datetime

from rehearsal import figures
from rehearsal.errors import CloudError
from rehearsal.google.cloud_run.workload import SecretFile, Workload
from rehearsal.google.guest import Surroundings
from rehearsal.google.identity import CLOUD_PLATFORM, Caller
from rehearsal.google.registry import Registry
from rehearsal.google.secret_manager import SecretManager
from rehearsal.world import World

GB = 10**9


@dataclass(frozen=True)
class Platform:
    """The rest of the cloud, as Cloud Run uses it."""

    around: Surroundings
    registry: Registry
    secrets: SecretManager

    @property
    def world(self) -> World:
        """The rehearsal's world."""
        return self.around.world

    def log(self, name: str, instance: str, line: str) -> None:
        """Write a line to the log of a revision or execution; `instance` may be empty."""
        self.world.logs.mkdir(exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with (self.world.logs / f"{name}.log").open("a") as file:
            file.write(f"{now} {instance or '-'} {line}\n")

    def read(self, workload: Workload, file: SecretFile) -> bytes:
        """A secret's payload, read as the workload. CloudError as Secret Manager refuses it."""
        _, project, _, secret = file.secret.split("/")
        return self.secrets.payload(workload.caller, project, secret, file.version)

    async def admit(self, workload: Workload) -> None:
        """Import the image and look for the secrets. CloudError in Cloud Run's words (a gRPC code).

        What the container may do beyond that it finds out itself.
        """
        size = self._image_size(workload)
        for index, _, file in workload.secret_values():
            place = f"containers[0].env[{index}].value_from.secret_key_ref.name"
            self._look_for(workload, file, place)
        for index, _, files in workload.secret_volumes():
            for file in files:
                self._look_for(workload, file, f"volumes[{index}].secret.secret_name")
        image: str = workload.container["image"].rpartition("/")[2]
        life = size / GB * figures.seconds("import image, 1 GB")
        await self.world.take(f"import {image.partition(':')[0]}", life)

    def _image_size(self, workload: Workload) -> int:
        image: str = workload.container["image"]
        number = self.world.accounts.projects[workload.project]
        agent = f"service-{number}@serverless-robot-prod.iam.gserviceaccount.com"
        scopes = frozenset({CLOUD_PLATFORM})
        try:
            return self.registry.find(Caller(agent, scopes, frozenset({workload.project})), image)
        except CloudError as error:
            if error.code == 404:
                raise CloudError(5, f"Image '{image}' not found.") from error
            message = (
                f"Google Cloud Run Service Agent {agent} must have permission to read the image,"
                f" {image}. Ensure that the provided container image URL is correct and that the"
                " above account has permission to access the image. If you just enabled the Cloud"
                " Run API, the permissions might take a few minutes to propagate."
            )
            raise CloudError(7, message) from error

    def _look_for(self, workload: Workload, file: SecretFile, place: str) -> None:
        number = self.world.accounts.projects[workload.project]
        name = f"projects/{number}/secrets/{file.secret.rpartition('/')[2]}/versions/{file.version}"
        try:
            self.read(workload, file)
        except CloudError as error:
            message = f"Secret {name} was not found"
            if error.code == 403:
                message = (
                    f"Permission denied on secret: {name} for Revision service account"
                    f" {workload.caller.email}. The service account used must be granted the"
                    " 'Secret Manager Secret Accessor' role (roles/secretmanager.secretAccessor)"
                    " at the secret, project or higher level."
                )
            raise CloudError(9, f"spec.template.spec.{place}: {message}") from error
