"""Docker Hub's images, kept in the machine's own region."""

from typing import TypedDict

import pulumi
from pulumi_gcp import artifactregistry

from components.ordering import after
from components.place import Place

KEPT_DAYS = 30
"""An image not fetched anew for so long is dropped; a machine that needs it fetches it again."""


class ImageRegistryArgs(TypedDict):
    place: Place
    reader: pulumi.Input[str]
    """The IAM member that may pull."""


class ImageRegistry(pulumi.ComponentResource):
    """A remote repository: it fetches what is asked of it from Docker Hub, and keeps it a while."""

    url: pulumi.Output[str]
    """What to write before a Docker Hub name such as `vllm/vllm-openai`, once it can be pulled."""
    id: pulumi.Output[str]
    """The repository, as its roles are granted."""

    def __init__(
        self, name: str, args: ImageRegistryArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:ImageRegistry", name, {}, opts)
        place = args["place"]
        child = pulumi.ResourceOptions(parent=self)

        repository = artifactregistry.Repository(
            f"{name}-docker-hub",
            project=place.project,
            location=place.region,
            # Google makes none up: it must differ between the stacks of a project and region.
            repository_id=f"{name}-docker-hub",
            format="DOCKER",
            mode="REMOTE_REPOSITORY",
            remote_repository_config={"docker_repository": {"public_repository": "DOCKER_HUB"}},
            cleanup_policies=[
                {
                    "id": "drop-old",
                    "action": "DELETE",
                    "condition": {"tag_state": "ANY", "older_than": f"{KEPT_DAYS * 86400}s"},
                },
                {
                    "id": "keep-newest",
                    "action": "KEEP",
                    "most_recent_versions": {"keep_count": 2},
                },
            ],
            labels=place.labels,
            opts=child,
        )
        reader = artifactregistry.RepositoryIamMember(
            f"{name}-docker-hub-reader",
            project=place.project,
            location=place.region,
            repository=repository.repository_id,
            role="roles/artifactregistry.reader",
            member=args["reader"],
            opts=child,
        )

        self.url = after(repository.registry_uri, reader)
        self.id = repository.repository_id
        self.register_outputs({"url": self.url, "id": self.id})

    def image(self, name: str) -> pulumi.Output[str]:
        """An image in full, of its name on Docker Hub, once it can be pulled."""
        return pulumi.Output.concat(self.url, "/", name)
