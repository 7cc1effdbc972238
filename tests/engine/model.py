# SPDX-License-Identifier: Apache-2.0
"""Write a language model of random weights, half a megabyte, that a real engine runs: python model.py FILE.gguf

It says words without sense, at the pace of the machine: all that a stream needs. Wants gguf and numpy.
"""

from __future__ import annotations

import sys
from typing import Any

WIDTH, LAYERS, HEADS, INNER, CONTEXT = 64, 2, 4, 128, 2048
WORDS = (
    "rain", "on", "the", "roof", "and", "a", "lamp", "by", "window", "while", "boats", "come", "home", "late", "with",
    "salt", "in", "their", "ropes",
)  # fmt: skip


def main(path: str) -> None:
    import gguf
    import numpy

    random = numpy.random.default_rng(11)

    def weights(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.4).astype(numpy.float32)

    # Unknown, begin, end; every byte; words, which are all that it is likely to say.
    tokens = [(b"<unk>", 2), (b"<s>", 3), (b"</s>", 3), *((f"<0x{byte:02X}>".encode(), 6) for byte in range(256))]
    tokens += [(f"\u2581{word}".encode(), 1) for word in WORDS]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    said = weights(len(tokens), WIDTH)
    said[-len(WORDS) :] *= 6
    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
    writer.add_tensor("output.weight", said)
    writer.add_tensor("output_norm.weight", numpy.ones(WIDTH, numpy.float32))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.ones(WIDTH, numpy.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(WIDTH, WIDTH))
        for name, shape in (("ffn_gate", (INNER, WIDTH)), ("ffn_up", (INNER, WIDTH)), ("ffn_down", (WIDTH, INNER))):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(*shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
