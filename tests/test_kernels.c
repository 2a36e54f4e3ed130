/*
 * Every kernel of every instruction set that runs here: against formulas in double, and bit for bit against
 * the portable kernel where kernels.h says EXACT.
 *
 * A slot is tested by the function check_SLOT, found through KVQ_KERNEL_LIST: a new slot without a test does
 * not compile, a new instruction set needs its name in `isas`. Buffers lie flush against unmapped pages, now
 * at the one end and now at the other, or a few elements off; the bytes around outputs must stay as they are.
 */
#define _DEFAULT_SOURCE /* mmap's MAP_ANONYMOUS */

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "quant/codec.h"
#include "tests/support.h"

enum { LANES = 16, T = KVQ_SUPERBLOCK, MAX_SHORT = 3 * LANES + 1, MAX_LONG = 4000, CANARY = 0xa5 };

/* ---- Buffers between two unmapped pages ---- */

typedef struct guarded {
    uint8_t *begin, *end; /* of the mapped bytes */
    uint8_t *data;        /* the buffer inside them */
    size_t n_bytes;
} guarded;

static void guarded_make(guarded *g, size_t capacity)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (capacity + page - 1) / page * page;
    uint8_t *map = mmap(NULL, n + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(map != MAP_FAILED && mprotect(map + page, n, PROT_READ | PROT_WRITE) == 0, "no memory");
    *g = (guarded){.begin = map + page, .end = map + page + n};
}

/* Where a buffer lies: flush with either end, or some elements away from it. */
typedef struct placing {
    bool at_end;
    size_t offset; /* in elements */
} placing;

static placing random_placing(rng *r)
{
    return (placing){.at_end = rng_u64(r) & 1, .offset = rng_u64(r) & 1 ? 0 : rng_below(r, LANES)};
}

/* Place n elements; everything mapped becomes canaries. */
static void *place(guarded *g, placing at, size_t n, size_t element_bytes)
{
    g->n_bytes = n * element_bytes;
    cr_assert(g->n_bytes + LANES * element_bytes <= (size_t)(g->end - g->begin), "the buffer is too small");
    memset(g->begin, CANARY, (size_t)(g->end - g->begin));
    g->data = at.at_end ? g->end - (at.offset + n) * element_bytes : g->begin + at.offset * element_bytes;
    return g->data;
}

static void check_canaries(const guarded *g, const char *what)
{
    for (const uint8_t *p = g->begin; p < g->end; p++)
        cr_assert((p >= g->data && p < g->data + g->n_bytes) || *p == CANARY,
                  "%s: a byte %td before or after the output was written (seed %llu)", what,
                  p < g->data ? g->data - p : p - g->data - (ptrdiff_t)g->n_bytes,
                  (unsigned long long)test_seed());
}

/* Buffers for all checks; each is used by one argument at a time. */
static guarded in_a, in_b, out_a, out_b;
static rng r;

static float *floats_in(guarded *g, fill_kind kind, size_t n, size_t dim)
{
    float *x = place(g, random_placing(&r), n * dim, sizeof *x);
    fill(&r, kind, x, n, dim);
    return x;
}

static uint16_t *halves_in(guarded *g, fill_kind kind, size_t n, size_t dim)
{
    static float x[MAX_LONG + KVQ_DIM_MAX * 64];
    uint16_t *half = place(g, random_placing(&r), n * dim, sizeof *half);
    fill(&r, kind, x, n, dim);
    for (size_t i = 0; i < n * dim; i++)
        half[i] = kvq_f16_from_f32_saturating(x[i]);
    return half;
}

/* Lengths: all short ones, then random ones. */
enum { N_LENGTHS = MAX_SHORT + 1 + 30 };

static size_t length_of(size_t i)
{
    return i <= MAX_SHORT ? i : 1 + rng_below(&r, MAX_LONG);
}

static fill_kind random_fill(void)
{
    return (fill_kind)rng_below(&r, N_FILLS);
}

/* One rounding of float; double has more than twice the bits, so going through it does no harm. */
static float single(double x)
{
    return (float)x;
}

/* ---- Rows and scores ---- */

static void check_all_finite_f32(const kvq_kernels *k)
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

static void check_convert_f32_f16(const kvq_kernels *k)
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

static void check_convert_f16_f32(const kvq_kernels *k)
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

