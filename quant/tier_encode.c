/*
 * Encoding keys in widths (codec_tier.c, whose first comment has the formulas).
 *
 * Everything that decides something is either a kernel (the same bits everywhere) or plain double arithmetic
 * with sqrt, in an order that is written down here, so that a superblock has the same bytes on every machine.
 */
#include "quant/tier.h"

#include "quant/logstep.h"

#include <float.h>
#include <math.h>

enum { T = KVQ_SUPERBLOCK, BLOCK = KVQ_TIER_BLOCK, TILE = T * BLOCK };

/* ---- Shared with codec_rot.c ---- */

void kvq_heaviest(const float *weight, size_t n, size_t m, uint8_t *index)
{
    for (size_t i = 0; i < m; i++) {
        size_t best = KVQ_NO_TOKEN;
        for (size_t t = 0; weight != NULL && t < n; t++)
            if (!kvq_is_kept(index, i, t) && (best == KVQ_NO_TOKEN || weight[t] > weight[best]))
                best = t;
        index[i] = (uint8_t)best;
    }
}

void kvq_mean_of_others(const kvq_kernels *k, const float *x, size_t stride, size_t dim, const uint8_t *index,
                        size_t m, float *mean)
{
    size_t others = T;
    float part[T];
    for (size_t t = 0; t < T; t++)
        part[t] = 1.0f / T;
    for (size_t i = 0; i < m; i++)
        if (index[i] != KVQ_NO_TOKEN) {
            part[index[i]] = 0.0f;
            others--;
        }
    memset(mean, 0, dim * sizeof *mean);
    if (others == T) /* nobody asks */
        return;
    const float back = (float)T / (float)others;
    k->accumulate_f32(x, stride, T, (kvq_next){NULL, 0}, part, 1, dim, mean);
    for (size_t c = 0; c < dim; c++) {
        float whole = mean[c] * back;
        mean[c] = whole > FLT_MAX ? FLT_MAX : whole < -FLT_MAX ? -FLT_MAX : whole;
    }
}

double kvq_geometric_mean_16(const double x[16])
{
    double mean[16];
    for (size_t i = 0; i < 16; i++)
        mean[i] = x[i] > 1e-20 ? x[i] : 1e-20;
    for (size_t n = 8; n > 0; n /= 2)
        for (size_t i = 0; i < n; i++)
            mean[i] = sqrt(mean[i]) * sqrt(mean[i + n]);
    return mean[0];
}

/* Two sorted runs, the first n places and the others up to 2 n, into one; without branches on what is
 * compared, which nobody could predict. */
static void merge(const double *weight, const uint16_t *from, size_t n, size_t end, uint16_t *to)
{
    size_t a = 0, b = n;
    for (; a < n && b < end; to++) {
        bool second = weight[from[b]] > weight[from[a]];
        *to = from[second ? b : a];
        b += second;
        a += !second;
    }
    memcpy(to, from + a, (n - a) * sizeof *to);
    memcpy(to + (n - a), from + b, (end - b) * sizeof *to);
}

void kvq_sort_down(const double *weight, size_t n, uint16_t *order)
{
    uint16_t other[KVQ_DIM_MAX], *from = order, *to = other;
    for (size_t i = 0; i < n; i++)
        order[i] = (uint16_t)i;
    for (size_t run = 1; run < n; run *= 2) {
        for (size_t i = 0; i < n; i += 2 * run) {
            size_t left = n - i;
            merge(weight, from + i, run < left ? run : left, 2 * run < left ? 2 * run : left, to + i);
        }
        uint16_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != order)
        memcpy(order, from, n * sizeof *order);
}

void kvq_allocate_widths(const double *weight, size_t n_blocks, size_t budget, bool six, uint8_t *width)
{
    static const uint8_t next[7] = {1, 2, 4, 0, 6, 0, 0};
    static const double noise[7] = {1, 0.363, 0.1188, 0, 0.01154, 0, 0.00104};
    memset(width, 0, n_blocks);
    for (;;) {
        size_t best = n_blocks, best_step = 0;
        double best_gain = 0;
        for (size_t i = 0; i < n_blocks; i++) {
            uint32_t from = width[i], to = next[from];
            if (to == 0 || (to == 6 && !six) || to - from > budget)
                continue;
            double gain = weight[i] * (noise[from] - noise[to]) / (double)(to - from);
            if (gain > best_gain) {
                best = i;
                best_gain = gain;
                best_step = to - from;
            }
        }
        if (best == n_blocks)
            return;
        width[best] = next[width[best]];
        budget -= best_step;
    }
}

/* ---- A page ---- */

