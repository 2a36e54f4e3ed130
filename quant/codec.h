/*
 * Codecs: the ways one side of a superblock can be stored.
 *
 * A codec is one file and one row of the registry in codec.c, or a row that a program registers. It reads and
 * prints its part of a scheme's text, lays out its superblock, encodes, dequantizes, and offers what else it
 * can do better than the defaults here. The cache (lib/) knows codecs only through this header; codecs call
 * kernels. Nothing outside a codec's file asks which codec it is. What they store and answer has the same
 * bits on every machine.
 *
 * The packed domain. A codec may store something else than the numbers themselves: rotated ones, say. Then it
 * has `prepare`, a linear map into its domain that keeps dot products, and `finish`, which undoes it.
 * Attention prepares each query row once, scores prepared queries, adds up values in the packed domain and
 * finishes each sum once. Without the two, the packed domain is that of the numbers.
 */
#ifndef KVQ_QUANT_CODEC_H
#define KVQ_QUANT_CODEC_H

#include "quant/kernels.h"
#include "quant/layout.h"
#include "quant/text.h"

typedef struct kvq_codec kvq_codec;

enum {
    KVQ_PARAMETERS = 12,    /* words that a codec's parameters may take */
    KVQ_SIDE_OWN = 384,     /* bytes that it may keep in a side */
    KVQ_SIDE_TEXT_MAX = 56, /* bytes that hold the text of one side, its NUL included */
    KVQ_CODECS_MAX = 64,    /* built in and registered */
    KVQ_HEAVY_HITTERS_MAX = 8,
};

/** What a scheme says of one side: a codec and its parameters, which are its own business; unused ones are
 * 0. Two are equal if their bytes are. */
typedef struct kvq_spec {
    const kvq_codec *codec;
    uint32_t parameter[KVQ_PARAMETERS];
} kvq_spec;

/** What a scheme says of both sides. */
typedef struct kvq_common {
    bool half_arith;        /* every operation rounded to half (KIVI parity); codecs may ignore it */
    uint32_t heavy_hitters; /* tokens of a page kept in 8 bits; only for codecs that keep some */
} kvq_common;

/** What a cache may know about the tokens of a superblock. */
enum {
    KVQ_EVIDENCE_ENERGY = 1,
    KVQ_EVIDENCE_RECEIVED = 2,
    KVQ_EVIDENCE_MOMENT = 4,
};

/** Evidence for one KV head, from the queries of its whole group that the sequence has seen so far. Each may
 * be NULL: not known. Numbers are finite and not negative (but for the moment off its diagonal). */
typedef struct kvq_evidence {
    const float *energy;   /* [D] sum of q_c^2 */
    const float *received; /* [n] attention that each of the n tokens has received; not all 0 */
    const float *moment;   /* lower triangle, row by row: sum of q_i q_j, j <= i */
} kvq_evidence;

/** One side of a layer, keys or values: what its superblocks look like. Filled by kvq_side_init, then only
 * read. */
typedef struct kvq_side {
    const kvq_codec *codec;
    kvq_role role;
    size_t dim; /* D */
    kvq_common common;
    uint32_t parameter[KVQ_PARAMETERS];

    /* What the codec's init fills. */
    size_t bytes;            /* of a superblock, a multiple of KVQ_ALIGNMENT */
    size_t tokens_per_run;   /* the fewest tokens that can be packed together; does not depend on D */
    size_t sliding_step;     /* tokens that the sliding residual packs together; a power of two */
    size_t payload_per_run;  /* bytes of codes or values per run of tokens_per_run tokens */
    size_t metadata_per_run; /* bytes of everything else, padding that no token fills included */
    unsigned evidence;       /* KVQ_EVIDENCE_...: what its encoder looks at */
    uint32_t heavy_hitters;  /* of a superblock; common.heavy_hitters, or 0 for a codec that keeps none */
    bool folds;              /* whole-number scores or sums; needs `score` or `accumulate` */
    uint32_t bits;           /* of a code; 0 if there is no one width */
    bool has_groups, per_channel;
    size_t group; /* G; 0 for a full group */
    _Alignas(16) unsigned char own[KVQ_SIDE_OWN];
} kvq_side;

