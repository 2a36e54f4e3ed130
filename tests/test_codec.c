/*
 * The codecs (quant/codec_affine.c, quant/codec_float.c) for every width, group, axis, role and a range of
 * head dimensions: arithmetic against formulas in double, error bounds, streaming, clearing, validation. The
 * layout of the bytes has its own file, test_layout.c.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>

#include "quant/codec.h"
#include "tests/support.h"

enum { N_BITS = 7, N_GROUPS = 5, N_DIMS = 9, MAX_DIM = 200, T = KVQ_SUPERBLOCK, MAX_BYTES = 128 * 1024 };

static const uint32_t all_bits[N_BITS] = {1, 2, 3, 4, 5, 6, 8};
static const size_t all_groups[N_GROUPS] = {16, 32, 64, 128, 0};
static const size_t all_dims[N_DIMS] = {1, 15, 16, 17, 64, 80, 96, 128, 200};

/* What a test runs over; the rest of the layout it goes through itself. */
typedef struct variant {
    uint32_t bits;
    bool half_arith, per_channel;
    kvq_role role;
} variant;

static _Alignas(KVQ_ALIGNMENT) uint8_t superblock[MAX_BYTES], other[MAX_BYTES];
static float x[T * MAX_DIM], xhat[T * MAX_DIM], bound[T * MAX_DIM];

static kvq_layout layout_of(const variant *v, size_t group, size_t dim)
{
    kvq_layout l;
    kvq_layout_init(&l, &(kvq_layout_spec){.codec = &kvq_codec_affine,
                                           .role = v->role,
                                           .bits = v->bits,
                                           .per_channel = v->per_channel,
                                           .half_arith = v->half_arith,
                                           .group = group,
                                           .dim = dim});
    cr_assert(l.bytes <= MAX_BYTES, "the test's buffers are too small");
    return l;
}

/* Call f for every layout of a variant; `index` counts them. */
static void for_each_layout(const variant *v, void (*f)(const kvq_layout *l, size_t index))
{
    for (size_t g = 0; g < N_GROUPS; g++)
        for (size_t d = 0; d < N_DIMS; d++)
            if (all_groups[g] != 0 || !v->per_channel) {
                kvq_layout l = layout_of(v, all_groups[g], all_dims[d]);
                f(&l, g + d);
            }
}

static struct criterion_test_params make_variants(void)
{
    static variant variants[N_BITS * 8];
    for (size_t i = 0; i < N_BITS * 8; i++)
        variants[i] = (variant){.bits = all_bits[i / 8],
                                .half_arith = i & 1,
                                .per_channel = i & 2,
                                .role = i & 4 ? KVQ_VALUES : KVQ_KEYS};
    return cr_make_param_array(variant, variants, N_BITS * 8);
}

static const char *name_of(const kvq_layout *l)
{
    static char name[128];
    (void)snprintf(name, sizeof name, "%s, %u bits, per %s, G = %zu, D = %zu, %s arithmetic",
                   l->role == KVQ_KEYS ? "keys" : "values", (unsigned)l->bits,
                   l->per_channel ? "channel" : "token", l->group, l->dim, l->half_arith ? "half" : "float");
    return name;
}

static void encode(const kvq_layout *l, uint8_t *sb, size_t t0, size_t n)
{
    l->codec->encode(&kvq_kernels_portable, l, sb, t0, n, x + t0 * l->dim, l->dim);
}

static void encode_fresh(const kvq_layout *l, uint8_t *sb, size_t n)
{
    memset(sb, 0, l->bytes);
    encode(l, sb, 0, n);
}

/* ---- The arithmetic again, from the table in codec_affine.c, in double ---- */

/* Distance of the halves around y: 11 significant bits, but never finer than 2^-24. */
static double half_unit(double y)
{
    int exponent;
    (void)frexp(y, &exponent);
    return ldexp(1, exponent - 11 < -24 || y == 0 ? -24 : exponent - 11);
}

static double saturate(double y)
{
    return fmax(-65504, fmin(y, 65504));
}

static double half(double y)
{
    return saturate(rint(y / half_unit(y)) * half_unit(y));
}

static double half_down(double y)
{
    return saturate(floor(y / half_unit(y)) * half_unit(y));
}

static double half_up(double y)
{
    return saturate(ceil(y / half_unit(y)) * half_unit(y));
}

/* Single operations of float: double has more than twice its bits, so rounding twice does no harm. */
static double single(double y)
{
    return (double)(float)y;
}