/* The sum of 16 lanes, halved by halves; every addition rounded to float. */
static float sum_lanes(float lane[LANES])
{
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            lane[j] = single((double)lane[j] + (double)lane[j + width]);
    return lane[0];
}

static float dot_by_contract(const float *q, const float *row, size_t dim)
{
    float lane[LANES] = {0};
    for (size_t c = 0; c < dim; c++)
        lane[c % LANES] = single((double)lane[c % LANES] + (double)single((double)q[c] * (double)row[c]));
    return sum_lanes(lane);
}

/* Shapes of rows: all short dimensions, then larger ones; a few rows with a stride. */
typedef struct rows_shape {
    size_t n, dim, stride;
} rows_shape;

enum { N_SHAPES = MAX_SHORT + 40 };

static rows_shape shape_of(size_t i)
{
    rows_shape s = {.dim = i < MAX_SHORT ? i + 1 : 1 + rng_below(&r, KVQ_DIM_MAX)};
    s.n = rng_below(&r, 6) == 0 ? 0 : rng_below(&r, 24);
    s.stride = rng_u64(&r) & 1 ? s.dim : s.dim + rng_below(&r, 20);
    return s;
}

/* Elements from the first to the last one that belongs to a row. */
static size_t extent(rows_shape s)
{
    return s.n == 0 ? 0 : (s.n - 1) * s.stride + s.dim;
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

static void check_dot(const kvq_kernels *k, bool half)
{
    for (size_t i = 0; i < N_SHAPES; i++) {
        rows_shape s = shape_of(i);
        const void *rows = rows_in(&in_a, s, half, row_values);
        const float *q = floats_in(&in_b, FILL_NORMAL, 1, s.dim);
        float *scores = place(&out_a, random_placing(&r), s.n, sizeof *scores);
        if (half)
            k->dot_f16(rows, s.stride, s.n, q, s.dim, scores);
        else
            k->dot_f32(rows, s.stride, s.n, q, s.dim, scores);
        check_canaries(&out_a, "dot");
        for (size_t j = 0; j < s.n; j++) {
            float wanted = dot_by_contract(q, row_values + j * s.stride, s.dim);
            cr_assert(memcmp(&scores[j], &wanted, sizeof wanted) == 0,
                      "dot, row %zu of %zu, D = %zu, stride %zu: %a, not %a", j, s.n, s.dim, s.stride,
                      (double)scores[j], (double)wanted);
        }
    }
}

static void check_dot_f32(const kvq_kernels *k)
{
    check_dot(k, false);
}

static void check_dot_f16(const kvq_kernels *k)
{
    check_dot(k, true);
}

static void check_accumulate(const kvq_kernels *k, bool half)
{
    static float wanted[KVQ_DIM_MAX];
    for (size_t i = 0; i < N_SHAPES; i++) {
        rows_shape s = shape_of(i);
        const void *rows = rows_in(&in_a, s, half, row_values);
        const float *p = floats_in(&in_b, FILL_NORMAL, s.n, 1);
        float *acc = floats_in(&out_a, FILL_OFFSETS, 1, s.dim);
        for (size_t c = 0; c < s.dim; c++) {
            wanted[c] = acc[c];
            for (size_t j = 0; j < s.n; j++) {
                float product = single((double)p[j] * (double)row_values[j * s.stride + c]);
                wanted[c] = single((double)wanted[c] + (double)product);
            }
        }
        if (half)
            k->accumulate_f16(rows, s.stride, s.n, p, s.dim, acc);
        else
            k->accumulate_f32(rows, s.stride, s.n, p, s.dim, acc);
        check_canaries(&out_a, "accumulate");
        cr_assert(same_bits("accumulate", acc, wanted, s.dim * sizeof *acc), "%zu rows, D = %zu, stride %zu",
                  s.n, s.dim, s.stride);
    }
}

static void check_accumulate_f32(const kvq_kernels *k)
{
    check_accumulate(k, false);
}

static void check_accumulate_f16(const kvq_kernels *k)
{
    check_accumulate(k, true);
}

static void check_max_f32(const kvq_kernels *k)
{
    for (size_t i = 1; i < 4 * N_LENGTHS; i++) {
        size_t n = length_of(i / 4);
        if (n == 0)
            continue;
        float *x = floats_in(&in_a, random_fill(), n, 1);
        double wanted = -INFINITY;
        for (size_t j = 0; j < n; j++) {
            if (rng_below(&r, 3) == 0 || i % 7 == 0)
                x[j] = -INFINITY;
            wanted = fmax(wanted, (double)x[j]);
        }
        float got = k->max_f32(x, n), spec = kvq_kernels_portable.max_f32(x, n);
        cr_assert((double)got == wanted, "n = %zu: %a, not %a", n, (double)got, wanted);
        cr_assert(memcmp(&got, &spec, sizeof got) == 0, "n = %zu: %a, not %a", n, (double)got, (double)spec);
    }
}

/* x holds what was, y what the kernel made of it. The contract counts from the float x - max. */
static void check_exponentials(const float *x, const float *y, size_t n, float max)
{
    for (size_t i = 0; i < n; i++) {
        float d = x[i] - max;
        double wanted = exp((double)d);
        if (d < -87.0f) {
            cr_assert(y[i] == 0.0f && !signbit(y[i]), "exp(%a) is %a, not 0", (double)d, (double)y[i]);
            continue;
        }
        int exponent;
        (void)frexp(wanted, &exponent); /* wanted < 2^exponent, so that an ulp is 2^(exponent - 24) */
        double ulp = ldexp(1, exponent - 24);
        cr_assert(fabs((double)y[i] - wanted) <= 4 * ulp, "exp(%a) is %a, %g ulp off", (double)d,
                  (double)y[i], ((double)y[i] - wanted) / ulp);
    }
}

static void check_exp_sum(const kvq_kernels *k, const float *x, size_t n, float max)
{
    float *y = place(&out_a, random_placing(&r), n, sizeof *y), lane[LANES] = {0};
    if (n > 0)
        memcpy(y, x, n * sizeof *y);
    float sum = k->exp_sum_f32(y, n, max);
    check_canaries(&out_a, "exp_sum_f32");
    check_exponentials(x, y, n, max);
    for (size_t i = 0; i < n; i++)
        lane[i % LANES] = single((double)lane[i % LANES] + (double)y[i]);
    float wanted = sum_lanes(lane);
    cr_assert(memcmp(&sum, &wanted, sizeof sum) == 0, "n = %zu: the sum is %a, not %a", n, (double)sum,
              (double)wanted);
}

static void check_exp_sum_f32(const kvq_kernels *k)
{
    static float x[MAX_LONG];
    for (size_t i = 0; i < 4 * N_LENGTHS; i++) {
        size_t n = length_of(i / 4);
        float max = 3 * rng_normal(&r), spread = i % 4 == 0 ? 100.0f : i % 4 == 1 ? 1e-3f : 10.0f;
        for (size_t j = 0; j < n; j++)
            x[j] = rng_below(&r, 8) == 0   ? -INFINITY
                   : rng_below(&r, 8) == 0 ? max
                                           : max - spread * rng_uniform(&r);
        check_exp_sum(k, x, n, max);
    }
    /* Densely from 0 to below -87, where the results end; then tiny and huge arguments. */
    size_t n = 0;
    for (float d = 0; d > -88.5f; d -= 0.00021f) {
        x[n++] = d;
        if (n == MAX_LONG) {
            check_exp_sum(k, x, n, 0);
            n = 0;
        }
    }
    check_exp_sum(k, x, n, 0);
    n = 0;
    for (int exponent = -149; exponent < 128; exponent++)
        x[n++] = -ldexpf(1, exponent);
    const float ends[] = {-87.0f, -86.99999f, -87.00001f, -0.0f, -3.4028235e38f, -INFINITY};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        x[n++] = ends[i];
    check_exp_sum(k, x, n, 0);
}

/* ---- The affine codec's kernels ---- */

static const uint32_t all_bits[] = {1, 2, 3, 4, 5, 6, 8};
static const size_t all_groups[] = {16, 32, 64, 128, 0}, all_dims[] = {1, 15, 16, 17, 48, 64, 80, 128, 200};
enum { N_LAYOUTS = 7 * 9 * 4, MAX_DIM = 200, MAX_Q = 9 };

/* Every width and dimension with both roles and axes; group, arithmetic and data by chance. */
static kvq_layout layout_number(size_t i)
{
    kvq_layout l;
    bool per_channel = i & 1;
    kvq_layout_init(&l, &(kvq_layout_spec){.codec = &kvq_codec_affine,
                                           .role = i & 2 ? KVQ_VALUES : KVQ_KEYS,
                                           .bits = all_bits[i / 4 % 7],
                                           .per_channel = per_channel,
                                           .half_arith = rng_u64(&r) & 1,
                                           .group = all_groups[rng_below(&r, per_channel ? 4 : 5)],
                                           .dim = all_dims[i / 28]});
    return l;
}

static fill_kind moderate_fill(void)
{
    return (fill_kind)rng_below(&r, FILL_HUGE);
}

/* A superblock, flush with the end or the beginning of the mapped bytes, which keeps its alignment. */
static uint8_t *superblock_in(guarded *g, const kvq_layout *l)
{
    uint8_t *sb = place(g, (placing){.at_end = rng_u64(&r) & 1}, l->bytes, 1);
    memset(sb, 0, l->bytes);
    return sb;
}

/* A superblock of 128 tokens, in g. */
static const uint8_t *encoded_in(guarded *g, const kvq_layout *l)
{
    static float x[T * MAX_DIM];
    uint8_t *sb = superblock_in(g, l);
    fill(&r, moderate_fill(), x, T, l->dim);
    l->codec->encode(&kvq_kernels_portable, l, sb, 0, T, x, l->dim);
    return sb;
}

/* Compare encodings over garbage: the bits of other tokens must stay. The portable encoder is tested against
 * formulas in test_codec.c. */
static void check_encode(const kvq_kernels *k, bool per_channel)
{
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        if (l.per_channel != per_channel)
            continue;
        size_t runs = T / l.tokens_per_run, t0 = rng_below(&r, runs + 1), n = rng_below(&r, runs + 1 - t0);
        t0 *= l.tokens_per_run;
        n *= l.tokens_per_run;
        rows_shape s = {.n = n, .dim = l.dim, .stride = l.dim + (rng_u64(&r) & 1 ? 0 : rng_below(&r, 20))};
        fill_kind kind = random_fill();
        const float *x = floats_in(&in_a, kind, extent(s), 1);
        uint8_t *out = superblock_in(&out_a, &l), *spec = superblock_in(&out_b, &l);
        for (size_t b = 0; b < l.bytes; b++)
            out[b] = spec[b] = (uint8_t)rng_u64(&r);
        (per_channel ? k->encode_affine_channel : k->encode_affine_token)(&l, out, t0, n, x, s.stride);
        (per_channel ? kvq_encode_affine_channel_portable : kvq_encode_affine_token_portable)(&l, spec, t0, n,
                                                                                              x, s.stride);
        check_canaries(&out_a, "encode_affine");
        cr_assert(same_bits("encode_affine", out, spec, l.bytes),
                  "layout %zu, tokens [%zu, +%zu), D = %zu, %s", i, t0, n, l.dim, fill_names[kind]);
    }
}

