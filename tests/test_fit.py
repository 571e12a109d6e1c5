"""What fits: the reckoning against vLLM's own words, and where it must be exact."""

from dataclasses import replace
from pathlib import Path

import pytest

from components import catalogue
from components.fit import GIB, fit
from components.kv_cache import KvCache
from components.memory_flags import FOLLOWED, NEUTRAL, Engine
from components.models import Attention, Model, State, models
from components.vllm_flags import FLAGS
from tests import compare_fit
from tests.test_models import read

PAIRS = list(compare_fit.pairs())
L4, T4, H100 = map(catalogue.gpu, ("nvidia-l4", "nvidia-tesla-t4", "nvidia-h100-80gb"))
SMALL, LARGE = models()["Qwen/Qwen3-8B"], models()["meta-llama/Llama-3.3-70B-Instruct"]


# --- against vLLM ---------------------------------------------------------------------------------


def test_there_are_enough_pairs() -> None:
    """At least ten different models on GPUs, each with where it was said."""
    assert len({(pair.model, pair.gpu, pair.count) for pair in PAIRS}) >= 10
    assert all(pair.source for pair in PAIRS)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.model} {pair.count} {pair.gpu}")
def test_nothing_fits_here_that_vllm_refused_and_nothing_is_refused_that_ran(
    pair: compare_fit.Pair,
) -> None:
    """Who follows "fits" does not pay in vain, and the program stops nothing that works."""
    if pair.runs:
        assert not pair.fit.hopeless
    else:
        assert not pair.fit.fits


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.model} {pair.count} {pair.gpu}")
def test_the_error_stays_within_the_bound(pair: compare_fit.Pair) -> None:
    """The bounds that docs/fit.md states: for the cache in GiB, and for its tokens."""
    if pair.cache_gib is not None:
        low = -5.0 if pair.model == "openai/gpt-oss-120b" else -1.7
        assert low <= pair.fit.cache_gib - pair.cache_gib <= 0.7
    if pair.tokens is not None:
        assert pair.fit.requests * pair.length == pytest.approx(pair.tokens, rel=0.05)


def test_the_page_shows_the_table_that_the_command_makes() -> None:
    """docs/fit.md holds what `tests/compare_fit.py` prints today."""
    page = (Path(__file__).parents[1] / "docs" / "fit.md").read_text()

    assert compare_fit.table() in page


# vLLM told its memory and its tokens: what lies between them follows from the model's shape alone.
STATEFUL = replace(SMALL, context=262144, full=Attention(8, 4, 512), state=State(24, 2146304))
MIXTURE = replace(SMALL, context=262144, full=Attention(10, 2, 512), state=State(30, 2146304))
TOKENS = [
    pytest.param(SMALL, 1, 2.0, 50.32, 40960, 366_400, 0.001, id="LMCache/LMCache#1769"),
    pytest.param(
        models()["Qwen/Qwen3-32B"], 2, 2.0, 33.66, 40960, 275_760, 0.001, id="on two GPUs"
    ),
    pytest.param(
        models()["meta-llama/Llama-3.1-70B-Instruct"],
        4,
        2.0,
        32.06,
        131072,
        420_208,
        0.001,
        id="on four GPUs",
    ),
    pytest.param(STATEFUL, 1, 2.0, 9.10, 32768, 267_842, 0.00001, id="Qwen3.5-4B"),
    pytest.param(MIXTURE, 1, 1.0, 6.01, 131072, 569_878, 0.00001, id="noonghunna/club-3090#652"),
    pytest.param(
        read("nvidia/Gemma-4-31B-IT-NVFP4"),
        1,
        2.0,
        50.0,
        262144,
        525_000,
        0.05,
        id="vllm-project/vllm#43308",  # "about 50 GB", "about 525k"
    ),
]


@pytest.mark.parametrize(
    ("model", "count", "number", "gib", "length", "tokens", "error"),
    TOKENS,
)
def test_a_cache_holds_as_many_tokens_as_vllm_said(
    model: Model, count: int, number: float, gib: float, length: int, tokens: int, error: float
) -> None:
    """Full attention, sliding windows and recurrent state, on one GPU and more."""
    requests = KvCache(model, count, number, 2048).concurrency(gib * GIB, length)

    assert requests * length == pytest.approx(tokens, rel=error)


# --- what must hold -------------------------------------------------------------------------------


def test_a_small_model_fits_one_l4() -> None:
    """8 billion weights of 16 bits take 15.3 of 20.3 GiB, and leave room for 8192 tokens twice."""
    found = fit(SMALL, L4, 1, 8192)

    assert found.fits
    assert not found.reasons
    assert found.weights_gib == pytest.approx(15.26, abs=0.01)
    assert found.budget_gib == pytest.approx(20.27, abs=0.01)
    assert found.bytes_per_token == 36 * 8 * 256 * 2
    assert 2 < found.requests < 4
    assert 16384 < found.context < 32768