typedef struct group_params {
    double scale, min;
} group_params;

static group_params params_of(const kvq_layout *l, double lo, double hi)
{
    double levels = ldexp(1, (int)l->bits) - 1;
    if (l->half_arith)
        return (group_params){.scale = half(half(half(hi) - half(lo)) / levels), .min = half(lo)};
    double min = half_down(lo);
    return (group_params){.scale = half_up(single(single(hi - min) / levels)), .min = min};
}

/*
 * The codes that are right for a value: one, or in the default arithmetic two, if the value is too close to
 * the middle between them for float to see the side. Float takes t = (x - min) * (1/scale) in three
 * roundings, so it is off by at most (1 + 2^-24)^3 - 1 < 3.01 * 2^-24 of t.
 */
static void codes_of(const kvq_layout *l, group_params g, double value, double *low, double *high)
{
    double levels = ldexp(1, (int)l->bits) - 1;
    *low = *high = 0;
    if (g.scale == 0)
        return;
    double t = l->half_arith ? half(half(half(value) - g.min) / g.scale) : (value - g.min) / g.scale;
    double slack = l->half_arith ? 0 : 3.01 * 0x1p-24 * fabs(t);
    *low = rint(fmax(0, fmin(t - slack, levels)));
    *high = rint(fmax(0, fmin(t + slack, levels)));
}

static double value_of(const kvq_layout *l, group_params g, double code)
{
    return l->half_arith ? half(half(code * g.scale) + g.min) : single(code * g.scale + g.min);
}

/* The group that starts at (t, c): its tokens and channels. */
static void group_of(const kvq_layout *l, size_t t, size_t c, size_t *t_end, size_t *c_end)
{
    *t_end = l->per_channel ? t + l->group : t + 1;
    *c_end = l->per_channel ? c + 1 : c + l->group;
    *c_end = *c_end < l->dim ? *c_end : l->dim;
}

/* What was stored for one group of the data in x, against the formulas. */
static void check_group(const kvq_layout *l, const char *what, size_t t0, size_t c0)
{
    size_t t1, c1;
    double lo = INFINITY, hi = -INFINITY;
    group_of(l, t0, c0, &t1, &c1);
    for (size_t t = t0; t < t1; t++)
        for (size_t c = c0; c < c1; c++) {
            lo = fmin(lo, (double)x[t * l->dim + c]);
            hi = fmax(hi, (double)x[t * l->dim + c]);
        }
    group_params g = params_of(l, lo, hi);
    double scale = (double)kvq_scale_at(l, superblock, t0, c0),
           min = (double)kvq_min_at(l, superblock, t0, c0);
    cr_assert(scale == g.scale && min == g.min,
              "%s, %s: group (%zu, %zu) of [%a, %a]: scale %a, min %a, not %a, %a", name_of(l), what, t0, c0,
              lo, hi, scale, min, g.scale, g.min);
    for (size_t t = t0; t < t1; t++)
        for (size_t c = c0; c < c1; c++) {
            double value = (double)x[t * l->dim + c], low, high, code = kvq_code_get(l, superblock, t, c);
            double decoded = (double)xhat[t * l->dim + c], e = (double)bound[t * l->dim + c];
            codes_of(l, g, value, &low, &high);
            cr_assert(code == low || code == high, "%s, %s: (%zu, %zu) %a: code %g, not %g", name_of(l), what,
                      t, c, value, code, low);
            cr_assert(decoded == value_of(l, g, code), "%s, %s: (%zu, %zu) decodes to %a, not %a", name_of(l),
                      what, t, c, decoded, value_of(l, g, code));
            cr_assert(fabs(value - decoded) <= e, "%s, %s: (%zu, %zu) |%a - %a| > %a", name_of(l), what, t, c,
                      value, decoded, e);
            /* Something must be promised where half is far from its ends. */
            cr_assert(isfinite(e) || fmax(fabs(lo), fabs(hi)) > 16000, "%s, %s: (%zu, %zu) has no bound",
                      name_of(l), what, t, c);
        }
}

static void check_fill(const kvq_layout *l, fill_kind kind, uint64_t stream)
{
    rng r = rng_make(stream);
    fill(&r, kind, x, T, l->dim);
    encode_fresh(l, superblock, T);
    l->codec->decode(&kvq_kernels_portable, l, superblock, 0, T, xhat, l->dim);
    l->codec->error_bound(l, superblock, 0, T, bound, l->dim);
    for (size_t t = 0; t < T; t += l->per_channel ? l->group : 1)
        for (size_t c = 0; c < l->dim; c += l->per_channel ? 1 : l->group)
            check_group(l, fill_names[kind], t, c);
    cr_assert(l->codec->is_valid(l, superblock, T), "%s, %s: an encoder wrote this", name_of(l),
              fill_names[kind]);
}

