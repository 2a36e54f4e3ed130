/*
 * The portable kernels on rows of int8 (row8.h): their specification.
 */
#include "quant/kernels.h"
#include "quant/row8.h"

enum { LANES = KVQ_LANES };

void kvq_convert_f32_i8_portable(const float *x, size_t n, uint8_t *row)
{
    const float round_magic = 0x1.8p23f; /* adding and subtracting it rounds to the nearest integer */
    float max = 0.0f;
    for (size_t i = 0; i < n; i++) {
        float magnitude = x[i] < 0.0f ? -x[i] : x[i];
        max = magnitude > max ? magnitude : max;
    }
    uint16_t half = kvq_f16_from_f32_saturating(max / (float)KVQ_ROW8_LARGEST);
    float scale = kvq_f32_from_f16(half), largest = (float)KVQ_ROW8_LARGEST;
    kvq_store_u16(row, half);
    for (size_t i = 0; i < n; i++) {
        float code = half != 0 ? x[i] / scale : 0.0f;
        code = code > largest ? largest : code < -largest ? -largest : code;
        row[KVQ_ROW8_HEAD + i] = (uint8_t)(int8_t)((code + round_magic) - round_magic);
    }
}

void kvq_convert_i8_f32_portable(const uint8_t *row, size_t n, float *out)
{
    float scale = kvq_row8_scale(row);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(int8_t)row[KVQ_ROW8_HEAD + i] * scale;
}

static float dot_of(const uint8_t *row, const float *q, size_t dim)
{
    const uint8_t *codes = row + KVQ_ROW8_HEAD;
    float lane[LANES] = {0};
    for (size_t c = 0; c < dim; c++)
        lane[c % LANES] += q[c] * (float)(int8_t)codes[c];
    return kvq_row8_scale(row) * kvq_sum_lanes(lane);
}

void kvq_dot_i8_portable(const uint8_t *rows, size_t stride, size_t n, kvq_next next, const float *q,
                         size_t n_q, size_t dim, float *scores)
{
    (void)next;
    for (size_t j = 0; j < n; j++, rows += stride)
        for (size_t i = 0; i < n_q; i++)
            scores[i * KVQ_SUPERBLOCK + j] = dot_of(rows, q + i * dim, dim);
}

void kvq_accumulate_i8_portable(const uint8_t *rows, size_t stride, size_t n, kvq_next next, const float *p,
                                size_t n_q, size_t dim, float *acc)
{
    (void)next;
    for (size_t j = 0; j < n; j++, rows += stride)
        for (size_t i = 0; i < n_q; i++) {
            float weight = p[i * KVQ_SUPERBLOCK + j] * kvq_row8_scale(rows);
            for (size_t c = 0; c < dim; c++)
                acc[i * dim + c] += weight * (float)(int8_t)rows[KVQ_ROW8_HEAD + c];
        }
}
