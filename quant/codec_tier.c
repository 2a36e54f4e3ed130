/*
 * Keys in widths: bits go where queries look. A superblock is always 128 tokens; its channels are sorted by
 * how much their errors would show in scores, and blocks of 16 channels have codes of 0, 1, 2, 4 or (from 3
 * bits on average) 6 bits. A few tokens, the heavy hitters, are kept in 8 bits instead. Here is what is
 * built; quant/README.md says what it costs.
 *
 * Evidence: e_c, the energy of the queries in channel c (1 if unknown); a_t, the attention that token t has
 * received; C, the second moments of queries, for feedback only.
 *
 *   heavy hitters  the m tokens with the largest a_t (the earlier of equals; none if a is unknown) are stored
 *                  as rows of int8 (row8.h). For all that follows they are the mean of the other tokens
 *   weight         w_c = e_c var_c. Channels are sorted by it, largest first, the lower of equals first
 *   widths         all blocks of 16 start at 0 bits; as long as one fits into the budget of BITS * Dp, the
 *                  block with the largest gain gets its next width b' after b: gain = (geometric mean of w)
 *                  (g(b) - g(b')) / (b' - b), g(0, 1, 2, 4, 6) = 1, .363, .1188, .01154, .00104: the mean
 *                  squared error of normal numbers. Channels that pad D have no part in the mean, and a block
 *                  counts by its share of others
 *   step, lo       xhat = lo + step n, n = rne(clamp((x - lo) / step, 0, M)), M = 2^b - 1; step = 2^(i/8),
 *                  -128 <= i < 128, lo a half. Nine candidates: around the mean, step s sd {.7 .8 .9 1 1.12
 *                  1.3}, s(1, 2, 4, 6 bits) = 1.596, .9957, .3352, .1041; around the middle of the range,
 *                  step range / M {1 .9 .8}, for 1 bit .6 of that. The first with the least sum d^2 + u (sum
 *                  d x')^2 / sum x'^2 wins, d its error and x' = x - mean: plain squares would shrink keys,
 *                  and that costs more in attention than it saves. Then lo loses the mean error; codes stay
 *   0 bits         xhat = lo = the mean
 *   feedback       A = C + .05 mean(diag C) I, U upper triangular with A^-1 = U^T U; channels in ascending
 *                  order of w. After each, x_c' loses (x_c - xhat_c) / U_cc U_cc' for every later c'. Widths
 *                  then follow from var_c / U_cc^2. Without C, or if it is not positive, there is none
 *
 * Layout, Dp = D rounded up to 16, all little-endian:
 *
 *   codes      BITS * Dp / 16 units of 256 bytes (rounded down, then to an even number). Classes of equal
 *              width one after the other, widest first: each as affine keys with groups of 128 have their
 *              codes (layout.h), its channels in sorted order. The rest is 0
 *   lo         half[Dp], by channel         exponents  int8[Dp], by channel; 0 where there are no codes
 *   order      the channel at each place: uint8[Dp], uint16[Dp] if Dp > 256
 *   widths     nibble[Dp / 16], bits of the block
 *   rows       [m] of D + 2 bytes           indices    uint8[m], 255 for none
 *   cert       int8[D], only if certified: no error of the channel passes 2^(n/8); 127: nothing is promised
 *
 * Attention. q times step, gathered into the order once, is rounded to 16 bits with one step per query;
 * score_runs then serves all classes at once, and one q . lo per superblock is the bias. The error is that of
 * portable_fast.c: what rounding takes is made up for as if all codes were half the largest.
 *
 * Error bound. Heavy hitters have that of their rows. For the others the search promises nothing (a step may
 * clip), so there is one only where the encoder has measured it against what it reads back: certified.
 */
#include "quant/tier.h"

#include "quant/logstep.h"

#include <math.h>

enum { BLOCK = KVQ_TIER_BLOCK, CLASSES = KVQ_CLASSES_MAX };

_Static_assert((int)CLASSES + 1 == (int)KVQ_RUNS_MAX, "classes of 6 bits are two runs");

_Static_assert(sizeof(kvq_tier) <= KVQ_SIDE_OWN, "a side has room for it");

/* ---- Classes ---- */