/** How attention's sums run over packed tokens. For sides that do not fold there is only float32. */
typedef enum kvq_sums {
    KVQ_SUMS_FAST, /* folded to 16 bits; wide for queries with too wide a range */
    KVQ_SUMS_WIDE, /* folded twice, to 31 bits: as accurate as float32 */
} kvq_sums;

/** How often a folding side scored a superblock for a query wide, and in float32. */
typedef struct kvq_score_counts {
    uint64_t wide, float32;
} kvq_score_counts;

/** What attention reads in one step: the first n tokens of a superblock. */
typedef struct kvq_tokens {
    const uint8_t *superblock;
    kvq_next next; /* what will be read after it */
    size_t n;
    kvq_sums sums;
} kvq_tokens;

/** Where values are added up. packed is plain for codecs without `finish`. */
typedef struct kvq_sum_rows {
    float *plain;  /* [n_q][D], in the domain of the numbers */
    float *packed; /* [n_q][D], in the packed domain */
    float *error; /* [n_q]: estimate of the squared L2 norm that both together are off by; not of wide sums */
} kvq_sum_rows;

struct kvq_codec {
    const char *name; /* as schemes have it: NAME or NAME:PARAMETERS */

    /** Does a side's text belong to this codec? NULL: if it begins with the name. */
    bool (*owns)(const char *text);

    /** Read the parameters, from behind NAME (and its colon) up to a comma or the end, which the caller looks
     * for. parameter is all 0 before. */
    bool (*parse)(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter);

    /** Print a side's text, name included, as `parse` and `owns` read it. */
    void (*print)(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter);

    /** Fill what kvq_side leaves to the codec. Returns NULL, or what is wrong with the side. */
    const char *(*init)(kvq_side *s);

    /** Store n tokens from t0 on, both multiples of tokens_per_run; row i is x + i * stride. */
    void (*encode)(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                   const float *x, size_t stride, const kvq_evidence *evidence);

    /** Read n tokens from t0 on into rows out + i * stride, in the packed domain. */
    void (*dequantize)(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                       size_t n, float *out, size_t stride);

    /* The rest may be NULL. */

    /** out = q in the packed domain. `prepare` and `finish` come together. */
    void (*prepare)(const kvq_kernels *k, const kvq_side *s, const float *q, float *out);
    /** Bring a row back out of the packed domain. */
    void (*finish)(const kvq_kernels *k, const kvq_side *s, float *row);

    /** |x - xhat| is at most this, for each element of n tokens from t0 on; +Inf where nothing is promised.
     * NULL: +Inf everywhere. */
    void (*error_bound)(const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n, float *out,
                        size_t stride);

    /** Set all bytes of the tokens from t0 on to zero, as in a superblock never written there. NULL: t0 is 0
     * and all bytes are. */
    void (*clear)(const kvq_side *s, uint8_t *superblock, size_t t0);

    /** Could an encoder have written this, with n tokens? For data that comes from outside, which attention
     * must survive. NULL: any bytes will do. */
    bool (*is_valid)(const kvq_side *s, const uint8_t *superblock, size_t n);

    /** Is token t kept as a heavy hitter? NULL: none ever is. */
    bool (*is_kept)(const kvq_side *s, const uint8_t *superblock, size_t t);

    /** Of sides that do not fold. scores[i][t] = q[i] . xhat[t] in float32, i < n_q <= kvq_rows_most(D); rows
     * of KVQ_SUPERBLOCK; q is [n_q][D], prepared. NULL: from dequantized blocks. */
    void (*score_float)(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                        size_t n_q, float *scores);
    /** Likewise acc[i] += sum_t p[i][t] * xhat[t]; p has rows of KVQ_SUPERBLOCK, acc [n_q][D]. */
    void (*accumulate_float)(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens,
                             const float *p, size_t n_q, float *acc);

    /* Of sides that fold: keys have `score`, values `accumulate`. */

    /** scores[i][t] = q[i] . xhat[t] by whole numbers; rows of KVQ_SUPERBLOCK, written up to whole blocks of
     * 32 tokens; q is [n_q][D], prepared. For wide sums there are n_q rows more, and row n_q + i is to be
     * added to row i. Rows are kvq_rows_most(D) at most. rms_error[i] is an estimate of what 16 bits are off
     * by, root mean square; +Inf or NaN, and a row of anything, where the query does not fold. If 16 bits
     * serve none of them (KVQ_SCORE_ERROR_FOLDED), scores that are not wide may be left out. */
    void (*score)(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                  size_t n_q, float *scores, float *rms_error);