static void check_encode_affine_channel(const kvq_kernels *k)
{
    check_encode(k, true);
}

static void check_encode_affine_token(const kvq_kernels *k)
{
    check_encode(k, false);
}

static void random_range(size_t *t0, size_t *n)
{
    *t0 = rng_u64(&r) & 1 ? 0 : rng_below(&r, T);
    *n = rng_u64(&r) & 1 ? T - *t0 : rng_below(&r, T - *t0 + 1);
}

/* xhat of (t, c) by the formula; float keeps code * scale exactly. */
static double value_at(const kvq_layout *l, const uint8_t *sb, size_t t, size_t c)
{
    double scale = (double)kvq_scale_at(l, sb, t, c), min = (double)kvq_min_at(l, sb, t, c);
    double code = kvq_code_get(l, sb, t, c);
    if (!l->half_arith)
        return (double)single(code * scale + min);
    return (double)kvq_round_to_f16(single((double)kvq_round_to_f16(single(code * scale)) + min));
}

static void check_decode_affine(const kvq_kernels *k)
{
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        size_t t0, n, stride = l.dim + (rng_u64(&r) & 1 ? 0 : rng_below(&r, 20));
        random_range(&t0, &n);
        const uint8_t *sb = encoded_in(&in_a, &l);
        rows_shape s = {.n = n, .dim = l.dim, .stride = stride};
        uint8_t *out = place(&out_a, random_placing(&r), extent(s), sizeof(float));
        k->decode_affine(&l, sb, t0, n, (float *)(void *)out, stride);
        check_canaries(&out_a, "decode_affine");
        for (size_t e = 0; e < extent(s); e++) {
            float got;
            memcpy(&got, out + e * sizeof got, sizeof got);
            float wanted = e % stride < l.dim ? (float)value_at(&l, sb, t0 + e / stride, e % stride) : got;
            cr_assert(got == wanted, "layout %zu, token %zu + %zu, channel %zu: %a, not %a", i, t0,
                      e / stride, e % stride, (double)got, (double)wanted);
            static const uint8_t gap[sizeof got] = {CANARY, CANARY, CANARY, CANARY};
            cr_assert(e % stride < l.dim || memcmp(&got, gap, sizeof gap) == 0,
                      "layout %zu: wrote between rows", i);
        }
    }
}