/* Channels of one width, which follow each other in the order. Codes of 6 bits lie as 4 lower and 2 upper
 * ones. */
typedef struct tier_class {
    uint32_t width;
    size_t first, n;         /* places */
    size_t offset;           /* of the codes in the superblock */
    size_t upper, per_block; /* bytes: of a block of 32 tokens, up to the upper bits, and all */
} tier_class;

static tier_class make_class(uint32_t width, size_t first, size_t n, size_t offset)
{
    const size_t lower = width == 6 ? 4 : width, upper = kvq_round_up(n * lower, 32) / 8 * KVQ_BLOCK;
    return (tier_class){.width = width,
                        .first = first,
                        .n = n,
                        .offset = offset,
                        .upper = upper,
                        .per_block = upper + (width == 6 ? n / 16 * 4 * KVQ_BLOCK : 0)};
}

void kvq_tier_class_layout(const kvq_tier *tier, uint32_t width, size_t n, kvq_layout *l)
{
    const tier_class class = make_class(width, 0, n, 0);
    *l = tier->class;
    l->bits = width;
    l->dim = l->dim_padded = n;
    l->plane[0].width = width == 6 ? 4 : width;
    l->plane[1].offset = class.upper;
    l->n_planes = width == 6 ? 2 : 1;
    l->block_bytes = class.per_block;
    l->meta_offset = l->meta_tile_bytes = l->bytes = 4 * class.per_block; /* of its codes: there is no more */
}

/* The classes that have codes; *n_coded is the number of their channels. */
static size_t find_classes(const kvq_tier *l, const uint8_t *superblock, tier_class classes[CLASSES],
                           size_t *n_coded)
{
    size_t n = 0, offset = 0, block = 0;
    while (n < CLASSES && block < l->n_blocks) {
        uint32_t width = kvq_tier_width(l, superblock, block);
        size_t first = block;
        if (width == 0)
            break;
        while (block < l->n_blocks && kvq_tier_width(l, superblock, block) == width)
            block++;
        classes[n] = make_class(width, first * BLOCK, (block - first) * BLOCK, offset);
        offset += 4 * classes[n++].per_block;
    }
    *n_coded = block * BLOCK;
    return n;
}

static float lo_of(const kvq_tier *l, const uint8_t *superblock, size_t c)
{
    return kvq_f32_from_f16(kvq_load_u16(superblock + l->lo + 2 * c));
}

static float step_of(const kvq_tier *l, const uint8_t *superblock, size_t c)
{
    return kvq_exp2_8th((int8_t)superblock[l->exponents + c]);
}

/* ---- Reading ---- */

/* Add the bits of one plane of token t to its codes, a byte each, in the order. */
static void unpack_plane(const uint8_t *from, uint32_t width, uint32_t shift, size_t n, uint8_t *codes)
{
    const uint32_t mask = ((1u << width) - 1u) * 0x01010101u;
    const size_t quads = 8 / width; /* of four channels in a dword */
    for (size_t quad = 0; quad < n / 4; quad++) {
        uint32_t dword = kvq_load_u32(from + quad / quads * 4 * KVQ_BLOCK);
        uint32_t four = dword >> (uint32_t)(quad % quads) * width & mask;
        kvq_store_u32(codes + 4 * quad, kvq_load_u32(codes + 4 * quad) | four << shift);
    }
}

static void unpack_token(const tier_class *class, const uint8_t *superblock, size_t t, uint8_t *codes)
{
    const uint8_t *from = superblock + class->offset + t / KVQ_BLOCK * class->per_block + t % KVQ_BLOCK * 4;
    memset(codes, 0, class->n);
    unpack_plane(from, class->width == 6 ? 4 : class->width, 0, class->n, codes);
    if (class->width == 6)
        unpack_plane(from + class->upper, 2, 4, class->n, codes);
}

