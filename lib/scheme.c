/*
 * Schemes as programs see them: made from text, asked for what they say.
 */
#include "lib/scheme.h"
#include "lib/internal.h"
#include "lib/sized.h"

#include <stdlib.h>

kvq_status kvq_scheme_create(kvq_scheme **out, const char *text, kvq_error *err)
{
    if (out == NULL || text == NULL)
        return kvq_fail(err, KVQ_ERR_ARG, "text or out is NULL", 0);
    kvq_scheme scheme;
    KVQ_TRY(kvq_scheme_parse(text, &scheme, err));
    kvq_scheme *made = malloc(sizeof *made);
    if (made == NULL)
        return kvq_fail(err, KVQ_ERR_NOMEM, "out of memory", 0);
    *made = scheme;
    *out = made;
    return KVQ_OK;
}

void kvq_scheme_free(kvq_scheme *scheme)
{
    free(scheme);
}

const char *kvq_scheme_text(const kvq_scheme *scheme)
{
    return scheme == NULL ? NULL : scheme->text;
}

const char *kvq_scheme_preset(size_t i)
{
    static const char *const presets[] = {"fp32",      "fp16",  "kivi8", "kivi6",     "kivi5", "kivi4",
                                          "kivi4-g64", "kivi3", "kivi2", "kivi2-g64", "kivi1"};
    return i < sizeof presets / sizeof presets[0] ? presets[i] : NULL;
}

/* ---- One side ---- */

static kvq_status describe(const kvq_scheme *scheme, kvq_role role, kvq_side_info *out, size_t struct_size)
{
    if (scheme == NULL || out == NULL)
        return KVQ_ERR_ARG;
    const kvq_side_scheme *side = role == KVQ_KEYS ? &scheme->k : &scheme->v;
    kvq_side_info info = {.codec = kvq_codecs[side->codec]->name};
    if (side->codec == KVQ_CODEC_AFFINE) {
        info.bits = side->bits;
        info.axis = side->axis;
        info.group = side->group;
        info.arith = scheme->arith;
    } else {
        info.bits = side->codec == KVQ_CODEC_F16 ? 16 : 32;
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

double kvq_side_bits_per_element(const kvq_side_scheme *side, size_t head_dim)
{
    if (head_dim == 0 || head_dim > KVQ_MAX_HEAD_DIM)
        return 0.0;
    kvq_layout layout;
    kvq_layout_init(&layout, &(kvq_layout_spec){
                                 .codec = kvq_codecs[side->codec],
                                 .bits = side->bits,
                                 .per_channel = side->axis == KVQ_AXIS_CHANNEL,
                                 .group = side->group,
                                 .dim = head_dim,
                             });
    double bytes_per_token =
        (double)layout.payload_per_token + (double)layout.metadata_per_run / (double)layout.tokens_per_run;
    return 8.0 * bytes_per_token / (double)head_dim;
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
    return scheme == NULL ? KVQ_F32 : scheme->residual_dtype;
}

double kvq_scheme_bits_per_element(const kvq_scheme *scheme, size_t head_dim)
{
    if (scheme == NULL)
        return 0.0;
    return (kvq_side_bits_per_element(&scheme->k, head_dim) +
            kvq_side_bits_per_element(&scheme->v, head_dim)) /
           2;
}
