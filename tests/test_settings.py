"""What a stack's configuration may be, and the words with which the rest is refused."""

import inspect
import json
import re
import subprocess
import sys
from contextvars import copy_context

import pulumi
import pytest

from components import engine
from components.problem import HIDDEN, key
from components.settings import SECRETS, Settings
from components.stack_rules import PLATFORM_RULES, RULES
from tests.conftest import ROOT
from tests.stack_config import API_TOKEN, SECRET_KEYS, STACKS, configuration, declared

T4 = {"llm-endpoint:gpu": "nvidia-tesla-t4"}
H100 = {"llm-endpoint:gpu": "nvidia-h100-80gb"}
NOBODY = {"llm-endpoint:consumers": "[]", "llm-endpoint:allowedEmails": "[]"}


def parse(
    changes: dict[str, str], stack: str = "dev", secret: frozenset[str] = SECRET_KEYS
) -> Settings:
    """The settings of a committed stack with changes."""
    return Settings.parse(configuration(stack, changes), secret)


def refusal(changes: dict[str, str], secret: frozenset[str] = SECRET_KEYS) -> str:
    """What a person reads who makes these changes."""
    with pytest.raises(pulumi.RunError) as refused:
        parse(changes, secret=secret)
    return str(refused.value)


@pytest.mark.parametrize("stack", STACKS)
def test_the_committed_stacks_are_complete(stack: str) -> None:
    """Each works as it is, with one secret."""
    assert parse({}, stack).hostname.endswith(".example.com")


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_what_a_stack_leaves_open_comes_from_the_catalogue(stack: str) -> None:
    """The usual machine for the GPU, and every zone of the region that has it."""
    settings = parse({}, stack)

    assert settings.machine_type == "g2-standard-8"
    assert settings.zones == ("us-central1-a", "us-central1-b", "us-central1-c")


def test_the_manual_page_and_the_model_name_the_same_keys() -> None:
    """Every key that Pulumi.yaml declares is read, and every key that is read is declared."""
    read = {key(name) for name in Settings.model_fields} | SECRETS.keys()

    assert {name for name in read if name.startswith("llm-endpoint:")} == declared().keys()
    assert all(item["description"] for item in declared().values())


def test_rules_compare_settings_that_exist() -> None:
    """A rule that names no setting would never be asked."""
    of_platforms = [rule for rules in PLATFORM_RULES.values() for rule in rules]
    of_engines = [rule for name in engine.names() for rule in engine.engine(name).RULES]
    for rule in (*RULES, *of_platforms, *of_engines):
        assert inspect.signature(rule).parameters.keys() <= Settings.model_fields.keys()


# One line a mistake: what is changed, then the key, the value, the expectation, and the next
# step that a person must find in the message.
WRONG: dict[str, tuple[dict[str, str], str, str, str, str]] = {}


def wrong(name: str, changes: dict[str, str], *words: str) -> None:
    """Note a mistake; the key that is changed first is the one that the message names."""
    first, value = next(iter(changes.items()))
    shown, expected, following = words if len(words) == 3 else (repr(value), *words)
    WRONG[name] = (changes, first, shown, expected, following)


def set_to(name: str, value: object) -> str:
    return f"pulumi config set llm-endpoint:{name} {value}"


def first_of(name: str, value: object) -> str:
    return f"pulumi config set --path 'llm-endpoint:{name}[0]' {value}"


PROJECT, REGION, STACK = "gcp:project", "gcp:region", key("stack")
ARGS, ZONES = "llm-endpoint:engineArgs", "llm-endpoint:zones"

