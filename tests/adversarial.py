"""Configurations that nobody writes by accident, and what becomes of them.

`CONFIGURATIONS` draws a committed stack with some of its values replaced. Each replacement has a
kind, by which tests/count_adversarial.py counts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import pulumi
from hypothesis import strategies as st

from components.engine import names as engine_names
from components.problem import key
from components.settings import SECRETS, Settings
from tests.conftest import Deployment, deploy
from tests.stack_config import API_TOKEN, SECRET_KEYS, STACKS, configuration, declared

STACK = key("stack")
CANARY = "/tmp/llm-endpoint-canary"  # noqa: S108 (never made: that is what is tested)
PRIVATE = "do-not-show-me"
"""Stands in whatever may be secret, and so in no message."""

METACHARACTERS = (
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f"; touch {CANARY} #",
    f"' && touch {CANARY} && '",
    f'" ; touch {CANARY} ; "',
    f"| tee {CANARY}",
    "${HOME} $HOME $0 $$ $((1+1))",
    "<(id) >out <in * ? [a-z] {a,b} ~ !!",
    "\\ \\\\ \\' \\\" \\$ \\n",
)
SPECIFIERS = (
    "%n",
    "%i %I %h %H %m %%",
    "%s%s%s%n",
    "${project} ${pulumi.stack} {0} {name}",
    "@ %a",
)
BREAKS = (
    f"\nExecStartPre=/bin/touch {CANARY}\n",
    "\r\nX-Injected: 1",
    "\n[Service]\nUser=root",
    "\x00",
    "\x1b[2J\x1b[31m",
    "\x7f\x85",
    "\u2028",
)
UNICODE = (
    "grüße",
    "你好",
    "🚀",
    "\u202egnp.exe",
    "\ufeff",
    "e\u0301",
    "\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45",
    "١٢٣",
    "ﬀ",
    "İ",
)
PATHS = ("../../etc/passwd", "/", "..", "-", "--privileged", "-v=/:/host", "file:///etc/shadow", "")
NUMBERS = (
    *("-1", "0", "1", "2", "3", "24", "25", "26", "49", "50", "64", "100", "168", "169", "1023"),
    *("1024", "8192", "65535", "65536", "65537", "10485760", "10485761", "2147483648"),
    *("9223372036854775808", "9" * 400, "9" * 5000, "-" + "9" * 30, "1e3", "1e999", "0x10", "1_0"),
    *(
        "0.1",
        "0.0999",
        "0.92",
        "1.0",
        "1.0000001",
        "nan",
        "inf",
        "-inf",
        " 8 ",
        "+8",
        "08",
        "٨",
        "",
    ),
)
TYPES = (
    *("null", "true", "false", "yes", "[]", "{}", "[[]]", '{"a": 1}', "[null]", "[true]", "[1]"),
    *('["app", 1]', '[["app"]]', '[{"name": "app"}]', "[1e999]", "[NaN]", '"text"', "[", '["'),
    '["\\ud800"]',
)
SIZES = (300, 5_000, 70_000, 300_000)

PLAIN: Mapping[str, tuple[str, ...]] = {
    STACK: ("dev", "a", "z9", "a--b", "a" * 18),
    "gcp:project": ("team-llm", "a12345", "a" * 29 + "0"),
    "gcp:region": ("us-central1", "europe-west4", "us-east4", "asia-southeast1"),
    "cloudflare:apiToken": (API_TOKEN,),
    "llm-endpoint:engine": tuple(engine_names()),
    "llm-endpoint:model": (
        *("Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B", "somebody/Un-heard.of_1B", "openai/gpt-oss-20b"),
        *("qwen3:8b", "hf.co/org/name:Q4_K_M"),
    ),
    "llm-endpoint:modelRevision": ("", "main", "refs/pr/7", "0" * 40),
    "llm-endpoint:weights": ("bucket", "image", "hub"),
    "llm-endpoint:keepWeights": ("true", "false"),
    "llm-endpoint:maxModelLen": ("1024", "2048", "8192"),
    "llm-endpoint:huggingFaceToken": ("", "hf_abcdefghijklmnopqrst", "$(id)`id`'\"%n;|&"),
    "llm-endpoint:huggingFaceEndpoint": (
        "https://huggingface.co",
        "https://mirror.example.com:8443/hub/../x",
    ),
    "llm-endpoint:platform": ("vm", "cloud-run"),
    "llm-endpoint:gpu": ("nvidia-l4", "nvidia-tesla-t4", "nvidia-rtx-pro-6000"),
    "llm-endpoint:gpuCount": ("1", "2", "4"),
    "llm-endpoint:machineType": ("", "g2-standard-8"),
    "llm-endpoint:provisioning": ("spot", "standard", "flex-start"),
    "llm-endpoint:maxRunHours": ("0", "24"),
    "llm-endpoint:zones": ("[]", '["us-central1-a"]', '["us-central1-b", "us-central1-c"]'),
    "llm-endpoint:cpus": ("0", "8"),
    "llm-endpoint:memoryGib": ("0", "32"),
    "llm-endpoint:minInstances": ("0", "1"),
    "llm-endpoint:maxInstances": ("1", "100"),
    "llm-endpoint:zonalRedundancy": ("true", "false"),
    "llm-endpoint:replicas": ("1", "2", "22"),
    "llm-endpoint:compileCache": ("disk", "bucket"),
    "llm-endpoint:preparedFrom": ("", "projects/p/global/images/family/c"),
    "llm-endpoint:bootImage": (
        "prepared",
        "prepared-with-weights",
        "projects/a.com:b/global/images/family/c",
        "projects/p/global/images/i",
    ),
    "llm-endpoint:bootDiskGb": ("100", "65536"),
    "llm-endpoint:engineVersion": ("", "0.33.0", "sha256:" + "a" * 64),
    "llm-endpoint:engineArgs": (
        "[]",
        '["--max-num-seqs", "64", "--enforce-eager", "-q", "fp8", "-O3"]',
        '["--lora-modules", "a=x/y", "b=x/z", "--enable-lora"]',
    ),
    "llm-endpoint:engineEnv": ("[]", '["VLLM_LOGGING_LEVEL=INFO", "EMPTY="]'),
    "llm-endpoint:gpuMemoryUtilization": ("0.92", "0.1", "1"),
    "llm-endpoint:cloudflaredVersion": ("2026.8.2", "sha256:" + "b" * 64),
    "llm-endpoint:hostname": ("llm.example.com", "example.com"),
    "llm-endpoint:cloudflareAccountId": ("0123456789abcdef" * 2,),
    "llm-endpoint:cloudflareZoneId": ("fedcba9876543210" * 2,),
    "llm-endpoint:cloudflareZoneName": ("example.com",),
    "llm-endpoint:accessTeamName": ("example", "a"),
    "llm-endpoint:consumers": (
        '["app"]',
        '["a", "b-c", "d1"]',
        json.dumps([f"c{n}" for n in range(49)]),
    ),
    "llm-endpoint:allowedEmails": ("[]", '["o\'brien+llm%x@example.org"]'),
    "llm-endpoint:allowedEmailDomains": ("[]", '["example.net"]'),
    "llm-endpoint:serviceTokenDuration": ("8760h", "forever", "999999h"),
    "llm-endpoint:preflight": ("true", "false"),
    "llm-endpoint:rollout": ("replace", "surge", "manual"),
    "llm-endpoint:waitUntilReady": ("true", "false"),
    "llm-endpoint:readinessApi": ("chat/completions", "completions", "embeddings"),
    "llm-endpoint:readyTimeoutMinutes": ("5", "60"),
    "llm-endpoint:hoursPerDay": ("0", "24"),
    "llm-endpoint:protect": ("true", "false"),
}
"""Values that are right by themselves, so that many a configuration comes through to the plan."""

FREE = {
    "llm-endpoint:engineArgs": (
        "--served-note={}",
        "--chat-template={}",
        "--hf-overrides={}",
        "{}",
    ),
    "llm-endpoint:engineEnv": ("NOTE={}", "{}=1", "{}"),
}
"""Where a text may be nearly anything, and what stands around it."""

KINDS = (
    "right values",
    "shell metacharacters",
    "specifiers",
    "control characters",
    "Unicode",
    "paths and options",
    "random text",
    "numbers at the edges",
    "wrong types",
    "huge values",
    "deep nesting",
    "unknown keys",
    "secrets in clear",
)
TEXTS: Mapping[str, st.SearchStrategy[str]] = {
    "shell metacharacters": st.sampled_from(METACHARACTERS),
    "specifiers": st.sampled_from(SPECIFIERS),
    "control characters": st.sampled_from(BREAKS),
    "Unicode": st.sampled_from(UNICODE),
    "paths and options": st.sampled_from(PATHS),
    "random text": st.text(max_size=30),
}


class Change(NamedTuple):
    """One value in place of a stack's own."""

    kind: str
    key: str
    value: str
    secret: bool
    """Whether it is encrypted."""


