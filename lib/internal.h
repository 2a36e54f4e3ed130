/*
 * What the files of lib/ share: the cache's structs and the functions between them. Not installed.
 *
 * Indices. Callers count tokens from 0. Inside a layer the first S tokens are sinks; the others have an index
 * counted from S. On each side indices [0, packed) lie in pages of 128, [packed, n) in the residual, in
 * blocks of 32 rows. Keys and values differ in `packed`, so most structs hold an array of two, indexed by
 * kvq_role.
 */
#ifndef KVQ_LIB_INTERNAL_H
#define KVQ_LIB_INTERNAL_H

#include "lib/kvq.h"
#include "lib/memory.h"
#include "lib/scheme.h"
#include "quant/codec.h"

enum { KVQ_N_ROLES = 2 };

/** Forward an error. */
#define KVQ_TRY(expression)                                                                                  \
    do {                                                                                                     \
        kvq_status try_status_ = (expression);                                                               \
        if (try_status_ != KVQ_OK)                                                                           \
            return try_status_;                                                                              \
    } while (0)

/** One page: [Hkv] of a keys superblock followed by a values superblock. */
typedef struct kvq_page {
    uint8_t *data;
    uint64_t hash; /* XXH3-64 of data once the page is sealed: both sides have packed all of it */
} kvq_page;

/** The tokens of one side that are not packed. block[i] holds indices 32 (first + i) and on, [Hkv][32][D]. */
typedef struct kvq_residual {
    uint8_t **block;
    size_t first, n;
    size_t
        n_reserved; /* further blocks taken from the pool, at block[n], for a change that is being prepared */
    size_t capacity;
} kvq_residual;

/** One layer of one sequence. */
typedef struct kvq_layer {
    size_t n_tokens; /* T, sinks included */
    size_t packed[KVQ_N_ROLES];
    kvq_residual residual[KVQ_N_ROLES];
    uint8_t *sinks[KVQ_N_ROLES]; /* [Hkv][S][D], NULL until the first token */
    kvq_page *page;
    size_t n_pages, page_capacity;
} kvq_layer;

/** What is the same for a layer in every sequence. */
typedef struct kvq_layer_plan {
    kvq_scheme scheme;
    kvq_layout layout[KVQ_N_ROLES];
    size_t head_bytes; /* of a page */
    size_t page_bytes;
    size_t element_bytes; /* of the residual and the sinks */
    size_t sinks_bytes;   /* of one side */
    kvq_pool *pages, *blocks;
} kvq_layer_plan;

struct kvq_cache {
    kvq_memory memory;
    const kvq_kernels *kernels;
    kvq_config config;                  /* what kvq_cache_get_config hands out */
    kvq_scheme *schemes;                /* [L] */
    const kvq_scheme **scheme_pointers; /* [L], to schemes: config.layer_schemes */
    kvq_layer_plan *plan;               /* [L] */
    kvq_pool *pool;                     /* one per slot size, at most two per layer */
    size_t n_pools;
    kvq_layer **sequence; /* [n_sequences], each NULL (empty) or [L] */
    float *scratch;       /* [128][D], for the one thread that changes the cache */
};

static inline size_t kvq_min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t kvq_max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/** Fill *err if there is one; returns status. */
static inline kvq_status kvq_fail(kvq_error *err, kvq_status status, const char *message, uint64_t offset)
{
    if (err != NULL)
        *err = (kvq_error){.status = status, .message = message, .offset = offset};
    return status;
}

/* ---- layer.c: one layer's state ---- */

/** Indices (tokens past the sinks) in a layer that holds n_tokens. */
static inline size_t kvq_past_sinks(const kvq_layer_plan *plan, size_t n_tokens)
{
    return n_tokens > plan->scheme.sinks ? n_tokens - plan->scheme.sinks : 0;
}

/** How many of n indices the scheme wants packed on this side. */
size_t kvq_packed_target(const kvq_layer_plan *plan, kvq_role role, size_t n);

/** Pages whose 128 indices are packed on both sides. */
size_t kvq_n_sealed(const kvq_layer *layer);

