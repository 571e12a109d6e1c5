"""Which model, where from, and by which way to the engine."""

from typing import Literal, NamedTuple


class ModelSource(NamedTuple):
    """A model as its engine names it."""

    weights: Literal["bucket", "image", "hub"]
    kind: Literal["hub", "ollama"]
    """Whose names for models and whose layout of files: Hugging Face's or Ollama's."""
    model: str
    revision: str
    """Commit, tag or branch."""
    hub: str
    """Address of the Hugging Face hub, or of a mirror."""
    keep: bool
    """Whether the bucket outlives the stack, and the model's turn in it."""