void kvq_tier_read_codes(const kvq_tier *l, const uint8_t *superblock, size_t t0, size_t n, float *out,
                         size_t stride)
{
    tier_class classes[CLASSES];
    size_t n_coded, n_classes = find_classes(l, superblock, classes, &n_coded), channel[KVQ_DIM_MAX];
    float step[KVQ_DIM_MAX], lo[KVQ_DIM_MAX];
    for (size_t i = 0; i < l->dim; i++) { /* channels that pad come last */
        channel[i] = kvq_tier_channel(l, superblock, i);
        step[i] = step_of(l, superblock, channel[i]);
        lo[i] = lo_of(l, superblock, channel[i]);
    }
    for (size_t t = t0; t < t0 + n; t++, out += stride) {
        uint8_t codes[KVQ_DIM_MAX];
        memset(codes, 0, l->dim_padded);
        for (size_t i = 0; i < n_classes; i++)
            unpack_token(&classes[i], superblock, t, codes + classes[i].first);
        for (size_t i = 0; i < l->dim; i++)
            out[channel[i]] = (float)codes[i] * step[i] + lo[i];
    }
}

static const uint8_t *kept_row(const kvq_tier *l, const uint8_t *superblock, size_t i)
{
    return superblock + l->rows + i * l->row_bytes;
}

static void tier_dequantize(const kvq_kernels *k, const kvq_side *s, const uint8_t *superblock, size_t t0,
                            size_t n, float *out, size_t stride)
{
    const kvq_tier *l = kvq_tier_of(s);
    kvq_tier_read_codes(l, superblock, t0, n, out, stride);
    for (size_t i = 0; i < l->n_rows; i++) {
        size_t t = superblock[l->indices + i];
        if (t >= t0 && t < t0 + n)
            k->convert_i8_f32(kept_row(l, superblock, i), l->dim, out + (t - t0) * stride);
    }
}

static void tier_error_bound(const kvq_side *s, const uint8_t *superblock, size_t t0, size_t n, float *out,
                             size_t stride)
{
    const kvq_tier *l = kvq_tier_of(s);
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < l->dim; c++) {
            int8_t exponent = l->certified ? (int8_t)superblock[l->cert + c] : INT8_MAX;
            out[i * stride + c] = exponent == INT8_MAX ? INFINITY : kvq_exp2_8th(exponent);
        }
    for (size_t i = 0; i < l->n_rows; i++) {
        size_t t = superblock[l->indices + i];
        float bound = kvq_row8_error_bound(kvq_row8_scale(kept_row(l, superblock, i)));
        for (size_t c = 0; c < l->dim && t >= t0 && t < t0 + n; c++)
            out[(t - t0) * stride + c] = bound;
    }
}

/* ---- Validation ---- */

static bool widths_are_valid(const kvq_tier *l, const uint8_t *superblock)
{
    size_t sum = 0;
    uint32_t before = l->six ? 6 : 4;
    for (size_t i = 0; i < l->n_blocks; i++) {
        uint32_t width = kvq_tier_width(l, superblock, i);
        if (width > before || width == 3 || width == 5)
            return false;
        sum += width;
        before = width;
    }
    return sum <= l->budget && (l->n_blocks % 2 == 0 || superblock[l->widths + l->n_blocks / 2] < 16);
}

static bool order_is_valid(const kvq_tier *l, const uint8_t *superblock)
{
    bool seen[KVQ_DIM_MAX] = {false};
    for (size_t i = 0; i < l->dim_padded; i++) {
        size_t c = kvq_tier_channel(l, superblock, i);
        if (c >= l->dim_padded || seen[c] || (i >= l->dim && c != i))
            return false;
        seen[c] = true;
    }
    return true;
}

/* Steps, minimums, and nothing where there is no channel or no code. */
static bool numbers_are_valid(const kvq_tier *l, const uint8_t *superblock)
{
    tier_class classes[CLASSES];
    size_t n_coded, n_classes = find_classes(l, superblock, classes, &n_coded), used = 0;
    for (size_t i = 0; i < l->dim_padded; i++) {
        size_t c = kvq_tier_channel(l, superblock, i);
        uint16_t lo = kvq_load_u16(superblock + l->lo + 2 * c);
        if ((lo & 0x7fffu) >= 0x7c00u || (i >= l->dim && lo != 0) ||
            ((i >= n_coded || i >= l->dim) && superblock[l->exponents + c] != 0))
            return false;
    }
    for (size_t i = 0; i < n_classes; i++) {
        const tier_class *class = &classes[i];
        kvq_layout layout;
        kvq_tier_class_layout(l, class->width, class->n, &layout);
        size_t filled = l->dim - class->first < class->n ? l->dim - class->first : class->n;
        for (size_t c = filled; c < kvq_round_up(class->n, 32 / layout.plane[0].width); c++)
            for (size_t t = 0; t < KVQ_SUPERBLOCK; t++)
                if (kvq_code_get(&layout, superblock + class->offset, t, c) != 0)
                    return false;
        used = class->offset + layout.bytes;
    }
    return kvq_all_zero(superblock + used, l->code_bytes - used);
}

