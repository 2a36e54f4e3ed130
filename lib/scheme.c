/*
 * What schemes say: of each side, and of both; of those that differ by layer, what the base says.
 */
#include "lib/scheme.h"
#include "lib/internal.h"
#include "lib/sized.h"

const char *kvq_scheme_preset(size_t i)
{
    static const char *const presets[] = {
        "fp32",      "fp16",      "kivi8",  "q8_0",    "kivi6",     "kivi5",   "kivi4",
        "q4_1",      "kvarn4",    "q4_0",   "quarot4", "kivi4-g64", "kvq4",    "turbo4",
        "turbo4-nc", "kivi3",     "kvq3",   "turbo3",  "turbo3-nc", "kvq2.5",  "kivi2",
        "nuq2",      "nuq2-qn",   "kvarn2", "quarot2", "kivi2-g64", "kvq2-fb", "kvq2",
        "turbo2",    "turbo2-nc", "kivi1",  "kvq1.5",  "turbo1"};
    return i < sizeof presets / sizeof presets[0] ? presets[i] : NULL;
}

/* ---- One side ---- */

static kvq_status describe(const kvq_scheme *scheme, kvq_role role, kvq_side_info *out, size_t struct_size)
{
    enum { ANY_DIM = 128 };
    kvq_side side;
    if (scheme == NULL || out == NULL || kvq_scheme_side(scheme, role, ANY_DIM, &side) != NULL)
        return KVQ_ERR_ARG;
    kvq_side_info info = {
        .codec = side.codec->name,
        .bits = side.bits,
        .residual_dtype = scheme->residual_dtype[role],
        .heavy_hitters = side.heavy_hitters,
        .uses_evidence = side.evidence != 0,
    };
    if (side.has_groups) {
        info.axis = side.per_channel ? KVQ_AXIS_CHANNEL : KVQ_AXIS_TOKEN;
        info.group = (uint32_t)side.group;
        info.arith = scheme->arith;
    }
    return kvq_sized_write(out, struct_size, &info, sizeof info, true) ? KVQ_OK : KVQ_ERR_ARG;
}

kvq_status kvq_scheme_keys_sized(const kvq_scheme *scheme, kvq_side_info *out, size_t struct_size)
{
    return describe(scheme, KVQ_KEYS, out, struct_size);
}

kvq_status kvq_scheme_values_sized(const kvq_scheme *scheme, kvq_side_info *out, size_t struct_size)
{
    return describe(scheme, KVQ_VALUES, out, struct_size);
}

static double side_bits_per_element(const kvq_scheme *scheme, kvq_role role, size_t head_dim)
{
    kvq_side side;
    if (kvq_scheme_side(scheme, role, head_dim, &side) != NULL)
        return 0.0;
    return 8.0 * (double)(side.payload_per_run + side.metadata_per_run) /
           ((double)side.tokens_per_run * (double)head_dim);
}

/* ---- Both sides ---- */

size_t kvq_scheme_residual(const kvq_scheme *scheme)
{
    return scheme == NULL ? 0 : scheme->residual;
}

size_t kvq_scheme_sinks(const kvq_scheme *scheme)
{
    return scheme == NULL ? 0 : scheme->sinks;
}

kvq_residual_mode kvq_scheme_residual_mode(const kvq_scheme *scheme)
{
    return scheme == NULL ? KVQ_RESIDUAL_KIVI : scheme->residual_mode;
}

kvq_dtype kvq_scheme_residual_dtype(const kvq_scheme *scheme)
{
    return scheme == NULL ? KVQ_F32 : scheme->residual_dtype[KVQ_KEYS];
}

double kvq_scheme_bits_per_element(const kvq_scheme *scheme, size_t head_dim)
{
    if (scheme == NULL || head_dim == 0 || head_dim > KVQ_MAX_HEAD_DIM)
        return 0.0;
    double k = side_bits_per_element(scheme, KVQ_KEYS, head_dim);
    double v = side_bits_per_element(scheme, KVQ_VALUES, head_dim);
    return k > 0 && v > 0 ? (k + v) / 2 : 0.0;
}
