"""The model's weights in an image of the stack's own, built once; for small models."""

from typing import TypedDict

import pulumi
from pulumi_command import local
from pulumi_gcp import artifactregistry, projects

from components.model_bucket import digest
from components.model_source import DEPLOYED_TAG, ModelSource
from components.ordering import after
from components.place import Place
from components.scripts import script


class ModelImageArgs(TypedDict):
    place: Place
    source: ModelSource
    engine: str
    base_image: pulumi.Input[str]
    """The engine's own image, in full."""
    base_repository: pulumi.Input[str]
    """Where that comes from: a repository's id in the same place."""
    stager: pulumi.Input[str]
    """Address of the service account that builds."""
    token: pulumi.Input[str] | None
    """The hub's token. Must be marked secret."""
    token_version: pulumi.Input[str] | None
    """Full name of the secret's version that holds it."""
    reader: pulumi.Input[str]
    """The IAM member that may pull the image."""


class ModelImage(pulumi.ComponentResource):
    """A repository, and the image with the weights in it that Cloud Build puts there."""

    image: pulumi.Output[str]
    """The image by its digest, once it can be pulled."""

    def __init__(
        self, name: str, args: ModelImageArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:ModelImage", name, {}, opts)
        place, source = args["place"], args["source"]
        child = pulumi.ResourceOptions(parent=self)

        repository = artifactregistry.Repository(
            f"{name}-models",
            project=place.project,
            location=place.region,
            # Google makes none up: it must differ between the stacks of a project and region.
            repository_id=f"{name}-models",
            format="DOCKER",
            cleanup_policies=[
                {
                    "id": "drop-old",
                    "action": "DELETE",
                    "condition": {"tag_state": "ANY", "older_than": "86400s"},
                },
                {
                    "id": "keep-newest",
                    "action": "KEEP",
                    "most_recent_versions": {"keep_count": 2},
                },
                {
                    # Back to an older image, it is not among the newest.
                    "id": "keep-deployed",
                    "action": "KEEP",
                    "condition": {"tag_state": "TAGGED", "tag_prefixes": [DEPLOYED_TAG]},
                },
            ],
            labels=place.labels,
            opts=child,
        )
        builder = pulumi.Output.concat("serviceAccount:", args["stager"])
        roles = {
            "models-reader": (repository.repository_id, "reader", args["reader"]),
            "models-writer": (repository.repository_id, "writer", builder),
            "base-reader": (args["base_repository"], "reader", builder),
        }
        grants: list[pulumi.Resource] = [
            artifactregistry.RepositoryIamMember(
                f"{name}-{purpose}",
                project=place.project,
                location=place.region,
                repository=where,
                role=f"roles/artifactregistry.{role}",
                member=who,
                opts=child,
            )
            for purpose, (where, role, who) in roles.items()
        ]
        grants.append(
            projects.IAMMember(
                f"{name}-build-logs",
                project=place.project,
                role="roles/logging.logWriter",
                member=builder,
                opts=child,
            )
        )
        build_files = ("build.sh", f"{args['engine']}.Dockerfile")
        built = local.Command(
            f"{name}-image",
            create=".venv/bin/python -m scripts.build_image",
            environment=source.environment
            | {
                "PROJECT": place.project,
                "REGION": place.region,
                "REPOSITORY": after(repository.registry_uri, *grants),
                "NAME": args["engine"],
                "ENGINE": args["engine"],
                "BASE_IMAGE": args["base_image"],
                "SERVICE_ACCOUNT": pulumi.Output.concat(
                    "projects/", place.project, "/serviceAccounts/", args["stager"]
                ),
                "TOKEN_SECRET": args["token_version"] or "",
            }
            | ({"HF_TOKEN": args["token"]} if args["token"] is not None else {}),
            # What a build is made of, besides what the stack says: a change builds again.
            triggers=[digest(*(script(f"model-image/{file}") for file in build_files))],
            opts=child,
        )

        self.image = after(built.stdout, *grants)
        self.register_outputs({"image": self.image})
