/**
 * libkvq, experimental: codecs of your own, as plug-ins. What stands here may change in any version; kvq.h
 * says what will not.
 *
 * A plug-in says how 128 tokens of one head are stored and read back. The cache does the rest: streaming, the
 * residual, sinks, pages, saving, truncation, attention over dequantized blocks, bytes, evidence. Registered
 * once, its name stands in schemes like any other: "k=mine:2,v=kivi...". A whole one: examples/codec.c.
 *
 * In a program, fill a kvq_codec_plugin and call kvq_codec_plugin_register. As a shared object, export
 * `KVQ_API const kvq_codec_plugin *kvq_codec_plugin_get(void)` and hand the file to kvq-eval --plugin.
 */
#ifndef KVQ_EXPERIMENTAL_H
#define KVQ_EXPERIMENTAL_H

#include "kvq.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    KVQ_PLUGIN_TOKENS = 128,        /* that are encoded together */
    KVQ_PLUGIN_MAX_BYTES = 1 << 20, /* of 128 tokens of one head */
    KVQ_PLUGIN_MAX_PARAMETERS = 39, /* characters */
};

/** What is to be stored: keys or values of heads of a dimension, with the parameters of a scheme's text. */
typedef struct kvq_plugin_side {
    bool values;            /* false: keys */
    size_t head_dim;        /* D */
    const char *parameters; /* what stands behind "NAME:", up to a comma or +; "" if nothing does */
    void *ctx;              /* of the plug-in */
} kvq_plugin_side;

/** What the cache knows when it encodes (kvq_cache_step in kvq.h), for one KV head. Either may be NULL: not
 * known. */
typedef struct kvq_plugin_evidence {
    const float *energy;   /* [D] sum over the queries so far of q_c^2 */
    const float *received; /* [128] attention that each of the tokens has received */
} kvq_plugin_evidence;

/**
 * A codec. Functions may be called by several threads at once, must depend on their arguments alone, and
 * must give the same bytes on every call. dim is side->head_dim. Those marked optional may be NULL.
 */
typedef struct kvq_codec_plugin {
    size_t struct_size; /* sizeof(kvq_codec_plugin) */
    const char *name;   /* a letter, then letters, digits, _ and .; at most 15; no codec's or preset's */
    void *ctx;          /* yours */

    /** Bytes of 128 tokens of one head, all included; 0 if the parameters or D are not for this codec. For D
     * = 128 it must serve every text that it takes. */
    size_t (*bytes)(const kvq_plugin_side *side);

    /** Store 128 tokens, finite floats, in data[bytes]; token i is at x + i * stride. data holds zeros.
     * evidence is never NULL. */
    void (*encode)(const kvq_plugin_side *side, const float *x, size_t stride,
                   const kvq_plugin_evidence *evidence, uint8_t *data);

    /** Read tokens first, first + 1, ..., n of them, of what encode stored, into out, out + stride, ... Must
     * survive any data: saved caches come from outside. What is not finite in out counts as 0. */
    void (*dequantize)(const kvq_plugin_side *side, const uint8_t *data, size_t first, size_t n, float *out,
                       size_t stride);

    /* Optional, both or neither: a linear map into another domain that keeps dot products (a rotation, say).
     * If they are there, dequantize gives rows in that domain, prepare brings queries into it, and finish
     * brings a row, or a weighted sum of rows, back in place. */
    void (*prepare)(const kvq_plugin_side *side, const float *q, float *out);
    void (*finish)(const kvq_plugin_side *side, float *row);

    /** Optional: what |x - xhat| is at most, for the same tokens as dequantize, into the same places; xhat is
     * finished. Without it nothing is promised. */
    void (*bound)(const kvq_plugin_side *side, const uint8_t *data, size_t first, size_t n, float *out,
                  size_t stride);

    /** Optional: how many of the bytes are payload (codes); the rest counts as metadata. NULL: all. */
    size_t (*payload_bytes)(const kvq_plugin_side *side);

    bool uses_evidence; /* then the cache gathers it, at its cost in bytes (kvq_usage.evidence) */
} kvq_codec_plugin;

/**
 * Add a codec for the rest of the process; schemes made from then on may name it. The struct is copied; the
 * name and ctx must live as long as the process.
 * Returns KVQ_OK; KVQ_ERR_ARG (NULL, a function missing, struct_size, the name invalid or taken);
 * KVQ_ERR_NOMEM (or more than 64 codecs in all). Any thread.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_codec_plugin_register(const kvq_codec_plugin *plugin);

/** What a shared object for kvq-eval --plugin exports. */
typedef const kvq_codec_plugin *(*kvq_codec_plugin_get_fn)(void);

#ifdef __cplusplus
}
#endif

#endif /* KVQ_EXPERIMENTAL_H */
