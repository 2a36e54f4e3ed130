#!/usr/bin/env python3
"""Makes the tiny Llama-type models of this directory and their logits, from a seed.

The models are random; the logits are those of Hugging Face transformers in float32 with eager attention, over
ids.npy, all tokens at once. Made with transformers 5.24.0, torch 2.15.0, gguf (as README.md has them).

    python make.py            (writes beside itself)
"""
import json
import pathlib
import shutil

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
VOCAB, TOKENS = 64, 56
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

COMMON = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
              num_key_value_heads=3, head_dim=8, vocab_size=VOCAB, max_position_embeddings=64,
              rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0)

# Name: storage, and what differs from COMMON. hidden_size is no multiple of anything convenient in some of them.
MODELS = {
    "llama": ("bf16", dict(model_type="llama", rope_theta=10000.0, tie_word_embeddings=True, hidden_size=36)),
    "llama-linear": ("f16", dict(model_type="llama", rope_theta=500.0, num_attention_heads=5, num_key_value_heads=1,
                                 hidden_size=35, head_dim=10, attention_bias=True, mlp_bias=True,
                                 rope_scaling={"type": "linear", "factor": 3.0})),
    "llama-llama3": ("f32", dict(model_type="llama", hidden_size=30, num_key_value_heads=2, head_dim=16,
                                 intermediate_size=40, tie_word_embeddings=True, rope_theta=1000.0,
                                 rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                               "high_freq_factor": 4.0, "original_max_position_embeddings": 24})),
    "llama-yarn": ("bf16", dict(model_type="llama", hidden_size=30, head_dim=16, intermediate_size=40,
                                rope_parameters={"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0,
                                                 "beta_fast": 4.0, "beta_slow": 0.5,
                                                 "original_max_position_embeddings": 16})),
    "qwen2-yarn": ("bf16", dict(model_type="qwen2", hidden_size=36, head_dim=None, num_attention_heads=3,
                                num_key_value_heads=1, intermediate_size=40, use_sliding_window=False,
                                sliding_window=8, tie_word_embeddings=True, rope_theta=30.0,
                                rope_scaling={"type": "yarn", "factor": 4.0, "mscale": 1.3, "mscale_all_dim": 0.7,
                                              "truncate": False, "original_max_position_embeddings": 16})),
    "mistral": ("f16", dict(model_type="mistral", rope_theta=1000000.0, sliding_window=9, num_key_value_heads=2)),
    "qwen2": ("bf16", dict(model_type="qwen2", head_dim=None, hidden_size=36, num_attention_heads=3, num_key_value_heads=3,
                           num_hidden_layers=3, rope_theta=1000000.0, use_sliding_window=True, sliding_window=11,
                           max_window_layers=1, intermediate_size=40)),
    "qwen3": ("f32", dict(model_type="qwen3", head_dim=12, rope_theta=1000000.0, num_attention_heads=4,
                          num_key_value_heads=2, use_sliding_window=True, sliding_window=7, attention_bias=True,
                          intermediate_size=40, layer_types=["sliding_attention", "full_attention"])),
    "smollm3": ("bf16", dict(model_type="smollm3", num_hidden_layers=4, no_rope_layer_interval=2, rope_theta=5000000.0,
                             intermediate_size=40, tie_word_embeddings=True, head_dim=None, num_attention_heads=4,
                             num_key_value_heads=2)),
}


