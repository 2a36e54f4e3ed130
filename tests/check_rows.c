/*
 * Kernels on plain rows and scores, against formulas in double.
 */
#include "quant/row8.h"
#include "tests/kernel_checks.h"

void check_all_finite_f32(const kvq_kernels *k)
{
    static const uint32_t others[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffffffff},
                          largest[] = {0x7f7fffff, 0xff7fffff, 0x00000001, 0x80000000, 0x007fffff};
    for (size_t i = 0; i < N_LENGTHS; i++) {
        size_t n = length_of(i);
        float *x = floats_in(&in_a, random_fill(), n, 1);
        for (size_t j = 0; j < 5 && n > 0; j++)
            x[rng_below(&r, n)] = kvq_f32_of_bits(largest[j]);
        cr_assert(k->all_finite_f32(x, n), "n = %zu: all are finite", n);
        for (size_t j = 0; j < n; j += 1 + n / 64)
            for (size_t o = 0; o < 5; o++) {
                float kept = x[j];
                x[j] = kvq_f32_of_bits(others[o]);
                cr_assert(!k->all_finite_f32(x, n), "n = %zu: x[%zu] = %08x is not finite", n, j, others[o]);
                x[j] = kept;
            }
    }
}

/* Is `half` the saturated nearest half of x? By distance to its neighbours, ties to even. */
static bool is_nearest(float x, uint16_t half)
{
    unsigned magnitude = half & 0x7fffu;
    double wanted = fabs((double)x), got = fabs((double)kvq_f32_from_f16(half));
    if (magnitude > 0x7bff || !signbit(x) != !(half & 0x8000))
        return false;
    double up = magnitude == 0x7bff ? INFINITY : (double)kvq_f32_from_f16((uint16_t)(magnitude + 1)) - wanted;
    double down = magnitude == 0 ? INFINITY : wanted - (double)kvq_f32_from_f16((uint16_t)(magnitude - 1));
    double distance = fabs(wanted - got);
    bool even = magnitude % 2 == 0;
    return (distance < up || (distance == up && even)) && (distance < down || (distance == down && even));
}

void check_convert_f32_f16(const kvq_kernels *k)
{
    for (size_t i = 0; i < 4 * N_LENGTHS; i++) {
        size_t n = length_of(i / 4);
        fill_kind kind = random_fill();
        const float *x = floats_in(&in_a, kind, n, 1);
        uint16_t *out = place(&out_a, random_placing(&r), n, sizeof *out),
                 *spec = place(&out_b, random_placing(&r), n, sizeof *spec);
        k->convert_f32_f16(x, n, out);
        kvq_kernels_portable.convert_f32_f16(x, n, spec);
        check_canaries(&out_a, "convert_f32_f16");
        cr_assert(same_bits("convert_f32_f16", out, spec, n * sizeof *out), "n = %zu, %s", n,
                  fill_names[kind]);
        for (size_t j = 0; j < n; j++)
            cr_assert(is_nearest(x[j], out[j]), "n = %zu, %s: %a to %04x", n, fill_names[kind], (double)x[j],
                      out[j]);
    }
}

void check_convert_f16_f32(const kvq_kernels *k)
{
    for (size_t i = 0; i < N_LENGTHS; i++) {
        size_t n = length_of(i);
        uint16_t *x = place(&in_a, random_placing(&r), n, sizeof *x);
        float *out = place(&out_a, random_placing(&r), n, sizeof *out);
        for (size_t j = 0; j < n; j++)
            do
                x[j] = (uint16_t)rng_u64(&r);
            while ((x[j] & 0x7c00) == 0x7c00);
        k->convert_f16_f32(x, n, out);
        check_canaries(&out_a, "convert_f16_f32");
        for (size_t j = 0; j < n; j++) {
            int exponent = x[j] >> 10 & 31, fraction = x[j] & 1023;
            double wanted = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
            cr_assert(fabs((double)out[j]) == wanted && !signbit(out[j]) == !(x[j] & 0x8000),
                      "n = %zu: %04x to %a", n, x[j], (double)out[j]);
        }
    }
}

