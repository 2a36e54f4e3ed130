/*
 * Encoding rotated values (codec_rot.c, whose first comment has the formulas).
 */
#include "quant/rot.h"

#include <float.h>
#include <math.h>

enum { T = KVQ_SUPERBLOCK, BLOCK = KVQ_BLOCK, LANES = KVQ_LANES };

enum { QUADS = KVQ_ROT_CLASS / 4 }; /* a quad is four tokens: four bytes of a dword, one code in each */

/* The codes of a block and sixteen channels, 32 rows of Dp bytes, as quads: dword j is that of channel j. In
 * two steps, which compilers make instructions of that interleave. */
static void interleave(const uint8_t *codes, size_t dim_padded, uint32_t quad[QUADS][LANES])
{
    for (size_t k = 0; k < QUADS; k++, codes += 4 * dim_padded) {
        const uint8_t *a = codes, *b = a + dim_padded, *c = b + dim_padded, *d = c + dim_padded;
        uint16_t low[LANES], high[LANES];
        for (size_t j = 0; j < LANES; j++) {
            low[j] = (uint16_t)(a[j] | b[j] << 8);
            high[j] = (uint16_t)(c[j] | d[j] << 8);
        }
        for (size_t j = 0; j < LANES; j++)
            quad[k][j] = low[j] | (uint32_t)high[j] << 16;
    }
}

/* Store them in a plane of `width` bits, from bit `shift` of a code on: 8 / width quads to a row. */
static void pack_plane(uint32_t quad[QUADS][LANES], uint32_t width, uint32_t shift, uint8_t *to)
{
    const uint32_t mask = ((1u << width) - 1u) * 0x01010101u, per_row = 8 / width;
    for (size_t k = 0; k < QUADS; k += per_row, to += 4 * LANES) {
        uint32_t row[LANES] = {0};
        for (uint32_t i = 0; i < per_row; i++)
            for (size_t j = 0; j < LANES; j++)
                row[j] |= (quad[k + i][j] >> shift & mask) << (i * width);
        memcpy(to, row, sizeof row);
    }
}

/* Store a block's codes, 32 rows of Dp bytes. */
static void pack_block(const kvq_rot *l, const kvq_rot_codes *b, const uint8_t *codes, uint8_t *superblock)
{
    uint32_t quad[QUADS][LANES];
    for (size_t c = 0; c < l->dim_padded && b->n_planes > 0; c += LANES) {
        interleave(codes + c, l->dim_padded, quad);
        for (size_t i = 0; i < b->n_planes; i++)
            pack_plane(quad, b->plane_width[i], b->shift[i],
                       superblock + b->offset[i] + c / LANES * b->stride[i]);
    }
}

typedef struct page {
    const kvq_kernels *k;
    const kvq_rot *l;
    const float *x;
    size_t stride;
    uint8_t kept[KVQ_HEAVY_HITTERS_MAX], place[T];
    float mean[KVQ_DIM_MAX]; /* what stands for the kept tokens */
    int32_t log[T];          /* of the scale; of a token that is 0, INT32_MIN */
    float share[T];          /* of the attention received: a_t / sum a; 0 for the kept ones */
} page;

/* Codes of y, Dp bytes; returns <y, q>. */
static float choose_codes(const page *p, uint32_t width, float sigma, const float *y, uint8_t *codes)
{
    const float *levels = kvq_rot_levels(p->l, width);
    float threshold[15];
    for (size_t i = 0; i + 1 < (size_t)1 << width; i++)
        threshold[i] = 0.5f * (levels[i] + levels[i + 1]) * sigma;
    float product = p->k->choose_levels(y, p->l->dim_padded, threshold, levels, width, codes);
    memset(codes + p->l->dim, 0, p->l->dim_padded - p->l->dim);
    return product;
}

static const float *token_of(const page *p, size_t t)
{
    return kvq_is_kept(p->kept, p->l->n_rows, t) ? p->mean : p->x + t * p->stride;
}

/* Codes of 32 tokens from t0 on, Dp bytes each at their places, and the logarithms of their scales. Step by
 * step for all of them, so that no token waits for what another's sums lead to. */
