/*
 * Plug-ins that kvq-eval must refuse, one for each KIND but the last, which is good (test_plugin_tool.c).
 */
#include <kvq_experimental.h>

#include <string.h>

enum { NO_SYMBOL, RETURNS_NULL, NAME_TAKEN, NO_NAME, INCOMPLETE, NO_SIZE, GOOD };

KVQ_API const kvq_codec_plugin *kvq_codec_plugin_get(void);
KVQ_API const kvq_codec_plugin *something_else(void);

static size_t bytes(const kvq_plugin_side *side)
{
    return KVQ_PLUGIN_TOKENS * side->head_dim * sizeof(float);
}

static void encode(const kvq_plugin_side *side, const float *x, size_t stride,
                   const kvq_plugin_evidence *evidence, uint8_t *data)
{
    (void)evidence;
    for (size_t t = 0; t < KVQ_PLUGIN_TOKENS; t++)
        memcpy(data + t * side->head_dim * sizeof *x, x + t * stride, side->head_dim * sizeof *x);
}

static void dequantize(const kvq_plugin_side *side, const uint8_t *data, size_t first, size_t n, float *out,
                       size_t stride)
{
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * stride, data + (first + i) * side->head_dim * sizeof *out,
               side->head_dim * sizeof *out);
}

#if KIND == 0
const kvq_codec_plugin *something_else(void)
#else
const kvq_codec_plugin *kvq_codec_plugin_get(void)
#endif
{
    static const kvq_codec_plugin plugin = {
        .struct_size = KIND == NO_SIZE ? 0 : sizeof plugin,
        .name = KIND == NAME_TAKEN ? "q4_0"
                : KIND == NO_NAME  ? "no name"
                                   : "copy",
        .bytes = bytes,
        .encode = encode,
        .dequantize = KIND == INCOMPLETE ? NULL : dequantize,
    };
    return KIND == RETURNS_NULL ? NULL : &plugin;
}