void check_convert_f32_bf16(const kvq_kernels *k)
{
    const float largest = 0x1.fep+127f;
    for (size_t i = 0; i < 4 * N_LENGTHS; i++) {
        size_t n = length_of(i / 4);
        float *x = floats_in(&in_a, random_fill(), n, 1);
        uint16_t *out = place(&out_a, random_placing(&r), n, sizeof *out);
        for (size_t j = 0; j < n && i % 2; j++) /* any finite bits, a third of them ties */
            do
                x[j] = kvq_f32_of_bits((uint32_t)rng_u64(&r) & (j % 3 ? 0xffffffffu : 0xffff8000u));
            while (!isfinite(x[j]));
        k->convert_f32_bf16(x, n, out);
        check_canaries(&out_a, "convert_f32_bf16");
        for (size_t j = 0; j < n; j++) {
            double wanted = fabs((double)x[j]), unit = ldexp(1, -133);
            if (wanted >= 0x1p-126)
                unit = ldexp(1, ilogb(wanted) - 7);
            wanted = fmin(rint(wanted / unit) * unit, (double)largest); /* rint: to nearest even */
            double got = fabs((double)kvq_f32_of_bits((uint32_t)out[j] << 16));
            cr_assert(got == wanted && !signbit(x[j]) == !(out[j] & 0x8000), "n = %zu: %a to %04x", n,
                      (double)x[j], out[j]);
        }
    }
}

void check_convert_bf16_f32(const kvq_kernels *k)
{
    for (size_t i = 0; i < N_LENGTHS; i++) {
        size_t n = length_of(i);
        uint16_t *x = place(&in_a, random_placing(&r), n, sizeof *x);
        float *out = place(&out_a, random_placing(&r), n, sizeof *out);
        for (size_t j = 0; j < n; j++)
            do
                x[j] = (uint16_t)rng_u64(&r);
            while ((x[j] & 0x7f80) == 0x7f80);
        k->convert_bf16_f32(x, n, out);
        check_canaries(&out_a, "convert_bf16_f32");
        for (size_t j = 0; j < n; j++) {
            int exponent = x[j] >> 7 & 255, fraction = x[j] & 127;
            double wanted = exponent == 0 ? ldexp(fraction, -133) : ldexp(128 + fraction, exponent - 134);
            cr_assert(fabs((double)out[j]) == wanted && !signbit(out[j]) == !(x[j] & 0x8000),
                      "n = %zu: %04x to %a", n, x[j], (double)out[j]);
        }
    }
}

static float dot_by_contract(const float *q, const float *row, size_t dim)
{
    float lane[LANES] = {0};
    for (size_t c = 0; c < dim; c++)
        lane[c % LANES] = single((double)lane[c % LANES] + (double)single((double)q[c] * (double)row[c]));
    return sum_lanes_by_contract(lane);
}

/* Shapes: all short dimensions, then larger ones; a few rows with a stride. */
enum { N_SHAPES = MAX_SHORT + 40 };

static rows_shape shape_of(size_t i)
{
    rows_shape s = {.dim = i < MAX_SHORT ? i + 1 : 1 + rng_below(&r, KVQ_DIM_MAX)};
    s.n = rng_below(&r, 6) == 0 ? 0 : rng_below(&r, 24);
    s.stride = rng_u64(&r) & 1 ? s.dim : s.dim + rng_below(&r, 20);
    s.n_q = 1 + rng_below(&r, KVQ_ROWS_MAX);
    return s;
}