/* What is encoded. */
typedef struct page {
    const kvq_kernels *k;
    const kvq_tier *l;
    const float *x;
    size_t stride;
    uint8_t kept[KVQ_HEAVY_HITTERS_MAX];
    float mean[KVQ_DIM_MAX]; /* what stands for the kept tokens */
    const float *row[T];     /* of every token: that, or its own */
    kvq_channels stats[KVQ_TIER_BLOCKS_MAX];
    double weight[KVQ_DIM_MAX];  /* of channels; 0 of those that pad */
    uint16_t order[KVQ_DIM_MAX]; /* channels by weight */
    uint8_t width[KVQ_TIER_BLOCKS_MAX];
} page;

/* The rows, the mean in place of kept ones. */
static void find_rows(page *p, const float *x, size_t stride)
{
    for (size_t t = 0; t < T; t++)
        p->row[t] = x + t * stride;
    for (size_t i = 0; i < p->l->n_rows; i++)
        if (p->kept[i] != KVQ_NO_TOKEN)
            p->row[p->kept[i]] = p->mean;
}

/* What the channels look like, and the variance of each, finite. */
static void find_variances(page *p, double *variance)
{
    for (size_t c = 0; c < p->l->dim_padded; c += BLOCK) {
        kvq_channels *stats = &p->stats[c / BLOCK];
        if (c + BLOCK <= p->l->dim) {
            p->k->channel_stats(p->row, c, stats);
        } else { /* some are missing: 0 */
            float tile[TILE] = {0};
            const float *row[T];
            for (size_t t = 0; t < T; t++) {
                row[t] = tile + t * BLOCK;
                memcpy(tile + t * BLOCK, p->row[t] + c, (p->l->dim - c) * sizeof *tile);
            }
            p->k->channel_stats(row, 0, stats);
        }
        for (size_t j = 0; j < BLOCK; j++)
            variance[c + j] = stats->square[j] < FLT_MAX ? (double)stats->square[j] / T : (double)FLT_MAX;
    }
}

/* Order and widths by weight. A block that padding fills up counts by the share of its channels, as if these
 * were repeated. */
static void allocate(page *p)
{
    const kvq_tier *l = p->l;
    double of_block[KVQ_TIER_BLOCKS_MAX];
    kvq_sort_down(p->weight, l->dim, p->order);
    for (size_t i = l->dim; i < l->dim_padded; i++)
        p->order[i] = (uint16_t)i;
    for (size_t i = 0; i < l->n_blocks; i++) {
        double sixteen[BLOCK];
        size_t n = l->dim - i * BLOCK < BLOCK ? l->dim - i * BLOCK : BLOCK;
        for (size_t j = 0; j < BLOCK; j++)
            sixteen[j] = p->weight[p->order[i * BLOCK + (n > 0 ? j % n : 0)]];
        of_block[i] = kvq_geometric_mean_16(sixteen) * (double)n / BLOCK;
    }
    kvq_allocate_widths(of_block, l->n_blocks, l->budget, l->six, p->width);
}

/* ---- Codes ---- */

/* The dwords of a plane of `width` bits that hold 32 / width channels of 32 tokens: the bits from `shift` on
 * of codes, a block of 16 channels after the other. */
static void pack_plane(const uint8_t *codes, size_t n_blocks, uint32_t width, uint32_t shift, uint8_t *to)
{
    const uint32_t mask = ((1u << width) - 1u) * 0x01010101u;
    const size_t quads = 8 / width; /* of four channels in a dword */
    for (size_t quad = 0; quad < 4 * n_blocks; quad++, codes += 4 * T) {
        const uint32_t up = (uint32_t)(quad % quads) * width;
        uint8_t *dwords = to + quad / quads * 4 * KVQ_BLOCK;
        for (size_t t = 0; t < KVQ_BLOCK; t++) {
            const uint32_t bits = (kvq_load_u32(codes + 4 * t) >> shift & mask) << up;
            kvq_store_u32(dwords + 4 * t, kvq_load_u32(dwords + 4 * t) | bits);
        }
    }
}

/* All codes, block after block as fit_channels stores them, into their places, which are 0. */
static void pack(const page *p, const uint8_t *codes, uint8_t *superblock)
{
    for (size_t i = 0, n, offset = 0; i < p->l->n_blocks && p->width[i] > 0; i += n) {
        for (n = 1; i + n < p->l->n_blocks && p->width[i + n] == p->width[i]; n++)
            ;
        kvq_layout l;
        kvq_tier_class_layout(p->l, p->width[i], n * BLOCK, &l);
        for (size_t t = 0; t < T; t += KVQ_BLOCK)
            for (size_t j = 0; j < l.n_planes; j++)
                pack_plane(codes + i * TILE + 4 * t, n, l.plane[j].width, l.plane[j].shift,
                           superblock + offset + t / KVQ_BLOCK * l.block_bytes + l.plane[j].offset);
        offset += l.meta_offset;
    }
}