wrong("stack with capitals", {STACK: "Dev"}, "1 to 18 lower-case", "pulumi stack rename dev")
wrong("stack too long", {STACK: "a" * 19}, "1 to 18 lower-case", "pulumi stack rename dev")
wrong("project's number", {PROJECT: "123456789012"}, "project's id", "config set gcp:project")
wrong("project's name", {PROJECT: "My Project"}, "project's id", "config set gcp:project")
wrong("zone for a region", {REGION: "us-central1-a"}, "region", "config set gcp:region us-central1")
wrong(
    "region without the GPU",
    {REGION: "europe-west8"},
    "a region with nvidia-l4: asia-east1",
    "components/zones.csv",
)
wrong(
    "unknown GPU",
    {"llm-endpoint:gpu": "nvidia-l5"},
    "one of nvidia-l4, nvidia-tesla-t4",
    set_to("gpu", "nvidia-l4"),
)
wrong("GPU that vLLM left behind", {"llm-endpoint:gpu": "nvidia-tesla-v100"}, "one of", "gpu")
wrong(
    "count that no machine has",
    {"llm-endpoint:gpuCount": "3"},
    "3",
    "a number of nvidia-l4 that a machine type has: 1, 2, 4, 8",
    set_to("gpuCount", 2),
)
wrong("no GPU", {"llm-endpoint:gpuCount": "0"}, "a number of GPUs, 1", set_to("gpuCount", 1))
wrong(
    "machine with another count",
    {"llm-endpoint:machineType": "g2-standard-24"},
    "a machine type with 1 nvidia-l4: g2-standard-8",
    set_to("machineType", "g2-standard-8"),
)
wrong(
    "machine without the GPU",
    {"llm-endpoint:machineType": "n1-standard-8"},
    "a machine type with 1 nvidia-l4",
    set_to("machineType", "g2-standard-8"),
)
wrong(
    "GPU not sold on demand",
    {"llm-endpoint:provisioning": "standard"} | H100,
    "terms on which Google has a3-highgpu-1g: flex-start, spot",
    set_to("provisioning", "spot"),
)
wrong(
    "GPU not sold as flex-start",
    {"llm-endpoint:provisioning": "flex-start", "llm-endpoint:maxRunHours": "9"} | T4,
    "terms on which Google has n1-standard-8: spot, standard",
    set_to("provisioning", "spot"),
)
wrong(
    "unknown terms",
    {"llm-endpoint:provisioning": "preemptible"},
    "spot, standard or flex-start",
    set_to("provisioning", "spot"),
)
wrong(
    "flex-start for ever",
    {"llm-endpoint:maxRunHours": "0", "llm-endpoint:provisioning": "flex-start"},
    "0",
    "1 to 168 with flex-start",
    set_to("maxRunHours", 24),
)
wrong(
    "flex-start for eight days",
    {"llm-endpoint:maxRunHours": "192", "llm-endpoint:provisioning": "flex-start"},
    "0 to 168 hours",
    set_to("maxRunHours", 24),
)
wrong(
    "spot for a limited time",
    {"llm-endpoint:maxRunHours": "5"},
    "5",
    "0 with spot",
    set_to("maxRunHours", 0),
)
wrong(
    "zone without the GPU",
    {ZONES: '["us-central1-f"]'},
    "'us-central1-f'",
    "a zone of us-central1 with nvidia-l4: us-central1-a, us-central1-b, us-central1-c",
    first_of("zones", "us-central1-a"),
)
wrong(
    "zone of another region",
    {ZONES: '["us-east4-a"]'},
    "'us-east4-a'",
    "a zone of us-central1",
    first_of("zones", "us-central1-a"),
)
wrong(
    "zone twice",
    {ZONES: '["us-central1-a", "us-central1-a"]'},
    "us-central1-a",
    "each once",
    first_of("zones", "us-central1-a"),
)
wrong("zones as text", {ZONES: "us-central1-a"}, "zones of Google's", first_of("zones", "us-"))
wrong(
    "small disk",
    {"llm-endpoint:bootDiskGb": "50"},
    "100 to 65536 GB",
    set_to("bootDiskGb", 100),
)
wrong(
    "image by its short name",
    {"llm-endpoint:bootImage": "ubuntu-2404"},
    "projects/PROJECT/global/images/family/FAMILY",
    set_to("bootImage", "projects/deeplearning-platform-release/"),
)
wrong(
    "prepared weights from the hub",
    {"llm-endpoint:bootImage": "prepared-with-weights", "llm-endpoint:weights": "hub"},
    "only from the bucket do they come onto the disk",
    set_to("bootImage", "prepared"),
)
wrong(
    "prepared weights on a small disk",
    {
        "llm-endpoint:bootDiskGb": "100",
        "llm-endpoint:bootImage": "prepared-with-weights",
        "llm-endpoint:model": "Qwen/Qwen3-32B",
        "llm-endpoint:gpuCount": "4",
    },
    "100",
    "121 or more",
    set_to("bootDiskGb", 121),
)
wrong(
    "base of nothing",
    {"llm-endpoint:preparedFrom": "projects/a/global/images/base"},
    "empty, unless bootImage is prepared",
    set_to("bootImage", "prepared"),
)
wrong(
    "nothing to keep",
    {
        "llm-endpoint:compileCache": "bucket",
        "llm-endpoint:engine": "ollama",
        "llm-endpoint:model": "qwen3:8b",
    },
    "disk with ollama",
    set_to("compileCache", "disk"),
)
wrong("other platform", {"llm-endpoint:platform": "tpu"}, "vm", set_to("platform", "vm"))
wrong(
    "model without organisation",
    {"llm-endpoint:model": "qwen3"},
    "organisation/name",
    set_to("model", "Qwen/Qwen3-4B"),
)
wrong(
    "model by its address",
    {"llm-endpoint:model": "https://huggingface.co/Qwen/Qwen3-4B"},
    "organisation/name",
    set_to("model", "Qwen/Qwen3-4B"),
)
wrong(
    "revision with a space",
    {"llm-endpoint:modelRevision": "main branch"},
    "a commit, tag or branch",
    set_to("modelRevision", "main"),
)
wrong(
    "length in words",
    {"llm-endpoint:maxModelLen": "8k"},
    "tokens as a whole number, 1024 or more",
    set_to("maxModelLen", 8192),
)
wrong(
    "length too short",
    {"llm-endpoint:maxModelLen": "512"},
    "1024 or more",
    set_to("maxModelLen", 8192),
)
for share in ("1.5", "0", "90", "nan", "most"):
    wrong(
        f"memory share {share}",
        {"llm-endpoint:gpuMemoryUtilization": share},
        "0.1 to 1",
        set_to("gpuMemoryUtilization", 0.92),
    )
