"""What the flags of `vllm serve` that a stack adds mean for the memory that a model takes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from components import vllm_flags

CACHE_BYTES = {
    "auto": 2.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "nvfp4": 0.5625,
}
"""Bytes of a number in the KV cache, by --kv-cache-dtype. vLLM has more of these."""

FOLLOWED = {"--enforce-eager", "--kv-cache-dtype", "--max-num-batched-tokens", "--max-num-seqs"}
"""Flags that the reckoning follows."""

NEUTRAL = {
    "--allowed-headers",
    "--allowed-local-media-path",
    "--allowed-media-domains",
    "--allowed-methods",
    "--allowed-origins",
    "--api-server-count",
    "--chat-template",
    "--chat-template-content-format",
    "--default-chat-template-kwargs",
    "--default-mm-loras",
    "--disable-fastapi-docs",
    "--disable-log-stats",
    "--disable-uvicorn-access-log",
    "--dtype",
    "--enable-auto-tool-choice",
    "--enable-force-include-usage",
    "--enable-lora",
    "--enable-prefix-caching",
    "--enable-prompt-embeds",
    "--enable-prompt-tokens-details",
    "--enable-request-id-headers",
    "--enable-server-load-tracking",
    "--exclude-tools-when-tool-choice-none",
    "--generation-config",
    "--kv-cache-metrics",
    "--kv-events-config",
    "--log-level",
    "--logits-processors",
    "--lora-dtype",
    "--lora-modules",
    "--max-cpu-loras",
    "--max-log-len",
    "--max-logprobs",
    "--max-lora-rank",
    "--max-loras",
    "--otlp-traces-endpoint",
    "--override-generation-config",
    "--prefix-caching-hash-algo",
    "--reasoning-parser",
    "--reasoning-parser-plugin",
    "--response-role",
    "--return-tokens-as-token-ids",
    "--scheduling-policy",
    "--seed",
    "--spec-method",
    "--spec-model",
    "--spec-tokens",
    "--speculative-config",
    "--stream-interval",
    "--structured-outputs-config",
    "--tokenizer",
    "--tokenizer-mode",
    "--tokenizer-revision",
    "--tool-call-parser",
    "--tool-parser-plugin",
    "--trust-remote-code",
    "--uvicorn-log-level",
}
"""Flags with which a model takes no less memory than without, and is split over GPUs as without.
With any other the reckoning may be wrong: some swap weights out, some quantise them."""


@dataclass(frozen=True)
class Engine:
    """What the flags say; None where vLLM has its own default."""

    cache_dtype: str = "auto"
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    eager: bool = False

    @classmethod
    def read(cls, args: Iterable[str]) -> "Engine | None":
        """The engine with these flags; None where the reckoning cannot follow them."""
        try:
            values, unknown = vllm_flags.parse(args)
        except ValueError:
            return None
        if unknown or not values.keys() <= FOLLOWED | NEUTRAL:
            return None

        def last(flag: str, default: Any = None) -> Any:
            return values.get(flag, [default])[-1]

        cache = last("--kv-cache-dtype", "auto")
        if cache not in CACHE_BYTES:
            return None
        return cls(
            cache,
            last("--max-num-seqs"),
            last("--max-num-batched-tokens"),
            eager=last("--enforce-eager", False),
        )


DEFAULT = Engine()
