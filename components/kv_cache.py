"""What requests keep in a GPU's memory, as vLLM 0.33 reckons it (kv_cache_planning.py)."""

from collections.abc import Callable
from math import ceil

from components.models import Attention, Model

TOKENS_A_BLOCK = 16
"""Where no recurrent state asks for more."""
BATCHES_IN_FLIGHT = 2
"""vLLM schedules one batch while another runs; a sliding window must hold both."""
STATES_A_REQUEST = 2
"""Blocks of recurrent state that a request needs while prefix caching is on, as by default."""


class KvCache:
    """The blocks that all requests draw from: how many a request of some length needs.

    vLLM puts layers of a kind into groups of one size, as many groups as that takes; every group of
    a request draws blocks of its own, and a block is as large for one kind as for another.
    """

    bytes_per_token: float
    """What another token of one request takes; of a sliding window, none."""

    def __init__(self, model: Model, count: int, number: float, batch: int) -> None:
        """Of a model on one of `count` GPUs: bytes of a `number`, tokens of a `batch`."""
        self._model = model
        self._batch = batch
        full, sliding = (_token(kind, count, number) for kind in (model.full, model.sliding))
        state = model.state.size / count if model.state else 0.0
        block = max(full, sliding) * TOKENS_A_BLOCK
        # Where there is recurrent state, blocks are made so long that one holds a state.
        self._page = block * max(1, ceil(state / block)) if block else state
        self._tokens = int(self._page / full) if full else 0
        self._sliding_tokens = int(self._page / sliding) if sliding else 0
        counts = [kind.layers for kind in (model.full, model.sliding, model.state) if kind]
        least, most = min(counts, default=0), max(counts, default=0)
        # A few layers more of one kind than of the other are better padded than split.
        self._group = most if most < 1.5 * least else least
        groups = self._groups(model.full.layers) if model.full else 0
        self.bytes_per_token = groups * self._group * full

    def _groups(self, layers: int) -> int:
        return ceil(layers / self._group)

    def _blocks(self, length: int, *, prefix_caching: bool) -> int:
        total = 0
        if self._model.full:
            total += self._groups(self._model.full.layers) * ceil(length / self._tokens)
        if self._model.sliding and self._model.sliding.window:
            held = min(self._model.sliding.window - 1 + BATCHES_IN_FLIGHT * self._batch, length)
            # One more, as a window need not begin where a block does.
            held_blocks = ceil(held / self._sliding_tokens) + 1
            total += self._groups(self._model.sliding.layers) * held_blocks
        if self._model.state:
            states = STATES_A_REQUEST if prefix_caching else 1
            total += self._groups(self._model.state.layers) * states
        return total

    def request(self, length: int, *, prefix_caching: bool = True) -> float:
        """Bytes that a request of `length` tokens keeps."""
        blocks = self._blocks(length, prefix_caching=prefix_caching)
        return blocks * self._group * self._page

    def concurrency(self, memory: float, length: int) -> float:
        """Requests of `length` tokens that `memory` bytes hold: vLLM's `Maximum concurrency`."""
        blocks = max(0, memory // (self._group * self._page))
        return blocks / self._blocks(length, prefix_caching=True)

    def longest(self, memory: float, most: int) -> int:
        """The longest request, up to `most` tokens, that `memory` bytes hold; 0 for none."""
        return _last(lambda length: self.request(length) <= memory, most)


def _token(attention: Attention | None, count: int, number: float) -> float:
    """Bytes that a layer keeps of a token on one of `count` GPUs."""
    if attention is None:
        return 0.0
    # A KV head that there are too few of stands on several GPUs.
    return max(1, attention.heads // count) * attention.values * number


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` for which it holds, as it does for all below; else 0."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