CLOUD_RUN = {"llm-endpoint:platform": "cloud-run", "gcp:region": "europe-west4"}
wrong(
    "GPU that Cloud Run lacks",
    {"llm-endpoint:gpu": "nvidia-tesla-t4"} | CLOUD_RUN,
    "nvidia-l4, nvidia-rtx-pro-6000",
    set_to("gpu", "nvidia-l4"),
)
wrong(
    "two GPUs on Cloud Run",
    {"llm-endpoint:gpuCount": "2"} | CLOUD_RUN,
    "2",
    "1 on Cloud Run",
    set_to("gpuCount", 1),
)
wrong(
    "region without Cloud Run GPUs",
    {"gcp:region": "us-west1", "llm-endpoint:platform": "cloud-run"},
    "europe-west4",
    "pulumi config set gcp:region",
)
wrong(
    "instance too small for its GPU",
    {"llm-endpoint:cpus": "2"} | CLOUD_RUN,
    "2",
    "4 or more with nvidia-l4",
    set_to("cpus", 4),
)
wrong(
    "too little memory for the GPU",
    {"llm-endpoint:memoryGib": "40", "llm-endpoint:gpu": "nvidia-rtx-pro-6000"} | CLOUD_RUN,
    "40",
    "80 or more with nvidia-rtx-pro-6000",
    set_to("memoryGib", 80),
)
wrong(
    "more instances at least than at most",
    {"llm-endpoint:minInstances": "2"} | CLOUD_RUN,
    "2",
    "at most llm-endpoint:maxInstances, which is 1",
    set_to("maxInstances", 2),
)
wrong(
    "model too large for an image",
    {"llm-endpoint:weights": "image", "llm-endpoint:model": "Qwen/Qwen3-8B"},
    "models up to 10 GB, and Qwen/Qwen3-8B has 16.4",
    set_to("weights", "bucket"),
)
wrong(
    "weights that fill the memory of an instance",
    {
        "llm-endpoint:memoryGib": "16",
        "llm-endpoint:model": "Qwen/Qwen3-14B-FP8",
        "llm-endpoint:weights": "hub",
    }
    | CLOUD_RUN,
    "16",
    "24 or more with weights 'hub'",
    set_to("memoryGib", 24),
)
wrong(
    "Ollama too new for Cloud Run's driver",
    {
        "llm-endpoint:engineVersion": "0.32.15",
        "llm-endpoint:engine": "ollama",
        "llm-endpoint:model": "qwen3:8b",
    }
    | CLOUD_RUN,
    "at most 0.24.0",
    set_to("engineVersion", "0.24.0"),
)
wrong(
    "engine that there is not",
    {"llm-endpoint:engine": "tgi"},
    "vllm",
    set_to("engine", "vllm"),
)
wrong(
    "weights from nowhere",
    {"llm-endpoint:weights": "disk"},
    "bucket, image or hub",
    set_to("weights", "bucket"),
)
wrong(
    "environment without a name",
    {"llm-endpoint:engineEnv": '["=1"]'},
    HIDDEN,
    "NAME=VALUE",
    "pulumi config set",
)
wrong(
    "environment that is Cloud Run's own",
    {"llm-endpoint:engineEnv": '["PORT=do-not-show-me"]'} | CLOUD_RUN,
    "PORT",
    "variables that Cloud Run does not set itself",
    "leave it out",
)
wrong(
    "environment with a name twice",
    {"llm-endpoint:engineEnv": '["A=1", "A=2"]'},
    HIDDEN,
    "each name once",
    "pulumi config set",
)
wrong(
    "engine too old",
    {"llm-endpoint:engineVersion": "0.11.0"},
    "vllm 0.32.0 or newer",
    set_to("engineVersion", "0.33.0"),
)
for version in (
    "latest",
    "v0.33.0",
    "0.33",
    "sha256:abc",
    "nightly",
    "00.33.0",
    "\u0660.\u0663\u0663.\u0660",
):
    wrong(
        f"engine {version}",
        {"llm-endpoint:engineVersion": version},
        "a version of the engine",
        set_to("engineVersion", "0.33.0"),
    )
