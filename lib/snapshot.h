/*
 * The saved form of a cache, shared by its writer and its reader. The format, byte by byte: lib/README.md.
 *
 * The structs below are the bytes of the file; all numbers are little-endian, as every machine this builds on
 * is.
 */
#ifndef KVQ_LIB_SNAPSHOT_H
#define KVQ_LIB_SNAPSHOT_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "lib/internal.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "libkvq stores numbers as they are in memory and needs a little-endian machine"
#endif

#define KVQ_SNAPSHOT_MAGIC "KVQCACHE"
enum { KVQ_SNAPSHOT_VERSION = 1 };

typedef struct kvq_snapshot_header {
    char magic[8];
    uint32_t version;
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, n_sequences;
    uint64_t max_tokens;
    uint64_t hash; /* XXH3-64 of the header with hash = 0, followed by the schemes */
} kvq_snapshot_header;
_Static_assert(sizeof(kvq_snapshot_header) == 48, "stored");

typedef struct kvq_snapshot_side {
    uint8_t codec, bits, axis, zero;
    uint32_t group;
} kvq_snapshot_side;

typedef struct kvq_snapshot_scheme { /* [n_layers] after the header */
    kvq_snapshot_side k, v;
    uint8_t arith, residual_mode, residual_dtype, zero;
    uint32_t residual, sinks, zero2;
} kvq_snapshot_scheme;
_Static_assert(sizeof(kvq_snapshot_scheme) == 32, "stored");

typedef struct kvq_snapshot_layer { /* before each layer of each sequence */
    uint32_t sequence, layer;
    uint64_t n_tokens, k_packed, v_packed;
    uint64_t hash; /* XXH3-64 of this struct with hash = 0 */
} kvq_snapshot_layer;
_Static_assert(sizeof(kvq_snapshot_layer) == 40, "stored");

/** The hash of a header and its schemes: start, then add schemes in any number of pieces, then
 * XXH3_64bits_digest. */
void kvq_snapshot_hash_start(XXH3_state_t *hash, kvq_snapshot_header header);

/** The same where all schemes are at hand. */
static inline uint64_t kvq_snapshot_header_hash(kvq_snapshot_header header,
                                                const kvq_snapshot_scheme *schemes)
{
    XXH3_state_t hash;
    kvq_snapshot_hash_start(&hash, header);
    XXH3_64bits_update(&hash, schemes, header.n_layers * sizeof *schemes);
    return XXH3_64bits_digest(&hash);
}

/** The scheme as stored. */
void kvq_snapshot_scheme_pack(const kvq_scheme *scheme, kvq_snapshot_scheme *out);

uint64_t kvq_snapshot_layer_hash(kvq_snapshot_layer record);

#endif /* KVQ_LIB_SNAPSHOT_H */
