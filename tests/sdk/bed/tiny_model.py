"""Writes a llama model with random weights: half a megabyte that a real engine loads and runs.

What it says is noise, but it is sampled, counted, streamed and cached by the real server.
Usage: python tiny_model.py OUT
"""

import sys

import gguf
import numpy as np

EMBED, HEADS, KV_HEADS, LAYERS, FEED, CONTEXT = 64, 4, 2, 2, 128, 65_536
WORDS = "the a of to model gateway cache token hello world yes no".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def vocabulary():
    kind = gguf.TokenType
    tokens = [(b"<unk>", kind.UNKNOWN), (b"<s>", kind.CONTROL), (b"</s>", kind.CONTROL)]
    tokens += [(f"<0x{byte:02X}>".encode(), kind.BYTE) for byte in range(256)]
    words = ["\u2581" + word for word in WORDS] + ["\u2581", *LETTERS]
    return tokens + [(word.encode(), kind.NORMAL) for word in words]


def write(path: str) -> None:
    random = np.random.default_rng(7)

    def tensor(*shape):
        # Large enough that the layers matter: smaller weights repeat one token for ever.
        return (random.standard_normal(shape) * 0.6).astype("f4")

    vocab = vocabulary()
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(CONTEXT)
    out.add_embedding_length(EMBED)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(FEED)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(EMBED // HEADS)
    out.add_vocab_size(len(vocab))
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_tokenizer_model("llama")
    out.add_token_list([text for text, _ in vocab])
    # Bytes are the last resort, whole words come first.
    out.add_token_scores([0.0] * 3 + [-1e4] * 256 + [-float(i) for i in range(len(vocab) - 259)])
    out.add_token_types([kind for _, kind in vocab])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    out.add_add_bos_token(True)
    out.add_chat_template(TEMPLATE)

    head = EMBED // HEADS
    logits = tensor(len(vocab), EMBED)
    logits[:259] = 0  # never a control token, never a raw byte: it talks until it is stopped, in valid UTF-8
    ones = np.ones(EMBED, "f4")
    tensors = {"token_embd": tensor(len(vocab), EMBED), "output_norm": ones, "output": logits}
    for layer in range(LAYERS):
        tensors |= {
            f"blk.{layer}.attn_norm": ones,
            f"blk.{layer}.ffn_norm": ones,
            f"blk.{layer}.attn_q": tensor(HEADS * head, EMBED),
            f"blk.{layer}.attn_k": tensor(KV_HEADS * head, EMBED),
            f"blk.{layer}.attn_v": tensor(KV_HEADS * head, EMBED),
            f"blk.{layer}.attn_output": tensor(EMBED, HEADS * head),
            f"blk.{layer}.ffn_gate": tensor(FEED, EMBED),
            f"blk.{layer}.ffn_up": tensor(FEED, EMBED),
            f"blk.{layer}.ffn_down": tensor(EMBED, FEED),
        }
    for name, values in tensors.items():
        out.add_tensor(name + ".weight", values)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    write(sys.argv[1])
