"""How many machines there are, where, and what happens when one dies or must change."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import pulumi
from pulumi_gcp import compute

from components.announcement import announcement
from components.catalogue import Provisioning
from components.ordering import Ready, after
from components.place import Place
from components.serving import Rollout

HEALTH_CHECKERS = ["35.191.0.0/16", "130.211.0.0/22"]
"""Google's health checkers, https://cloud.google.com/load-balancing/docs/health-check-concepts."""

TARGET_SIZE_POLICIES: Mapping[
    Provisioning, list[compute.RegionInstanceGroupManagerTargetSizePolicyArgsDict]
] = {"flex-start": [{"mode": "BULK"}]}
"""A group queues for flex-start capacity only in bulk,
https://docs.cloud.google.com/compute/docs/instance-groups/about-bulk-mode."""

ZONES_OF_A_GROUP = 3
"""How many zones a regional group spans that names none, where the region has so many."""
MIN_READY_S = 30
"""Seconds for which a new machine must be healthy before an old one may go: its engine is, some
seconds before cloudflared has joined the tunnel."""

OUTAGE = (
    "Machines that are not up to date go first, once they have finished what they are answering:"
    " the endpoint is DOWN from now until a new one has loaded the model, in {downtime} if there is"
    " a machine to be had."
)
ROLL = (
    "Machines that are not up to date go first, as many at a time as there are zones; the others"
    " serve meanwhile."
)
MOVE = (
    "The zones change, so the group and its machines go first: the endpoint is DOWN from now until"
    " a new one has loaded the model, which takes 5 to 15 minutes if there is a machine to be had."
)
"""Without a figure of the stack's own: a change of the text alone would be announced, too."""


class InstanceGroupArgs(TypedDict):
    place: Place
    network: pulumi.Input[str]
    zones: Sequence[str]
    """Where the group may look for machines; empty leaves it to Google."""
    template: pulumi.Input[str]
    needs: Sequence[Ready]
    """What must be there before a machine is, besides its template."""
    revision: pulumi.Input[str]
    """Changes when the template's machines do."""
    provisioning: Provisioning
    replicas: int
    rollout: Rollout
    downtime: str
    """How long it takes until a new machine answers where the old ones go first, in words."""
    health_port: int
    health_path: str
    repair_after_s: int
    """Seconds that a machine gets to load the model before it is replaced as broken."""


class InstanceGroup(pulumi.ComponentResource):
    """A regional group that takes its machines where there are GPUs, and replaces broken ones."""

    group: pulumi.Output[str]
    """The group's name, once it has been told which machines to run."""

    def __init__(
        self, name: str, args: InstanceGroupArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:InstanceGroup", name, {}, opts)
        place = args["place"]
        child = pulumi.ResourceOptions(parent=self)

        health = compute.HealthCheck(
            f"{name}-health",
            project=place.project,
            http_health_check={"port": args["health_port"], "request_path": args["health_path"]},
            check_interval_sec=15,
            timeout_sec=10,
            healthy_threshold=1,
            unhealthy_threshold=4,
            opts=child,
        )
        admission = compute.Firewall(
            f"{name}-health-checks",
            project=place.project,
            network=args["network"],
            direction="INGRESS",
            source_ranges=HEALTH_CHECKERS,
            allows=[{"protocol": "tcp", "ports": [str(args["health_port"])]}],
            opts=child,
        )

        # Announced only once everything has begun that it is about.
        zones = pulumi.Output.all(",".join(sorted(args["zones"])), place.project)
        all_at_once = args["replicas"] <= (len(args["zones"]) or ZONES_OF_A_GROUP)
        outage = OUTAGE.format(downtime=args["downtime"]) if all_at_once else ROLL
        announcements = [
            # Always there, so that a change to `replace` with machines out of date speaks, too.
            announcement(
                f"{name}-outage",
                outage if args["rollout"] == "replace" else None,
                {"REVISION": args["revision"]},
                child,
            ),
            announcement(f"{name}-move", MOVE, {"ZONES": zones.apply(lambda it: it[0])}, child),
        ]
        template = after(args["template"], admission, *announcements, *args["needs"])
        group = compute.RegionInstanceGroupManager(
            f"{name}-group",
            project=place.project,
            region=place.region,
            base_instance_name=name,
            versions=[{"instance_template": template}],
            target_size=args["replicas"],
            distribution_policy_zones=sorted(args["zones"]) or None,
            # An EVEN group pins its machine to one zone and waits there through a stockout.
            distribution_policy_target_shape="ANY",
            target_size_policies=TARGET_SIZE_POLICIES.get(args["provisioning"]),
            update_policy=update_policy(args["rollout"], len(args["zones"]) or ZONES_OF_A_GROUP),
            auto_healing_policies={
                "health_check": health.id,
                "initial_delay_sec": args["repair_after_s"],
            },
            # A machine that is repaired comes back up to date under every rollout: its old template
            # and the secrets' versions that it names may be gone by now.
            instance_lifecycle_policy={"force_update_on_repair": "YES"},
            # A stockout would block here until the operation times out.
            wait_for_instances=False,
            # Most GPU quotas have no room for the machines of two groups.
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True),
        )

        self.group = group.name
        self.register_outputs({"group": self.group})


def update_policy(
    rollout: Rollout, zones: int
) -> compute.RegionInstanceGroupManagerUpdatePolicyArgsDict:
    """How the group brings machines up to date.

    A regional group takes 0 or at least its number of zones for either figure.
    """
    return {
        "type": "OPPORTUNISTIC" if rollout == "manual" else "PROACTIVE",
        "minimal_action": "REPLACE",
        "replacement_method": "SUBSTITUTE",
        "instance_redistribution_type": "NONE",
        "min_ready_sec": MIN_READY_S,
        "max_surge_fixed": zones if rollout == "surge" else 0,
        "max_unavailable_fixed": 0 if rollout == "surge" else zones,
    }