/* Rows in float or half, and the same values as float. */
static const void *rows_in(guarded *g, rows_shape s, bool half, float *values)
{
    fill_kind kind = (fill_kind)rng_below(&r, FILL_HUGE); /* sums of the huge ones may overflow */
    size_t n = extent(s);
    const uint16_t *halves = half ? halves_in(g, kind, n, 1) : NULL;
    const float *floats = half ? NULL : floats_in(g, kind, n, 1);
    for (size_t i = 0; i < n; i++)
        values[i] = half ? kvq_f32_from_f16(halves[i]) : floats[i];
    return half ? (const void *)halves : floats;
}

static float row_values[24 * (KVQ_DIM_MAX + 20)];

/* What may be prefetched: nothing, or anything. */
static kvq_next random_next(const void *rows)
{
    return (kvq_next){rows, rng_u64(&r) & 1 ? 0 : rng_below(&r, 100000)};
}

/* Floats of n_q rows of n, T apart. */
static size_t rows_apart(rows_shape s)
{
    return s.n == 0 ? 0 : (s.n_q - 1) * T + s.n;
}

/* Score j of n_q times n. */
static void check_score(const char *name, rows_shape s, const float *scores, size_t j, float wanted)
{
    float got = scores[j / s.n * T + j % s.n];
    cr_assert(kvq_bits_of_f32(got) == kvq_bits_of_f32(wanted),
              "%s, row %zu of %zu, query %zu of %zu, D = %zu, stride %zu: %a, not %a", name, j % s.n, s.n,
              j / s.n, s.n_q, s.dim, s.stride, (double)got, (double)wanted);
}

/* Nothing was written behind the scores of a query. */
static void check_between(rows_shape s, const float *scores)
{
    for (size_t i = 0; i < rows_apart(s); i++)
        cr_assert(i % T < s.n || kvq_bits_of_f32(scores[i]) == 0x01010101u * CANARY, "wrote past row %zu",
                  i / T);
}

static void check_dot(const kvq_kernels *k, bool half)
{
    for (size_t i = 0; i < N_SHAPES; i++) {
        rows_shape s = shape_of(i);
        const void *rows = rows_in(&in_a, s, half, row_values);
        const float *q = floats_in(&in_b, FILL_NORMAL, s.n_q, s.dim);
        float *scores = place(&out_a, random_placing(&r), rows_apart(s), sizeof *scores);
        if (half)
            k->dot_f16(rows, s.stride, s.n, random_next(rows), q, s.n_q, s.dim, scores);
        else
            k->dot_f32(rows, s.stride, s.n, random_next(rows), q, s.n_q, s.dim, scores);
        check_canaries(&out_a, "dot");
        for (size_t j = 0; j < s.n * s.n_q; j++) {
            float wanted = dot_by_contract(q + j / s.n * s.dim, row_values + j % s.n * s.stride, s.dim);
            check_score("dot", s, scores, j, wanted);
        }
        check_between(s, scores);
    }
}

void check_dot_f32(const kvq_kernels *k)
{
    check_dot(k, false);
}

void check_dot_f16(const kvq_kernels *k)
{
    check_dot(k, true);
}

static void check_accumulate(const kvq_kernels *k, bool half)
{
    static float wanted[KVQ_ROWS_MAX * KVQ_DIM_MAX];
    for (size_t i = 0; i < N_SHAPES; i++) {
        rows_shape s = shape_of(i);
        const void *rows = rows_in(&in_a, s, half, row_values);
        const float *p = floats_in(&in_b, FILL_NORMAL, rows_apart(s), 1);
        float *acc = floats_in(&out_a, FILL_OFFSETS, s.n_q, s.dim);
        for (size_t c = 0; c < s.n_q * s.dim; c++) {
            wanted[c] = acc[c];
            for (size_t j = 0; j < s.n; j++) {
                float product =
                    single((double)p[c / s.dim * T + j] * (double)row_values[j * s.stride + c % s.dim]);
                wanted[c] = single((double)wanted[c] + (double)product);
            }
        }
        if (half)
            k->accumulate_f16(rows, s.stride, s.n, random_next(rows), p, s.n_q, s.dim, acc);
        else
            k->accumulate_f32(rows, s.stride, s.n, random_next(rows), p, s.n_q, s.dim, acc);
        check_canaries(&out_a, "accumulate");
        cr_assert(same_bits("accumulate", acc, wanted, s.n_q * s.dim * sizeof *acc),
                  "%zu rows, %zu queries, D = %zu, stride %zu", s.n, s.n_q, s.dim, s.stride);
    }
}