static bool rows_are_valid(const kvq_tier *l, const uint8_t *superblock)
{
    for (size_t i = 0; i < l->n_rows; i++) {
        const uint8_t *row = kept_row(l, superblock, i), *index = superblock + l->indices;
        bool none = index[i] == KVQ_NO_TOKEN;
        if (none ? !kvq_all_zero(row, l->row_bytes)
                 : index[i] >= KVQ_SUPERBLOCK || kvq_is_kept(index, i, index[i]) ||
                       !kvq_row8_is_valid(row, l->dim))
            return false;
    }
    return true;
}

static bool tier_is_valid(const kvq_side *s, const uint8_t *superblock, size_t n)
{
    const kvq_tier *l = kvq_tier_of(s);
    if (n == 0)
        return kvq_all_zero(superblock, s->bytes);
    return widths_are_valid(l, superblock) && order_is_valid(l, superblock) &&
           numbers_are_valid(l, superblock) && rows_are_valid(l, superblock) &&
           kvq_all_zero(superblock + l->end, s->bytes - l->end);
}

static bool tier_is_kept(const kvq_side *s, const uint8_t *superblock, size_t t)
{
    const kvq_tier *l = kvq_tier_of(s);
    return kvq_is_kept(superblock + l->indices, l->n_rows, t);
}

/* ---- Scores ---- */

static float levels_of(const tier_class *class)
{
    return (float)((1u << class->width) - 1u);
}

/* The runs of a class: one, or two of 6 bits, which is the widest class, so that the larger shift comes
 * first. folded and stride are bytes. Returns how many. */
static size_t put_runs(const tier_class *class, size_t folded, size_t stride, kvq_run *runs)
{
    const kvq_run whole = {.width = class->width,
                           .offset = class->offset,
                           .block_bytes = class->per_block,
                           .n = class->n,
                           .folded = folded,
                           .folded_stride = stride};
    runs[0] = whole;
    if (class->width != 6)
        return 1;
    runs[1] = whole;
    runs[0].width = 2;
    runs[0].shift = runs[1].width = 4;
    runs[0].offset += class->upper;
    return 2;
}

/* The classes of a superblock, and queries folded into it. */
typedef struct folded_queries {
    tier_class classes[CLASSES];
    size_t n_classes, n_coded, n_rows;
    kvq_run runs[KVQ_RUNS_MAX]; /* where score_runs finds the codes, and what it multiplies them with */
    size_t n_runs;
    float error_per_step; /* root mean square of a score's error, as for affine codes (codec_affine.c) */
    float step[KVQ_ROWS_MAX], bias[KVQ_ROWS_MAX];
    /* Of a class, and there of a row, they follow each other. */
    _Alignas(KVQ_ALIGNMENT) int8_t folded[KVQ_ROWS_MAX * 2 * (KVQ_DIM_MAX + CLASSES * KVQ_BLOCK)];
} folded_queries;

static void find_runs(folded_queries *f)
{
    float sum = 0.0f;
    size_t folded = 0;
    f->n_runs = 0;
    for (size_t j = 0; j < f->n_classes; j++) {
        const tier_class *class = &f->classes[j];
        const size_t stride = 2 * kvq_fold_dim(class->n);
        const float levels = levels_of(class);
        f->n_runs += put_runs(class, folded, stride, f->runs + f->n_runs);
        folded += f->n_rows * stride;
        sum += levels * levels * (float)class->n;
    }
    f->error_per_step = sqrtf(sum * (KVQ_MEAN_SQUARE_CODE / 12.0f));
}

