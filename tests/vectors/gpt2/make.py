#!/usr/bin/env python3
"""Makes the files beside this one: a random GPT-2 as GGUF, and the logits of Hugging Face transformers for it.

Run with torch, transformers and gguf installed (made with 2.15, 5.24 and 0.19): python3 make.py
"""
import pathlib

import gguf
import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
L, H, E, CONTEXT, VOCAB = 2, 3, 24, 40, 61

torch.manual_seed(5)
config = transformers.GPT2Config(n_layer=L, n_head=H, n_embd=E, n_positions=CONTEXT, vocab_size=VOCAB,
                                 bos_token_id=0, eos_token_id=0)
model = transformers.GPT2LMHeadModel(config).eval()
with torch.no_grad():
    for p in model.parameters():  # away from the initial zeros and ones, and large enough to matter
        p.add_(0.2 * torch.randn_like(p))
weights = model.state_dict()
ids = torch.randint(0, VOCAB, (1, CONTEXT))
np.save(HERE / "ids.npy", ids[0].numpy().astype("<i4"))
np.save(HERE / "logits.npy", model(ids).logits[0].detach().numpy().astype("<f4"))

names = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
parts = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
         "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
for layer in range(L):
    names |= {f"h.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in parts.items()}

writer = gguf.GGUFWriter(HERE / "tiny.gguf", "gpt2")
writer.add_block_count(L)
writer.add_context_length(CONTEXT)
writer.add_embedding_length(E)
writer.add_feed_forward_length(4 * E)
writer.add_head_count(H)
writer.add_layer_norm_eps(config.layer_norm_epsilon)
for ours, theirs in names.items():
    for kind in ("weight", "bias"):
        if (key := f"transformer.{ours}.{kind}") in weights:
            x = weights[key].numpy()
            turned = x.ndim == 2 and ours.startswith("h.")
            writer.add_tensor(f"{theirs}.{kind}", np.ascontiguousarray(x.T if turned else x))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