void check_accumulate_f32(const kvq_kernels *k)
{
    check_accumulate(k, false);
}

void check_accumulate_f16(const kvq_kernels *k)
{
    check_accumulate(k, true);
}

/* ---- Rows of int8 ---- */

void check_convert_f32_i8(const kvq_kernels *k)
{
    for (size_t i = 0; i < 4 * N_LENGTHS; i++) {
        size_t n = length_of(i / 4);
        fill_kind kind = random_fill();
        const float *x = floats_in(&in_a, kind, n, 1);
        uint8_t *row = place(&out_a, random_placing(&r), n + KVQ_ROW8_HEAD, 1), wanted[MAX_LONG + 64];
        k->convert_f32_i8(x, n, row);
        check_canaries(&out_a, "convert_f32_i8");
        float max = 0.0f;
        for (size_t j = 0; j < n; j++)
            max = fmaxf(max, fabsf(x[j]));
        cr_assert(is_nearest(single((double)max / 127), kvq_load_u16(row)), "n = %zu: %a has scale %a", n,
                  (double)max, (double)kvq_row8_scale(row));
        memcpy(wanted, row, KVQ_ROW8_HEAD);
        float scale = kvq_row8_scale(row), bound = kvq_row8_error_bound(scale);
        for (size_t j = 0; j < n; j++) {
            double code = scale == 0.0f ? 0 : (double)single((double)x[j] / (double)scale);
            code = nearbyint(fmin(fmax(code, -127), 127));
            wanted[KVQ_ROW8_HEAD + j] = (uint8_t)(int8_t)code;
            cr_assert(fabs((double)x[j] - code * (double)scale) <= (double)bound,
                      "n = %zu: %a is off by more than %a", n, (double)x[j], (double)bound);
        }
        cr_assert(same_bits("convert_f32_i8", row, wanted, n + KVQ_ROW8_HEAD), "n = %zu, %s", n,
                  fill_names[kind]);
        cr_assert(kvq_row8_is_valid(row, n), "n = %zu", n);
    }
}

/* Rows s.stride + 2 bytes apart, and what they stand for; codes may be -128, which no encoder writes. */
static const uint8_t *rows8_in(guarded *g, rows_shape s, float *codes, float *scales)
{
    size_t n_bytes = s.n == 0 ? 0 : extent(s) + KVQ_ROW8_HEAD * s.n;
    uint8_t *rows = place(g, random_placing(&r), n_bytes, 1);
    for (size_t i = 0; i < n_bytes; i++)
        rows[i] = (uint8_t)rng_u64(&r);
    for (size_t j = 0; j < s.n; j++) {
        uint8_t *row = rows + j * (s.stride + KVQ_ROW8_HEAD);
        kvq_store_u16(row, (uint16_t)rng_below(&r, 0x7c00));
        scales[j] = kvq_row8_scale(row);
        for (size_t c = 0; c < s.dim; c++)
            codes[j * s.stride + c] = (float)(int8_t)row[KVQ_ROW8_HEAD + c];
    }
    return rows;
}

void check_convert_i8_f32(const kvq_kernels *k)
{
    static float codes[MAX_LONG], wanted[MAX_LONG];
    for (size_t i = 0; i < N_LENGTHS; i++) {
        size_t n = length_of(i);
        float scale, *out = place(&out_a, random_placing(&r), n, sizeof *out);
        const uint8_t *row = rows8_in(&in_a, (rows_shape){.n = 1, .dim = n, .stride = n}, codes, &scale);
        k->convert_i8_f32(row, n, out);
        check_canaries(&out_a, "convert_i8_f32");
        for (size_t j = 0; j < n; j++)
            wanted[j] = single((double)codes[j] * (double)scale);
        cr_assert(same_bits("convert_i8_f32", out, wanted, n * sizeof *out), "n = %zu", n);
    }
}

