/*
 * One tile of attention: the rows that walk the tokens together, and what they add up to on the way. What the
 * words mean is said in attention.c.
 */
#ifndef KVQ_LIB_TILE_H
#define KVQ_LIB_TILE_H

#include "lib/internal.h"

enum {
    KVQ_QUERY_TILE = KVQ_ROWS_MAX,
    /* Tokens of a segment: long enough that starting afresh costs nothing. The first few are short, so that
     * a short sequence, too, can be shared out evenly. */
    KVQ_SEGMENT = 16 * KVQ_SUPERBLOCK,
    KVQ_SHORT_SEGMENT = 4 * KVQ_SUPERBLOCK,
    KVQ_N_SHORT_SEGMENTS = KVQ_SEGMENT / KVQ_SHORT_SEGMENT,
};

/** Tokens past the sinks, counted from 0, before segment i. */
static inline size_t kvq_segment_begin(size_t i)
{
    return i < KVQ_N_SHORT_SEGMENTS ? i * KVQ_SHORT_SEGMENT : (i - KVQ_N_SHORT_SEGMENTS + 1) * KVQ_SEGMENT;
}

/** The segment of an index. */
static inline size_t kvq_segment_of(size_t index)
{
    return index < KVQ_SEGMENT ? index / KVQ_SHORT_SEGMENT : index / KVQ_SEGMENT + KVQ_N_SHORT_SEGMENTS - 1;
}

enum {
    /* Cache lines that a page asks for of the rows behind all pages, at most: with twice as many, requests
     * block others that are needed sooner (Zen 4, 32 heads of 128: 1.08 times the time). */
    KVQ_LINES_AHEAD = 44,
    /* So many pages ask that it is this many lines for each: fewer are not worth asking. */
    KVQ_LINES_AHEAD_LEAST = 32,
};

/** Of n_rows rows behind n_pages pages, page i asks for [*begin, *end). The last pages ask, in order, for the
 * first of the rows. */
static inline void kvq_rows_ahead(size_t n_rows, size_t row_bytes, size_t n_pages, size_t i, size_t *begin,
                                  size_t *end)
{
    size_t asking = kvq_min_size(n_pages, n_rows * row_bytes / (64 * KVQ_LINES_AHEAD_LEAST));
    size_t n = kvq_min_size(n_rows, asking * 64 * KVQ_LINES_AHEAD / row_bytes);
    *begin = *end = 0;
    if (i + asking < n_pages || asking == 0)
        return;
    i -= n_pages - asking;
    *begin = n * i / asking;
    *end = n * (i + 1) / asking;
}

/** The call, with what follows from it. */
typedef struct kvq_attention_work {
    const kvq_attention_call *call;
    size_t heads_per_kv;
    float log2_scale;        /* scores carry log2(e), so that weights are powers of 2 */
    const kvq_side *side[2]; /* by role */
    bool apart;              /* packed values are added up apart, in their own domain */
    bool folds;              /* both sides do; if not, errors of 16 bits have no estimate */
    kvq_sums sums;
} kvq_attention_work;

/** One tile of a span: which rows of it, and what they see. */
typedef struct kvq_tile_place {
    const kvq_span *span;
    size_t kv_head, first_row, n_rows; /* row r is query r / heads_per_kv */
    size_t first_token, n_tokens;      /* tokens that any row sees: from this one, up to this number */
    size_t first_segment, n_segments;  /* that they lie in */
} kvq_tile_place;

/** What a run of tokens adds up to, per row of a tile, in one piece of memory (kvq_sums_in). */
typedef struct kvq_tile_sums {
    float *ref, *sum;  /* sum of 2^(score - ref); scores are at most ref + SLACK */
    float *overflowed; /* 1 if a score left the range of float: the row's answer is NaN */
    float *error;      /* squared L2 norm by which acc may be off, an estimate */
    float *acc;        /* [n_rows][D], values times 2^(score - ref) */
    float *packed;     /* the same of packed values, in their domain; acc itself if they have none */
} kvq_tile_sums;