/* Three fills each: over the groups and dimensions of a variant every fill has its turn with each. */
static void check_arithmetic(const kvq_layout *l, size_t index)
{
    for (size_t i = 0; i < 3; i++)
        check_fill(l, (fill_kind)((3 * index + i) % N_FILLS), 100 + index);
}

ParameterizedTestParameters(codec, affine_follows_its_formulas_and_bound)
{
    return make_variants();
}

ParameterizedTest(variant *v, codec, affine_follows_its_formulas_and_bound)
{
    for_each_layout(v, check_arithmetic);
}

/* ---- Constant and saturated groups ---- */

static void check_constant(float value, bool half_arith, bool is_half)
{
    variant v = {.bits = 2, .half_arith = half_arith, .per_channel = true, .role = KVQ_KEYS};
    kvq_layout l = layout_of(&v, 32, 16);
    for (size_t i = 0; i < T * l.dim; i++)
        x[i] = value;
    encode_fresh(&l, superblock, T);
    l.codec->decode(&kvq_kernels_portable, &l, superblock, 0, T, xhat, l.dim);
    l.codec->error_bound(&l, superblock, 0, T, bound, l.dim);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < l.dim; c++) {
            float min = kvq_min_at(&l, superblock, t, c), scale = kvq_scale_at(&l, superblock, t, c);
            float got = xhat[t * l.dim + c];
            if (is_half || half_arith) {
                cr_assert(scale == 0.0f && kvq_code_get(&l, superblock, t, c) == 0, "constant %a has a scale",
                          (double)value);
                cr_assert(got == min, "constant %a: %a is not the minimum %a", (double)value, (double)got,
                          (double)min);
            }
            cr_assert(!is_half || got == value, "constant half %a became %a", (double)value, (double)got);
            cr_assert(fabs((double)got - (double)value) <= (double)bound[t * l.dim + c],
                      "constant %a became %a, past its bound", (double)value, (double)got);
        }
}

Test(codec, constant_groups)
{
    const float halves[] = {0.0f, 1.0f, -0.25f, 0x1p-24f, -0x1.ffcp-15f, 1023.5f, 65504.0f};
    const float others[] = {0.1f, -0.1f, 1e-9f, -1e-9f, 1000.1f, -3.14159f, 65503.0f};
    for (size_t i = 0; i < 7; i++)
        for (int half_arith = 0; half_arith < 2; half_arith++) {
            check_constant(halves[i], half_arith, true);
            check_constant(others[i], half_arith, false);
        }
}

/* Groups with one end or both past the range of half: nothing becomes Inf, and what bound there is holds. */
static void check_beyond(uint32_t bits, bool half_arith, float lo, float hi)
{
    variant v = {.bits = bits, .half_arith = half_arith, .per_channel = true, .role = KVQ_KEYS};
    kvq_layout l = layout_of(&v, 16, 1);
    for (size_t t = 0; t < T; t++)
        x[t] = t % 16 == 0 ? lo : t % 16 == 1 ? hi : lo + (hi - lo) * (float)(t % 16) / 16;
    encode_fresh(&l, superblock, T);
    l.codec->decode(&kvq_kernels_portable, &l, superblock, 0, T, xhat, 1);
    l.codec->error_bound(&l, superblock, 0, T, bound, 1);
    for (size_t t = 0; t < T; t++) {
        cr_assert(isfinite(xhat[t]), "%s: %a became %a", name_of(&l), (double)x[t], (double)xhat[t]);
        cr_assert(fabs((double)x[t] - (double)xhat[t]) <= (double)bound[t],
                  "%s: in [%g, %g] %g became %g, past its bound %g", name_of(&l), (double)lo, (double)hi,
                  (double)x[t], (double)xhat[t], (double)bound[t]);
    }
}

