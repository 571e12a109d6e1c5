"""Where the engine gets its weights, and the token that opens gated ones."""

from typing import TypedDict

import pulumi
from pulumi_command import local
from pulumi_gcp import serviceaccount

from components.image_registry import ImageRegistry
from components.model_bucket import ModelBucket
from components.model_image import ModelImage
from components.model_source import ModelSource
from components.ordering import Ready, ready
from components.place import Place
from components.stored_secret import StoredSecret


class ModelWeightsArgs(TypedDict):
    place: Place
    source: ModelSource
    token: pulumi.Input[str] | None
    """The hub's token, for a gated or private model. Must be marked secret."""
    images: ImageRegistry
    reader: pulumi.Input[str]
    """The IAM member that serves the model."""


class ModelWeights(pulumi.ComponentResource):
    """The weights in the stack's own keeping, if they are to be; and the hub's token.

    Who fetches the weights may read the token, and nobody else.
    """

    location: pulumi.Output[str]
    """`gs://BUCKET`, an image in full, or nothing where the engine fetches them itself."""
    staged: Ready
    """They can be had from there, and so an engine may start."""
    token_version: pulumi.Output[str] | None
    """Full name of the version of the secret that holds the token, if the engine needs it."""

    def __init__(
        self, name: str, args: ModelWeightsArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:ModelWeights", name, {}, opts)
        place, source, token = args["place"], args["source"], args["token"]
        images = args["images"]
        child = pulumi.ResourceOptions(parent=self)

        reader, stager = args["reader"], None
        if source.weights != "hub":
            stager = serviceaccount.Account(
                f"{name}-stager",
                project=place.project,
                account_id=f"{name}-stager",
                display_name=f"{name}: what fetches the weights",
                opts=child,
            )
            reader = stager.member
        version = None
        if token is not None:
            version = StoredSecret(
                f"{name}-hugging-face-token",
                {"place": place, "value": token, "reader": reader, "protect": source.protect},
                opts=child,
            ).version

        self.token_version = version if stager is None else None
        match source.weights, stager:
            case "bucket", serviceaccount.Account():
                kept = ModelBucket(
                    name,
                    {
                        "place": place,
                        "source": source,
                        "stager": stager.email,
                        "token": token,
                        "token_version": version,
                        "registry": images.url,
                        "reader": args["reader"],
                    },
                    opts=child,
                )
                self.location, self.staged = kept.location, kept.staged
            case "image", serviceaccount.Account():
                self.location = ModelImage(
                    name,
                    {
                        "place": place,
                        "source": source,
                        "engine": source.engine,
                        "base_image": images.image(source.base_image),
                        "base_repository": images.id,
                        "stager": stager.email,
                        "token": token,
                        "token_version": version,
                        "reader": args["reader"],
                    },
                    opts=child,
                ).image
                self.staged = ready()  # who knows the image's name can pull it
            case _:
                # The machines fetch it themselves: that they can is known before any GPU is paid.
                found = local.Command(
                    f"{name}-model",
                    create=".venv/bin/python -m scripts.find_model",
                    environment=source.environment
                    | {"PROJECT": place.project}  # not before anything may be made in it
                    | ({"HF_TOKEN": token} if token is not None else {}),
                    opts=child,
                )
                self.location = pulumi.Output.from_input("")
                self.staged = ready(found)
        self.register_outputs({"location": self.location, "token_version": self.token_version})
