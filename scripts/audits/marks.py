"""By what a stack's things are known: its label where they can carry one, and their names.

Pulumi makes most names of the resource's own and seven characters drawn at random (`pulumi:
autonaming` may want it otherwise); the rest are the program's own. A name counts only if its role
is one of the program's: `llm-dev-2-vpc-1a2b3c4` is no network of the stack `dev`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

LABEL = "llm-endpoint-stack"
KEPT_LABEL = "llm-endpoint-kept"

DRAWN = "(?:-[0-9a-z]{1,12})?"
"""What is drawn at random, if anything."""
INSTANCE = "-[0-9a-z]{4}"
"""What a group puts after its base name
(docs.cloud.google.com/compute/docs/instance-groups/working-with-managed-instances)."""

DRAWN_NAMES: Mapping[str, tuple[str, ...]] = {
    "gcp:cloudrunv2/job:Job": ("staging",),
    "gcp:cloudrunv2/service:Service": ("service",),
    "gcp:compute/firewall:Firewall": ("iap-ssh", "health-checks", "connector-health-checks"),
    "gcp:compute/healthCheck:HealthCheck": ("health", "connector-health"),
    "gcp:compute/network:Network": ("vpc",),
    "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager": (
        "group",
        "connector-group",
    ),
    "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate": ("template", "connector-template"),
    "gcp:compute/router:Router": ("router",),
    "gcp:compute/subnetwork:Subnetwork": ("subnet",),
    "gcp:storage/bucket:Bucket": ("weights-[0-9a-f]{8}",),
    # Cloudflare keeps a deleted tunnel's name, so a tunnel takes its network's.
    "cloudflare:index/zeroTrustTunnelCloudflared:ZeroTrustTunnelCloudflared": ("vpc",),
}
"""Type -> what stands between the stack's name and what is drawn at random."""

OWN_NAMES: Mapping[str, tuple[str, ...]] = {
    "gcp:artifactregistry/repository:Repository": ("docker-hub", "models"),
    "gcp:secretmanager/secret:Secret": ("tunnel-token", "hugging-face-token"),
    "gcp:serviceaccount/account:Account": ("machine", "stager"),
}
"""Type -> what follows the stack's name, and nothing after that."""


class Marks:
    """What tells one stack's things from all others.

    Where two stacks would give the same name, as `dev` and `dev-connector` can, it is taken for the
    longer one's.
    """

    def __init__(self, stack: str, others: Iterable[str] = ()) -> None:
        self.stack = stack
        self._others = [Marks(it) for it in others if it.startswith(f"{stack}-")]
        self.title = f"llm-{stack}"
        """Name of its Access application; others of its names begin with it."""
        start = re.escape(self.title)
        self._names = {
            type: re.compile(f"{start}-(?:{'|'.join(roles)}){DRAWN}")
            for type, roles in DRAWN_NAMES.items()
        } | {
            type: re.compile(f"{start}-(?:{'|'.join(roles)})") for type, roles in OWN_NAMES.items()
        }
        self._machine = re.compile(f"{start}(?:-connector)?{INSTANCE}")

    def named(self, type: str, name: str) -> bool:
        """Whether a thing of a type has a name that this stack would give it."""
        others = any(it.named(type, name) for it in self._others)
        return bool(self._names[type].fullmatch(name)) and not others

    def machine(self, name: str) -> bool:
        """Whether a machine, or its disk, has a name that this stack's groups would give it."""
        others = any(it.machine(name) for it in self._others)
        return bool(self._machine.fullmatch(name)) and not others

    def labelled(self, about: Mapping[str, Any]) -> bool | None:
        """Whether something carries this stack's label; None where it carries no stack's."""
        labels: Mapping[str, str] = about.get("labels") or {}
        return labels[LABEL] == self.stack if LABEL in labels else None

    def titled(self, name: str) -> bool:
        """Whether something of Access has a title that this stack would give it."""
        return name == self.title or name.startswith(f"{self.title}: ")

    def own(self, type: str, name: str, about: Mapping[str, Any]) -> bool:
        """Whether a thing is this stack's. A label says more than a name."""
        label = self.labelled(about)
        return self.named(type, name) if label is None else label


def is_kept(about: Mapping[str, Any]) -> bool:
    """Whether a bucket is there to outlive its stack."""
    labels: Mapping[str, str] = about.get("labels") or {}
    return KEPT_LABEL in labels