static void check_all_beyond(bool half_arith)
{
    const float lows[] = {-3e38f, -131008, -65520, -65504, -40000, -16,  0,
                          10,     1000,    20000,  65504,  65520,  1e30f};
    const float highs[] = {0,     100,   40000,  65503, 65504, 65519, 65520,
                           66000, 70000, 131008, 2e7f,  1e30f, 3e38f};
    for (size_t b = 0; b < N_BITS; b++)
        for (size_t i = 0; i < sizeof lows / sizeof lows[0]; i++)
            for (size_t j = 0; j < sizeof highs / sizeof highs[0]; j++)
                if (lows[i] <= highs[j] && highs[j] - lows[i] <= 3e38f)
                    check_beyond(all_bits[b], half_arith, lows[i], highs[j]);
}

Test(codec, groups_beyond_half)
{
    check_all_beyond(false);
}

Test(codec, groups_beyond_half_in_parity_arithmetic)
{
    check_all_beyond(true);
}

/* ---- Streaming, clearing, validating ---- */

static void check_streaming(const kvq_layout *l, size_t index)
{
    rng r = rng_make(200 + index);
    fill(&r, FILL_OFFSETS, x, T, l->dim);
    encode_fresh(l, superblock, T);
    memset(other, 0, l->bytes);
    size_t run = l->tokens_per_run;
    for (size_t n, t = 0; t < T; t += n) { /* runs of one, two and three */
        n = run * (1 + rng_below(&r, 3));
        n = n < T - t ? n : T - t;
        encode(l, other, t, n);
    }
    cr_assert(same_bits(name_of(l), other, superblock, l->bytes), "encoded piece by piece");
    for (size_t n = 0; n <= T; n += run * (1 + rng_below(&r, 40 / run + 1))) {
        memcpy(other, superblock, l->bytes);
        l->codec->clear(l, other, n);
        static _Alignas(KVQ_ALIGNMENT) uint8_t fresh[MAX_BYTES];
        encode_fresh(l, fresh, n);
        cr_assert(same_bits(name_of(l), other, fresh, l->bytes), "cleared from token %zu on", n);
        cr_assert(l->codec->is_valid(l, fresh, n), "%s: %zu tokens are valid", name_of(l), n);
    }
}

ParameterizedTestParameters(codec, streaming_equals_one_shot_and_clear_undoes)
{
    return make_variants();
}

ParameterizedTest(variant *v, codec, streaming_equals_one_shot_and_clear_undoes)
{
    for_each_layout(v, check_streaming);
}

/* Only the tokens named are written: encode into a superblock of ones and compare the rest. */
static void check_untouched(const kvq_layout *l, size_t index)
{
    rng r = rng_make(300 + index);
    fill(&r, FILL_NORMAL, x, T, l->dim);
    size_t run = l->tokens_per_run, t0 = rng_below(&r, T / run) * run, n = run;
    encode_fresh(l, other, T);
    memset(superblock, 0xff, l->bytes);
    encode(l, superblock, t0, n);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < l->dim; c++) {
            bool written = t >= t0 && t < t0 + n;
            uint32_t wanted = written ? kvq_code_get(l, other, t, c) : (1u << l->bits) - 1;
            size_t at = kvq_scale_offset(l, t, c);
            uint16_t scale = written ? kvq_load_u16(other + at) : 0xffff;
            cr_assert(kvq_code_get(l, superblock, t, c) == wanted && kvq_load_u16(superblock + at) == scale,
                      "%s: encoding [%zu, +%zu) touched or missed (%zu, %zu)", name_of(l), t0, n, t, c);
        }
}

ParameterizedTestParameters(codec, encode_writes_its_tokens_only)
{
    return make_variants();
}

ParameterizedTest(variant *v, codec, encode_writes_its_tokens_only)
{
    for_each_layout(v, check_untouched);
}

static void expect_invalid(const kvq_layout *l, size_t n, const char *why)
{
    cr_assert(!l->codec->is_valid(l, superblock, n), "%s, %zu tokens: accepts %s", name_of(l), n, why);
}

