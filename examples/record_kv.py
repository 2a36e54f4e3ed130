#!/usr/bin/env python3
"""Record what attention is given in a causal language model of transformers, for `kvq-eval --kv OUT`.

    record_kv.py MODEL TEXT OUT.safetensors [--tokens N] [--sequences B] [--dtype float32|float16|bfloat16] [--ids]

MODEL is a directory or a name that transformers can load. OUT holds q [L][B][H][T][D], k and v [L][B][Hkv][T][D] as
they enter attention (after position embeddings, before the heads of keys are repeated), and as metadata the factor on
q.k, the names, and for each layer its window. Needs transformers >= 4.48, torch and safetensors.
"""
import argparse
import math
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

calls = []  # of one forward pass: (layer, q, k, v, scale, window)


def attention(module, q, k, v, mask, scaling=None, sliding_window=None, **others):
    for name in ("softcap", "s_aux"):  # attention that is more than softmax(scale q.k) v
        if others.get(name) is not None:
            sys.exit(f"layer {module.layer_idx}: its attention has {name}, which a recording has no place for")
    scale = q.shape[-1] ** -0.5 if scaling is None else float(scaling)
    calls.append((module.layer_idx, *(x[0].detach().cpu().clone() for x in (q, k, v)), scale, sliding_window or 0))
    return sdpa_attention_forward(module, q, k, v, mask, scaling=scale, **others)


def register(name="kvq-record"):
    ALL_ATTENTION_FUNCTIONS.update({name: attention})
    try:  # since 4.53 masks have a registry, too; without an entry there, windows would be lost
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, sdpa_mask)
    except ImportError:
        pass
    return name


def record(model, ids):
    """ids: [B][T]. Returns q, k, v, the scale and the windows of the layers."""
    sequences = []
    for row in ids:
        calls.clear()
        with torch.no_grad():
            model(row[None], use_cache=False)
        sequences.append(sorted(calls, key=lambda call: call[0]))
    first = sequences[0]
    if not first or len({call[0] for call in first}) != len(first):
        sys.exit(f"{len(first)} calls of attention, expected one in each layer: this model cannot be recorded")
    for layer, q, k, v, scale, _ in first:
        if any(a.shape != b.shape for a, b in zip((q, k, v), first[0][1:4])) or not k.shape == v.shape:
            sys.exit(f"layer {layer}: q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)} [heads][T][D]: expected "
                     "the same in all layers, and keys and values alike")
        if not math.isclose(scale, first[0][4], rel_tol=1e-6):
            sys.exit(f"layer {layer}: scale is {scale}, in the first layer {first[0][4]}: expected one for all layers")
    tensors = [torch.stack([torch.stack([s[i][part] for s in sequences]) for i in range(len(first))])
               for part in (1, 2, 3)]
    return *tensors, first[0][4], [call[5] for call in first]


def save(path, q, k, v, scale, windows, model, text):
    metadata = {"scale": f"{scale:.9g}", "model": model, "text": text}
    if any(windows):
        metadata["windows"] = ",".join(map(str, windows))
    save_file({"q": q.contiguous(), "k": k.contiguous(), "v": v.contiguous()}, path + ".part", metadata)
    os.replace(path + ".part", path)


def main():
    p = argparse.ArgumentParser(description="Record queries, keys and values for kvq-eval --kv.")
    p.add_argument("model", metavar="MODEL")
    p.add_argument("text", metavar="TEXT", help="a file of UTF-8 text")
    p.add_argument("out", metavar="OUT", help="a name that ends in .safetensors")
    p.add_argument("--tokens", type=int, default=512, help="tokens of each sequence (default 512)")
    p.add_argument("--sequences", type=int, default=1, help="how many, one after the other in the text (default 1)")
    p.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    p.add_argument("--ids", action="store_true", help="TEXT holds token ids as numbers: no tokenizer is needed")
    a = p.parse_args()
    if not a.out.endswith(".safetensors") or a.tokens < 2 or a.sequences < 1:
        p.error("expected an OUT that ends in .safetensors, --tokens of at least 2 and --sequences of at least 1")
    with open(a.text, encoding="utf-8") as f:
        text = f.read()
    ids = [int(x) for x in text.split()] if a.ids else AutoTokenizer.from_pretrained(a.model)(text)["input_ids"]
    if len(ids) < a.tokens * a.sequences:
        sys.exit(f"{a.text}: {len(ids)} tokens, expected at least {a.tokens * a.sequences}")
    model = AutoModelForCausalLM.from_pretrained(a.model, attn_implementation=register())
    model = model.to(getattr(torch, a.dtype)).eval()
    recorded = record(model, torch.tensor(ids[:a.tokens * a.sequences]).view(a.sequences, a.tokens))
    save(a.out, *recorded, os.path.basename(os.path.normpath(a.model)), os.path.basename(a.text))


if __name__ == "__main__":
    main()