@dataclass(frozen=True, repr=False)
class Configuration:
    """A stack with some changes."""

    stack: str
    changes: tuple[Change, ...]

    def __repr__(self) -> str:
        """What is worth printing of megabytes."""
        changes = (f"{it.key[:60]!r}: {it.value[:200]!r} ({len(it.value)})" for it in self.changes)
        return f"{self.stack} with {', '.join(changes)}"

    @property
    def kinds(self) -> set[str]:
        """Of what it is made."""
        return {change.kind for change in self.changes}

    @property
    def name(self) -> str:
        """The stack's own name."""
        return self.values.get(STACK, self.stack)

    @property
    def values(self) -> dict[str, str]:
        """What is changed."""
        return {change.key: change.value for change in self.changes}

    @property
    def secrets(self) -> frozenset[str]:
        """The keys that are encrypted."""
        clear = {change.key for change in self.changes if not change.secret}
        return (SECRET_KEYS - clear) | {change.key for change in self.changes if change.secret}


def _is_list(name: str) -> bool:
    return declared().get(name, {}).get("type") == "array"


@st.composite
def _text(draw: st.DrawFn, kind: str, name: str) -> str:
    """A hostile text, alone, in a right value, or as an element of a list."""
    text = draw(TEXTS[kind])
    right = draw(st.sampled_from(PLAIN[name]))
    if _is_list(name):
        items: list[Any] = json.loads(right)
        around = draw(st.sampled_from(FREE.get(name, ("{}", "a{}", "{}@example.org"))))
        items.insert(draw(st.integers(0, len(items))), around.replace("{}", text))
        return json.dumps(items)
    at = draw(st.integers(0, len(right)))
    return draw(st.sampled_from((text, right[:at] + text + right[at:], right + text)))


