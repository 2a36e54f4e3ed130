"""Usage: record_kv_test.py KVQ_EVAL RECORD_KV_PY

Records tiny random models with examples/record_kv.py and with the lines of Python in README.md, checks the files, and
runs `kvq-eval --kv` on them. Exits with 77, loudly, where torch and transformers are not installed.
"""
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from types import SimpleNamespace
from unittest import mock

try:
    import torch
    import transformers as t
    from safetensors import safe_open
except ImportError as missing:
    print(f"SKIPPED: {missing}. Not tested: examples/record_kv.py. Set KVQ_PYTHON to a Python with torch and "
          "transformers.", file=sys.stderr)
    sys.exit(77)

kvq_eval, script = sys.argv[1:]
N_TOKENS, N_SEQUENCES, VOCABULARY = 160, 2, 97
common = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
          "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
# name, configuration, H, Hkv, scale, windows
models = [
    ("llama", t.LlamaConfig(**common), 4, 2, 32 ** -0.5, None),
    ("gpt2", t.GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=3, n_head=2, n_positions=256, bos_token_id=None,
                          eos_token_id=None), 2, 2, 32 ** -0.5, None),
    ("mistral", t.MistralConfig(**common, sliding_window=40), 4, 2, 32 ** -0.5, "40,40,40"),
]
if hasattr(t, "Qwen3Config"):
    models.append(("qwen3", t.Qwen3Config(**common), 4, 2, 32 ** -0.5, None))
if hasattr(t, "GraniteConfig"):
    models.append(("granite", t.GraniteConfig(**{**common, "hidden_size": 128}, attention_multiplier=0.4), 4, 2, 0.4,
                   None))
if hasattr(t, "Gemma3TextConfig"):
    models.append(("gemma3", t.Gemma3TextConfig(**common, sliding_window=24, query_pre_attn_scalar=16, layer_types=[
        "sliding_attention", "full_attention", "sliding_attention"]), 4, 2, 0.25, "24,0,24"))


def run(*arguments):
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def attention(q, k, v, scale, window):
    """[H][T][D] of exact attention, written out."""
    group, n = q.shape[0] // k.shape[0], q.shape[1]
    scores = scale * q @ k.repeat_interleave(group, 0).transpose(1, 2)
    ahead = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    scores[:, (ahead < 0) | (window > 0) & (ahead >= window)] = -math.inf
    return scores.softmax(-1) @ v.repeat_interleave(group, 0)


def run_readme(model, tokens, work):
    """The lines of README.md on a model's directory and [1][T] ids; they write cache.safetensors into `work`."""
    with open(os.path.join(os.path.dirname(script), "..", "README.md"), encoding="utf-8") as f:
        lines = re.search("### Any other model.*?```python\n(.*?)```", f.read(), re.DOTALL).group(1)
    before = os.getcwd()
    os.chdir(work)
    try:
        with mock.patch.object(t.AutoTokenizer, "from_pretrained",
                               lambda _: lambda text, return_tensors: SimpleNamespace(input_ids=text)):
            exec(lines, {"MODEL": model, "TEXT": tokens})  # pylint: disable=exec-used
    finally:
        os.chdir(before)


def check_readme(work, path, tokens, script_file):
    """They write what the script writes for the first sequence."""
    run_readme(path, tokens[:1], work)
    with safe_open(script_file, "pt") as wanted, safe_open(os.path.join(work, "cache.safetensors"), "pt") as got:
        for part in "qkv":
            x, y = got.get_tensor(part), wanted.get_tensor(part)[:, :1]
            assert x.shape == y.shape and torch.allclose(x, y, rtol=1e-5, atol=1e-5), f"{path}: {part} of README.md"
        x, y = got.metadata(), wanted.metadata()
        assert abs(float(x["scale"]) - float(y["scale"])) < 1e-6, f"{path}: README.md: {x}"
        assert x["windows"] == y.get("windows", "0,0,0"), f"{path}: README.md: {x}"


