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

/** The tokens of one side that are not packed. block[i] holds indices 32 (first + i) and on: rows [Hkv][32],
 * then, where the side's encoder asks for it, the attention that each has received, float [Hkv][32]. */
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
    uint8_t *sinks[KVQ_N_ROLES]; /* [Hkv][S] rows, NULL until the first token */
    float *learned;              /* [Hkv][plan->n_learned], NULL until the first query (evidence.c) */
    uint64_t n_queries;          /* that it was learned from, weighed down by truncations */
    bool changing;               /* by the call that runs */
    kvq_page *page;
    size_t n_pages, page_capacity;
} kvq_layer;

/** What is the same for a layer in every sequence. */
typedef struct kvq_layer_plan {
    kvq_scheme scheme;
    kvq_side side[KVQ_N_ROLES];
    size_t head_bytes; /* of a page */
    size_t page_bytes;
    size_t row_bytes[KVQ_N_ROLES]; /* of the residual and the sinks */
    size_t sinks_bytes[KVQ_N_ROLES];
    unsigned evidence; /* what either side asks for */
    size_t n_learned;  /* floats per KV head: energy [D], then the moment's triangle, as far as asked for */
    kvq_pool *pages, *blocks[KVQ_N_ROLES];
} kvq_layer_plan;

struct kvq_cache {
    kvq_memory memory;
    const kvq_kernels *kernels;
    kvq_config config;                  /* what kvq_cache_get_config hands out */
    kvq_scheme *schemes;                /* [L] */
    const kvq_scheme **scheme_pointers; /* [L], to schemes: config.layer_schemes */
    kvq_layer_plan *plan;               /* [L] */
    kvq_pool *pool;                     /* one per slot size, at most three per layer */
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
    return page->data + head * plan->head_bytes + (role == KVQ_VALUES ? plan->side[KVQ_KEYS].bytes : 0);
}

/** Residual row of an index; the rows of the same block follow it. */
uint8_t *kvq_residual_row(const kvq_layer_plan *plan, const kvq_layer *layer, kvq_role role, size_t head,
                          size_t index);

