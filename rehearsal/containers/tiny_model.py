"""A model that says one sentence, made on the spot: what answers where the real weights would."""

from pathlib import Path

import gguf
import numpy as np

ANSWER = "This is a rehearsal: the real model will answer here."

WIDTH = 320
"""One dimension a token: more than the vocabulary has."""
HEAD = 32
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
)


def write(path: Path, *, context: int) -> None:
    """Write the model as a GGUF file of under a megabyte; `context` is the tokens it takes.

    It is a bigram machine. Attention and feed-forward weights are zero, so what leaves the one
    layer is the last token's embedding, which is one-hot; the output matrix gives every token one
    successor: the next word inside the answer, the answer's first word anywhere else. The text of
    a prompt is taken in byte by byte, so a byte of it counts as one token.
    """
    words = ANSWER.replace(" ", " \u2581").split()
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(words)
    end, first = 2, len(tokens) - len(words)

    # Only the signs of the differences matter; 4.0 leaves no chance to any other token.
    output = np.zeros((len(tokens), WIDTH), np.float32)
    for token in range(len(tokens)):
        inside = token >= first
        output[(end if token == len(tokens) - 1 else token + 1) if inside else first, token] = 4.0

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("rehearsal")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HEAD)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(end)
    writer.add_chat_template(TEMPLATE)

    def zeros(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.zeros(shape, np.float32)

    ones = np.ones(WIDTH, np.float32)
    writer.add_tensor("token_embd.weight", np.eye(len(tokens), WIDTH, dtype=np.float32))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("blk.0.attn_norm.weight", ones)
    writer.add_tensor("blk.0.ffn_norm.weight", ones)
    for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
        writer.add_tensor(f"blk.0.{name}.weight", zeros(HEAD, WIDTH))
    for name in ("attn_output", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", zeros(WIDTH, HEAD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
