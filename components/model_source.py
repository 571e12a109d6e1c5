"""Which model, where from, and by which way to the engine."""

from typing import Literal, NamedTuple

LARGEST_IMAGE_GB = 10
"""A model in an image "is best suited for smaller models less than 10 GB":
https://cloud.google.com/run/docs/configuring/jobs/gpu-best-practices."""

DEPLOYED_TAG = "deployed"
"""What an image with a model is called while machines run it: no clean-up removes it then."""


class ModelSource(NamedTuple):
    """A model as its engine names it, and what it takes to have it before a machine serves it."""

    weights: Literal["bucket", "image", "hub"]
    engine: str
    base_image: str
    """The engine's own, as Docker Hub names it."""
    kind: Literal["hub", "ollama"]
    """Whose names for models and whose layout of files: Hugging Face's or Ollama's."""
    model: str
    revision: str
    """Commit, tag or branch."""
    hub: str
    """Address of the Hugging Face hub, or of a mirror."""
    keep: bool
    """Whether the bucket outlives the stack, and the model's turn in it."""
    protect: bool
    """Whether the hub's token refuses to be deleted."""

    @property
    def environment(self) -> dict[str, str]:
        """What scripts know it by."""
        return {
            "SOURCE": self.kind,
            "MODEL": self.model,
            "REVISION": self.revision,
            "HF_ENDPOINT": self.hub,
        }
