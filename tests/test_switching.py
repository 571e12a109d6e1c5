"""One stack goes through every platform, engine and source of weights, by configuration alone."""

import itertools
import json
from collections.abc import Generator

import pytest

from rehearsal import audit, checks
from rehearsal.session import Session
from tests.rehearsed import held, world_of

pytestmark = pytest.mark.rehearsal

SPEED = 600.0
STACK = "cloud-run"
MODELS = {"vllm": "Qwen/Qwen3-0.6B", "ollama": "qwen3:0.6b"}

PLATFORM = {
    "cloud-run": "gcp:cloudrunv2/service:Service",
    "vm": "gcp:compute/healthCheck:HealthCheck llm-cloud-run-health",
}
BUCKET = "gcp:storage/bucket:Bucket"
BUILT = "gcp:artifactregistry/repository:Repository llm-cloud-run-models"
STAGER = "gcp:serviceaccount/account:Account llm-cloud-run-stager"
LEFT_BY = {"bucket": {BUCKET, STAGER}, "image": {BUILT, STAGER}, "hub": set[str]()}
"""What a source of weights needs, and nothing else does."""


def route() -> list[tuple[str, str, str]]:
    """All twelve, each differing from the one before in one thing, and back to the first."""
    platforms, engines, weights = (
        ("cloud-run", "vm"),
        ("vllm", "ollama"),
        ("bucket", "image", "hub"),
    )
    there: list[tuple[str, str, str]] = []
    for number, (platform, engine) in enumerate(itertools.product(platforms, engines)):
        engine = engines[::-1][engines.index(engine)] if platform == "vm" else engine
        there += [(platform, engine, it) for it in (weights, weights[::-1])[number % 2]]
    return [*there, there[0]]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Generator[Session]:
    """A world of its own in which the stack stands; the tests below run in their order."""
    with world_of(tmp_path_factory, SPEED, STACK) as session:
        yield session


def test_the_route_goes_everywhere() -> None:
    """Twelve combinations, one thing at a time, so that both directions of each are taken."""
    steps = route()

    assert len(set(steps)) == 12
    for before, after in itertools.pairwise(steps[:-1]):
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize(
    "step", range(13), ids=["-".join(combination) for combination in [*route()[:-1], ("back",)]]
)
def test_a_stack_switches_and_leaves_nothing_behind(session: Session, step: int) -> None:
    """It answers, streaming, and neither cloud keeps what only the one before needed."""
    platform, engine, weights = route()[step]
    for key, value in (
        ("platform", platform),
        ("engine", engine),
        ("weights", weights),
        ("model", MODELS[engine]),
    ):
        session.must(session.pulumi("config", "set", key, value, stack=STACK))

    session.must(session.pulumi("up", "--yes", "--skip-preview", stack=STACK))

    endpoint = checks.Endpoint(session, STACK)
    held(checks.answers(endpoint))
    declared = resources(session)
    for name, kind in PLATFORM.items():
        assert any(it.startswith(kind) for it in declared) == (name == platform), kind
    for kind in set[str]().union(*LEFT_BY.values()):
        assert any(it.startswith(kind) for it in declared) == (kind in LEFT_BY[weights]), kind
    assert sum(it.startswith(BUCKET) for it in declared) == (1 if weights == "bucket" else 0)
    assert audit.leftovers(session) == []
    if (platform, weights) == ("cloud-run", "image"):  # what no committed stack has
        found = audit.told(session, STACK)
        assert found["ok"], audit.in_words(found)
        kinds = {it["kind"] for it in found["things"]}
        assert {"Cloud Run service", "repository of images"} <= kinds
        assert {it["verdict"] for it in found["things"]} == {"in the state"}
    if engine == "ollama":
        assert endpoint.credentials
        for path in ("/api/tags", "/api/pull", "/api/delete"):
            answer = endpoint.request("POST", path, endpoint.credentials.headers)
            assert answer.status == 404, f"{path}: {answer}"


def test_nothing_is_left_of_any_of_them_but_what_is_to_stay(session: Session) -> None:
    """One destroy, and both clouds are empty but for the weights that were to be kept."""
    session.must(session.pulumi("config", "set", "keepWeights", "true", stack=STACK))
    session.must(session.pulumi("up", "--yes", "--skip-preview", stack=STACK))

    session.must(session.pulumi("destroy", "--yes", "--skip-preview", stack=STACK))
    session.must(session.pulumi("stack", "rm", "--yes", STACK, stack=STACK))

    assert audit.leftovers(session) == []
    (bucket,) = audit.kept(session)
    found = audit.told(session, STACK)
    assert found["ok"], audit.in_words(found)
    assert bucket in [it["name"] for it in found["things"] if it["verdict"] == "stays"]


def resources(session: Session) -> list[str]:
    """`type name` of everything in the stack's state."""
    state = session.must(session.pulumi("stack", "export", stack=STACK)).stdout
    found = json.loads(state)["deployment"].get("resources", [])
    return [f"{it['type']} {it['urn'].rpartition('::')[2]}" for it in found]
