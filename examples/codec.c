/*
 * A codec as a plug-in: 4 bits, one scale per token, rounded to nearest. Attention runs over it like over any
 * other, and kvq-eval measures it:
 *
 *   cc -O2 -shared -fPIC codec.c $(pkg-config --cflags kvq) -o codec.so
 *   kvq-eval --plugin ./codec.so --scheme k=four,v=four
 *
 * The parameter is the share of the largest value that the grid reaches, in percent: four:90 clips a little.
 * A token takes 4 bytes for its scale and D/2 for its codes.
 */
#include <kvq_experimental.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t token_bytes(const kvq_plugin_side *side)
{
    return sizeof(float) + (side->head_dim + 1) / 2;
}

static float reach(const kvq_plugin_side *side)
{
    return side->parameters[0] == '\0' ? 1.0f : (float)atoi(side->parameters) / 100.0f;
}

static size_t bytes(const kvq_plugin_side *side)
{
    return reach(side) > 0 && reach(side) <= 1 ? KVQ_PLUGIN_TOKENS * token_bytes(side) : 0;
}

static void encode(const kvq_plugin_side *side, const float *x, size_t stride,
                   const kvq_plugin_evidence *evidence, uint8_t *data)
{
    (void)evidence;
    for (size_t t = 0; t < KVQ_PLUGIN_TOKENS; t++, x += stride, data += token_bytes(side)) {
        float largest = 0;
        for (size_t c = 0; c < side->head_dim; c++)
            largest = fmaxf(largest, fabsf(x[c]));
        float scale = largest * reach(side) / 7;
        memcpy(data, &scale, sizeof scale);
        for (size_t c = 0; c < side->head_dim && scale > 0; c++) {
            int code = (int)rintf(fmaxf(-7, fminf(7, x[c] / scale))) + 8;
            data[sizeof scale + c / 2] |= (uint8_t)(code << c % 2 * 4);
        }
    }
}

static void dequantize(const kvq_plugin_side *side, const uint8_t *data, size_t first, size_t n, float *out,
                       size_t stride)
{
    for (size_t i = 0; i < n; i++, out += stride) {
        const uint8_t *token = data + (first + i) * token_bytes(side);
        float scale;
        memcpy(&scale, token, sizeof scale);
        for (size_t c = 0; c < side->head_dim; c++)
            out[c] = scale == 0 ? 0 : scale * (float)((token[sizeof scale + c / 2] >> c % 2 * 4 & 15) - 8);
    }
}

KVQ_API const kvq_codec_plugin *kvq_codec_plugin_get(void); /* what kvq-eval --plugin looks for */

const kvq_codec_plugin *kvq_codec_plugin_get(void)
{
    static const kvq_codec_plugin four = {.struct_size = sizeof four,
                                          .name = "four",
                                          .bytes = bytes,
                                          .encode = encode,
                                          .dequantize = dequantize};
    return &four;
}
