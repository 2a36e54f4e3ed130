/*
 * The registry of codecs, and the making of layouts.
 */
#include "quant/codec.h"

const kvq_codec *const kvq_codecs[] = {
    &kvq_codec_affine,
    &kvq_codec_f16,
    &kvq_codec_f32,
};
const size_t kvq_n_codecs = sizeof kvq_codecs / sizeof kvq_codecs[0];

void kvq_layout_init(kvq_layout *l, const kvq_layout_spec *spec)
{
    *l = (kvq_layout){
        .codec = spec->codec,
        .role = spec->role,
        .bits = spec->bits,
        .per_channel = spec->per_channel,
        .half_arith = spec->half_arith,
        .group = spec->group == 0 ? spec->dim : spec->group,
        .dim = spec->dim,
    };
    spec->codec->layout(l);
}