/* Where the codes of a channel at a place begin; those of the next token are four bytes on. */
static uint8_t *codes_at(uint8_t *codes, size_t place)
{
    return codes + place / 4 * 4 * T + place % 4;
}

static void store_channel(const kvq_tier *l, uint8_t *superblock, size_t c, int8_t exponent, uint16_t lo)
{
    if (c >= l->dim)
        return;
    superblock[l->exponents + c] = (uint8_t)exponent;
    kvq_store_u16(superblock + l->lo + 2 * c, lo);
}

/* Sixteen channels of the order: what they look like. */
static void collect_stats(const page *p, const uint16_t *channel, kvq_channels *stats)
{
    for (size_t j = 0; j < BLOCK; j++) {
        const kvq_channels *from = &p->stats[channel[j] / BLOCK];
        const size_t i = channel[j] % BLOCK;
        stats->mean[j] = from->mean[i];
        stats->min[j] = from->min[i];
        stats->max[j] = from->max[i];
        stats->square[j] = from->square[i];
    }
}

enum { TILES = 4, ROWS = 32, AT_ONCE = 4 };

/* Tiles of channels of the order; those that pad are any other. ROWS rows at a time, which stay in the cache
 * until all their channels have moved; AT_ONCE channels of them, whose places stay in registers. */
static void collect_tiles(const page *p, const uint16_t *channel, size_t n_tiles, float *tiles)
{
    for (size_t t0 = 0; t0 < T; t0 += ROWS)
        for (size_t j = 0; j < n_tiles * BLOCK; j += AT_ONCE) {
            size_t at[AT_ONCE];
            float *to = tiles + j / BLOCK * TILE + t0 * BLOCK + j % BLOCK;
            for (size_t i = 0; i < AT_ONCE; i++)
                at[i] = channel[j + i] < p->l->dim ? channel[j + i] : 0;
            for (size_t t = t0; t < t0 + ROWS; t++, to += BLOCK) {
                const float *row = p->row[t];
                for (size_t i = 0; i < AT_ONCE; i++)
                    to[i] = row[at[i]];
            }
        }
}

static void fit(const page *p, uint8_t *codes, uint8_t *superblock)
{
    _Alignas(KVQ_ALIGNMENT) float tiles[TILES * TILE];
    for (size_t i = 0; i < p->l->n_blocks; i++) {
        const uint16_t *channel = p->order + i * BLOCK;
        int8_t exponent[BLOCK];
        uint16_t lo[BLOCK];
        kvq_channels stats;
        if (i % TILES == 0 && p->width[i] > 0)
            collect_tiles(p, channel, p->l->n_blocks - i < TILES ? p->l->n_blocks - i : TILES, tiles);
        collect_stats(p, channel, &stats);
        p->k->fit_channels(tiles + i % TILES * TILE, &stats, p->width[i], p->l->u, codes + i * TILE, exponent,
                           lo);
        for (size_t j = BLOCK; j-- > 0 && channel[j] >= p->l->dim;)
            for (size_t t = 0; t < T; t++)
                codes_at(codes, i * BLOCK + j)[4 * t] = 0;
        for (size_t j = 0; j < BLOCK; j++)
            store_channel(p->l, superblock, channel[j], exponent[j], lo[j]);
    }
}

/* ---- Feedback ---- */

/* Channels one after the other, what rounding takes from each made up for in the later ones; numbers that
 * would leave the floats stay as they are. */
static void fit_with_feedback(const page *p, const uint16_t *turn, const double *u, uint8_t *codes,
                              uint8_t *superblock)
{
    float owed[KVQ_TIER_FEEDBACK_DIM_MAX][T], share[KVQ_TIER_FEEDBACK_DIM_MAX], fed[T], own[T];
    uint8_t one[T];
    uint16_t place[KVQ_TIER_FEEDBACK_DIM_MAX] = {0};
    memset(codes, 0, p->l->n_blocks * TILE);
    for (size_t i = 0; i < p->l->dim_padded; i++)
        place[p->order[i]] = (uint16_t)i;
    for (size_t i = 0; i < p->l->dim; i++) {
        const double *column = u + kvq_tier_row(i);
        size_t c = turn[i], block = place[c] / BLOCK;
        int8_t exponent;
        uint16_t lo;
        for (size_t j = 0; j < i; j++)
            share[j] = (float)column[j];
        memset(fed, 0, sizeof fed);
        p->k->accumulate_f32(owed[0], T, i, (kvq_next){NULL, 0}, share, 1, T, fed);
        for (size_t t = 0; t < T; t++) {
            float x = p->row[t][c], with = x - fed[t];
            own[t] = fabsf(with) <= FLT_MAX ? with : x;
        }
        p->k->fit_channel(own, p->width[block], p->l->u, one, &exponent, &lo);
        store_channel(p->l, superblock, c, exponent, lo);
        const float step = p->width[block] > 0 ? kvq_exp2_8th(exponent) : 0.0f, start = kvq_f32_from_f16(lo),
                    by = (float)(1 / column[i]);
        for (size_t t = 0; t < T; t++)
            owed[i][t] = (own[t] - ((float)one[t] * step + start)) * by;
        uint8_t *to = codes_at(codes, place[c]);
        for (size_t t = 0; t < T; t++)
            to[4 * t] = one[t];
    }
}