void check_dot_i8(const kvq_kernels *k)
{
    for (size_t i = 0; i < N_SHAPES; i++) {
        rows_shape s = shape_of(i);
        float scales[24];
        const uint8_t *rows = rows8_in(&in_a, s, row_values, scales);
        const float *q = floats_in(&in_b, FILL_NORMAL, s.n_q, s.dim);
        float *scores = place(&out_a, random_placing(&r), rows_apart(s), sizeof *scores);
        k->dot_i8(rows, s.stride + KVQ_ROW8_HEAD, s.n, random_next(rows), q, s.n_q, s.dim, scores);
        check_canaries(&out_a, "dot_i8");
        for (size_t j = 0; j < s.n * s.n_q; j++) {
            float sum = dot_by_contract(q + j / s.n * s.dim, row_values + j % s.n * s.stride, s.dim);
            check_score("dot_i8", s, scores, j, single((double)scales[j % s.n] * (double)sum));
        }
        check_between(s, scores);
    }
}

void check_accumulate_i8(const kvq_kernels *k)
{
    static float wanted[KVQ_ROWS_MAX * KVQ_DIM_MAX];
    for (size_t i = 0; i < N_SHAPES; i++) {
        rows_shape s = shape_of(i);
        float scales[24];
        const uint8_t *rows = rows8_in(&in_a, s, row_values, scales);
        const float *p = floats_in(&in_b, FILL_NORMAL, rows_apart(s), 1);
        float *acc = floats_in(&out_a, FILL_OFFSETS, s.n_q, s.dim);
        for (size_t c = 0; c < s.n_q * s.dim; c++) {
            wanted[c] = acc[c];
            for (size_t j = 0; j < s.n; j++) {
                double weight = (double)single((double)p[c / s.dim * T + j] * (double)scales[j]);
                float product = single(weight * (double)row_values[j * s.stride + c % s.dim]);
                wanted[c] = single((double)wanted[c] + (double)product);
            }
        }
        k->accumulate_i8(rows, s.stride + KVQ_ROW8_HEAD, s.n, random_next(rows), p, s.n_q, s.dim, acc);
        check_canaries(&out_a, "accumulate_i8");
        cr_assert(same_bits("accumulate_i8", acc, wanted, s.n_q * s.dim * sizeof *acc),
                  "%zu rows, %zu queries, D = %zu, stride %zu", s.n, s.n_q, s.dim, s.stride);
    }
}

void check_max_f32(const kvq_kernels *k)
{
    for (size_t i = 1; i < 4 * N_LENGTHS; i++) {
        size_t n = length_of(i / 4);
        if (n == 0)
            continue;
        float *x = floats_in(&in_a, random_fill(), n, 1);
        float wanted = x[0];
        for (size_t j = 1; j < n; j++)
            if (x[j] > wanted)
                wanted = x[j];
        float got = k->max_f32(x, n), spec = kvq_kernels_portable.max_f32(x, n);
        cr_assert(got == wanted, "n = %zu: %a, not %a", n, (double)got, (double)wanted);
        cr_assert(memcmp(&got, &spec, sizeof got) == 0, "n = %zu: %a, not %a", n, (double)got, (double)spec);
        static const float bad[] = {INFINITY, -INFINITY, NAN, -NAN};
        for (size_t j = 0; j < n; j++) { /* one of them anywhere, whatever comes before and behind */
            const float good = x[j];
            x[j] = bad[(i + j) % 4];
            cr_assert(isnan(k->max_f32(x, n)), "n = %zu: %a at %zu is overlooked", n, (double)x[j], j);
            x[j] = good;
        }
    }
}