wrong(
    "cloudflared unpinned",
    {"llm-endpoint:cloudflaredVersion": "latest"},
    "2025.4.0 or newer",
    set_to("cloudflaredVersion", "2026.8.2"),
)
wrong(
    "host in another zone",
    {"llm-endpoint:hostname": "llm.example.org"},
    "a name inside the zone example.com",
    set_to("hostname", "llm.example.com"),
)
wrong(
    "host that only ends alike",
    {"llm-endpoint:hostname": "llm.badexample.com"},
    "a name inside the zone example.com",
    set_to("hostname", "llm.example.com"),
)
wrong(
    "host deeper than the certificate",
    {"llm-endpoint:hostname": "llm.dev.example.com"},
    "one label before example.com",
    set_to("hostname", "llm.example.com"),
)
for host in ("https://llm.example.com", "LLM.example.com", "llm.example.com/v1", "llm", "a_b.c.de"):
    wrong(
        f"host {host}",
        {"llm-endpoint:hostname": host},
        "a lower-case host name without scheme",
        set_to("hostname", "llm.example.com"),
    )
wrong(
    "account by name",
    {"llm-endpoint:cloudflareAccountId": "my-account"},
    "32 hexadecimal digits",
    set_to("cloudflareAccountId", "0123"),
)
wrong(
    "zone id too short",
    {"llm-endpoint:cloudflareZoneId": "abc123"},
    "32 hexadecimal digits",
    set_to("cloudflareZoneId", "0123"),
)
wrong(
    "team by its address",
    {"llm-endpoint:accessTeamName": "example.cloudflareaccess.com"},
    "without .cloudflareaccess.com",
    set_to("accessTeamName", "example"),
)
wrong(
    "nobody may call",
    NOBODY,
    "[]",
    "at least one application or person",
    first_of("consumers", "app"),
)
wrong(
    "consumer twice",
    {"llm-endpoint:consumers": '["app", "app"]'},
    "'app'",
    "each once",
    first_of("consumers", "app"),
)
wrong(
    "consumer with capitals",
    {"llm-endpoint:consumers": '["My App"]'},
    "'My App'",
    "lower-case letters",
    first_of("consumers", "app"),
)
wrong(
    "more consumers than tokens",
    {"llm-endpoint:consumers": json.dumps([f"app-{n}" for n in range(50)])},
    "'app-49'",
    "at most 49",
    first_of("consumers", "app"),
)
wrong(
    "e-mail without domain",
    {"llm-endpoint:allowedEmails": '["someone"]'},
    "'someone'",
    "e-mail addresses",
    first_of("allowedEmails", "someone@example.com"),
)
wrong(
    "domain with @",
    {"llm-endpoint:allowedEmailDomains": '["@example.com"]'},
    "'@example.com'",
    "without @",
    first_of("allowedEmailDomains", "example.com"),
)
for domain in ("gmail.com", "hotmail.co.uk", "163.com", "fastmail.com"):
    wrong(
        f"{domain}, where anybody has an address",
        {"llm-endpoint:allowedEmailDomains": json.dumps([domain])},
        f"'{domain}'",
        "anybody can have an address there",
        first_of("allowedEmails", f"someone@{domain}"),
    )