/* ---- All of it ---- */

/* Largest error of each channel, as read back, in eighths of an octave and rounded up. */
static void certify(const page *p, uint8_t *superblock)
{
    enum { SLICE = 16 };
    double worst[KVQ_DIM_MAX] = {0};
    float rows[SLICE * KVQ_DIM_MAX];
    for (size_t t = 0; t < T; t++) {
        const float *row = rows + t % SLICE * p->l->dim;
        if (t % SLICE == 0)
            kvq_tier_read_codes(p->l, superblock, t, SLICE, rows, p->l->dim);
        if (kvq_is_kept(p->kept, p->l->n_rows, t))
            continue;
        for (size_t c = 0; c < p->l->dim; c++) {
            double error = fabs((double)p->x[t * p->stride + c] - (double)row[c]);
            worst[c] = error > worst[c] ? error : worst[c];
        }
    }
    for (size_t c = 0; c < p->l->dim; c++) {
        int32_t n = worst[c] < (double)FLT_MAX ? kvq_log2_8th((float)worst[c]) : 127;
        while (n < 127 && (double)kvq_exp2_8th(n) < worst[c])
            n++;
        superblock[p->l->cert + c] = (uint8_t)(int8_t)n;
    }
}

static void store_order(const page *p, uint8_t *superblock)
{
    const kvq_tier *l = p->l;
    for (size_t i = 0; i < l->dim_padded; i++)
        if (l->order_bytes == 1)
            superblock[l->order + i] = (uint8_t)p->order[i];
        else
            kvq_store_u16(superblock + l->order + 2 * i, p->order[i]);
    for (size_t i = 0; i < l->n_blocks; i++)
        superblock[l->widths + i / 2] |= (uint8_t)(p->width[i] << i % 2 * 4);
}

static void store_kept(const page *p, uint8_t *superblock)
{
    for (size_t i = 0; i < p->l->n_rows; i++) {
        superblock[p->l->indices + i] = p->kept[i];
        if (p->kept[i] != KVQ_NO_TOKEN)
            p->k->convert_f32_i8(p->x + p->kept[i] * p->stride, p->l->dim,
                                 superblock + p->l->rows + i * p->l->row_bytes);
    }
}

void kvq_tier_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                     const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)t0;
    static const kvq_evidence none = {NULL, NULL, NULL};
    const kvq_evidence *e = evidence != NULL ? evidence : &none;
    const kvq_tier *l = kvq_tier_of(s);
    page p = {.k = k, .l = l, .x = x, .stride = stride};
    uint8_t codes[T * KVQ_DIM_MAX];
    uint16_t turn[KVQ_TIER_FEEDBACK_DIM_MAX] = {0};
    double u[KVQ_TIER_TRIANGLE_MAX], variance[KVQ_DIM_MAX] = {0}, upside_down[KVQ_DIM_MAX];
    if (n == 0)
        return;
    memset(superblock, 0, s->bytes);
    kvq_heaviest(e->received, T, l->n_rows, p.kept);
    kvq_mean_of_others(k, x, stride, l->dim, p.kept, l->n_rows, p.mean);
    find_rows(&p, x, stride);
    find_variances(&p, variance);
    for (size_t c = 0; c < l->dim; c++)
        p.weight[c] = (e->energy != NULL ? (double)e->energy[c] : 1) * variance[c];
    bool feedback = l->feedback && e->moment != NULL;
    if (feedback) {
        for (size_t c = 0; c < l->dim; c++)
            upside_down[c] = -p.weight[c];
        kvq_sort_down(upside_down, l->dim, turn);
        feedback = kvq_tier_make_feedback(k, e->moment, turn, l->dim, u);
    }
    for (size_t i = 0; i < l->dim && feedback; i++) {
        double own = u[kvq_tier_row(i) + i];
        p.weight[turn[i]] = variance[turn[i]] / (own * own);
    }
    allocate(&p);
    if (feedback)
        fit_with_feedback(&p, turn, u, codes, superblock);
    else
        fit(&p, codes, superblock);
    pack(&p, codes, superblock);
    store_order(&p, superblock);
    store_kept(&p, superblock);
    if (l->certified)
        certify(&p, superblock);
}
