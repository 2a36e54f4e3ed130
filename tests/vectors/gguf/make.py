"""Writes types.gguf, types.npy and kinds.gguf beside itself (README.md says what they are).

Made with Python 3, gguf 0.19.0 and numpy 2.4.6: pip install gguf==0.19.0 numpy, then python make.py
"""

from pathlib import Path

import numpy as np
from gguf import GGUFValueType as Kind
from gguf import GGUFWriter
from gguf import GGMLQuantizationType as Type
from gguf import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

here = Path(__file__).parent
rng = np.random.default_rng(9)


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def half_bytes(n):
    """n halves of either sign, subnormal ones among them."""
    x = rng.choice([-1.0, 1.0], n) * 2.0 ** rng.uniform(-18, 3, n)
    return x.astype(np.float16).view(np.uint8).reshape(n, 2)


def random_blocks(type, n_blocks, halves_at):
    """Blocks of random bytes, with finite halves where the type has its scales: the package cannot make them."""
    blocks = rng.integers(0, 256, (n_blocks, GGML_QUANT_SIZES[type][1]), dtype=np.uint8)
    for at in halves_at:
        blocks[:, at : at + 2] = half_bytes(n_blocks)
    return blocks


def write_types():
    """One tensor of each type that can be read, and some that cannot."""
    writer = GGUFWriter(here / "types.gguf", "none")
    tensors = {}
    special = np.array([0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, -3e-5, np.inf], np.float32)
    plain = np.stack([special, rng.standard_normal(8).astype(np.float32)])
    for type in (Type.F32, Type.F16, Type.BF16):
        tensors[type] = quantize(plain, type)
    # Rows of very different size; one of equal numbers, whose scale is 0 in some types.
    rows = rng.standard_normal((3, 64)).astype(np.float32) * np.float32([[1], [1e-5], [0]])
    rows[2] = 0.25
    for type in (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0):
        tensors[type] = quantize(rows, type)
    for type, halves_at in (
        (Type.Q2_K, (80, 82)),
        (Type.Q3_K, (108,)),
        (Type.Q4_K, (0, 2)),
        (Type.Q5_K, (0, 2)),
        (Type.Q6_K, (208,)),
    ):
        tensors[type] = random_blocks(type, 3, halves_at)
    values = {}
    for type, data in tensors.items():
        name = f"w.{type.name}"
        values[name] = dequantize(data, type).astype(np.float32).ravel()
        if type in (Type.F32, Type.F16):
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, data.view(np.uint8), raw_dtype=type)
    writer.add_tensor("x.I32", np.arange(3, dtype=np.int32))
    writer.add_tensor("x.F64", np.arange(2, dtype=np.float64))
    writer.add_tensor("x.IQ4_NL", np.zeros((2, 18), np.uint8), raw_dtype=Type.IQ4_NL)
    writer.add_tensor("x.TQ2_0", np.zeros((1, 66), np.uint8), raw_dtype=Type.TQ2_0)
    close(writer)
    np.save(here / "types.npy", np.concatenate([values[name] for name in sorted(values)]))


def write_kinds():
    """One value of each kind, and one array of each; the alignment is not the default."""
    writer = GGUFWriter(here / "kinds.gguf", "none")
    writer.add_custom_alignment(64)
    values = {
        Kind.UINT8: [0, 200, 255],
        Kind.INT8: [-128, 0, 127],
        Kind.UINT16: [0, 40000, 65535],
        Kind.INT16: [-32768, 0, 32767],
        Kind.UINT32: [0, 3000000000, 4294967295],
        Kind.INT32: [-2147483648, 0, 2147483647],
        Kind.UINT64: [0, 9223372036854775807, 18446744073709551615],
        Kind.INT64: [-9223372036854775808, 0, 9223372036854775807],
        Kind.FLOAT32: [-0.5, 1e-40, 3.0e38],
        Kind.FLOAT64: [-0.1, 1e-310, 1e300],
        Kind.BOOL: [False, True, True],
        Kind.STRING: ["", "\u0120word", "two\nlines"],
    }
    for kind, elements in values.items():
        name = kind.name.lower()
        writer.add_key_value(f"one.{name}", elements[1], kind)
        writer.add_key_value(f"many.{name}", elements, Kind.ARRAY, sub_type=kind)
    writer.add_tensor("a", np.float32([1, 2, 3]))
    writer.add_tensor("b", np.arange(24, dtype=np.float16).reshape(2, 3, 4))
    close(writer)


write_types()
write_kinds()