/* x holds what was, y what the kernel made of it. The contract counts from the float x - max. */
static void check_powers(const float *x, const float *y, size_t n, float max)
{
    for (size_t i = 0; i < n; i++) {
        float d = x[i] - max;
        double wanted = exp2((double)d);
        if (d < -125.5f) {
            cr_assert(y[i] == 0.0f && !signbit(y[i]), "2^%a is %a, not 0", (double)d, (double)y[i]);
            continue;
        }
        int exponent;
        (void)frexp(wanted, &exponent); /* wanted < 2^exponent, so that an ulp is 2^(exponent - 24) */
        double ulp = ldexp(1, exponent - 24);
        cr_assert(fabs((double)y[i] - wanted) <= 2 * ulp, "2^%a is %a, %g ulp off", (double)d, (double)y[i],
                  ((double)y[i] - wanted) / ulp);
        cr_assert(d != 0.0f || y[i] == 1.0f, "2^0 is %a", (double)y[i]);
    }
}

static void check_powers_and_sum(const kvq_kernels *k, const float *x, size_t n, float max)
{
    float *y = place(&out_a, random_placing(&r), n, sizeof *y), lane[LANES] = {0};
    float *spec = place(&out_b, random_placing(&r), n, sizeof *spec);
    if (n > 0) {
        memcpy(y, x, n * sizeof *y);
        memcpy(spec, x, n * sizeof *spec);
    }
    float sum = k->exp2_sum_f32(y, n, max);
    (void)kvq_kernels_portable.exp2_sum_f32(spec, n, max);
    check_canaries(&out_a, "exp2_sum_f32");
    cr_assert(same_bits("exp2_sum_f32", y, spec, n * sizeof *y), "n = %zu", n);
    check_powers(x, y, n, max);
    for (size_t i = 0; i < n; i++)
        lane[i % LANES] = single((double)lane[i % LANES] + (double)y[i]);
    float wanted = sum_lanes_by_contract(lane);
    cr_assert(memcmp(&sum, &wanted, sizeof sum) == 0, "n = %zu: the sum is %a, not %a", n, (double)sum,
              (double)wanted);
}

void check_exp2_sum_f32(const kvq_kernels *k)
{
    static float x[MAX_LONG];
    for (size_t i = 0; i < 4 * N_LENGTHS; i++) {
        size_t n = length_of(i / 4);
        float max = 3 * rng_normal(&r), spread = i % 4 == 0 ? 140.0f : i % 4 == 1 ? 1e-3f : 10.0f;
        for (size_t j = 0; j < n; j++)
            x[j] = rng_below(&r, 8) == 0   ? -INFINITY
                   : rng_below(&r, 8) == 0 ? max
                   : rng_below(&r, 8) == 0 ? max + 16 * rng_uniform(&r)
                                           : max - spread * rng_uniform(&r);
        check_powers_and_sum(k, x, n, max);
    }
    /* Densely from 0 to below -126, where the results end; then tiny and huge arguments. */
    size_t n = 0;
    for (float d = 0; d > -127.5f; d -= 0.00031f) {
        x[n++] = d;
        if (n == MAX_LONG) {
            check_powers_and_sum(k, x, n, 0);
            n = 0;
        }
    }
    check_powers_and_sum(k, x, n, 0);
    n = 0;
    for (int exponent = -149; exponent < 128; exponent++)
        x[n++] = -ldexpf(1, exponent);
    const float ends[] = {-125.0f, -125.49999f, -125.5f,        -125.50001f, -126.0f,
                          -127.0f, -0.0f,       -3.4028235e38f, -INFINITY};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        x[n++] = ends[i];
    check_powers_and_sum(k, x, n, 0);
    for (n = 0; n < MAX_LONG; n++) /* and above */
        x[n] = 100.0f * (float)n / MAX_LONG;
    check_powers_and_sum(k, x, n, 0);
}
