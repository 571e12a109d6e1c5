"""Another team's stack: takes the endpoint over, and stores what its app needs to call it."""

from collections.abc import Mapping

import pulumi
from pulumi_gcp import secretmanager

config = pulumi.Config()
consumer = config.require("consumer")
stack = config.require("endpointStack")
endpoint = pulumi.StackReference(stack)


def own(entries: Mapping[str, str] | None) -> str:
    """This consumer's entry among all; the endpoint's stack has one for each it was told of."""
    if entries is None:
        raise pulumi.RunError(f"endpointStack {stack} has no such output: is it deployed?")
    if consumer not in entries:
        raise pulumi.RunError(
            f"consumer {consumer!r} is not known to {stack}, which knows"
            f" {', '.join(sorted(entries)) or 'none'}. Take one of those, or ask its owners to"
            f" add yours to llm-endpoint:consumers."
        )
    return entries[consumer]


values = {
    "base-url": endpoint.require_output("baseUrl"),
    "model": endpoint.require_output("model"),
    "client-id": endpoint.get_output("clientIds").apply(own),
    "client-secret": endpoint.get_output("clientSecrets").apply(own),
}

# A team may take several endpoints under one name into one project.
prefix = f"{consumer}-llm-{stack.rpartition('/')[2]}"
for purpose, value in values.items():
    secret = secretmanager.Secret(
        purpose, secret_id=f"{prefix}-{purpose}", replication={"auto": {}}
    )
    secretmanager.SecretVersion(purpose, secret=secret.id, secret_data=pulumi.Output.secret(value))
    pulumi.export(purpose, secret.name)