wrong(
    "token duration in years",
    {"llm-endpoint:serviceTokenDuration": "1y"},
    "hours, or forever",
    set_to("serviceTokenDuration", "8760h"),
)
wrong(
    "mirror without TLS",
    {"llm-endpoint:huggingFaceEndpoint": "http://mirror.example.com"},
    HIDDEN,
    "an https address",
    set_to("huggingFaceEndpoint", "https://huggingface.co"),
)
wrong("no replica", {"llm-endpoint:replicas": "0"}, "1 or more", set_to("replicas", 1))
wrong(
    "more replicas than a tunnel takes",
    {"llm-endpoint:replicas": "24", "llm-endpoint:rollout": "surge"},
    "24",
    "at most 22",
    set_to("replicas", 22),
)
wrong(
    "unknown rollout",
    {"llm-endpoint:rollout": "rolling"},
    "replace, surge or manual",
    set_to("rollout", "replace"),
)
for minutes in ("0", "600"):
    wrong(
        f"ready in {minutes} minutes",
        {"llm-endpoint:readyTimeoutMinutes": minutes},
        "5 to 60 minutes",
        set_to("readyTimeoutMinutes", 30),
    )
wrong("maybe protected", {"llm-endpoint:protect": "maybe"}, "true or false", set_to("protect", ""))

for spelling in (
    *("--tensor-parallel-size=2", "--tensor_parallel_size=2", "--tensor-p=2", "-tp=2"),
    *("--port=1", "--api-key=x", "--hf-token=x", "--enable-log-requests", "--enable_log_req"),
    *(
        "--served-model-name=x",
        "--no-enable-log-requests",
        "--config=x.yaml",
        "--disable-access-log-for-endpoints=/x",
        "-h",
    ),
):
    wrong(
        f"the program's own flag as {spelling}",
        {ARGS: json.dumps([spelling])},
        "engineArgs: --",
        "flags that the program does not set itself",
        "",
    )
wrong(
    "flag that vLLM does not have",
    {ARGS: '["--max-num-sequences=8"]'},
    "--max-num-sequences",
    "flags of vLLM 0.33.0",
    "did you mean --max-num-seqs?",
)
wrong(
    "flag that could be several",
    {ARGS: '["--max-num=8"]'},
    HIDDEN,
    "ambiguous option: --max-num could match",
    "correct the list",
)
wrong(
    "flag with a wrong value",
    {ARGS: '["--max-num-seqs=many"]'},
    HIDDEN,
    "argument --max-num-seqs: invalid int value",
    "correct the list",
)
for problem, arg, words in (
    ("flag with broken JSON", "--hf-overrides={bad", "argument --hf-overrides: expected JSON"),
    ("optimisation level that is none", "-O9", "--optimization-level: invalid choice (choose"),
    ("flag with a number out of range", "--max-num-seqs=0", "expected a number >=1"),
    ("tools without their parser", "--enable-auto-tool-choice", "requires --tool-call-parser"),
):
    wrong(problem, {ARGS: json.dumps([arg])}, HIDDEN, words, "correct the list")
wrong(
    "flag without its value",
    {ARGS: '["--max-num-seqs"]'},
    HIDDEN,
    "argument --max-num-seqs: expected one argument",
    "correct the list",
)
wrong(
    "flag and value in one line",
    {ARGS: '["--max-num-seqs 8"]'},
    "--max-num-seqs",
    "flags of vLLM 0.33.0",
    "did you mean --max-num-seqs?",
)
wrong("value without flag", {ARGS: '["8"]'}, HIDDEN, "each value after its own flag", "remove it")
wrong(
    "flag with a line break",
    {ARGS: json.dumps(["--seed=1\n--port=1"])},
    HIDDEN,
    "without control characters",
    first_of("engineArgs", "-- --max-num-seqs=64"),
)
for flag in ("--dtype=bfloat16", "--kv-cache-dtype=fp8", "--quantization=gpt_oss_mxfp4"):
    wrong(
        f"T4 with {flag}",
        {ARGS: json.dumps([flag])} | T4,
        flag,
        "something that nvidia-tesla-t4 computes",
        set_to("gpu", "nvidia-l4"),
    )