static void check_validation(const kvq_layout *l, size_t index)
{
    static const uint16_t bad_scales[] = {0x7c00, 0x7e00, 0x7c01, 0xfc00, 0xffff, 0x8001, 0xbc00},
                          bad_mins[] = {0x7c00, 0x7c01, 0x7fff, 0xfc00, 0xfe00};
    rng r = rng_make(400 + index);
    fill(&r, FILL_NORMAL, x, T, l->dim);
    encode_fresh(l, superblock, T);
    size_t t = rng_below(&r, T), c = rng_below(&r, l->dim), at = kvq_scale_offset(l, t, c);
    uint16_t scale = kvq_load_u16(superblock + at), min = kvq_load_u16(superblock + at + l->min_offset);
    for (size_t i = 0; i < sizeof bad_scales / sizeof bad_scales[0]; i++) {
        kvq_store_u16(superblock + at, bad_scales[i]);
        expect_invalid(l, T, "a scale that is not finite or negative");
    }
    kvq_store_u16(superblock + at, scale);
    for (size_t i = 0; i < sizeof bad_mins / sizeof bad_mins[0]; i++) {
        kvq_store_u16(superblock + at + l->min_offset, bad_mins[i]);
        expect_invalid(l, T, "a minimum that is not finite");
    }
    kvq_store_u16(superblock + at + l->min_offset, min);
    cr_assert(l->codec->is_valid(l, superblock, T), "%s: put back", name_of(l));

    size_t n = t / l->tokens_per_run * l->tokens_per_run; /* a count that leaves token t out */
    encode_fresh(l, superblock, n);
    cr_assert(l->codec->is_valid(l, superblock, n), "%s: %zu tokens", name_of(l), n);
    kvq_code_put(l, superblock, t, c, 1u << rng_below(&r, l->bits));
    expect_invalid(l, n, "a code past the last token");
    kvq_code_put(l, superblock, t, c, 0);
    kvq_store_u16(superblock + at, 1);
    expect_invalid(l, n, "a scale past the last token");
    kvq_store_u16(superblock + at, 0);
    kvq_store_u16(superblock + at + l->min_offset, 1);
    expect_invalid(l, n, "a minimum past the last token");
}

ParameterizedTestParameters(codec, validation_finds_what_no_encoder_writes)
{
    return make_variants();
}

ParameterizedTest(variant *v, codec, validation_finds_what_no_encoder_writes)
{
    for_each_layout(v, check_validation);
}

/* ---- f32 and f16 ---- */

static kvq_layout plain_layout(const kvq_codec *codec, kvq_role role, size_t dim)
{
    kvq_layout l;
    kvq_layout_init(&l, &(kvq_layout_spec){.codec = codec, .role = role, .dim = dim});
    cr_assert(l.bytes <= MAX_BYTES && l.bytes % KVQ_ALIGNMENT == 0, "%s, D = %zu: %zu bytes", codec->name,
              dim, l.bytes);
    return l;
}

static void check_plain(const kvq_codec *codec, size_t element_bytes, size_t dim, fill_kind kind)
{
    rng r = rng_make(500 + dim);
    kvq_layout l = plain_layout(codec, KVQ_KEYS, dim);
    cr_assert(l.bytes == T * dim * element_bytes && l.payload_per_token == dim * element_bytes &&
                  l.metadata_per_run == 0 && l.tokens_per_run == 1,
              "%s, D = %zu: sizes", codec->name, dim);
    fill(&r, kind, x, T, dim);
    encode_fresh(&l, superblock, T);
    memset(other, 0, l.bytes);
    for (size_t t = 0; t < T; t++)
        encode(&l, other, t, 1);
    cr_assert(same_bits(codec->name, other, superblock, l.bytes), "D = %zu: token by token", dim);
    codec->decode(&kvq_kernels_portable, &l, superblock, 0, T, xhat, dim);
    codec->error_bound(&l, superblock, 0, T, bound, dim);
    for (size_t i = 0; i < T * dim; i++) {
        double value = (double)x[i], got = (double)xhat[i], wanted = element_bytes == 4 ? value : half(value);
        cr_assert(got == wanted, "%s, %s: %a became %a, not %a", codec->name, fill_names[kind], value, got,
                  wanted);
        cr_assert(fabs(value - got) <= (double)bound[i], "%s, %s: |%a - %a| > %a", codec->name,
                  fill_names[kind], value, got, (double)bound[i]);
        cr_assert(isfinite(bound[i]) || fabs(value) >= 65488, "%s, %s: %a has no bound", codec->name,
                  fill_names[kind], value);
    }
    size_t n = rng_below(&r, T);
    cr_assert(codec->is_valid(&l, superblock, T), "%s: an encoder wrote this", codec->name);
    codec->clear(&l, superblock, n);
    encode_fresh(&l, other, n);
    cr_assert(same_bits(codec->name, superblock, other, l.bytes), "D = %zu: cleared from %zu on", dim, n);
    cr_assert(codec->is_valid(&l, superblock, n), "%s: %zu tokens", codec->name, n);
}