/* |min|, |max| of what the codes of the group of (t, c) can stand for. */
static double largest_value(const kvq_layout *l, const uint8_t *sb, size_t t, size_t c)
{
    double scale = (double)kvq_scale_at(l, sb, t, c), min = (double)kvq_min_at(l, sb, t, c);
    return fmax(fabs(min), fabs(min + scale * (ldexp(1, (int)l->bits) - 1)));
}

static void check_score(const kvq_layout *l, const uint8_t *sb, size_t t0, size_t j, const float *q,
                        float got)
{
    double wanted = 0, magnitude = 0;
    for (size_t c = 0; c < l->dim; c++) {
        wanted += (double)q[c] * value_at(l, sb, t0 + j, c);
        magnitude += fabs((double)q[c]) * largest_value(l, sb, t0 + j, c);
    }
    double bound = (double)(l->dim + 8) * 0x1p-23 * magnitude;
    cr_assert(fabs((double)got - wanted) <= bound,
              "%u bits, per %s, G = %zu, D = %zu: score of token %zu + %zu: %.9g, not %.9g within %g",
              (unsigned)l->bits, l->per_channel ? "channel" : "token", l->group, l->dim, t0, j, (double)got,
              wanted, bound);
}

static void check_score_affine(const kvq_kernels *k)
{
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        if (l.role != KVQ_KEYS)
            continue;
        size_t t0, n, n_q = 1 + rng_below(&r, MAX_Q);
        random_range(&t0, &n);
        const uint8_t *sb = encoded_in(&in_a, &l);
        const float *q = floats_in(&in_b, rng_u64(&r) & 1 ? FILL_NORMAL : FILL_OUTLIER, n_q, l.dim);
        float *scores = place(&out_a, random_placing(&r), (n_q - 1) * T + n, sizeof *scores);
        k->score_affine(&l, sb, t0, n, q, n_q, scores);
        check_canaries(&out_a, "score_affine");
        for (size_t row = 0; row < n_q; row++) {
            for (size_t j = 0; j < n; j++)
                check_score(&l, sb, t0, j, q + row * l.dim, scores[row * T + j]);
            for (size_t j = n; j < T && row + 1 < n_q; j++) /* rows are 128 apart, of which n are written */
                cr_assert(kvq_bits_of_f32(scores[row * T + j]) == 0x01010101u * CANARY,
                          "layout %zu: wrote past row %zu", i, row);
        }
    }
}