    /** Add sum_t p[i][t] * xhat[t] to row i of up to kvq_rows_most(D), half of that for wide sums; p has rows
     * of KVQ_SUPERBLOCK, 0 <= p <= 2^16. score_rms_error comes from kvq_side_score. */
    void (*accumulate)(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *p,
                       size_t n_q, const float *score_rms_error, const kvq_sum_rows *sums);
};

/* ---- The registry ---- */

/** The i-th codec, built in first, then as registered; NULL past the last. */
const kvq_codec *kvq_codec_at(size_t i);

/** The codec that a side's text names, and the rest of the text behind its name; NULL for none. */
const kvq_codec *kvq_codec_for_text(const char *text, const char **rest);

typedef enum kvq_registration {
    KVQ_REGISTERED,
    KVQ_BAD_NAME, /* taken, or not a letter followed by letters, digits, _ and . */
    KVQ_NO_ROOM,
} kvq_registration;

/** Add a codec, which must live as long as the process. Any thread. */
kvq_registration kvq_codec_register(const kvq_codec *codec);

/* ---- A side, with defaults for what its codec leaves out ---- */

/** Make a side. Returns NULL, or what is wrong. */
const char *kvq_side_init(kvq_side *s, const kvq_spec *spec, const kvq_common *common, kvq_role role,
                          size_t dim);

/** Read tokens as numbers: dequantized and finished. */
void kvq_side_read(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n,
                   float *out, size_t stride);

void kvq_side_error_bound(const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n, float *out,
                          size_t stride);
void kvq_side_clear(const kvq_side *s, uint8_t *superblock, size_t t0);
bool kvq_side_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n);
bool kvq_side_is_kept(const kvq_side *s, const uint8_t *superblock, size_t t);
/** scores[i][t] = q[i] . xhat[t], i < n_q <= kvq_rows_most(D); rows and q as for a codec's.
 * score_rms_error[i] is an estimate of how far folding is off, root mean square; 0 in float32. counts is
 * added to. */
void kvq_side_score(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                    size_t n_q, float *scores, float *score_rms_error, kvq_score_counts *counts);
/** Likewise a codec's accumulate. */
void kvq_side_accumulate(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *p,
                         size_t n_q, const float *score_rms_error, const kvq_sum_rows *sums);

/** Scores and sums of dequantized blocks in float32, for codecs that do not fold, and what would not. */
void kvq_score_dequantized(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                           size_t n_q, float *scores);
void kvq_accumulate_dequantized(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens,
                                const float *p, size_t n_q, float *packed);

/** acc [n_q][D] += what n_q folded rows and their rests, in one array as fold_values has them, come to. */
void kvq_accumulate_wide(const kvq_kernels *k, const kvq_layout *l, const kvq_tokens *tokens,
                         const int8_t *p_folded, const float *step, const float *bias, size_t n_q,
                         float *acc);

/* The group arithmetic of the affine codec (codec_affine.c), shared by its kernels, its bound and the tests.
 */

/** What the layout of affine superblocks follows from. */
typedef struct kvq_layout_spec {
    kvq_role role;
    uint32_t bits;
    bool per_channel, half_arith;
    size_t group; /* G; 0 for the whole head dimension */
    size_t dim;   /* D */
} kvq_layout_spec;

void kvq_layout_init(kvq_layout *l, const kvq_layout_spec *spec);

/** The layout of a side that the affine codec stores; NULL for another codec's. For exchange with KIVI's
 * form, which is this codec's alone. */
const kvq_layout *kvq_side_affine_layout(const kvq_side *s);

/** Scale and minimum of a group whose smallest and largest values are lo and hi. */
void kvq_affine_params(uint32_t bits, bool half_arith, float lo, float hi, uint16_t *scale, uint16_t *min);

/** Largest error of an element of a group with this scale and minimum. */
float kvq_affine_error_bound(uint32_t bits, bool half_arith, float scale, float min);

/** Error of rounding any number that became `stored` to half; +Inf at the largest half, where it may have
 * saturated. */
float kvq_f16_error_bound(float stored);

#endif /* KVQ_QUANT_CODEC_H */