SEVENTY = "meta-llama/Llama-3.3-70B-Instruct"
wrong(
    "model that is too large at any length",
    {"llm-endpoint:model": SEVENTY},
    "a model that fits 1 nvidia-l4; this one does not, at any length: of 20.3 GiB a GPU the"
    " weights take 131.4",
    f"the cheapest machine that takes it (g2-standard-96, 3.19 $/h): {set_to('gpuCount', 8)}",
)
wrong(
    "model that is too large on standard terms",
    {"llm-endpoint:model": SEVENTY, "llm-endpoint:provisioning": "standard"},
    "at any length",
    "(g2-standard-96, 8.00 $/h)",
)
wrong(
    "model on another machine of that GPU",
    {"llm-endpoint:model": SEVENTY, "llm-endpoint:machineType": "g2-standard-12"},
    "a model that fits 1 nvidia-l4",
    f"{set_to('gpuCount', 8)} && {set_to('machineType', chr(39) * 2)}",
)
wrong(
    "context that does not fit",
    {"llm-endpoint:maxModelLen": "40960", "llm-endpoint:model": "Qwen/Qwen3-8B"},
    "40960",
    "at most 20416, with Qwen/Qwen3-8B on 1 nvidia-l4: of 20.3 GiB a GPU the weights take 15.3",
    f"{set_to('maxModelLen', 20416)}, or the cheapest machine that takes it"
    f" (g2-standard-24, 0.80 $/h): {set_to('gpuCount', 2)}",
)
wrong(
    "context beyond the model's",
    {"llm-endpoint:maxModelLen": "65536"},
    "65536",
    "at most 40960, with Qwen/Qwen3-4B on 1 nvidia-l4: the model was made for 40960 tokens",
    f"{set_to('maxModelLen', 40960)}, or another model: {set_to('model', 'ORGANISATION/NAME')}",
)
wrong(
    "weights that cannot be split",
    {"llm-endpoint:model": "Qwen/Qwen3-30B-A3B-FP8", "llm-endpoint:gpuCount": "4"},
    "its 6 blocks of quantised weights cannot be split over 4 GPUs",
    set_to("gpuCount", 2),
)
LARGER = "the cheapest machine that takes it"
HUGE = {"llm-endpoint:model": "Qwen/Qwen3-235B-A22B-FP8"}
wrong(
    "model that needs another GPU",
    HUGE,
    "at any length",
    f"{LARGER} (a2-ultragpu-4g, 10.06 $/h): {set_to('gpu', 'nvidia-a100-80gb')}"
    f" && {set_to('gpuCount', 4)}",
)
wrong(
    "model that only another region's GPUs take",
    HUGE | {"gcp:region": "europe-west6"},
    "at any length",
    f"{LARGER} (a2-ultragpu-4g, 10.06 $/h): {set_to('gpu', 'nvidia-a100-80gb')}"
    f" && {set_to('gpuCount', 4)} && pulumi config set gcp:region europe-west4",
)
wrong(
    "model that only GPUs on other terms take",
    HUGE | {"llm-endpoint:provisioning": "standard", "gcp:region": "europe-west3"},
    "at any length",
    f"{LARGER} (a3-highgpu-4g): {set_to('gpu', 'nvidia-h100-80gb')}"
    f" && {set_to('gpuCount', 4)} && {set_to('provisioning', 'spot')}",
)
wrong(
    "GPU with too small a share of its memory",
    {"llm-endpoint:model": "Qwen/Qwen3-8B", "llm-endpoint:gpuMemoryUtilization": "0.7"},
    "of 15.4 GiB a GPU",
    set_to("gpuCount", 2),
)
for model in ("google/gemma-3-4b-it", "openai/gpt-oss-20b", "nvidia/Qwen3-8B-FP8"):
    wrong(
        f"T4 with {model}",
        {"llm-endpoint:model": model} | T4,
        "something that nvidia-tesla-t4 computes",
        set_to("gpu", "nvidia-l4"),
    )


def block(message: str, name: str) -> str:
    """The part of a message that is about one key."""
    blocks = [part for part in message.split("\n\n") if part.strip().startswith(name)]
    assert blocks, f"nothing about {name} in:\n{message}"
    return "\n".join(blocks)


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_refused_with_key_value_expectation_and_next_step(mistake: str) -> None:
    """Whoever makes a mistake reads where it is, what it is, what would be right, what to do."""
    changes, name, value, expected, following = WRONG[mistake]

    about = block(refusal(changes), name)

    assert value in about
    assert expected in about
    assert f"next: {following}" in about or following in about.partition("next: ")[2]


COMMAND = re.compile(
    r"pulumi config set (?:--path ')?([\w:-]+:\w+)(?:\[\d+\](')?)? (?:-- )?([^\s,;]+)"
)


@pytest.mark.parametrize(
    "mistake", [name for name, words in WRONG.items() if words[-1].startswith("pulumi config set")]
)
def test_the_command_that_a_refusal_gives_is_a_remedy(mistake: str) -> None:
    """Whoever does what the message says is rid of the problem."""
    changes, name, *_ = WRONG[mistake]
    given = COMMAND.search(block(refusal(changes), name))
    assert given
    target, listed, value = given.groups()
    remedy = {target: json.dumps([value]) if listed else value}
    if target == "llm-endpoint:allowedEmails":
        remedy[name] = "[]"  # the addresses stand in the domain's place

    try:
        parse(changes | remedy)
    except pulumi.RunError as error:
        assert f"  {name}" not in str(error)  # noqa: PT017 (another problem may have come up)