static void check_output(const kvq_layout *l, const uint8_t *sb, size_t t0, size_t n, size_t c,
                         const float *p, float before, float got)
{
    double added = 0, magnitude = 0;
    for (size_t j = 0; j < n; j++) {
        double levels = ldexp(1, (int)l->bits) - 1, scale = (double)kvq_scale_at(l, sb, t0 + j, c);
        added += (double)p[j] * value_at(l, sb, t0 + j, c);
        magnitude += fabs((double)p[j]) * (fabs((double)kvq_min_at(l, sb, t0 + j, c)) + levels * scale);
    }
    /* The contract bounds what is added; adding it to acc rounds once more, by half an ulp. */
    double bound = (double)(n + 8) * 0x1p-23 * magnitude + 0x1p-24 * fabs((double)got);
    cr_assert(fabs((double)got - ((double)before + added)) <= bound,
              "%u bits, per %s, G = %zu, D = %zu: tokens [%zu, +%zu), channel %zu: %.9g, not %.9g within %g",
              (unsigned)l->bits, l->per_channel ? "channel" : "token", l->group, l->dim, t0, n, c,
              (double)got, (double)before + added, bound);
}

static void check_accumulate_affine(const kvq_kernels *k)
{
    static float before[MAX_Q * MAX_DIM];
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        kvq_layout l = layout_number(i);
        if (l.role != KVQ_VALUES)
            continue;
        size_t t0, n, n_q = 1 + rng_below(&r, MAX_Q);
        random_range(&t0, &n);
        const uint8_t *sb = encoded_in(&in_a, &l);
        float *p = floats_in(&in_b, FILL_NORMAL, (n_q - 1) * T + n, 1);
        if (rng_u64(&r) & 1) /* as attention has them: not negative, most of them small or 0 */
            for (size_t j = 0; j < (n_q - 1) * T + n; j++)
                p[j] = p[j] > 0 ? expf(-5 * p[j]) : 0;
        float *acc = floats_in(&out_a, rng_u64(&r) & 1 ? FILL_ZERO : FILL_NORMAL, n_q, l.dim);
        memcpy(before, acc, n_q * l.dim * sizeof *acc);
        k->accumulate_affine(&l, sb, t0, n, p, n_q, acc);
        check_canaries(&out_a, "accumulate_affine");
        for (size_t row = 0; row < n_q; row++)
            for (size_t c = 0; c < l.dim; c++)
                check_output(&l, sb, t0, n, c, p + row * T, before[row * l.dim + c], acc[row * l.dim + c]);
    }
}

