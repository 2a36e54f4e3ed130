/*
 * Codecs that a program brings (kvq_experimental.h), as codecs of ours: whole pages, all sums from
 * dequantized blocks.
 */
#include "lib/kvq_experimental.h"

#include "lib/internal.h"
#include "lib/sized.h"

#include <math.h>
#include <stdlib.h>

_Static_assert((int)KVQ_PLUGIN_TOKENS == (int)KVQ_SUPERBLOCK, "a plug-in stores superblocks");
_Static_assert(KVQ_PLUGIN_MAX_PARAMETERS < sizeof(uint32_t[KVQ_PARAMETERS]), "a spec has room for its text");

enum { NAME_MAX = 15 };

/* Ours first, so that a pointer to it is one to the whole. */
typedef struct adapter {
    kvq_codec codec;
    kvq_codec_plugin plugin;
} adapter;

static const kvq_codec_plugin *plugin_of(const kvq_codec *codec)
{
    return &((const adapter *)(const void *)codec)->plugin;
}

static kvq_plugin_side side_of(const kvq_side *s)
{
    return (kvq_plugin_side){
        .values = s->role == KVQ_VALUES,
        .head_dim = s->dim,
        .parameters = (const char *)s->parameter, /* the text, and zeros */
        .ctx = plugin_of(s->codec)->ctx,
    };
}

/* ---- Text ---- */

static bool parse(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter)
{
    (void)codec, (void)role;
    const char *start = t->at;
    size_t n = strcspn(start, ",+");
    if (n > 0 && start[-1] != ':')
        return kvq_text_fail(t, start, "a colon, a comma or the end is expected here");
    if (n > KVQ_PLUGIN_MAX_PARAMETERS)
        return kvq_text_fail(t, start, "a plug-in's parameters are at most 39 characters");
    for (size_t i = 0; i < n; i++)
        if (start[i] < '!' || start[i] > '~')
            return kvq_text_fail(t, start + i,
                                 "a plug-in's parameters are letters, digits and signs of ASCII");
    memcpy(parameter, start, n);
    t->at += n;
    return true;
}

static void print(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)role;
    kvq_put(p, codec->name);
    if (parameter[0] == 0)
        return;
    kvq_put(p, ":");
    kvq_put(p, (const char *)parameter);
}

/* ---- Storage ---- */

static const char *init(kvq_side *s)
{
    const kvq_codec_plugin *plugin = plugin_of(s->codec);
    kvq_plugin_side side = side_of(s);
    size_t bytes = plugin->bytes(&side);
    if (bytes == 0)
        return "this plug-in does not take these parameters, or this head dimension";
    size_t payload = plugin->payload_bytes != NULL ? plugin->payload_bytes(&side) : bytes;
    if (bytes > KVQ_PLUGIN_MAX_BYTES || payload > bytes)
        return "this plug-in asks for more bytes than it may";
    s->bytes = (bytes + KVQ_ALIGNMENT - 1) / KVQ_ALIGNMENT * KVQ_ALIGNMENT;
    s->tokens_per_run = s->sliding_step = KVQ_SUPERBLOCK;
    s->payload_per_run = payload;
    s->metadata_per_run = s->bytes - payload;
    s->evidence = plugin->uses_evidence ? KVQ_EVIDENCE_ENERGY | KVQ_EVIDENCE_RECEIVED : 0;
    return NULL;
}

static void encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                   const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)k, (void)t0, (void)n;
    kvq_plugin_side side = side_of(s);
    kvq_plugin_evidence theirs = {0};
    if (evidence != NULL)
        theirs = (kvq_plugin_evidence){.energy = evidence->energy, .received = evidence->received};
    memset(superblock, 0, s->bytes);
    plugin_of(s->codec)->encode(&side, x, stride, &theirs, superblock);
}

static void dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                       size_t n, float *out, size_t stride)
{
    (void)k;
    kvq_plugin_side side = side_of(s);
    plugin_of(s->codec)->dequantize(&side, superblock, t0, n, out, stride);
    for (size_t i = 0; i < n; i++) /* kernels take finite numbers only, and saved data may be anything */
        for (size_t c = 0; c < s->dim; c++)
            if (!isfinite(out[i * stride + c]))
                out[i * stride + c] = 0.0f;
}

static void prepare(const kvq_kernels *k, const kvq_side *s, const float *q, float *out)
{
    (void)k;
    kvq_plugin_side side = side_of(s);
    plugin_of(s->codec)->prepare(&side, q, out);
}

static void finish(const kvq_kernels *k, const kvq_side *s, float *row)
{
    (void)k;
    kvq_plugin_side side = side_of(s);
    plugin_of(s->codec)->finish(&side, row);
}

static void error_bound(const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n, float *out,
                        size_t stride)
{
    kvq_plugin_side side = side_of(s);
    plugin_of(s->codec)->bound(&side, superblock, t0, n, out, stride);
}

/* ---- Registration ---- */

/* A preset's name would read as the preset, or not, by where it stands. */
static bool is_preset(const char *name)
{
    bool found = false;
    for (size_t i = 0; kvq_scheme_preset(i) != NULL; i++)
        found = found || strcmp(kvq_scheme_preset(i), name) == 0;
    return found;
}

kvq_status kvq_codec_plugin_register(const kvq_codec_plugin *given)
{
    kvq_codec_plugin plugin = {0};
    if (given == NULL ||
        !kvq_sized_read(&plugin, sizeof plugin, given, KVQ_SIZE_THROUGH(kvq_codec_plugin, uses_evidence)))
        return KVQ_ERR_ARG;
    if (plugin.name == NULL || strlen(plugin.name) > NAME_MAX || plugin.bytes == NULL ||
        plugin.encode == NULL || plugin.dequantize == NULL ||
        (plugin.prepare == NULL) != (plugin.finish == NULL) || is_preset(plugin.name))
        return KVQ_ERR_ARG;
    adapter *made = malloc(sizeof *made); /* for the rest of the process */
    if (made == NULL)
        return KVQ_ERR_NOMEM;
    *made = (adapter){
        .codec = {.name = plugin.name,
                  .parse = parse,
                  .print = print,
                  .init = init,
                  .encode = encode,
                  .dequantize = dequantize,
                  .prepare = plugin.prepare != NULL ? prepare : NULL,
                  .finish = plugin.finish != NULL ? finish : NULL,
                  .error_bound = plugin.bound != NULL ? error_bound : NULL},
        .plugin = plugin,
    };
    kvq_registration result = kvq_codec_register(&made->codec);
    if (result == KVQ_REGISTERED)
        return KVQ_OK;
    free(made);
    return result == KVQ_NO_ROOM ? KVQ_ERR_NOMEM : KVQ_ERR_ARG;
}