Test(codec, plain_codecs_keep_values)
{
    for (size_t d = 0; d < N_DIMS; d++)
        for (fill_kind kind = 0; kind < N_FILLS; kind++) {
            check_plain(&kvq_codec_f32, 4, all_dims[d], kind);
            check_plain(&kvq_codec_f16, 2, all_dims[d], kind);
        }
}

Test(codec, plain_validation_finds_what_no_encoder_writes)
{
    rng r = rng_make(600);
    for (size_t d = 0; d < N_DIMS; d++)
        for (size_t element_bytes = 2; element_bytes <= 4; element_bytes += 2) {
            kvq_layout l =
                plain_layout(element_bytes == 4 ? &kvq_codec_f32 : &kvq_codec_f16, KVQ_VALUES, all_dims[d]);
            size_t n = 1 + rng_below(&r, T - 1);
            fill(&r, FILL_NORMAL, x, T, l.dim);
            encode_fresh(&l, superblock, n);
            size_t last_byte = rng_below(&r, n * l.dim) * element_bytes + element_bytes - 1;
            uint8_t kept[2] = {superblock[last_byte - 1], superblock[last_byte]};
            for (int sign = 0; sign < 2; sign++) { /* all exponent bits of either type set: Inf or NaN */
                superblock[last_byte] = (uint8_t)(0x7f | sign << 7);
                superblock[last_byte - 1] |= 0x80;
                cr_assert(!l.codec->is_valid(&l, superblock, n), "%s: accepts Inf or NaN", l.codec->name);
            }
            memcpy(superblock + last_byte - 1, kept, 2);
            cr_assert(l.codec->is_valid(&l, superblock, n), "%s: put back", l.codec->name);
            superblock[n * l.payload_per_token + rng_below(&r, (T - n) * l.payload_per_token)] = 1;
            cr_assert(!l.codec->is_valid(&l, superblock, n), "%s: accepts bytes past the last token",
                      l.codec->name);
        }
}

/*
 * score and accumulate through the codec, which picks kernels and strides. A float sum of n products has an
 * error of at most (n + 1) 2^-24 of the sum of magnitudes in any order, first order; 2^-23 leaves room.
 */
static void check_plain_attention(const kvq_codec *codec, size_t dim)
{
    enum { N_Q = 3 };
    rng r = rng_make(700 + dim);
    static float q[N_Q * MAX_DIM], scores[N_Q * T], p[N_Q * T], acc[N_Q * MAX_DIM];
    kvq_layout l = plain_layout(codec, KVQ_KEYS, dim);
    size_t t0 = rng_below(&r, T), n = 1 + rng_below(&r, T - t0);
    fill(&r, FILL_OFFSETS, x, T, dim);
    fill(&r, FILL_NORMAL, q, N_Q, dim);
    fill(&r, FILL_NORMAL, p, N_Q, T);
    memset(acc, 0, sizeof acc);
    encode_fresh(&l, superblock, T);
    codec->decode(&kvq_kernels_portable, &l, superblock, 0, T, xhat, dim);
    codec->score(&kvq_kernels_portable, &l, superblock, t0, n, q, N_Q, scores);
    codec->accumulate(&kvq_kernels_portable, &l, superblock, t0, n, p, N_Q, acc);
    for (size_t i = 0; i < N_Q; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0, magnitude = 0;
            for (size_t c = 0; c < dim; c++) {
                double term = (double)q[i * dim + c] * (double)xhat[(t0 + j) * dim + c];
                sum += term;
                magnitude += fabs(term);
            }
            cr_assert(fabs((double)scores[i * T + j] - sum) <= (double)(dim + 1) * 0x1p-23 * magnitude,
                      "%s, D = %zu: score of query %zu, token %zu + %zu", codec->name, dim, i, t0, j);
        }
        for (size_t c = 0; c < dim; c++) {
            double sum = 0, magnitude = 0;
            for (size_t j = 0; j < n; j++) {
                double term = (double)p[i * T + j] * (double)xhat[(t0 + j) * dim + c];
                sum += term;
                magnitude += fabs(term);
            }
            cr_assert(fabs((double)acc[i * dim + c] - sum) <= (double)(n + 1) * 0x1p-23 * magnitude,
                      "%s, D = %zu: output %zu, channel %zu", codec->name, dim, i, c);
        }
    }
}

Test(codec, plain_codecs_score_and_accumulate)
{
    for (size_t d = 0; d < N_DIMS; d++) {
        check_plain_attention(&kvq_codec_f32, all_dims[d]);
        check_plain_attention(&kvq_codec_f16, all_dims[d]);
    }
}