static void encode_block(page *p, const uint8_t *superblock, size_t t0, uint8_t *codes)
{
    const kvq_rot *l = p->l;
    float y[BLOCK * KVQ_DIM_MAX], squared[BLOCK], product[BLOCK], ratio[BLOCK];
    uint32_t width[BLOCK];
    int32_t shift[BLOCK] = {0}, log[BLOCK];
    for (size_t i = 0; i < BLOCK; i++) {
        size_t class = p->place[t0 + i] / KVQ_ROT_CLASS;
        width[i] = l->bits != 0 ? l->bits : kvq_rot_class_width(l, superblock, class);
        squared[i] = 0.0f;
        if (width[i] > 0)
            shift[i] = p->k->rotate_row(token_of(p, t0 + i), l->dim, y + i * l->dim_padded, &squared[i]);
    }
    for (size_t i = 0; i < BLOCK; i++) {
        uint8_t *own = codes + p->place[t0 + i] * l->dim_padded;
        product[i] = 0.0f;
        if (squared[i] > 0.0f)
            product[i] =
                choose_codes(p, width[i], sqrtf(squared[i] / (float)l->dim), y + i * l->dim_padded, own);
        else
            memset(own, 0, l->dim_padded);
    }
    for (size_t i = 0; i < BLOCK; i++) {
        ratio[i] = product[i] > 0.0f ? squared[i] / product[i] : 1.0f;
        log[i] = kvq_log2_16th(ratio[i]);
    }
    for (size_t i = 0; i < BLOCK; i++) {
        const int32_t n = log[i] - 16 * shift[i];
        p->log[t0 + i] = product[i] > 0.0f ? (n > l->log_limit ? l->log_limit : n) : INT32_MIN;
    }
}

/* What tokens of 1.5 bits are sorted by. */
static void find_weights(const page *p, const float *received, double *weight)
{
    double mean = 0;
    for (size_t t = 0; t < T; t++)
        mean += received != NULL ? (double)received[t] / T : 1.0 / T;
    for (size_t t = 0; t < T; t++) {
        double norm = 0;
        for (size_t c = 0; c < p->l->dim; c++)
            norm += (double)p->x[t * p->stride + c] * (double)p->x[t * p->stride + c];
        weight[t] = norm * (mean + (received != NULL ? (double)received[t] : 1));
    }
}

/* Sort tokens into classes and give these widths; 1.5 bits. The kept ones come last, and weigh as much as
 * the least of the others: they must not take the bits of those they stand with. */
static void sort_tokens(const page *p, double *weight, uint8_t *superblock)
{
    uint16_t order[T];
    double of_class[KVQ_ROT_CLASSES];
    uint8_t width[KVQ_ROT_CLASSES];
    for (size_t i = 0; i < p->l->n_rows; i++)
        if (p->kept[i] != KVQ_NO_TOKEN)
            weight[p->kept[i]] = -1;
    kvq_sort_down(weight, T, order);
    double least = 0;
    for (size_t i = 0; i < T && weight[order[i]] >= 0; i++)
        least = weight[order[i]];
    for (size_t i = 0; i < KVQ_ROT_CLASSES; i++) {
        double sorted[KVQ_ROT_CLASS];
        for (size_t j = 0; j < KVQ_ROT_CLASS; j++)
            sorted[j] = fmax(weight[order[i * KVQ_ROT_CLASS + j]], least);
        of_class[i] = sqrt(kvq_geometric_mean_16(sorted)) * sqrt(kvq_geometric_mean_16(sorted + 16));
    }
    kvq_allocate_widths(of_class, KVQ_ROT_CLASSES, KVQ_ROT_BUDGET, false, width);
    for (size_t i = 0; i < T; i++)
        superblock[p->l->order + i] = (uint8_t)order[i];
    for (size_t i = 0; i < KVQ_ROT_CLASSES; i++)
        superblock[p->l->widths + i / 2] |= (uint8_t)(width[i] << i % 2 * 4);
}

static void store_scales(const page *p, uint8_t *superblock)
{
    int32_t largest = KVQ_ROT_LOG_LEAST;
    for (size_t t = 0; t < T; t++)
        largest = p->log[t] > largest ? p->log[t] : largest;
    int32_t base =
        largest - KVQ_ROT_N_LARGEST < KVQ_ROT_LOG_LEAST ? KVQ_ROT_LOG_LEAST : largest - KVQ_ROT_N_LARGEST;
    kvq_store_u16(superblock + p->l->base, (uint16_t)(int16_t)base);
    for (size_t t = 0; t < T; t++) {
        int32_t n = p->log[t] == INT32_MIN ? 0 : p->log[t] - base < 1 ? 1 : p->log[t] - base;
        superblock[p->l->scales + t] = (uint8_t)n;
    }
}