@pytest.mark.parametrize(
    "mistake",
    [name for name, words in WRONG.items() if "the cheapest machine that takes it" in words[-1]],
)
def test_the_machine_that_a_refusal_names_takes_the_model(mistake: str) -> None:
    """Whoever runs all of its commands has a stack that works, the asked length included."""
    changes, name, *_ = WRONG[mistake]
    _, machine, commands = block(refusal(changes), name).partition("the cheapest machine")
    remedies = {found[1]: found[3].strip("'") for found in COMMAND.finditer(commands)}

    assert machine
    assert parse(changes | remedies)


def test_every_problem_is_listed_at_once() -> None:
    """One error has all problems, so that nobody corrects them one `up` at a time."""
    message = refusal(
        {
            "llm-endpoint:model": "qwen3",
            "llm-endpoint:bootDiskGb": "50",
            "llm-endpoint:gpuCount": "3",
            "llm-endpoint:hostname": "llm.example.org",
            "llm-endpoint:modle": "x",
            ARGS: '["--port=1", "--nonsense"]',
        }
    )

    assert len(re.findall("^    expected: ", message, re.MULTILINE)) == 7


def test_a_mistyped_key_is_found() -> None:
    """A key that nobody declared is refused, with the one that was meant."""
    about = block(refusal({"llm-endpoint:maxModelLength": "4096"}), "llm-endpoint:maxModelLength")

    assert "did you mean llm-endpoint:maxModelLen?" in about
    assert "pulumi config rm llm-endpoint:maxModelLength" in about


def test_a_missing_provider_key_is_named() -> None:
    """gcp:project belongs to a provider, so the engine does not ask for it; the program does."""
    config = configuration()
    del config["gcp:project"]

    with pytest.raises(pulumi.RunError, match="gcp:project: not set"):
        Settings.parse(config, SECRET_KEYS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cloudflare:apiToken", API_TOKEN),
        ("llm-endpoint:huggingFaceToken", "hf_do-not-show-me"),
    ],
)
def test_a_secret_in_clear_is_refused_and_not_repeated(name: str, value: str) -> None:
    """A token that stands in the stack's file in clear must be replaced; nobody prints it again."""
    message = refusal({name: value}, secret=SECRET_KEYS - {name})

    assert "an encrypted value" in block(message, name)
    assert f"pulumi config set --secret {name}" in message
    assert value not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cloudflare:apiToken", "too-short-do-not-show"),
        ("llm-endpoint:huggingFaceToken", "hf_do not show me"),
        ("llm-endpoint:hugingFaceToken", "hf_do-not-show-me"),
        ("llm-endpoint:hostname", "do-not-show-me"),
        (ARGS, '["--hf-token=hf_do-not-show-me"]'),
        (ARGS, '["--hf-tokn=hf_do-not-show-me"]'),
        (ARGS, '["--hf=hf_do-not-show-me"]'),
        (ARGS, '["--api-keys", "do-not-show-me"]'),
        (ARGS, r'["--api-key=do-not-show-me\n"]'),
        (ARGS, '["--dtype=do-not-show-me"]'),
        (ARGS, '["--seed", "do-not-show-me"]'),
        (ARGS, '["--enforce-eager=do-not-show-me"]'),
        (ARGS, '["--max-num-batched-tokens=do-not-show-me"]'),
        (ARGS, '["--compilation-config={\\"do-not-show-me\\": 1}"]'),
        (ARGS, '["--hf-tokn do-not-show-me"]'),
    ],
)
def test_what_may_be_secret_is_never_printed(name: str, value: str) -> None:
    """Neither a malformed token, nor a key set with --secret, nor a flag's value is shown."""
    message = refusal({name: value}, secret=SECRET_KEYS | {"llm-endpoint:hostname"})

    assert name in message
    assert not re.search("do.not.show", message)


def test_a_setting_that_is_encrypted_is_refused() -> None:
    """Settings go into resources in clear; to encrypt one promises what nobody keeps."""
    message = refusal({}, secret=SECRET_KEYS | {"llm-endpoint:hostname"})

    assert "pulumi config rm llm-endpoint:hostname" in block(message, "llm-endpoint:hostname")