def check_readme_refuses(work):
    """Attention sinks, which would be recorded as if there were none."""
    if not hasattr(t, "GptOssConfig"):
        return
    path = os.path.join(work, "gpt_oss")
    t.AutoModelForCausalLM.from_config(t.GptOssConfig(**common, num_local_experts=2, num_experts_per_tok=1,
                                                      sliding_window=24)).save_pretrained(path)
    try:
        run_readme(path, torch.zeros(1, 8, dtype=torch.long), work)
    except AssertionError:
        return
    raise AssertionError("README.md's lines record a model with attention sinks")


def check(work, name, config, n_head, n_kv_head, scale, windows):
    torch.manual_seed(1)
    model = t.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():  # the usual 0.02 makes attention all but uniform, whatever is wrong
        for x in model.parameters():
            if x.ndim > 1:
                x.mul_(8)
    path, ids, out = (os.path.join(work, name + end) for end in ("", ".ids", ".safetensors"))
    model.save_pretrained(path)
    tokens = torch.randint(VOCABULARY, (N_SEQUENCES, N_TOKENS))
    with open(ids, "w", encoding="utf-8") as f:
        f.write(" ".join(map(str, tokens.flatten().tolist())))
    run(sys.executable, script, path, ids, out, "--ids", "--tokens", str(N_TOKENS), "--sequences", str(N_SEQUENCES))
    with safe_open(out, "pt") as f:
        q, k, v, metadata = f.get_tensor("q"), f.get_tensor("k"), f.get_tensor("v"), f.metadata()
    assert list(q.shape) == [3, N_SEQUENCES, n_head, N_TOKENS, 32], q.shape
    assert list(k.shape) == list(v.shape) == [3, N_SEQUENCES, n_kv_head, N_TOKENS, 32], (k.shape, v.shape)
    assert abs(float(metadata["scale"]) - scale) < 1e-6 and metadata.get("windows") == windows, metadata
    assert metadata["model"] == name and metadata["text"] == name + ".ids", metadata

    if hasattr(t, "AttentionMaskInterface"):
        check_readme(work, path, tokens, out)

    # What attention gives for the recording is what the model itself has as input of its output projection: float32
    # sums of different order, 1e-6 of the largest number seen.
    inputs = []
    layers = model.transformer.h if name == "gpt2" else model.model.layers
    for layer in layers:
        projection = layer.attn.c_proj if name == "gpt2" else layer.self_attn.o_proj
        projection.register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach()))
    with torch.no_grad():
        model(tokens, use_cache=False)
    each = [int(x) for x in windows.split(",")] if windows else [0] * 3
    worst = 0.0
    for i, wanted in enumerate(inputs):
        for b in range(N_SEQUENCES):
            got = attention(q[i, b], k[i, b], v[i, b], scale, each[i]).transpose(0, 1).reshape(N_TOKENS, -1)
            worst = max(worst, ((got - wanted[b]).abs().max() / wanted[b].abs().max()).item())
    assert worst < 3e-5, f"{name}: attention differs by {worst} of the largest number"

    report = json.loads(run(kvq_eval, "--kv", out, "--scheme", "fp32", "--scheme", "kivi2,r=32", "--json", "-", "--quiet"))
    local = {r["scheme"]: r["local"] for r in report["runs"]}
    exact, packed = local["fp32"], next(x for s, x in local.items() if s.startswith("kivi2"))
    for key in ("k_rel_l2", "v_rel_l2", "attn_rel_l2"):
        assert exact[key] == 0, f"{name}: fp32: {key} is {exact[key]}"
        assert math.isfinite(packed[key]) and 0 < packed[key] < 2, f"{name}: kivi2: {key} is {packed[key]}"
    print(f"{name}: attention within {worst:.1e}; kivi2 K {packed['k_rel_l2']:.3f}, V {packed['v_rel_l2']:.3f}, "
          f"attention {packed['attn_rel_l2']:.3f}")


with tempfile.TemporaryDirectory() as directory:
    for m in models:
        check(directory, *m)
    if hasattr(t, "AttentionMaskInterface"):
        check_readme_refuses(directory)
