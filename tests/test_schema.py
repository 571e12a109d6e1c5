"""What the plugins refuse about a resource's inputs, as read off the installed SDKs."""

from pathlib import Path

import pytest
from pulumi.runtime.rpc import UNKNOWN

from rehearsal.providers import cloudflare, google, schema
from rehearsal.providers.command import COMMAND
from rehearsal.providers.schema import Schema

FIREWALL = "gcp:compute/firewall:Firewall"
SOUND = {
    "name": "iap",
    "network": "vpc",
    "allows": [{"protocol": "tcp", "ports": ["22"]}],
    "priority": 1000,
}


@pytest.fixture(scope="module")
def gcp() -> Schema:
    return schema.load("gcp", [row.token for row in google.ROWS])


@pytest.fixture(scope="module")
def cf() -> Schema:
    return schema.load("cloudflare", [row.token for row in cloudflare.ROWS])


def test_sound_inputs_pass(gcp: Schema):
    """Nothing is refused about inputs that the SDK describes."""
    assert gcp.failures(FIREWALL, SOUND) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, '"colour" is not expected'),
        ({"network": None}, "Missing required property 'network'"),
        ({"allows": [{"ports": ["22"]}]}, "Missing required property 'allows[0].protocol'"),
        ({"allows": [{"protocol": "tcp", "port": "22"}]}, '"port" is not expected'),
        ({"allows": {"protocol": "tcp"}}, "array required"),
        ({"priority": "high"}, "integer required"),
        ({"direction": "SIDEWAYS"}, 'one of ["INGRESS" "EGRESS"], got SIDEWAYS'),
        ({"direction": "ingress"}, 'one of ["INGRESS" "EGRESS"], got ingress'),
    ],
)
def test_unsound_inputs_are_refused(gcp: Schema, change: dict[str, object], words: str):
    """An unknown, missing or mistyped property is refused, and a value that is not documented."""
    failures = gcp.failures(FIREWALL, SOUND | change)

    assert [words in failure.reason for failure in failures] == [True]


def test_a_failure_names_the_nested_property(gcp: Schema):
    """The path leads to the property inside lists and objects."""
    inputs = SOUND | {"allows": [{"protocol": "tcp"}, {"protocol": "udp", "ports": "53"}]}

    assert [failure.path for failure in gcp.failures(FIREWALL, inputs)] == ["allows[1].ports"]


def test_unknown_values_pass(gcp: Schema):
    """What another resource will only say during up is not refused at preview."""
    assert gcp.failures(FIREWALL, SOUND | {"priority": UNKNOWN, "allows": UNKNOWN}) == []


def test_texts_that_read_as_numbers_and_truths_convert(gcp: Schema):
    """Terraform converts "1000" and "true", and so does the stand-in."""
    assert gcp.failures(FIREWALL, SOUND | {"priority": "1000", "disabled": "true"}) == []


def test_cloudflare_takes_values_in_any_case_but_no_others(cf: Schema):
    """Cloudflare's validators ignore case; a decision that does not exist is refused."""
    sound = {"accountId": "a", "name": "n", "decision": "NON_IDENTITY"}

    assert cf.failures(cloudflare.POLICY, sound) == []
    assert cf.failures(cloudflare.POLICY, sound | {"decision": "maybe"})


def test_a_timeout_with_a_unit_is_refused(cf: Schema):
    """`connectTimeout` is a number of seconds: "30s" is refused at preview."""
    rule = {"service": "http://localhost:8000", "originRequest": {"connectTimeout": "30s"}}
    config = {"accountId": "a", "tunnelId": "t", "config": {"ingresses": [rule]}}

    [failure] = cf.failures(cloudflare.TUNNEL_CONFIG, config)

    assert failure.path == "config.ingresses[0].originRequest.connectTimeout"


def test_enumerations_of_the_sdk_are_enforced():
    """Where the SDK has an enum class, its values are the only ones."""
    [failure] = schema.load("command", [COMMAND]).failures(COMMAND, {"logging": "everything"})

    assert '"stdoutAndStderr"' in failure.reason


def test_the_cache_says_what_the_sdk_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A schema from the cache equals one read off the SDK."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    made, cached = (schema.load("command", [COMMAND]) for _ in range(2))

    assert made == cached == schema.read("command", [COMMAND])