static void fold_queries(const kvq_kernels *k, const kvq_tier *l, const uint8_t *superblock, const float *q,
                         size_t n_q, bool wide, folded_queries *f)
{
    uint16_t channel[KVQ_DIM_MAX];
    f->n_classes = find_classes(l, superblock, f->classes, &f->n_coded);
    f->n_rows = wide ? 2 * n_q : n_q;
    find_runs(f);
    kvq_ordered ordered = {.dim = l->dim,
                           .exponent = (const int8_t *)superblock + l->exponents,
                           .lo =
                               (const uint16_t *)(const void *)(superblock + l->lo), /* behind whole units */
                           .channel = channel,
                           .n_classes = f->n_classes};
    kvq_tier_read_order(l, superblock, f->n_coded, channel);
    for (size_t j = 0; j < f->n_classes; j++) {
        ordered.n_places[j] = f->classes[j].n;
        ordered.half_levels[j] = 0.5f * levels_of(&f->classes[j]);
    }
    k->fold_ordered(&ordered, q, n_q, wide, f->folded, f->step, f->bias);
}

/* Scores of the tokens that are kept as rows take the place of those of their codes, and their rests of 0. */
static void score_kept(const kvq_kernels *k, const kvq_tier *l, const kvq_tokens *tokens, const float *q,
                       size_t n_q, size_t n_rows, float *scores)
{
    float kept[KVQ_ROWS_MAX * KVQ_SUPERBLOCK]; /* filled as far as it is used */
    if (l->n_rows == 0)
        return;
    k->dot_i8(kept_row(l, tokens->superblock, 0), l->row_bytes, l->n_rows, (kvq_next){NULL, 0}, q, n_q,
              l->dim, kept);
    for (size_t j = 0; j < l->n_rows; j++) {
        const size_t t = tokens->superblock[l->indices + j];
        for (size_t i = 0; i < n_rows && t < tokens->n; i++)
            scores[i * KVQ_SUPERBLOCK + t] = i < n_q ? kept[i * KVQ_SUPERBLOCK + j] : 0.0f;
    }
}

static void tier_score(const kvq_kernels *k, const kvq_side *s, const kvq_tokens *tokens, const float *q,
                       size_t n_q, float *scores, float *rms_error)
{
    const kvq_tier *l = kvq_tier_of(s);
    folded_queries f;
    const bool wide = tokens->sums == KVQ_SUMS_WIDE;
    fold_queries(k, l, tokens->superblock, q, n_q, wide, &f);
    for (size_t i = 0; i < n_q; i++) {
        const bool fits = f.step[i] <= KVQ_FOLD_MAX && fabsf(f.bias[i]) <= KVQ_FOLD_MAX; /* false for NaN */
        rms_error[i] = fits ? f.step[i] * f.error_per_step : INFINITY;
    }
    if (!wide && !kvq_any_folded(rms_error, n_q))
        return;
    k->score_runs(f.runs, f.n_runs, tokens->superblock, tokens->next, tokens->n, f.folded, f.step, f.bias,
                  f.n_rows, scores);
    score_kept(k, l, tokens, q, n_q, f.n_rows, scores);
}

/* ---- What schemes say ---- */

/* Saved caches rely on the default: it never changes. */
enum { U_DEFAULT = 7, HALVES_MIN = 2, HALVES_MAX = 10, HALVES_OF_SIX = 6 };

/* BITS [":fb"] [":u=" N] [":cert"] */
static bool tier_parse(const kvq_codec *codec, kvq_text *t, kvq_role role, uint32_t *parameter)
{
    (void)codec;
    const char *start = t->at;
    if (role != KVQ_KEYS)
        return kvq_text_fail(t, start, "tier is for keys");
    if (t->at[-1] != ':')
        return kvq_text_fail(t, start, "tier needs its bits, as in tier:2");
    if (!kvq_text_halves(t, HALVES_MAX, &parameter[KVQ_TIER_HALVES]))
        return false;
    if (parameter[KVQ_TIER_HALVES] < HALVES_MIN || parameter[KVQ_TIER_HALVES] > HALVES_MAX)
        return kvq_text_fail(t, start, "bits must be 1, 1.5, 2, ... or 5");
    parameter[KVQ_TIER_FEEDBACK] = kvq_text_accept_word(t, ":fb");
    parameter[KVQ_TIER_U] = U_DEFAULT;
    if (kvq_text_accept(t, ":u=") && !kvq_text_number(t, 99, &parameter[KVQ_TIER_U]))
        return false;
    parameter[KVQ_TIER_CERT] = kvq_text_accept_word(t, ":cert");
    return true;
}