static void find_shares(page *p, const float *received)
{
    double sum = 0, own[T];
    for (size_t t = 0; t < T; t++) {
        own[t] = received != NULL ? (double)received[t] : 1;
        own[t] = kvq_is_kept(p->kept, p->l->n_rows, t) ? 0 : own[t];
        sum += own[t];
    }
    for (size_t t = 0; t < T; t++)
        p->share[t] = sum > 0 ? (float)(own[t] / sum) : 0.0f;
}

/* f = sum of shares of v, minus that of what is read back, turned once. */
static void store_page_vector(const page *p, uint8_t *superblock)
{
    const kvq_rot *l = p->l;
    const float page_scale = kvq_rot_page_scale(l, superblock);
    float of_numbers[KVQ_DIM_MAX] = {0}, sum[KVQ_DIM_MAX] = {0}, f[KVQ_DIM_MAX];
    p->k->accumulate_f32(p->x, p->stride, T, (kvq_next){NULL, 0}, p->share, 1, l->dim, of_numbers);
    for (size_t i = 0; i < KVQ_ROT_CLASSES; i++) {
        const kvq_rot_codes b = kvq_rot_codes_of_block(l, superblock, i);
        const kvq_block_codes codes = kvq_rot_block_codes(&b, superblock);
        float factor[KVQ_ROT_CLASS];
        for (size_t j = 0; j < KVQ_ROT_CLASS; j++) {
            const size_t place = i * KVQ_ROT_CLASS + j,
                         t = l->bits != 0 ? place : superblock[l->order + place];
            factor[j] = kvq_rot_scale(l, superblock, page_scale, t) * p->share[t];
        }
        if (b.width > 0)
            p->k->accumulate_levels(&codes, kvq_rot_levels(l, b.width), factor, 1, l->dim_padded, sum);
    }
    kvq_rotate(p->k, l->dim, sum);
    for (size_t c = 0; c < l->dim; c++) {
        float error = of_numbers[c] - sum[c];
        f[c] = error > FLT_MAX ? FLT_MAX : error < -FLT_MAX ? -FLT_MAX : error;
    }
    p->k->convert_f32_i8(f, l->dim, superblock + l->page);
}

static void encode_tokens(page *p, uint8_t *codes, uint8_t *superblock)
{
    const kvq_rot *l = p->l;
    kvq_rot_places(l, superblock, p->place);
    for (size_t t = 0; t < T; t += BLOCK)
        encode_block(p, superblock, t, codes);
    for (size_t i = 0; i < KVQ_ROT_CLASSES; i++) {
        kvq_rot_codes b = kvq_rot_codes_of_block(l, superblock, i);
        pack_block(l, &b, codes + i * KVQ_ROT_CLASS * l->dim_padded, superblock);
    }
}

void kvq_rot_encode(const kvq_kernels *k, const kvq_side *s, uint8_t *superblock, size_t t0, size_t n,
                    const float *x, size_t stride, const kvq_evidence *evidence)
{
    (void)t0;
    const kvq_rot *l = kvq_rot_of(s);
    const float *received = evidence != NULL ? evidence->received : NULL;
    page p = {.k = k, .l = l, .x = x, .stride = stride};
    uint8_t codes[T * KVQ_DIM_MAX];
    double weight[T];
    float heaviness[T];
    if (n == 0)
        return;
    memset(superblock, 0, s->bytes);
    if (l->bits == 0) {
        find_weights(&p, received, weight);
        for (size_t t = 0; t < T; t++)
            heaviness[t] = weight[t] < (double)FLT_MAX ? (float)weight[t] : FLT_MAX;
    }
    kvq_heaviest(received == NULL || l->bits != 0 ? received : heaviness, T, l->n_rows, p.kept);
    kvq_mean_of_others(k, x, stride, l->dim, p.kept, l->n_rows, p.mean);
    if (l->bits == 0)
        sort_tokens(&p, weight, superblock);
    encode_tokens(&p, codes, superblock);
    store_scales(&p, superblock);
    find_shares(&p, received);
    if (l->has_page)
        store_page_vector(&p, superblock);
    for (size_t i = 0; i < l->n_rows; i++) {
        superblock[l->indices + i] = p.kept[i];
        if (p.kept[i] != KVQ_NO_TOKEN)
            k->convert_f32_i8(x + p.kept[i] * stride, l->dim, superblock + l->rows + i * l->row_bytes);
    }
}