@pytest.mark.parametrize(
    "changes",
    [
        {"llm-endpoint:engineVersion": "sha256:" + "a" * 64},
        {"llm-endpoint:engineVersion": "1.0.0"},
        {"llm-endpoint:consumers": "[]", "llm-endpoint:allowedEmails": '["a.b+c@example.com"]'},
        {"llm-endpoint:hostname": "example.com"},
        {"llm-endpoint:serviceTokenDuration": "forever"},
        {"llm-endpoint:provisioning": "flex-start", "llm-endpoint:maxRunHours": "168"},
        {"llm-endpoint:huggingFaceEndpoint": "https://mirror.example.com:8443/hub"},
        {"llm-endpoint:gpuCount": "4"},
        {"llm-endpoint:machineType": "g2-standard-16"},
        {"llm-endpoint:zones": '["us-central1-b"]'},
        {"llm-endpoint:modelRevision": "refs/pr/7"},
        {"llm-endpoint:huggingFaceToken": "hf_abcdefghijklmnopqrst"},
        {"llm-endpoint:model": "RedHatAI/Qwen3-8B-FP8-dynamic"} | T4,
        {"llm-endpoint:gpuCount": "8", "llm-endpoint:provisioning": "standard"} | H100,
        {ARGS: '["--max-num-seqs", "64", "--enforce-eager", "-q", "fp8", "-O3"]'},
        {ARGS: '["--compilation-config.mode=3", "--limit_mm_per_prompt.image", "2"]'},
        {ARGS: '["--lora-modules", "a=x/y", "b=x/z", "--enable-lora"]'},
        # Whether these fit, the program cannot tell, or not for certain.
        {"llm-endpoint:model": "somebody/unheard-of-70B"},
        {"llm-endpoint:model": SEVENTY, ARGS: '["--cpu-offload-gb=130"]'},
        {"llm-endpoint:model": "Qwen/Qwen3-14B", ARGS: '["--quantization=fp8"]'},
        {"llm-endpoint:model": "Qwen/Qwen3-8B", "llm-endpoint:maxModelLen": "24000"},
        {"llm-endpoint:maxModelLen": "65536", ARGS: '["--hf-overrides={}"]'},
        {
            "llm-endpoint:model": "Qwen/Qwen3-30B-A3B-FP8",
            "llm-endpoint:gpuCount": "4",
            ARGS: '["--enable-expert-parallel"]',
        },
        # These fit, thanks to a flag.
        {
            "llm-endpoint:model": "Qwen/Qwen3-8B",
            "llm-endpoint:maxModelLen": "40960",
            ARGS: '["--kv-cache-dtype=fp8", "--max-num-seqs=32"]',
        },
    ],
    ids=str,
)
def test_what_works_is_not_refused(changes: dict[str, str]) -> None:
    """A rule that refuses what the services take would be a defect."""
    assert parse(changes)


def test_one_mistake_is_told_once() -> None:
    """A model that the GPU does not compute does not fit it either; one of the two is said."""
    assert refusal({"llm-endpoint:model": "openai/gpt-oss-20b"} | T4).count("expected:") == 1
    assert (
        refusal({"llm-endpoint:model": SEVENTY, "llm-endpoint:gpuCount": "3"}).count("next:") == 1
    )


def test_gaps_are_filled_from_the_catalogue() -> None:
    """Without machine type and zones, the usual machine and every zone of the region are taken."""
    settings = parse({"llm-endpoint:gpuCount": "2", "gcp:region": "us-east4"})

    assert settings.machine_type == "g2-standard-24"
    assert settings.zones == ("us-east4-a", "us-east4-c")


def test_the_running_stack_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program sees what the engine hands it, undeclared keys and all."""

    def load(changes: dict[str, str]) -> Settings:
        config = configuration("dev", changes)
        monkeypatch.setattr(pulumi, "get_stack", lambda: config.pop(key("stack")))
        monkeypatch.setenv("PULUMI_CONFIG", json.dumps(config))
        pulumi.runtime.set_all_config(config, list(SECRET_KEYS))
        return Settings.load()

    assert copy_context().run(load, {}) == parse({})
    with pytest.raises(pulumi.RunError, match="llm-endpoint:gpus"):
        copy_context().run(load, {"llm-endpoint:gpus": "2"})


def test_what_only_reads_settings_loads_no_providers_sdk() -> None:
    """Which takes seconds, that whoever asks for a price or a preflight would wait."""
    loaded = "import sys, components.settings; print(*{it.partition('.')[0] for it in sys.modules})"

    run = subprocess.run(
        [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert "pydantic" in run.stdout
    assert "pulumi_" not in run.stdout