/** Sinks row of a token below S; the rows of the next sinks follow it. */
static inline uint8_t *kvq_sinks_row(const kvq_layer_plan *plan, const kvq_layer *layer, kvq_role role,
                                     size_t head, size_t token)
{
    return layer->sinks[role] + (head * plan->scheme.sinks + token) * plan->row_bytes[role];
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
kvq_status kvq_residual_reserve(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role,
                                size_t n);
void kvq_residual_release(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role);

/** Blocks to reserve so that a residual that holds some blocks can move on to indices [packed, n). */
size_t kvq_residual_need(const kvq_residual *residual, size_t packed, size_t n);

/** Move on to indices [packed, n): drop the blocks before, add the reserved ones after. */
void kvq_residual_advance(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, kvq_role role,
                          size_t packed, size_t n);

/** Attention that the token of a residual row has received; NULL if this side does not ask for it. */
float *kvq_residual_received(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                             kvq_role role, size_t head, size_t index);

/** Bytes of one number of a dtype that is not made of rows. */
static inline size_t kvq_element_bytes(kvq_dtype dtype)
{
    return dtype == KVQ_F32 ? sizeof(float) : sizeof(uint16_t);
}

/** Number i of a caller's array. */
static inline const void *kvq_element(const void *x, kvq_dtype dtype, size_t i)
{
    return (const uint8_t *)x + i * kvq_element_bytes(dtype);
}

/** Bytes of a row of D values, and of a residual block. */
size_t kvq_row_bytes(kvq_dtype dtype, size_t dim);
size_t kvq_block_bytes(const kvq_cache *cache, const kvq_layer_plan *plan, kvq_role role);

/** Store or fetch one row of D values of a dtype. */
void kvq_row_store(const kvq_cache *cache, kvq_dtype dtype, uint8_t *row, const float *x);
void kvq_row_load(const kvq_cache *cache, kvq_dtype dtype, const uint8_t *row, float *x);

/** A row of D values as floats: where they lie if they are, otherwise converted into a buffer. */
const float *kvq_row_as_f32(const kvq_cache *cache, kvq_dtype dtype, const void *row, float *buffer);

/** kvq_row_store of values of which some may be Inf or NaN, which stay so. Not for int8. */
void kvq_row_store_any(const kvq_cache *cache, kvq_dtype dtype, uint8_t *row, const float *x);

/** Are n rows side by side what kvq_row_store can have written: all finite? */
bool kvq_rows_are_valid(const kvq_cache *cache, kvq_dtype dtype, const uint8_t *rows, size_t n);

/** Hash the pages [from, sealed). */
void kvq_pages_seal(const kvq_layer_plan *plan, kvq_layer *layer, size_t from);
uint64_t kvq_page_hash(const kvq_layer_plan *plan, const kvq_page *page);

/* ---- append.c ---- */

/** Tokens that a call brings, of a layer that may already hold some of them as sinks. */
typedef struct kvq_arrivals {
    /* Rows of D numbers, of token t and head h at t * strides.token + h * strides.head. */
    const void *x[KVQ_N_ROLES];
    kvq_dtype dtype;
    kvq_strides strides;
    size_t n_tokens;
    /* [Hkv], received_stride apart: attention that each past the sinks has received; NULL: none. */
    const float *received;
    size_t received_stride;
    int n_threads; /* for packing; 0: as many as the cache's config says */
} kvq_arrivals;

/** The strides of [n_tokens][Hkv][D]. */
static inline kvq_strides kvq_strides_dense(const kvq_cache *cache)
{
    size_t dim = cache->config.head_dim;
    return (kvq_strides){.token = cache->config.n_kv_heads * dim, .head = dim};
}

/** Take a caller's strides, or those of [n_tokens][Hkv][D] for NULL. False if rows overlap, or if they lie
 * further apart than memory reaches; one that is never taken may be anything. */
bool kvq_strides_read(const kvq_cache *cache, const kvq_strides *given, size_t n_tokens,
                      kvq_strides *strides);

/** Take all the memory that n_tokens more tokens need. On KVQ_ERR_NOMEM nothing has changed. */
kvq_status kvq_append_reserve(kvq_cache *cache, size_t layer, size_t sequence, size_t n_tokens);

/** Pack what a layer of n_tokens tokens would have packed, of what is there. After _reserve for as many. */
void kvq_append_pack(kvq_cache *cache, size_t layer, size_t sequence, size_t n_tokens, int n_threads);

/** Append; after _reserve for as many. */
void kvq_append_take(kvq_cache *cache, size_t layer, size_t sequence, const kvq_arrivals *arrivals);

/* ---- evidence.c: what a layer has learned from queries ---- */

/** Allocate what queries will teach, if the plan wants any of it. */
kvq_status kvq_evidence_ensure(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer);
void kvq_evidence_free(kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer);

/** Bytes of evidence that the layer holds. */
uint64_t kvq_evidence_bytes(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer);

/** Learn from queries q[n][H][D], in their order; on up to n_threads, as kvq_n_threads takes them. */
void kvq_evidence_add_queries(const kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer,
                              kvq_dtype dtype, const void *q, size_t n, int n_threads);

/** Weigh what was learned from n_before tokens as if it were from n_after. */
void kvq_evidence_shrink(const kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer, size_t n_after,
                         size_t n_before);

/** What a KV head's encoder gets; received is of the tokens to encode, or NULL. */
kvq_evidence kvq_evidence_of(const kvq_cache *cache, const kvq_layer_plan *plan, const kvq_layer *layer,
                             size_t head, const float *received, size_t n);

/* ---- A layer as a call sees it ---- */

/** What is stored, and behind it tokens that the call itself brings and that are not stored yet. */
typedef struct kvq_view {
    const kvq_cache *cache;
    const kvq_layer_plan *plan;
    const kvq_layer *layer;
    const float *fresh[KVQ_N_ROLES]; /* of KV head first_head and those behind it */
    kvq_strides fresh_strides;
    size_t n_fresh, first_head;
} kvq_view;

static inline size_t kvq_view_n_tokens(const kvq_view *view)
{
    return view->layer->n_tokens + view->n_fresh;
}

/** A stretch of tokens that lie side by side in one place. */
typedef struct kvq_stretch {
    size_t n;
    const uint8_t *superblock; /* packed, from token t0 of it on; or NULL: */
    size_t t0;
    const uint8_t *rows; /* of this dtype, stride bytes apart */
    kvq_dtype dtype;
    size_t stride;
} kvq_stretch;

/** The place of token `begin`, and how many of the next n lie there with it. */
kvq_stretch kvq_find_stretch(const kvq_view *view, kvq_role role, size_t head, size_t begin, size_t n);

/* ---- read.c ---- */

/** Dequantize tokens [begin, begin + n) of one head and side into rows out + i * stride. */
void kvq_read_head(const kvq_view *view, kvq_role role, size_t head, size_t begin, size_t n, float *out,
                   size_t stride);

/** The error bound of the same elements. */
void kvq_read_head_bound(const kvq_view *view, kvq_role role, size_t head, size_t begin, size_t n, float *out,
                         size_t stride);

/* ---- attention.c ---- */

/** Scores or probabilities that a call hands out: of tokens [first, first + stride), a row for each of its
 * heads, and queries per_query floats apart; p is NULL if nobody asks. */
typedef struct kvq_probabilities {
    float *p;
    size_t first, stride, per_query;
} kvq_probabilities;

/** Queries of one sequence. Query i sees no more than the first n_before + i + 1 tokens of the view. */
typedef struct kvq_span {
    kvq_view view;
    size_t n_q, n_before;
    size_t first_query; /* in q, out and bound */
    kvq_probabilities probabilities;
} kvq_span;

/** What the spans of one call have in common. */
typedef struct kvq_attention_call {
    const kvq_cache *cache;
    const kvq_layer_plan *plan;
    const void *q;
    kvq_dtype q_dtype, out_dtype;
    float scale;
    size_t window; /* as in kvq_attend_options */
    bool fast;
    int n_threads;
    size_t first_head, n_heads; /* KV heads that are attended to */
    void *out;
    float *bound;                  /* may be NULL */
    kvq_attend_counters *counters; /* of this call; added to */
} kvq_attention_call;

/** The first token that a query sees of n_visible tokens, itself the last of them. */
static inline size_t kvq_first_visible(size_t window, size_t n_visible)
{
    return window > 0 && n_visible > window ? n_visible - window : 0;
}

/** softmax(scale q K^T) V for every query of the spans. Cannot fail. */
void kvq_attention(const kvq_attention_call *call, const kvq_span *spans, size_t n_spans);

/** Does fast precision serve a layer? */
static inline bool kvq_plan_folds(const kvq_layer_plan *plan)
{
    return plan->side[KVQ_KEYS].folds && plan->side[KVQ_VALUES].folds;
}

/* ---- attend.c: options that attend and step share ---- */

kvq_status kvq_attend_options_read(const kvq_attend_options *given, kvq_attend_options *options,
                                   kvq_attend_counters *counters);
void kvq_attend_counters_write(const kvq_attend_options *options, const kvq_attend_counters *counters);

/* ---- threads.c ---- */

/** Threads to use for n_tasks when `wanted` were asked for; 0 asks for as many as the cache's config says. */
int kvq_n_threads(const kvq_cache *cache, int wanted, size_t n_tasks);

typedef void (*kvq_task_fn)(void *arg, size_t i);

/** Call task(arg, i) once for every i < n, begun in this order, on n_threads threads (of kvq_n_threads): the
 * program's, if the cache has a parallel-for of it, or OpenMP's. Returns when all are done. */
void kvq_parallel_for(const kvq_cache *cache, int n_threads, size_t n, kvq_task_fn task, void *arg);

/** Can a config or load options say this? */
static inline bool kvq_parallel_is_valid(kvq_parallel_fn parallel, int n_threads)
{
    return parallel == NULL ? n_threads >= 0 : n_threads > 0;
}

/* ---- bound.c ---- */

/** The certified bound of one query's output: kvq_cache_attend's `bound`. It sees tokens [begin, end). */
float kvq_attend_bound(const kvq_view *view, size_t kv_head, const float *q, float scale, size_t begin,
                       size_t end, const float *out);

#endif /* KVQ_LIB_INTERNAL_H */