static void tier_print(const kvq_codec *codec, kvq_printer *p, kvq_role role, const uint32_t *parameter)
{
    (void)codec, (void)role;
    kvq_put_halves(p, "tier:", parameter[KVQ_TIER_HALVES]);
    if (parameter[KVQ_TIER_FEEDBACK] != 0)
        kvq_put(p, ":fb");
    if (parameter[KVQ_TIER_U] != U_DEFAULT)
        kvq_put_number(p, ":u=", parameter[KVQ_TIER_U]);
    if (parameter[KVQ_TIER_CERT] != 0)
        kvq_put(p, ":cert");
}

static void lay_out(kvq_tier *l)
{
    l->code_bytes = kvq_round_up(l->budget, 2) * KVQ_TIER_UNIT_BYTES;
    l->lo = l->code_bytes;
    l->exponents = l->lo + 2 * l->dim_padded;
    l->order = l->exponents + l->dim_padded;
    l->order_bytes = l->dim_padded <= 256 ? 1 : 2;
    l->widths = l->order + l->order_bytes * l->dim_padded;
    l->rows = l->widths + (l->n_blocks + 1) / 2;
    l->row_bytes = kvq_row8_bytes(l->dim);
    l->indices = l->rows + l->n_rows * l->row_bytes;
    l->cert = l->indices + l->n_rows;
    l->end = l->cert + (l->certified ? l->dim : 0);
}

static const char *tier_init(kvq_side *s)
{
    kvq_tier *l = (kvq_tier *)(void *)s->own;
    if (s->common.heavy_hitters > KVQ_HEAVY_HITTERS_MAX)
        return "too many heavy hitters";
    if (s->parameter[KVQ_TIER_FEEDBACK] != 0 && s->dim > KVQ_TIER_FEEDBACK_DIM_MAX)
        return "feedback is for head dimensions up to 256";
    const size_t dim_padded = kvq_round_up(s->dim, BLOCK);
    *l = (kvq_tier){.dim = s->dim,
                    .dim_padded = dim_padded,
                    .n_blocks = dim_padded / BLOCK,
                    .budget = s->parameter[KVQ_TIER_HALVES] * dim_padded / (2 * BLOCK),
                    .n_rows = s->common.heavy_hitters,
                    .feedback = s->parameter[KVQ_TIER_FEEDBACK] != 0,
                    .certified = s->parameter[KVQ_TIER_CERT] != 0,
                    .six = s->parameter[KVQ_TIER_HALVES] >= HALVES_OF_SIX,
                    .u = (float)s->parameter[KVQ_TIER_U],
                    .class = {.role = KVQ_KEYS,
                              .per_channel = true,
                              .group = KVQ_SUPERBLOCK,
                              .tokens_per_run = KVQ_SUPERBLOCK,
                              .plane = {{.width = 0}, {.width = 2, .shift = 4}},
                              .meta_tile_tokens = KVQ_SUPERBLOCK}};
    lay_out(l);
    s->bytes = kvq_round_up(l->end, KVQ_ALIGNMENT);
    s->tokens_per_run = s->sliding_step = KVQ_SUPERBLOCK;
    s->payload_per_run = l->code_bytes;
    s->metadata_per_run = s->bytes - l->code_bytes;
    s->evidence = KVQ_EVIDENCE_ENERGY | (l->n_rows > 0 ? (unsigned)KVQ_EVIDENCE_RECEIVED : 0u) |
                  (l->feedback ? (unsigned)KVQ_EVIDENCE_MOMENT : 0u);
    s->heavy_hitters = s->common.heavy_hitters;
    s->folds = true;
    s->per_channel = true;
    return NULL;
}

const kvq_codec kvq_codec_tier = {
    .name = "tier",
    .parse = tier_parse,
    .print = tier_print,
    .init = tier_init,
    .encode = kvq_tier_encode,
    .dequantize = tier_dequantize,
    .error_bound = tier_error_bound,
    .is_valid = tier_is_valid,
    .is_kept = tier_is_kept,
    .score = tier_score,
};