/* ---- All of them ---- */

static const struct {
    const char *name;
    void (*check)(const kvq_kernels *k);
} checks[] = {
#define CHECK(slot) {#slot, check_##slot},
    KVQ_KERNEL_LIST(CHECK)
#undef CHECK
};
static const char *const isas[] = {"portable", "avx2", "avx512", "neon"};

enum { N_CHECKS = sizeof checks / sizeof checks[0], N_ISAS = sizeof isas / sizeof isas[0] };

typedef struct kernel_case {
    size_t isa, kernel;
} kernel_case;

ParameterizedTestParameters(kernels, keep_their_contract)
{
    static kernel_case cases[N_ISAS * N_CHECKS];
    size_t n = 0;
    for (size_t isa = 0; isa < N_ISAS; isa++)
        for (size_t kernel = 0; kernel < N_CHECKS && kvq_kernels_for_isa(isas[isa]) != NULL; kernel++)
            cases[n++] = (kernel_case){isa, kernel};
    return cr_make_param_array(kernel_case, cases, n);
}

ParameterizedTest(kernel_case *test, kernels, keep_their_contract)
{
    const kvq_kernels *k = kvq_kernels_for_isa(isas[test->isa]);
    cr_assert(k != NULL && strcmp(k->isa, isas[test->isa]) == 0);
    r = rng_make(1000 + test->kernel);
    guarded_make(&in_a, sizeof(float) * (T * (MAX_DIM + 40)));
    guarded_make(&in_b, sizeof(float) * (MAX_LONG + 64));
    guarded_make(&out_a, sizeof(float) * (T * (MAX_DIM + 40)));
    guarded_make(&out_b, sizeof(float) * (T * (MAX_DIM + 40)));
    checks[test->kernel].check(k);
}

Test(kernels, tables_are_complete_and_named)
{
    cr_assert(kvq_kernels_for_isa("portable") != NULL && kvq_kernels_for_isa("") == NULL &&
              kvq_kernels_for_isa("sse9") == NULL);
    for (size_t isa = 0; isa < N_ISAS; isa++) {
        const kvq_kernels *k = kvq_kernels_for_isa(isas[isa]);
        if (k == NULL)
            continue;
#define IS_THERE(slot) cr_assert(k->slot != NULL, "%s lacks " #slot, isas[isa]);
        KVQ_KERNEL_LIST(IS_THERE)
#undef IS_THERE
    }
    const kvq_kernels *chosen = kvq_kernels_get();
    cr_assert(chosen == NULL || kvq_kernels_for_isa(chosen->isa) == chosen);
}
