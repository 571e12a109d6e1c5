"""Repair a stack's state after `pulumi up` or `pulumi destroy` was killed, not merely interrupted.

What was being created when the process ended (a laptop's battery, a second Ctrl-C, a runner that
was cancelled) may exist in a cloud by now, and Pulumi notes it as pending: the next `up` would make
it once more, or be told that the name is taken, and `destroy` would leave it. `pulumi refresh
--import-pending-creates` drops such notes without looking (tried with Pulumi 3.259). So this does
it: it works out under which id each would be, puts it into the state, and lets Pulumi look.

`./scripts/repair [--stack NAME]`, with the login and passphrase that `pulumi up` has. Exits 1 when
something remains to be done by hand; it says what.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

API = "https://api.cloudflare.com/client/v4"
TIMEOUT = 30.0

Resource = dict[str, Any]

IDS = {
    "gcp:artifactregistry/repository:Repository": (
        "projects/{project}/locations/{location}/repositories/{repositoryId}"
    ),
    "gcp:cloudrunv2/job:Job": "projects/{project}/locations/{location}/jobs/{name}",
    "gcp:cloudrunv2/service:Service": "projects/{project}/locations/{location}/services/{name}",
    "gcp:compute/firewall:Firewall": "projects/{project}/global/firewalls/{name}",
    "gcp:compute/healthCheck:HealthCheck": "projects/{project}/global/healthChecks/{name}",
    "gcp:compute/image:Image": "projects/{project}/global/images/{name}",
    "gcp:compute/network:Network": "projects/{project}/global/networks/{name}",
    "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager": (
        "projects/{project}/regions/{region}/instanceGroupManagers/{name}"
    ),
    "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate": (
        "projects/{project}/regions/{region}/instanceTemplates/{name}"
    ),
    "gcp:compute/router:Router": "projects/{project}/regions/{region}/routers/{name}",
    "gcp:compute/routerNat:RouterNat": "{project}/{region}/{router}/{name}",
    "gcp:compute/subnetwork:Subnetwork": "projects/{project}/regions/{region}/subnetworks/{name}",
    "gcp:projects/iAMMember:IAMMember": "{project}/{role}/{member}",
    "gcp:secretmanager/secret:Secret": "projects/{project}/secrets/{secretId}",
    "gcp:serviceaccount/account:Account": (
        "projects/{project}/serviceAccounts/{accountId}@{project}.iam.gserviceaccount.com"
    ),
    "gcp:storage/bucket:Bucket": "{name}",
}
"""Type -> its id, over the inputs."""

LISTS = {
    "cloudflare:index/dnsRecord:DnsRecord": "zones/{zoneId}/dns_records",
    "cloudflare:index/zeroTrustAccessApplication:ZeroTrustAccessApplication": (
        "accounts/{accountId}/access/apps"
    ),
    "cloudflare:index/zeroTrustAccessPolicy:ZeroTrustAccessPolicy": (
        "accounts/{accountId}/access/policies"
    ),
    "cloudflare:index/zeroTrustAccessServiceToken:ZeroTrustAccessServiceToken": (
        "accounts/{accountId}/access/service_tokens"
    ),
    "cloudflare:index/zeroTrustTunnelCloudflared:ZeroTrustTunnelCloudflared": (
        "accounts/{accountId}/cfd_tunnel?is_deleted=false"
    ),
}
"""Type -> where it is listed; its id is Cloudflare's own, and it is known by its name."""

SHOWN_ONCE = frozenset({"cloudflare:index/zeroTrustAccessServiceToken:ZeroTrustAccessServiceToken"})
"""What is of no use without the secret that was shown when it was made: it goes, and comes anew."""

READ_BY_INPUTS = frozenset({"gcp:projects/iAMMember:IAMMember"})
"""What the plugin looks for by what it is to be; an id alone means something else to it."""

MADE_AGAIN = frozenset(
    {
        "cloudflare:index/zeroTrustTunnelCloudflaredConfig:ZeroTrustTunnelCloudflaredConfig",
        "command:local:Command",
        "gcp:artifactregistry/repositoryIamMember:RepositoryIamMember",
        "gcp:cloudrunv2/jobIamMember:JobIamMember",
        "gcp:projects/service:Service",
        "gcp:secretmanager/secretIamMember:SecretIamMember",
        "gcp:secretmanager/secretVersion:SecretVersion",
        "gcp:serviceaccount/iAMMember:IAMMember",
        "gcp:storage/bucketIAMMember:BucketIAMMember",
    }
)
"""What the next `up` makes as if for the first time, and what goes with its owner at the end."""


@dataclass(frozen=True)
class Found:
    """A creation that was under way, and what is to become of it."""

    resource: Resource
    """As Pulumi noted it."""
    ids: tuple[str, ...]
    """Under which it may exist; none where nothing of it matters."""
    keep: bool
    """Whether it is taken into the state as it is; else to be deleted."""

    @property
    def by_inputs(self) -> bool:
        """Whether Pulumi is to look for it by its inputs."""
        return self.resource["type"] in READ_BY_INPUTS

    @property
    def name(self) -> str:
        """Type and name, as people call it."""
        return f"{self.resource['type'].rpartition(':')[2]} {self.resource['urn'].split('::')[-1]}"


class UnknownError(Exception):
    """Something that this does not know how to find."""


