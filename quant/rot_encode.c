/*
 * Encoding rotated values (codec_rot.c, whose first comment has the formulas).
 */
#include "quant/rot.h"

#include <float.h>
#include <math.h>

enum { T = KVQ_SUPERBLOCK, LANES = 16 };

/* The codes of four tokens, rows of Dp bytes, side by side: byte i of dword j is that of token i and channel
 * j. */
static inline void interleave(const uint8_t *codes, size_t dim_padded, uint8_t quad[4 * LANES])
{
    for (size_t j = 0; j < LANES; j++)
        for (size_t i = 0; i < 4; i++)
            quad[4 * j + i] = codes[i * dim_padded + j];
}

/* Store a block's codes, 32 rows of Dp bytes; its bytes are 0. */
static void pack_block(const kvq_rot *l, const kvq_rot_codes *b, const uint8_t *codes, uint8_t *superblock)
{
    for (size_t c = 0; c < l->dim_padded; c += LANES)
        for (size_t k = 0; k < KVQ_ROT_CLASS / 4; k++) { /* four tokens are a row of dwords */
            uint8_t quad[4 * LANES];
            interleave(codes + 4 * k * l->dim_padded + c, l->dim_padded, quad);
            for (size_t i = 0; i < b->n_planes; i++) {
                const uint32_t width = b->plane_width[i], mask = ((1u << width) - 1u) * 0x01010101u,
                               per_dword = 8 / width, up = (uint32_t)(k % per_dword) * width,
                               down = b->shift[i];
                uint8_t *to =
                    superblock + b->offset[i] + c / LANES * b->stride[i] + k / per_dword * (4 * LANES);
                for (size_t j = 0; j < 4 * LANES; j += 4)
                    kvq_store_u32(to + j, kvq_load_u32(to + j) | (kvq_load_u32(quad + j) >> down & mask)
                                                                     << up);
            }
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

/* Codes of a token, Dp bytes, and the logarithm of its scale. */
static void encode_token(page *p, size_t t, uint32_t width, uint8_t *codes)
{
    float y[KVQ_DIM_MAX], squared;
    p->log[t] = INT32_MIN;
    if (width == 0) {
        memset(codes, 0, p->l->dim_padded);
        return;
    }
    const int32_t shift = p->k->rotate_row(token_of(p, t), p->l->dim, y, &squared);
    float product = choose_codes(p, width, sqrtf(squared / (float)p->l->dim), y, codes);
    if (!(product > 0.0f)) /* zeros, or a program that flushes subnormals has made them; codes are 0, too */
        return;
    int32_t n = kvq_log2_16th(squared / product) - 16 * shift;
    p->log[t] = n > p->l->log_limit ? p->l->log_limit : n;
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
    float of_numbers[KVQ_DIM_MAX] = {0}, sums[2][KVQ_DIM_MAX] = {{0}}, f[KVQ_DIM_MAX];
    float *before = sums[0], *after = sums[1];
    p->k->accumulate_f32(p->x, p->stride, T, (kvq_next){NULL, 0}, p->share, 1, l->dim, of_numbers);
    for (size_t i = 0; i < KVQ_ROT_CLASSES; i++) {
        const kvq_rot_codes b = kvq_rot_codes_of_block(l, superblock, i);
        for (size_t j = 0; j < KVQ_ROT_CLASS && b.width > 0; j++) {
            const size_t place = i * KVQ_ROT_CLASS + j,
                         t = l->bits != 0 ? place : superblock[l->order + place];
            const float scale = kvq_rot_scale(l, superblock, page_scale, t) * p->share[t];
            if (scale == 0.0f)
                continue;
            const kvq_token_codes codes = kvq_rot_codes_of_token(&b, superblock, j);
            p->k->dequantize_levels(&codes, kvq_rot_levels(l, b.width), scale, before, l->dim, after);
            float *swap = before;
            before = after;
            after = swap;
        }
    }
    kvq_rotate(p->k, l->dim, before);
    for (size_t c = 0; c < l->dim; c++) {
        float error = of_numbers[c] - before[c];
        f[c] = error > FLT_MAX ? FLT_MAX : error < -FLT_MAX ? -FLT_MAX : error;
    }
    p->k->convert_f32_i8(f, l->dim, superblock + l->page);
}

static void encode_tokens(page *p, uint8_t *codes, uint8_t *superblock)
{
    const kvq_rot *l = p->l;
    kvq_rot_places(l, superblock, p->place);
    for (size_t t = 0; t < T; t++) {
        uint32_t width =
            l->bits != 0 ? l->bits : kvq_rot_class_width(l, superblock, p->place[t] / KVQ_ROT_CLASS);
        encode_token(p, t, width, codes + p->place[t] * l->dim_padded);
    }
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