enum { KVQ_SUMS_FLOATS_MAX = KVQ_QUERY_TILE * 4 + 2 * KVQ_ROW_NUMBERS_MAX }; /* floats that hold any */

/** Rows of one KV head of one sequence, in flight. */
typedef struct kvq_tile {
    const kvq_attention_work *a;
    kvq_tile_place at;
    const kvq_view *view;
    kvq_probabilities probabilities;
    size_t kv_head, n_rows, dim;
    size_t row_index[KVQ_QUERY_TILE];        /* (query * H + head) in the call: where its q, out, bound are */
    size_t probabilities_at[KVQ_QUERY_TILE]; /* where its row of them is */
    size_t first_visible[KVQ_QUERY_TILE];    /* tokens that it may see: from this one */
    size_t n_visible[KVQ_QUERY_TILE];        /* up to this number, excluded */
    float q[KVQ_ROW_NUMBERS_MAX];            /* scaled; [n_rows][D] */
    float q_packed[KVQ_ROW_NUMBERS_MAX];     /* prepared, if the keys' codec does so */
    kvq_tile_sums now;                       /* of the segment in flight */
    kvq_sums sums;
    kvq_attend_counters counters;
    float score_rms_error[KVQ_QUERY_TILE]; /* of the scores of a chunk, as codecs estimate it */
    bool finite[KVQ_QUERY_TILE];           /* scale * q is; otherwise the row overflows whatever it sees */
    float scores[KVQ_QUERY_TILE * KVQ_SUPERBLOCK];
} kvq_tile;

/* ---- sums.c ---- */

/** Floats that the sums of so many rows take. */
size_t kvq_sums_floats(const kvq_attention_work *a, size_t n_rows);

/** Where they lie in memory. */
kvq_tile_sums kvq_sums_in(const kvq_attention_work *a, float *memory, size_t n_rows);

/** Sums of nothing, in memory. */
kvq_tile_sums kvq_sums_start(const kvq_attention_work *a, float *memory, size_t n_rows);

/** Make one row's sums relative to a ref that is not below its own. */
void kvq_sums_raise(const kvq_attention_work *a, const kvq_tile_sums *s, size_t row, float ref);

/** Add the sums of a segment to those of the segments before it. Both end up relative to the same ref. */
void kvq_sums_add(const kvq_attention_work *a, const kvq_tile_sums *total, const kvq_tile_sums *segment,
                  size_t n_rows);

/** Bring what packed values added up to back into the domain of the numbers, and to the rest. */
void kvq_sums_finish(const kvq_attention_work *a, const kvq_tile_sums *total, size_t n_rows);

/* ---- tile.c ---- */

/** How many tiles a span has. */
size_t kvq_n_tiles(const kvq_attention_work *a, const kvq_span *span);

/** Where tile number i of a span is. */
kvq_tile_place kvq_tile_find(const kvq_attention_work *a, const kvq_span *span, size_t i);

/** Make a tile ready. Its sums are still nowhere. */
void kvq_tile_start(kvq_tile *t, const kvq_attention_work *a, const kvq_tile_place *at);

/** The tokens of a segment, and the sinks with segment 0, from the first chunk on of which the tile may see
 * anything; the sums go to memory. */
void kvq_tile_run_segment(kvq_tile *t, size_t segment, float *memory);

/** From segment to segment, adding as it goes. now and all: room for sums; the result lies in all. */
kvq_tile_sums kvq_tile_run(kvq_tile *t, float *now, float *all);

/** Hand out what the rows come to; those that could be too far off are computed again first. now and all:
 * room for sums, which total may lie in. */
void kvq_tile_finish(kvq_tile *t, const kvq_tile_sums *total, float *now, float *all);

#endif /* KVQ_LIB_TILE_H */