@st.composite
def _huge(draw: st.DrawFn, name: str) -> str:
    size = draw(st.sampled_from(SIZES))
    right = draw(st.sampled_from(PLAIN[name]))
    if not _is_list(name):
        return draw(st.sampled_from((right + "a" * size, right * (size // max(len(right), 1) + 1))))
    items = draw(
        st.sampled_from(
            (
                ["--enforce-eager"] * (size // 100),
                ["--chat-template=" + "x" * size],
                ["A=" + "x" * size],
                [f"A{n}=1" for n in range(size // 100)],
                [f"a{n}" for n in range(size // 100)],
                [f"a{n}@example.org" for n in range(size // 100)],
            )
        )
    )
    return json.dumps(items)


@st.composite
def _deep(draw: st.DrawFn, name: str) -> str:
    depth = draw(st.sampled_from((5, 200, 900, 5_000, 100_000)))
    if name == "llm-endpoint:engineArgs" and draw(st.booleans()):
        return json.dumps(
            [
                draw(
                    st.sampled_from(
                        (
                            "--hf-overrides=" + "[" * min(depth, 60_000),
                            "--hf-overrides" + ".a" * min(depth, 30_000) + "=1",
                            "--hf-overrides.a=" + '{"a":' * min(depth, 12_000),
                        )
                    )
                )
            ]
        )
    return draw(st.sampled_from(("[" * depth + "]" * depth, "[" * depth, '{"a":' * depth)))


@st.composite
def _change(draw: st.DrawFn, kind: str) -> Change:
    name = draw(st.sampled_from([*PLAIN]))
    if kind == "unknown keys":
        text = draw(st.one_of(*TEXTS.values(), st.just("a" * 5000), st.just("modle")))
        return Change(kind, f"llm-endpoint:{text}", PRIVATE, draw(st.booleans()))
    if kind == "secrets in clear":
        name = draw(st.sampled_from([name for name in PLAIN if name != STACK]))
        is_one = name in SECRET_KEYS
        value = draw(st.sampled_from(PLAIN[name]))
        return Change(kind, name, f"{PRIVATE}-{'x' * 40}" if is_one else value, not is_one)
    match kind:
        case "right values":
            value = draw(st.sampled_from(PLAIN[name]))
        case "numbers at the edges":
            value = draw(st.sampled_from(NUMBERS))
            if name == "llm-endpoint:engineArgs":
                flag = draw(
                    st.sampled_from(("--max-num-seqs", "--max-num-batched-tokens", "--seed"))
                )
                unit = draw(st.sampled_from(("", "k", "T")))
                value = json.dumps([f"{flag}={value}{unit}"])
            elif name == "llm-endpoint:engineEnv":
                value = json.dumps([f"OLLAMA_NUM_PARALLEL={value}"])
        case "wrong types":
            value = draw(st.sampled_from(TYPES))
        case "huge values":
            value = draw(_huge(name))
        case "deep nesting":
            value = draw(_deep(name))
        case _:
            value = draw(_text(kind, name))
    return Change(kind, name, value, name in SECRET_KEYS)


_RIGHT = _change("right values")
_HOSTILE = st.sampled_from(KINDS[1:]).flatmap(_change)


@st.composite
def _free(draw: st.DrawFn, name: str, *around: str) -> Change:
    """A hostile text where nearly any may stand: most of these are planned."""
    kind = draw(st.sampled_from([*TEXTS]))
    text = draw(TEXTS[kind])
    return Change(kind, name, json.dumps([it.replace("{}", text) for it in around]), secret=False)


_FREELY = st.tuples(
    _free("llm-endpoint:engineEnv", "NOTE={}"),
    _free("llm-endpoint:engineArgs", "--chat-template", "x{}"),
    _RIGHT,
)
# A refusal takes a millisecond and a plan a quarter of a second: hence more of the former.
_CHANGES = st.sampled_from("RFHHHHHHMMMM").flatmap(
    {
        "R": st.lists(_RIGHT, min_size=1, max_size=4),
        "F": _FREELY.map(list),
        "H": st.tuples(_HOSTILE).map(list),
        "M": st.lists(st.one_of(_RIGHT, _HOSTILE, _HOSTILE), min_size=2, max_size=6),
    }.__getitem__
)
CONFIGURATIONS = st.builds(
    Configuration,
    st.sampled_from(STACKS),
    _CHANGES.map(lambda them: tuple({change.key: change for change in them}.values())),
)


class Outcome(NamedTuple):
    """What became of a configuration: a refusal, or a plan."""

    refusal: str = ""
    settings: Settings | None = None
    deployment: Deployment | None = None


def plan(given: Configuration) -> Outcome:
    """Hand a configuration to the program as the engine would.

    Whatever the program raises but its own refusal goes through.
    """
    values = dict(given.values)
    values.pop(STACK, None)
    whole = configuration(given.stack, values) | {STACK: given.name}
    try:
        settings = Settings.parse(whole, given.secrets)
    except pulumi.RunError as refused:
        return Outcome(refusal=str(refused))
    return Outcome(
        settings=settings,
        deployment=deploy(given.stack, values, named=given.name, secret=given.secrets),
    )


@cache
def known_keys() -> frozenset[str]:
    """Every key that a refusal may be about."""
    return frozenset({*map(key, Settings.model_fields), *SECRETS})
