"""What becomes of what was being created when the CLI was killed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.repair import (
    IDS,
    LISTS,
    MADE_AGAIN,
    UnknownError,
    drop_torn,
    find,
    pending,
    repaired,
)
from tests.conftest import ROOT

STACK = "urn:pulumi:dev::llm-endpoint::llm-endpoint:index:Tunnel"
TOKEN = "cloudflare:index/zeroTrustAccessServiceToken:ZeroTrustAccessServiceToken"
TUNNEL = "cloudflare:index/zeroTrustTunnelCloudflared:ZeroTrustTunnelCloudflared"
ROLE = "gcp:projects/iAMMember:IAMMember"
NETWORK = "gcp:compute/network:Network"


def resource(type: str, called: str, **inputs: Any) -> dict[str, Any]:
    """As the engine notes it before it has an id."""
    return {"urn": f"{STACK}${type}::{called}", "custom": True, "type": type, "inputs": inputs}


def nothing(path: str) -> list[dict[str, Any]]:
    raise AssertionError(f"nobody should ask for {path}")


def test_every_type_that_a_stack_declares_can_be_repaired() -> None:
    """Each inventory's; a new type of resource needs a line in one of the tables."""
    for inventory in sorted((ROOT / "tests" / "inventories").glob("*.yaml")):
        for declared in yaml.safe_load(inventory.read_text()):
            type, _, name = declared.partition(" ")
            known = type in IDS or type in LISTS or type in MADE_AGAIN
            assert known or not name, declared


def test_what_google_names_by_its_inputs_is_taken_into_the_state() -> None:
    """After all that was there before it, without the note that it is pending."""
    network = resource(NETWORK, "llm-dev-vpc", project="p", name="llm-dev-vpc-1a2b3c4", mtu=1460)
    state: dict[str, Any] = {
        "version": 3,
        "deployment": {
            "resources": [{"urn": "before"}],
            "pending_operations": [{"type": "creating", "resource": network}],
        },
    }

    found = [find(it, frozenset(), nothing) for it in pending(state)]
    after = repaired(state, found)

    id = "projects/p/global/networks/llm-dev-vpc-1a2b3c4"
    assert after["deployment"]["resources"] == [{"urn": "before"}, network | {"id": id}]
    assert after["deployment"]["pending_operations"] == []
    assert len(state["deployment"]["resources"]) == 1


def test_a_role_in_the_project_is_looked_for_as_it_outlives_its_holder() -> None:
    """Pulumi reads it by what it is to be: to the plugin, an id alone is another form."""
    holder = "serviceAccount:llm-dev-machine@p.iam.gserviceaccount.com"
    role = resource(ROLE, "logs", project="p", role="roles/logging.logWriter", member=holder)

    (after,) = repaired({"deployment": {}}, [find(role, frozenset(), nothing)])["deployment"][
        "resources"
    ]

    assert after["id"] == f"p/roles/logging.logWriter/{holder}"
    assert after["outputs"] == role["inputs"]


def test_what_cloudflare_numbers_is_found_by_its_name() -> None:
    """And not taken for one that the state has, nor for somebody else's."""
    tunnel = resource(TUNNEL, "llm-dev-tunnel", accountId="a", name="llm-dev-vpc-1")
    asked: list[str] = []

    def ask(path: str) -> list[dict[str, Any]]:
        asked.append(path)
        return [
            {"id": "old", "name": "llm-dev-vpc-1"},
            {"id": "new", "name": "llm-dev-vpc-1"},
            {"id": "other", "name": "another"},
        ]

    found = find(tunnel, frozenset({"old"}), ask)

    assert (found.ids, found.keep) == (("new",), True)
    assert asked == ["accounts/a/cfd_tunnel?is_deleted=false"]


def test_a_service_token_whose_secret_nobody_has_seen_is_deleted_and_made_anew() -> None:
    """Its secret was shown once, to a process that is gone."""
    token = resource(TOKEN, "llm-dev-consumer-app", accountId="a", name="llm-dev: app")

    found = find(token, frozenset(), lambda _: [{"id": "lost", "name": "llm-dev: app"}])
    after = repaired({"deployment": {}}, [found])

    assert after["deployment"]["resources"] == [token | {"id": "lost", "delete": True}]


def test_a_replacement_that_was_under_way_is_deleted_and_made_anew() -> None:
    """Its predecessor is still there, under the same name in the program."""
    new = resource(NETWORK, "llm-dev-vpc", project="p", name="llm-dev-vpc-new")
    state = {"deployment": {"resources": [new | {"id": "old"}]}}

    (_, successor) = repaired(state, [find(new, frozenset(), nothing)])["deployment"]["resources"]

    assert successor["delete"]
    assert successor["id"].endswith("llm-dev-vpc-new")


def test_what_is_idempotent_is_simply_made_again() -> None:
    """Components, commands, bindings, enabled APIs: nothing of them stays behind."""
    component = {"urn": STACK, "custom": False, "type": "llm-endpoint:index:Tunnel"}
    for it in (component, resource("command:local:Command", "llm-dev-answer")):
        assert find(it, frozenset(), nothing).ids == ()


def test_what_is_not_known_is_left_to_the_person() -> None:
    """By its type and name."""
    with pytest.raises(UnknownError, match="gcp:sql/instance:Instance db-1"):
        find(resource("gcp:sql/instance:Instance", "db", name="db-1"), frozenset(), nothing)


def test_an_update_that_was_under_way_is_pulumis_own_matter() -> None:
    """It goes on from the state as it was."""
    operation = {"type": "updating", "resource": resource(NETWORK, "llm-dev-vpc")}
    assert list(pending({"deployment": {"pending_operations": [operation]}})) == []
    assert json.dumps(repaired({"deployment": {"pending_operations": [operation]}}, []))


def test_a_torn_file_of_a_backend_of_files_is_dropped(tmp_path: Path) -> None:
    """Only one that is empty, and only there: "failed to load checkpoint: EOF" otherwise."""
    folder = tmp_path / ".pulumi" / "stacks" / "llm-endpoint"
    folder.mkdir(parents=True)
    torn, whole = folder / "dev.json.attrs", folder / "prod.json.attrs"
    torn.touch()
    whole.write_text("{}")

    assert [*drop_torn("https://api.pulumi.com")] == []
    assert [*drop_torn(f"file://{tmp_path}?no_tmp_dir=true")] == [torn]
    assert (torn.exists(), whole.exists()) == (False, True)