def find(resource: Resource, known: frozenset[str], ask: Callable[[str], list[Resource]]) -> Found:
    """What became of one creation. `known` are ids that the state has; `ask` reads a list.

    Raises UnknownError for a type that is in none of the tables.
    """
    type, inputs = resource["type"], _plain(resource.get("inputs") or {})
    if not resource.get("custom") or type in MADE_AGAIN:
        return Found(resource, (), keep=True)
    if type in IDS:
        return Found(resource, (IDS[type].format_map(inputs),), keep=True)
    if type in LISTS:
        listed = ask(LISTS[type].format_map(inputs))
        ours = [it["id"] for it in listed if it.get("name") == inputs["name"]]
        new = tuple(id for id in ours if id not in known)
        return Found(resource, new, keep=type not in SHOWN_ONCE)
    raise UnknownError(f"{type} {inputs.get('name', resource['urn'])}")


def repaired(state: Resource, found: Sequence[Found]) -> Resource:
    """The exported state with what was found in it, and without what was pending.

    What is kept stands where its creation would have put it: after all that it depends on. What has
    a predecessor in the state that it should have replaced is marked as to be deleted, and so is
    what cannot be used: the next `up` or `destroy` deletes it.
    """
    deployment: Resource = state["deployment"]
    resources = resources_of(state)
    there = {it["urn"] for it in resources}
    for each in found:
        for id in each.ids:
            gone = {} if each.keep and each.resource["urn"] not in there else {"delete": True}
            seen = {"outputs": each.resource["inputs"]} if each.by_inputs else {}
            resources.append(each.resource | {"id": id} | seen | gone)
    return state | {"deployment": deployment | {"resources": resources, "pending_operations": []}}


def resources_of(state: Resource) -> list[Resource]:
    """What an exported state holds."""
    return [*(state["deployment"].get("resources") or [])]


def _plain(inputs: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in inputs.items() if isinstance(value, str)}


def lister(token: str) -> Callable[[str], list[Resource]]:
    """Reads Cloudflare's lists, page by page, with an API token."""

    def ask(path: str) -> list[Resource]:
        found: list[Resource] = []
        for page in range(1, 100):
            answer = requests.get(
                f"{API}/{path}",
                params={"page": page, "per_page": 50},
                headers={"Authorization": f"Bearer {token}"},
                timeout=TIMEOUT,
            )
            answer.raise_for_status()
            body: Resource = answer.json()
            found += body["result"] or []
            about: Resource = body.get("result_info") or {}
            if page >= about.get("total_pages", 1):
                break
        return found

    return ask


class Pulumi:
    """The CLI, for one stack."""

    def __init__(self, stack: str | None) -> None:
        self._stack = ["--stack", stack] if stack else []

    def __call__(self, *arguments: str, stdin: str | None = None, stackless: bool = False) -> str:
        """What a command prints. Exits with its words when it fails."""
        stack = [] if stackless else self._stack
        command = ["pulumi", *arguments, *stack, "--non-interactive"]
        run = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)  # noqa: S603
        if run.returncode:
            sys.exit(f"{' '.join(command)}\n{run.stdout}{run.stderr}".rstrip())
        return run.stdout


def drop_torn(backend: str) -> Iterator[Path]:
    """Remove what a process that was killed has written half into a backend of files.

    The state itself is replaced in one piece; the file with its attributes beside it is not
    (gocloud.dev, blob/fileblob), and an empty one keeps Pulumi from reading the state: "failed to
    load checkpoint: EOF". Without one it does read it.
    """
    if backend.startswith("file://"):
        folder = Path(backend.removeprefix("file://").partition("?")[0]).expanduser()
        for path in sorted((folder / ".pulumi").rglob("*.attrs")):
            if path.stat().st_size == 0:
                path.unlink()
                yield path


def pending(state: Resource) -> Iterator[Resource]:
    """What was being created."""
    operations: list[Resource] = state["deployment"].get("pending_operations") or []
    for operation in operations:
        if operation["type"] == "creating":
            yield operation["resource"]


def main() -> int:
    """Repair, and tell."""
    parser = argparse.ArgumentParser(
        prog="./scripts/repair",
        description="Repair a stack's state after `pulumi up` or `pulumi destroy` was killed: take"
        " what was being created into the state, or have it deleted. Creates and deletes nothing"
        " by itself.",
    )
    parser.add_argument("--stack", help="the stack (default: the selected one)")
    asked = parser.parse_args()
    pulumi = Pulumi(asked.stack)
    for path in drop_torn(json.loads(pulumi("whoami", "--json", stackless=True)).get("url", "")):
        print(f"{path}: was not written to its end, and is not needed")
    pulumi("cancel", "--yes")
    state: Resource = json.loads(pulumi("stack", "export"))
    known = frozenset(str(it.get("id", "")) for it in resources_of(state))
    found: list[Found] = []
    unknown: list[str] = []

    def ask(path: str) -> list[Resource]:
        token = os.environ.get("CLOUDFLARE_API_TOKEN")
        return lister(token or pulumi("config", "get", "cloudflare:apiToken").strip())(path)

    for resource in pending(state):
        try:
            found.append(find(resource, known, ask))
        except UnknownError as error:
            unknown.append(str(error))
        except requests.RequestException as error:
            sys.exit(
                f"Cloudflare does not answer ({type(error).__name__}); nothing was changed."
                " Try again: ./scripts/repair"
            )
    if not state["deployment"].get("pending_operations"):
        print("Nothing was under way. Go on with: pulumi up, or: pulumi destroy")
        return 0
    pulumi("stack", "import", stdin=json.dumps(repaired(state, found)))
    kept = [it.resource["urn"] for it in found if it.ids and it.keep]
    if kept:
        targets = [word for urn in kept for word in ("--target", urn)]
        pulumi("refresh", "--yes", "--skip-preview", *targets)
    for it in found:
        fate = "looked for, and kept if it is there" if it.keep else "deleted by the next command"
        print(f"{it.name}: {fate if it.ids else 'made again'}")
    for it in unknown:
        print(f"{it}: look for it in the console, and delete it there")
    print("Go on with: pulumi up, or: pulumi destroy")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