def test_the_longest_context_is_the_longest_that_fits() -> None:
    """One token more than `context` does not fit."""
    longest = fit(SMALL, L4, 1, 8192).context

    assert fit(SMALL, L4, 1, longest).fits
    assert not fit(SMALL, L4, 1, longest + 1).fits


def test_a_large_model_does_not_fit_one_l4() -> None:
    """70 billion weights of 16 bits are more than an L4 has altogether."""
    found = fit(LARGE, L4, 1, 8192)

    assert found.hopeless
    assert (found.context, found.requests) == (0, 0)
    assert "the weights take 131.4" in found.reasons[0]


def test_more_gpus_share_the_weights_and_the_kv_heads() -> None:
    """Half the weights each; beyond the KV heads, the cache shrinks no further."""
    one, two, eight, sixteen = (fit(LARGE, H100, count, 8192) for count in (1, 2, 8, 16))

    assert two.weights_gib == pytest.approx(one.weights_gib / 2)
    assert two.bytes_per_token == one.bytes_per_token / 2
    assert sixteen.bytes_per_token == eight.bytes_per_token


@pytest.mark.parametrize(
    ("model", "count", "words"),
    [
        ("Qwen/Qwen3-14B", 16, "its 40 attention heads cannot be split over 16 GPUs"),
        ("Qwen/Qwen3-30B-A3B-FP8", 4, "its 6 blocks of quantised weights cannot be split over 4"),
        ("microsoft/Phi-4-reasoning", 4, "its 10 KV heads cannot be split over 4 GPUs"),
    ],
)
def test_what_cannot_be_split_does_not_fit(model: str, count: int, words: str) -> None:
    """vLLM splits heads and blocks of quantised weights evenly or not at all."""
    found = fit(models()[model], H100, count, 8192)

    assert found.hopeless
    assert words in found.reasons[0]


def test_old_gpus_lack_formats() -> None:
    """A T4 computes neither MXFP4 nor Gemma's bfloat16."""
    assert "mxfp4" in fit(models()["openai/gpt-oss-20b"], T4, 2, 8192).reasons[0]
    assert "bfloat16" in fit(models()["google/gemma-4-26B-A4B"], T4, 4, 8192).reasons[0]


def test_a_model_is_not_asked_for_more_than_it_was_made_for() -> None:
    """vLLM refuses a length beyond the model's, however much memory there is."""
    found = fit(SMALL, H100, 1, 50_000)

    assert found.hopeless
    assert found.reasons == ("the model was made for 40960 tokens",)
    assert found.context == 40960


def test_a_window_costs_the_same_however_long_the_request() -> None:
    """Half of gpt-oss's layers look back 128 tokens only."""
    model = models()["openai/gpt-oss-20b"]
    everything = replace(model, full=Attention(24, 8, 128), sliding=None)

    sliding, full = (
        fit(one, H100, 1, 131072).request_gib - fit(one, H100, 1, 65536).request_gib
        for one in (model, everything)
    )
    assert sliding == pytest.approx(full / 2)


def test_flags_that_save_memory_are_followed() -> None:
    """A cache of 8 bits holds twice as much; fewer sequences and no CUDA graphs leave it more."""
    plain = fit(SMALL, L4, 1, 8192)
    eight = fit(SMALL, L4, 1, 8192, engine=Engine(cache_dtype="fp8"))
    few = fit(SMALL, L4, 1, 8192, engine=Engine(max_num_seqs=16, eager=True))

    assert eight.bytes_per_token == plain.bytes_per_token / 2
    assert few.cache_gib > plain.cache_gib + 1.5
    assert fit(SMALL, L4, 1, 8192, utilization=0.5).hopeless


# --- flags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "engine"),
    [
        ([], Engine()),
        (["--kv-cache-dtype", "fp8", "--max_num_seqs=16"], Engine("fp8", 16)),
        (
            ["--max-num-batched-tokens=4k", "--enforce-eager"],
            Engine("auto", None, 4000, eager=True),
        ),
        (["--enable-auto-tool-choice", "--tool-call-parser=hermes"], Engine()),
        (["--max-num-seqs=16", "--max-num-seqs=32"], Engine(max_num_seqs=32)),
        (["--cpu-offload-gb=20"], None),
        (["--quantization=fp8"], None),
        (["--hf-overrides.max_position_embeddings", "9"], None),
        (["--kv-cache-dtype=turboquant_k8v4"], None),
        (["--max-num-batched-tokens=many"], None),
        (["--no-such-flag"], None),
        (["--max-num-seqs=many"], None),
    ],
)
def test_flags_are_followed_or_left_alone(args: list[str], engine: Engine | None) -> None:
    """What the reckoning knows it follows; where it might be wrong it says nothing."""
    assert Engine.read(args) == engine


def test_flags_that_are_known_are_vllms() -> None:
    """A name that vLLM lacks would never be met."""
    assert {flag.names[0] for flag in FLAGS.values()} >= FOLLOWED | NEUTRAL
    assert not FOLLOWED & NEUTRAL
