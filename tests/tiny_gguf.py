"""A tiny random llama with a byte-level tokenizer, written as GGUF from the format's definition."""

import gguf
import numpy as np

WIDTH, HEADS, KV_HEADS, SIZE, MLP, LAYERS = 64, 4, 2, 16, 96, 2
# Bytes as GPT-2 writes them, then merges; "Ġ" is a space.
CHARACTERS = [chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]]
CHARACTERS += [chr(256 + n) for n in range(256 - len(CHARACTERS))]
MERGES = ["Ġ Ġ", "a b", "Ġ ab", "1 2"]
TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *CHARACTERS,
    *(merge.replace(" ", "") for merge in MERGES),
]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def interleave(matrix, heads):
    """llama.cpp's row 2i (2i + 1) of a head is torch's row i (i + hd/2)."""
    out, size = np.empty_like(matrix), len(matrix) // heads
    for head in range(heads):
        for i in range(size // 2):
            out[head * size + 2 * i] = matrix[head * size + i]
            out[head * size + 2 * i + 1] = matrix[head * size + i + size // 2]
    return out


def random_weights(seed=0):
    """Tensors of a llama by llama.cpp's names, laid out as torch has them."""
    rng = np.random.default_rng(seed)
    shapes = {"token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        block = {
            "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (HEADS * SIZE, WIDTH),
            "attn_k": (KV_HEADS * SIZE, WIDTH), "attn_v": (KV_HEADS * SIZE, WIDTH),
            "attn_output": (WIDTH, HEADS * SIZE), "ffn_gate": (MLP, WIDTH), "ffn_up": (MLP, WIDTH),
            "ffn_down": (WIDTH, MLP),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_gguf(path, weights, *, quantised=(), pre="smollm", omit=(), **more):
    """A GGUF file; `more` are further fields, a type each, and `omit` fields that are left out."""
    writer = gguf.GGUFWriter(str(path), more.pop("architecture", "llama"))
    numbers = {
        "add_block_count": LAYERS, "add_context_length": 256, "add_embedding_length": WIDTH,
        "add_feed_forward_length": MLP, "add_head_count": HEADS, "add_head_count_kv": KV_HEADS,
        "add_layer_norm_rms_eps": 1e-5, "add_rope_freq_base": 1e5, "add_rope_dimension_count": SIZE,
        "add_tokenizer_model": "gpt2", "add_tokenizer_pre": pre, "add_token_list": TOKENS,
        "add_token_types": [3] * 3 + [1] * (len(TOKENS) - 3), "add_token_merges": MERGES,
        "add_bos_token_id": 1, "add_eos_token_id": 2, "add_pad_token_id": 2, "add_unk_token_id": 0,
        "add_chat_template": TEMPLATE,
    }  # fmt: skip
    for method, value in (numbers | more).items():
        if method not in omit:
            getattr(writer, method)(value)
    for name, tensor in weights.items():
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            tensor = interleave(tensor, HEADS if "attn_q" in name else KV_HEADS)
        if name in quantised:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
