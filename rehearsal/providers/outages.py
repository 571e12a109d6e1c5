"""What can befall any operation on any resource, as faults of a world.

A fault `HOW-VERB-TYPE` befalls the creation, reading, update or deletion (`any` for all) of
resources of a type such as `RouterNat` (`any` for all). HOW is one of REFUSALS, and the service
does not begin; or `late`: it takes LATE_S more; `failed`: the operation ends in an error after it
began; `endless`: the service does what was asked, and the plugin never hears of it and gives up.

pulumi-gcp asks again for as long as the operation may take, when the answer is 429, 500, 502 or
503 (hashicorp/terraform-provider-google, error_retry_predicates.go in google/transport); the client
of pulumi-cloudflare does so twice for 408, 409, 429 and 5xx (github.com/cloudflare/cloudflare-go,
README, "Retries").
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from rehearsal.errors import CloudError
from rehearsal.world import World

REFUSALS = ("unauthenticated", "denied", "unpropagated", "taken", "held", "throttled", "broken")
AGAIN = ("taken", "throttled", "broken")
"""Refusals after which plugins ask again."""
LATE_S = 240.0
"""Life seconds that a late operation takes more."""
LONGEST_PAUSE_S = 10.0
"""Life seconds between two attempts at most, as of Terraform's StateChangeConf."""

Refusal = tuple[int, str, str]
"""Status, message (`{type}` and `{verb}` are filled in) and reason."""


@dataclass(frozen=True)
class Patience:
    """How often a plugin asks again, and for how long in life; it also waits so long for an end."""

    attempts: int
    seconds: float


@dataclass(frozen=True)
class Outage:
    """What may befall one operation. Its methods raise CloudError where something does."""

    world: World
    verb: str
    type: str
    """As in `RouterNat`."""
    patience: Patience
    refusals: Mapping[str, Refusal]
    """The service's own words, by how it refuses."""

    async def before(self) -> None:
        """The service refuses to begin."""
        for how in REFUSALS:
            waited, pause, attempt = 0.0, 0.5, 0
            while self._strikes(how):
                attempt += 1
                if (
                    how not in AGAIN
                    or attempt > self.patience.attempts
                    or waited > self.patience.seconds
                ):
                    status, message, reason = self.refusals[how]
                    message = message.format(verb=self.verb, type=self.type)
                    raise CloudError(status, message, reason)
                await asyncio.sleep(pause / self.world.speed)
                waited += pause
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def meanwhile(self) -> None:
        """The operation has begun, and takes its time or fails."""
        if self._strikes("late"):
            await asyncio.sleep(LATE_S / self.world.speed)
        if self._strikes("failed"):
            raise CloudError(500, "Internal error. Please try again or contact support.", "failed")

    async def end(self) -> None:
        """The service has done what was asked, and nobody hears of it."""
        if self._strikes("endless"):
            await asyncio.sleep(self.patience.seconds / self.world.speed)
            timeout = f"{self.patience.seconds // 60:.0f}m{self.patience.seconds % 60:.0f}s"
            raise CloudError(
                504,
                "timeout while waiting for state to become 'DONE' (last state: 'RUNNING', timeout:"
                f" {timeout})",
                "endless",
            )

    def _strikes(self, how: str) -> bool:
        return any(
            self.world.faults.strikes(f"{how}-{verb}-{type}")
            for verb in (self.verb, "any")
            for type in (self.type, "any")
        )
