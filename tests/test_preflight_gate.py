"""`pulumi up` behind the preflight, with the real engine: where a check fails, nothing is made."""

import json
import re
from collections.abc import Generator
from typing import Any

import pytest

from rehearsal.session import Session
from rehearsal.store import Store
from rehearsal.world import Accounts

pytestmark = pytest.mark.rehearsal

STACK = "prod"

OBSTACLES: dict[str, tuple[dict[str, Any], str]] = {
    "no quota for the GPU": (
        {"quotas": {"NVIDIA_L4_GPUS": 0}},
        "Google: quota NVIDIA_L4_GPUS, us-central1",
    ),
    "an API that is off": ({"google_apis": ["serviceusage.googleapis.com"]}, "Google: APIs"),
    "a role that is missing": ({"google_roles": ["roles/editor"]}, "Google: permissions"),
    "a token that has expired": ({"cloudflare_tokens": []}, "Cloudflare: token"),
    "another Access team": (
        {"cloudflare_accounts": {"0123456789abcdef0123456789abcdef": "acme"}},
        "Cloudflare: Access team",
    ),
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Generator[Session]:
    """A world in which the stack would come up, and the stack as it is before its first `up`."""
    session = Session(tmp_path_factory.mktemp("rehearsal"))
    try:
        session.own(STACK)
        session.start_daemon(600, outlives_us=False)
        session.prepare_stack(STACK)
        yield session
    finally:
        session.discard()


@pytest.mark.parametrize(("changes", "fails"), OBSTACLES.values(), ids=OBSTACLES.keys())
def test_up_creates_nothing(session: Session, changes: dict[str, Any], fails: str) -> None:
    """It ends with the failed check and what to do; both clouds are as empty as before."""
    accounts = session.world / "accounts.json"
    before = accounts.read_text()
    accounts.write_text(
        Accounts.model_validate_json(before).model_copy(update=changes).model_dump_json()
    )
    try:
        run = session.pulumi("up", "--yes", "--skip-preview", stack=STACK)
    finally:
        accounts.write_text(before)

    assert not run.ok
    assert f"fails        {fails}" in run.stdout
    assert "next: " in run.stdout
    store = Store(session.world / "clouds.db")
    assert list(store.everything()) == []
    store.close()
    assert made(session) == set()


def test_a_preview_promises_the_checks_and_says_nothing_of_their_outcome(session: Session) -> None:
    """They run in `up` only."""
    run = session.must(session.pulumi("preview", stack=STACK))

    assert "llm-prod-preflight" in run.stdout
    assert not re.search("cannot know|Preflight of stack", run.stdout)


def made(session: Session) -> set[str]:
    """Types of what the stack's state says exists, components and providers aside."""
    export = session.must(session.pulumi("stack", "export", stack=STACK))
    start = export.stdout.index("{")
    deployment = json.loads(export.stdout[start:])["deployment"]
    own = ("pulumi:", "llm-endpoint:")
    types = (it["type"] for it in deployment.get("resources") or ())
    return {it for it in types if not it.startswith(own)}