/** The layer, or NULL if nothing was ever appended to its sequence. */
static inline const kvq_layer *kvq_layer_of(const kvq_cache *cache, size_t layer, size_t sequence)
{
    return cache->sequence[sequence] == NULL ? NULL : &cache->sequence[sequence][layer];
}

/** Allocate the sequence's layers if they are not there. */
kvq_status kvq_sequence_ensure(kvq_cache *cache, size_t sequence);

/** Free a sequence's [L] layers with all they hold; NULL is fine. */
void kvq_sequence_free(kvq_cache *cache, kvq_layer *layers);

/** Superblock of a head in a page. */
static inline uint8_t *kvq_superblock(const kvq_layer_plan *plan, const kvq_page *page, kvq_role role,
                                      size_t head)
{
    return page->data + head * plan->head_bytes + (role == KVQ_VALUES ? plan->layout[KVQ_KEYS].bytes : 0);
}

/** Residual row of an index: D elements; the rows of the same block follow it. */
uint8_t *kvq_residual_row(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                          kvq_role role, size_t head, size_t index);

/** Sinks row of a token below S; the rows of the next sinks follow it. */
static inline uint8_t *kvq_sinks_row(const kvq_cache *cache, const kvq_layer_plan *plan,
                                     const kvq_layer *layer, kvq_role role, size_t head, size_t token)
{
    size_t row_bytes = cache->config.head_dim * plan->element_bytes;
    return layer->sinks[role] + (head * plan->scheme.sinks + token) * row_bytes;
}

/** Make the page table hold n_pages; new pages are zero. On KVQ_ERR_NOMEM the caller drops what came. */
kvq_status kvq_pages_grow(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_pages);
void kvq_pages_shrink(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_pages);

/** Undo what a failed change has taken: pages beyond n_pages, reserved blocks. (Empty sinks and tables stay,
 * for later.) */
void kvq_layer_release(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_pages);

/** Allocate the sinks of both sides if the scheme has any and they are not there. */
kvq_status kvq_sinks_ensure(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer);

/** Take n more blocks for a coming change; it is carried out by _advance and forgotten by _release. */
kvq_status kvq_residual_reserve(kvq_cache *cache, const kvq_layer_plan *plan, kvq_residual *residual,
                                size_t n);
void kvq_residual_release(kvq_cache *cache, const kvq_layer_plan *plan, kvq_residual *residual);

/** Blocks to reserve so that a residual that holds some blocks can move on to indices [packed, n). */
size_t kvq_residual_need(const kvq_residual *residual, size_t packed, size_t n);

/** Move on to indices [packed, n): drop the blocks before, add the reserved ones after. */
void kvq_residual_advance(kvq_cache *cache, const kvq_layer_plan *plan, kvq_residual *residual, size_t packed,
                          size_t n);

/** Store or fetch one row of D values in the residual's dtype. */
void kvq_row_store(const kvq_cache *cache, const kvq_layer_plan *plan, uint8_t *row, const float *x);
void kvq_row_load(const kvq_cache *cache, const kvq_layer_plan *plan, const uint8_t *row, float *x);

/** Hash the pages [from, sealed). */
void kvq_pages_seal(const kvq_layer_plan *plan, kvq_layer *layer, size_t from);
uint64_t kvq_page_hash(const kvq_layer_plan *plan, const kvq_page *page);

/* ---- read.c ---- */

/** Dequantize tokens [begin, begin + n) of one head and side into rows out + i * stride. */
void kvq_read_head(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer, kvq_role role,
                   size_t head, size_t begin, size_t n, float *out, size_t stride);

/** The error bound of the same elements. */
void kvq_read_head_bound(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                         kvq_role role, size_t head, size_t begin, size_t n, float *out, size_t stride);

/* ---- threads.c ---- */

/** Threads to use for n_tasks when `wanted` were asked for; 0 asks for as many as OpenMP gives. */
int kvq_n_threads(int wanted, size_t n_tasks);

/* ---- bound.c ---- */

/** The certified bound of one query's output: kvq_cache_attend's `bound`. It sees the first n_visible tokens.
 */
float kvq_attend_bound(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                       size_t kv_head, const float *q, float scale, size_t n_visible, const float *out);

#endif /* KVQ_LIB_INTERNAL_H */