def write_config(directory, changes):
    config = {k: v for k, v in {**COMMON, **changes}.items() if v is not None}
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def randomize(model, generator):
    """Logits of a few units, and attention that differs from uniform, so that positions matter."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif "norm" in name:
                p.copy_(1.0 + 0.2 * noise)
            elif "q_proj" in name or "k_proj" in name:
                p.copy_(1.6 * noise / p.shape[1] ** 0.5)
            elif "embed" in name or "lm_head" in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(noise / p.shape[1] ** 0.5)


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor(ids[None], dtype=torch.long)).logits[0].float().numpy()


def load(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def make_directory(name, storage, changes, ids, seed):
    directory = HERE / name
    write_config(directory, changes)
    kept = (directory / "config.json").read_text()
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), dtype=torch.float32)
    randomize(model, torch.Generator().manual_seed(seed))
    model.tie_weights()
    model.to(DTYPES[storage]).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    (directory / "config.json").write_text(kept)  # as it was, in the older style where it is
    np.save(directory / "logits.npy", logits_of(load(directory), ids))


# ---- GGUF ----

# Name: directory the weights come from, architecture, types of matrices by a part of their name (first that
# fits), how the rotation is stored.
GGUF_TYPES = gguf.GGMLQuantizationType
GGUFS = {
    "llama-bf16": ("llama", "llama", [("", GGUF_TYPES.BF16)]),
    "mistral-q8_0": ("mistral", "llama", [("attn_output", GGUF_TYPES.F16), ("ffn_down", GGUF_TYPES.F32),
                                          ("", GGUF_TYPES.Q8_0)]),
    "mistral-q4_1": ("mistral", "llama", [("attn_output", GGUF_TYPES.F16), ("token_embd", GGUF_TYPES.Q8_0),
                                          ("ffn", GGUF_TYPES.Q4_1), ("attn_k", GGUF_TYPES.Q5_0),
                                          ("attn_q", GGUF_TYPES.Q4_0), ("", GGUF_TYPES.Q5_1)]),
    "llama3-f32": ("llama-llama3", "llama", [("", GGUF_TYPES.F32)]),
    "llama-linear-f16": ("llama-linear", "llama", [("", GGUF_TYPES.F16)]),
    "llama-yarn-bf16": ("llama-yarn", "llama", [("", GGUF_TYPES.BF16)]),
    "qwen3-f32": ("qwen3-full", "qwen3", [("", GGUF_TYPES.F32)]),
    "qwen2-bf16": ("qwen2-full", "qwen2", [("", GGUF_TYPES.BF16)]),
    "smollm3-bf16": ("smollm3-four", "smollm3", [("", GGUF_TYPES.BF16)]),
}
PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
           "lm_head.weight": "output.weight"}
    if name in top:
        return top[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{PARTS[part]}.{kind}"


def interleave(x, heads):
    """Rows (channels) of each head from halves to pairs, as files of the llama architecture have them."""
    halves = x.reshape(heads, 2, x.shape[0] // heads // 2, -1)
    return np.ascontiguousarray(np.swapaxes(halves, 1, 2)).reshape(x.shape)


def write_metadata(w, config, architecture):
    w.add_block_count(config.num_hidden_layers)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    w.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        w.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        w.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        w.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if architecture == "llama" and getattr(config, "sliding_window", None):
        w.add_sliding_window(config.sliding_window)
    if rope["rope_type"] == "llama3":
        base = rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
        wavelength, context = 2 * np.pi * base, rope["original_max_position_embeddings"]
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        mix = np.clip((context / wavelength - low) / (high - low), 0, 1)
        w.add_tensor("rope_freqs.weight", (1 / ((1 - mix) / factor + mix)).astype(np.float32))


def make_gguf(name, source, architecture, types, ids):
    model = load(HERE / source)
    config, state = model.config, model.state_dict()
    w = gguf.GGUFWriter(HERE / f"{name}.gguf", architecture)
    write_metadata(w, config, architecture)
    for key, value in list(state.items()):
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        x, tensor = value.float().numpy(), gguf_name(key)
        heads = {"attn_q.": config.num_attention_heads, "attn_k.": config.num_key_value_heads}
        permuted = x
        for part, n in heads.items():
            if part in tensor and architecture in ("llama", "smollm3"):
                permuted = interleave(x, n)
        kind = next(t for part, t in types if part in tensor) if x.ndim == 2 else GGUF_TYPES.F32
        data = quantize(permuted, kind) if kind != GGUF_TYPES.F32 else permuted
        w.add_tensor(tensor, data, raw_dtype=kind)
        # What the file holds, back in this model: rows are quantized one by one, so the order does not matter.
        numbers = dequantize(quantize(x, kind), kind) if kind != GGUF_TYPES.F32 else x
        state[key] = torch.tensor(numbers).reshape(x.shape)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    model.load_state_dict(state)
    model.tie_weights()
    logits = logits_of(model, ids)
    if np.array_equal(logits, np.load(HERE / source / "logits.npy")):
        return  # its directory has them already
    np.save(HERE / f"{name}.logits.npy", logits)


def main():
    ids = np.random.default_rng(7).integers(0, VOCAB, TOKENS).astype(np.int32)
    np.save(HERE / "ids.npy", ids)
    for seed, (name, (storage, changes)) in enumerate(MODELS.items()):
        make_directory(name, storage, changes, ids, seed)
    # GGUF cannot say these models' windows and intervals: siblings without, not kept.
    siblings = {"qwen3-full": ("qwen3", dict(use_sliding_window=False, layer_types=None, attention_bias=False)),
                "qwen2-full": ("qwen2", dict(use_sliding_window=False, num_hidden_layers=2)),
                "smollm3-four": ("smollm3", dict(no_rope_layer_interval=4))}
    for seed, (name, (of, changes)) in enumerate(siblings.items()):
        make_directory(name, MODELS[of][0], {**MODELS[of][1], **changes}, ids, 100 + seed)
    for name, (source, architecture, types) in GGUFS.items():
        make_gguf(name, source, architecture, types, ids)
        if source in siblings and not (HERE / f"{name}.logits.npy").exists():
            shutil.move(HERE / source / "logits.npy", HERE / f"{name}.logits.npy")
    for name in siblings:
        shutil.rmtree(HERE / name)


if __name__ == "__main__":
    main()
