"""Where models come from: the Hugging Face hub, Ollama's registries, and who has their bytes."""

from rehearsal.hub import cdn, ollama
from rehearsal.hub.models import model
from rehearsal.hub.ollama import OllamaRegistry
from rehearsal.hub.site import HOST, Hub
from rehearsal.internet import Handler
from rehearsal.world import World

__all__ = ["HOST", "Hub", "model", "sites"]


def sites(world: World) -> dict[str, Handler]:
    """Host name -> its site."""
    hub = Hub(world)
    registry = OllamaRegistry(hub.cdn)
    return {
        HOST: hub.handle,
        **dict.fromkeys(ollama.HOSTS, registry.handle),
        **dict.fromkeys(cdn.HOSTS, hub.cdn.handle),
    }
