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
enum { KVQ_SNAPSHOT_VERSION = 3 };

typedef struct kvq_snapshot_header {
    char magic[8];
    uint32_t version;
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, n_sequences;
    uint64_t max_tokens;
    uint64_t hash; /* XXH3-64 of the header with hash = 0, followed by the schemes */
} kvq_snapshot_header;
_Static_assert(sizeof(kvq_snapshot_header) == 48, "stored");

/* [n_layers] after the header. The text is explicit (kvq_scheme_print), so that it will mean the same in
 * every version, and followed by zeros. */
typedef struct kvq_snapshot_scheme {
    char text[KVQ_SCHEME_TEXT_MAX];
} kvq_snapshot_scheme;
_Static_assert(sizeof(kvq_snapshot_scheme) == 128, "stored");

typedef struct kvq_snapshot_layer { /* before each layer of each sequence */
    uint32_t sequence, layer;
    uint64_t n_tokens, k_packed, v_packed;
    uint64_t hash; /* XXH3-64 of this struct with hash = 0 */
} kvq_snapshot_layer;
_Static_assert(sizeof(kvq_snapshot_layer) == 40, "stored");

/* What version 1 had in their place: fields instead of texts. */
typedef struct kvq_snapshot_side_v1 {
    uint8_t codec, bits, axis, zero;
    uint32_t group;
} kvq_snapshot_side_v1;

typedef struct kvq_snapshot_scheme_v1 {
    kvq_snapshot_side_v1 k, v;
    uint8_t arith, residual_mode, residual_dtype, zero;
    uint32_t residual, sinks, zero2;
} kvq_snapshot_scheme_v1;
_Static_assert(sizeof(kvq_snapshot_scheme_v1) == 32, "stored");

/** A stream of data to hash. xxHash reads some of a state before it has written it, so one never starts out
 * as whatever the memory held. */
typedef struct kvq_hash {
    XXH3_state_t state;
} kvq_hash;

void kvq_hash_start(kvq_hash *hash);

void kvq_hash_add(kvq_hash *hash, const void *data, size_t n_bytes);
uint64_t kvq_hash_value(const kvq_hash *hash);

/** Start the hash of a header and its schemes: add those in any number of pieces, then take the value. */
void kvq_snapshot_header_hash_start(kvq_hash *hash, kvq_snapshot_header header);

/** The hash of a version 1 header and all its schemes. */
uint64_t kvq_snapshot_header_hash_v1(kvq_snapshot_header header, const kvq_snapshot_scheme_v1 *schemes);

uint64_t kvq_snapshot_layer_hash(kvq_snapshot_layer record);

/* In place of a page: a layer's full-precision tokens, and what it has learned. */
enum { KVQ_SNAPSHOT_ROWS = -1, KVQ_SNAPSHOT_EVIDENCE = -2 };

/** Bind the hash of some content to the place that the content has in the file. */
uint64_t kvq_snapshot_bind(uint64_t hash, const kvq_snapshot_layer *place, int64_t page);

/** A scheme as stored. */
void kvq_snapshot_scheme_pack(const kvq_scheme *scheme, kvq_snapshot_scheme *out);

/** Read it back, or say in *problem what is wrong with it: its status and message. */
kvq_status kvq_snapshot_scheme_unpack(const kvq_snapshot_scheme *stored, kvq_scheme *out, kvq_error *problem);
kvq_status kvq_snapshot_scheme_unpack_v1(const kvq_snapshot_scheme_v1 *stored, kvq_scheme *out,
                                         kvq_error *problem);

#endif /* KVQ_LIB_SNAPSHOT_H */
