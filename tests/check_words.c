/*
 * A test for each word of one vocabulary, against its contract (quant/vector.h) in plain C: holds_WORD, found
 * through V_WORDS; a word without one does not compile. Compiled once per vocabulary (CMakeLists.txt), with
 *
 *   VOCABULARY   its header
 *   WORDS        the name of the list
 *
 * and without Criterion, whose macros do not go with the flags.
 */
#include VOCABULARY

#include <math.h>

#include "quant/fold.h"
#include "quant/vector_complete.h"
#include "tests/check_words.h"

enum { RUNS = 200, N = 16 };

/* ---- Numbers to try ---- */

/* Any finite float: zeros, subnormals and the largest among them. */
static float any_float(rng *r)
{
    uint32_t bits;
    do
        bits = (uint32_t)rng_u64(r);
    while ((bits & 0x7f800000u) == 0x7f800000u);
    return kvq_f32_of_bits(rng_below(r, 16) == 0 ? bits & 0x80000000u : bits);
}

/* Of a size at which sums and products round. */
static float small_float(rng *r)
{
    return (float)((double)(int32_t)rng_u64(r) * 0x1p-28);
}

/* About as large as halves are, many of them halfway between two, some out of range. */
static float halfish(rng *r)
{
    uint16_t half = (uint16_t)(rng_u64(r) & 0xfbffu);
    float x = kvq_f32_from_f16(half), next = kvq_f32_from_f16((uint16_t)(half + 1u));
    switch (rng_below(r, 4)) {
    case 0:
        return x;
    case 1:
        return isfinite(x) && isfinite(next) ? 0.5f * x + 0.5f * next : 65520.0f;
    case 2:
        return isfinite(x) ? x * 1.0002f : 70000.0f;
    default:
        return any_float(r);
    }
}

static void fill_floats(rng *r, float (*some)(rng *r), float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = some(r);
}

static void fill_bytes(rng *r, void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)p)[i] = (uint8_t)rng_u64(r);
}

/* ---- Comparing ---- */

static bool same(float x, float y)
{
    return kvq_bits_of_f32(x) == kvq_bits_of_f32(y) || (isnan(x) && isnan(y));
}

static bool same_floats(const float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!same(x[i], y[i]))
            return false;
    return true;
}

static bool v_is(v_f x, const float wanted[N])
{
    float got[N];
    v_store(got, x);
    return same_floats(got, wanted, N);
}

/* NAME_of makes what NAME_is compares, of as many bytes. */
#define IN_MEMORY(type, name, bytes)                                                                         \
    static type name##_of(const void *x)                                                                     \
    {                                                                                                        \
        type out;                                                                                            \
        memcpy(&out, x, bytes);                                                                              \
        return out;                                                                                          \
    }                                                                                                        \
    static bool name##_is(type x, const void *wanted)                                                        \
    {                                                                                                        \
        return memcmp(&x, wanted, bytes) == 0;                                                               \
    }
IN_MEMORY(v_h, h, 2 * N)
IN_MEMORY(v_i, i, 4 * N)
IN_MEMORY(v_q, q, 4 * 4)
IN_MEMORY(v_d, d, 4 * V_DWORDS)

static bool df_is(v_df x, const float wanted[V_DWORDS])
{
    float got[V_DWORDS];
    memcpy(got, &x, sizeof got);
    return same_floats(got, wanted, V_DWORDS);
}

static v_df df_of(const float *x)
{
    v_df out;
    memcpy(&out, x, sizeof out);
    return out;
}

/* ---- v_f ---- */

static bool holds_v_set1(rng *r)
{
    float x[N];
    x[0] = any_float(r);
    for (size_t i = 1; i < N; i++)
        x[i] = x[0];
    return v_is(v_set1(x[0]), x);
}

static bool holds_v_set1_half(rng *r)
{
    float x[N];
    uint16_t half = (uint16_t)(rng_u64(r) & 0xfbffu);
    for (size_t i = 0; i < N; i++)
        x[i] = kvq_f32_from_f16(half);
    return v_is(v_set1_half(half), x);
}

static bool holds_v_load(rng *r)
{
    float x[N + 1];
    fill_floats(r, any_float, x, N + 1);
    v_f got = v_load(x + 1);
    return memcmp(&got, x + 1, sizeof got) == 0;
}

static bool holds_v_store(rng *r)
{
    float x[N], got[N + 2] = {0};
    fill_floats(r, any_float, x, N);
    v_store(got + 1, v_load(x));
    return got[0] == 0 && got[N + 1] == 0 && memcmp(got + 1, x, sizeof x) == 0;
}

static bool holds_v_load_part(rng *r)
{
    float x[N], wanted[N] = {0};
    size_t n = rng_below(r, N);
    fill_floats(r, any_float, x, N);
    memcpy(wanted, x, n * sizeof *x);
    return v_is(v_load_part(x, n), wanted);
}

static bool holds_v_store_part(rng *r)
{
    float x[N], got[N], wanted[N];
    size_t n = rng_below(r, N);
    fill_floats(r, any_float, x, N);
    fill_floats(r, any_float, got, N);
    memcpy(wanted, got, sizeof got);
    memcpy(wanted, x, n * sizeof *x);
    v_store_part(got, v_load(x), n);
    return memcmp(got, wanted, sizeof got) == 0;
}

static void any_halves(rng *r, uint16_t half[N], float x[N])
{
    for (size_t i = 0; i < N; i++) {
        half[i] = (uint16_t)rng_u64(r);
        half[i] &= (half[i] & 0x3ffu) != 0 ? 0xfbffu : 0xffffu; /* not NaN */
        x[i] = kvq_f32_from_f16(half[i]);
    }
}

static bool holds_v_load_half(rng *r)
{
    uint16_t half[N];
    float wanted[N];
    any_halves(r, half, wanted);
    return v_is(v_load_half(half), wanted);
}

static bool holds_v_load_half_part(rng *r)
{
    uint16_t half[N];
    float wanted[N];
    size_t n = rng_below(r, N);
    any_halves(r, half, wanted);
    memset(wanted + n, 0, (N - n) * sizeof *wanted);
    return v_is(v_load_half_part(half, n), wanted);
}

static bool holds_v_store_half(rng *r)
{
    uint16_t got[N];
    float x[N];
    fill_floats(r, halfish, x, N);
    v_store_half(got, v_load(x));
    for (size_t i = 0; i < N; i++)
        if (got[i] != kvq_f16_from_f32(x[i]))
            return false;
    return true;
}

static bool holds_v_gather(rng *r)
{
    float table[KVQ_DIM_MAX], wanted[N];
    uint16_t at[N];
    size_t n = 1 + rng_below(r, rng_u64(r) & 1 ? KVQ_DIM_MAX : 160); /* what registers hold, and more */
    fill_floats(r, any_float, table, KVQ_DIM_MAX);
    for (size_t i = 0; i < N; i++) {
        at[i] = (uint16_t)rng_below(r, n);
        wanted[i] = table[at[i]];
    }
    return v_is(v_gather(table, n, at), wanted);
}

static bool holds_v_load_i8(rng *r)
{
    int8_t codes[N];
    float wanted[N];
    for (size_t i = 0; i < N; i++) {
        codes[i] = (int8_t)((int)rng_below(r, 256) - 128);
        wanted[i] = (float)codes[i];
    }
    return v_is(v_load_i8(codes), wanted);
}

static bool holds_v_store_i8(rng *r)
{
    int8_t codes[N], got[N];
    float x[N];
    for (size_t i = 0; i < N; i++) {
        codes[i] = (int8_t)((int)rng_below(r, 256) - 128);
        x[i] = (float)codes[i];
    }
    v_store_i8(got, v_load(x));
    return memcmp(got, codes, sizeof got) == 0;
}

/* What `word` makes of each lane is what `wanted` says of a and b. */
#define BY_LANE(word, wanted)                                                                                \
    static bool holds_##word(rng *r)                                                                         \
    {                                                                                                        \
        float (*some)(rng *) = rng_u64(r) & 1 ? any_float : small_float;                                     \
        float x[N], y[N], got[N];                                                                            \
        fill_floats(r, some, x, N);                                                                          \
        fill_floats(r, some, y, N);                                                                          \
        v_store(got, word(v_load(x), v_load(y)));                                                            \
        for (size_t i = 0; i < N; i++) {                                                                     \
            float a = x[i], b = y[i];                                                                        \
            if (!same(got[i], wanted))                                                                       \
                return false;                                                                                \
        }                                                                                                    \
        return true;                                                                                         \
    }

BY_LANE(v_add, a + b)
BY_LANE(v_sub, a - b)
BY_LANE(v_mul, a *b)
BY_LANE(v_div, a / b)
/* Of two zeros, either. */
BY_LANE(v_min, a == b && got[i] == a ? got[i] : a < b ? a : b)
BY_LANE(v_max, a == b && got[i] == a ? got[i] : a > b ? a : b)

static bool holds_v_abs(rng *r)
{
    float x[N], wanted[N];
    fill_floats(r, any_float, x, N);
    for (size_t i = 0; i < N; i++)
        wanted[i] = fabsf(x[i]);
    return v_is(v_abs(v_load(x)), wanted);
}

static bool holds_v_clamp(rng *r)
{
    float x[N], most[N], got[N];
    fill_floats(r, rng_u64(r) & 1 ? any_float : small_float, x, N);
    fill_floats(r, any_float, most, N);
    for (size_t i = 0; i < N; i++)
        most[i] = rng_below(r, 4) == 0 ? fabsf(x[i]) : fabsf(most[i]);
    v_store(got, v_clamp(v_load(x), v_load(most)));
    for (size_t i = 0; i < N; i++)
        if (got[i] != (x[i] < 0 ? 0 : x[i] > most[i] ? most[i] : x[i]))
            return false;
    return true;
}

static bool holds_v_if_less(rng *r)
{
    float x[4 * N], wanted[N];
    fill_floats(r, any_float, x, 4 * N);
    for (size_t i = 0; i < N; i++) {
        float *b = &x[N + i];
        *b = rng_below(r, 4) == 0 ? x[i] : rng_below(r, 8) == 0 ? NAN : *b;
        wanted[i] = x[i] < *b ? x[2 * N + i] : x[3 * N + i];
    }
    return v_is(v_if_less(v_load(x), v_load(x + N), v_load(x + 2 * N), v_load(x + 3 * N)), wanted);
}

static bool holds_v_butterfly(rng *r)
{
    float x[N], wanted[4][N];
    fill_floats(r, small_float, x, N);
    for (size_t i = 0, n = 1; i < 4; i++, n *= 2)
        for (size_t j = 0; j < N; j++)
            wanted[i][j] = (j & n) == 0 ? x[j] + x[j + n] : x[j - n] - x[j];
    v_f v = v_load(x);
    return v_is(v_butterfly(v, 1), wanted[0]) && v_is(v_butterfly(v, 2), wanted[1]) &&
           v_is(v_butterfly(v, 4), wanted[2]) && v_is(v_butterfly(v, 8), wanted[3]);
}

/* v_e of doubles that have too many digits for floats. */
static void fill_doubles(rng *r, double *x)
{
    for (size_t i = 0; i < 8; i++)
        x[i] = (double)any_float(r) * (1 + (double)small_float(r) * 0x1p-20);
}

static bool e_is(v_e x, const double wanted[8])
{
    double got[8];
    v_e_store(got, x);
    return memcmp(got, wanted, sizeof got) == 0;
}

static bool holds_v_e_set1(rng *r)
{
    double x[8], wanted[8];
    fill_doubles(r, x);
    for (size_t i = 0; i < 8; i++)
        wanted[i] = x[0];
    return e_is(v_e_set1(x[0]), wanted);
}

static bool holds_v_e_load(rng *r)
{
    double x[8];
    fill_doubles(r, x);
    return e_is(v_e_load(x), x);
}

static bool holds_v_e_store(rng *r)
{
    double x[8], got[10] = {0};
    fill_doubles(r, x);
    v_e_store(got + 1, v_e_load(x));
    return memcmp(got + 1, x, sizeof x) == 0 && got[0] == 0 && got[9] == 0;
}

static bool holds_v_e_sub(rng *r)
{
    double x[8], y[8], wanted[8];
    fill_doubles(r, x);
    fill_doubles(r, y);
    for (size_t i = 0; i < 8; i++)
        wanted[i] = x[i] - y[i];
    return e_is(v_e_sub(v_e_load(x), v_e_load(y)), wanted);
}

static bool holds_v_e_mul(rng *r)
{
    double x[8], y[8], wanted[8];
    fill_doubles(r, x);
    fill_doubles(r, y);
    for (size_t i = 0; i < 8; i++)
        wanted[i] = x[i] * y[i];
    return e_is(v_e_mul(v_e_load(x), v_e_load(y)), wanted);
}

static bool holds_v_round(rng *r)
{
    float x[N], got[N];
    for (size_t i = 0; i < N; i++)
        x[i] = rng_u64(r) & 1 ? 0.5f * (float)((int)rng_below(r, 400) - 200) : small_float(r);
    v_store(got, v_round(v_load(x)));
    for (size_t i = 0; i < N; i++)
        if (got[i] != nearbyintf(x[i]))
            return false;
    return true;
}

static bool holds_v_power_of_2_8th(rng *r)
{
    float x[N], wanted[N];
    for (size_t i = 0; i < N; i++) {
        const int n = (int)rng_below(r, 1008 + 1024) - 1008, in_octave = (n + 1008) % 8;
        x[i] = 0x1.8p20f + (float)n * 0.125f;
        wanted[i] = ldexpf((float)exp2(in_octave / 8.0), (n - in_octave) / 8);
    }
    return v_is(v_power_of_2_8th(v_load(x)), wanted);
}

static bool holds_v_sixteenths(rng *r)
{
    uint8_t n[N];
    float wanted[N];
    fill_bytes(r, n, N);
    n[rng_below(r, N)] = (uint8_t)rng_below(r, 17); /* 0 is apart, and the octaves below 1 and above */
    for (size_t i = 0; i < N; i++)
        wanted[i] = n[i] == 0 ? 0.0f : ldexpf((float)exp2(n[i] % 16 / 16.0), n[i] / 16);
    return v_is(v_sixteenths(n), wanted);
}

static float sum_of(const float x[N])
{
    float lane[N];
    memcpy(lane, x, sizeof lane);
    for (size_t half = N / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++)
            lane[j] += lane[j + half];
    return lane[0];
}

static bool holds_v_sum(rng *r)
{
    float x[N];
    fill_floats(r, small_float, x, N);
    return same(v_sum(v_load(x)), sum_of(x));
}

static bool holds_v_store_sums(rng *r)
{
    float x[4 * N], got[5] = {0}, wanted[5] = {0};
    fill_floats(r, small_float, x, 4 * N);
    v_store_sums(got, v_load(x), v_load(x + N), v_load(x + 2 * N), v_load(x + 3 * N));
    for (size_t i = 0; i < 4; i++)
        wanted[i] = sum_of(x + i * N);
    return same_floats(got, wanted, 5);
}

static bool holds_v_store_16_sums(rng *r)
{
    float x[16 * N], got[17] = {0}, wanted[17] = {0};
    v_f registers[16];
    fill_floats(r, small_float, x, 16 * N);
    for (size_t i = 0; i < 16; i++) {
        registers[i] = v_load(x + i * N);
        wanted[i] = sum_of(x + i * N);
    }
    v_store_16_sums(got, registers);
    return same_floats(got, wanted, 17);
}

/* The largest or smallest of n numbers. */
static float extreme_of(const float *x, size_t n, bool largest)
{
    float most = x[0];
    for (size_t i = 1; i < n; i++)
        most = (largest ? x[i] > most : x[i] < most) ? x[i] : most;
    return most;
}

static bool holds_v_largest(rng *r)
{
    float x[N];
    fill_floats(r, any_float, x, N);
    x[rng_below(r, N)] = -INFINITY;
    return v_largest(v_load(x)) == extreme_of(x, N, true);
}

static bool holds_v_all_finite(rng *r)
{
    static const uint32_t others[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffffffff};
    float x[N];
    fill_floats(r, any_float, x, N);
    if (!v_all_finite(v_load(x)))
        return false;
    x[rng_below(r, N)] = kvq_f32_of_bits(others[rng_below(r, 5)]);
    return !v_all_finite(v_load(x));
}

/* Four v_f, by lane. */
static void load_four(const float x[4 * N], v_f four[4])
{
    for (size_t i = 0; i < 4; i++)
        four[i] = v_load(x + i * N);
}

static bool holds_v_extremes_in_fours(rng *r)
{
    float x[4 * N], got[2][N];
    v_f four[4];
    fill_floats(r, any_float, x, 4 * N);
    load_four(x, four);
    v_store(got[0], v_extremes_in_fours(four, false));
    v_store(got[1], v_extremes_in_fours(four, true));
    for (size_t j = 0; j < 4; j++)
        for (int largest = 0; largest < 2; largest++)
            if (extreme_of(got[largest] + 4 * j, 4, largest) != extreme_of(x + j * N, N, largest))
                return false;
    return true;
}

static bool holds_v_extremes_of_fours(rng *r)
{
    float x[4 * N], got[2][N];
    v_f four[4];
    fill_floats(r, any_float, x, 4 * N);
    load_four(x, four);
    v_store(got[0], v_extremes_of_fours(four, false));
    v_store(got[1], v_extremes_of_fours(four, true));
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 4; j++)
            for (int largest = 0; largest < 2; largest++)
                if (got[largest][4 * j + i] != extreme_of(x + i * N + 4 * j, 4, largest))
                    return false;
    return true;
}

static bool holds_v_codes(rng *r)
{
    uint32_t x[N], shift = (uint32_t)rng_below(r, 32), mask = (1u << rng_below(r, 9)) - 1u;
    uint32_t up = (uint32_t)rng_below(r, 8);
    float wanted[N];
    fill_bytes(r, x, sizeof x);
    for (size_t i = 0; i < N; i++)
        wanted[i] = (float)((x[i] >> shift & mask) << up);
    return v_is(v_codes((const uint8_t *)x, shift, mask, up), wanted);
}

static bool holds_v_store_folded(rng *r)
{
    float x[2 * N];
    int8_t got[4 * N];
    for (size_t i = 0; i < 2 * N; i++) { /* halves of whole numbers: ties among them */
        x[i] = 0.5f * (float)((int)rng_below(r, 4 * KVQ_FOLDED_MAX + 1) - 2 * KVQ_FOLDED_MAX);
        x[i] = rng_below(r, 8) == 0 ? (x[i] < 0 ? -(float)KVQ_FOLDED_MAX : (float)KVQ_FOLDED_MAX) : x[i];
    }
    v_store_folded(got, v_load(x), v_load(x + N));
    for (size_t i = 0; i < 2 * N; i++) {
        int w = (int)nearbyintf(x[i]), high = (w + 128 + 65536) / 256 - 256;
        const int8_t *at = got + i / N * 2 * N + i % N;
        if (at[N] != high || at[0] != w - 256 * high)
            return false;
    }
    return true;
}

static bool holds_v_prefetch(rng *r)
{
    v_prefetch(NULL);
    v_prefetch((const uint8_t *)(uintptr_t)rng_u64(r));
    return true; /* nothing to see but that nothing happens */
}

#include "tests/check_words_ints.h"

/* ---- v_df ---- */

static bool holds_v_df_of(rng *r)
{
    int32_t x[V_DWORDS];
    float wanted[V_DWORDS];
    fill_bytes(r, x, sizeof x);
    for (size_t i = 0; i < V_DWORDS; i++)
        wanted[i] = (float)x[i];
    return df_is(v_df_of(d_of(x)), wanted);
}

static bool holds_v_df_set1(rng *r)
{
    float x[V_DWORDS], one = any_float(r);
    for (size_t i = 0; i < V_DWORDS; i++)
        x[i] = one;
    return df_is(v_df_set1(one), x);
}

static bool holds_v_df_load(rng *r)
{
    float x[V_DWORDS + 1];
    fill_floats(r, any_float, x, V_DWORDS + 1);
    return df_is(v_df_load(x + 1), x + 1);
}

static bool holds_v_df_store(rng *r)
{
    float x[V_DWORDS], got[V_DWORDS + 2] = {0};
    fill_floats(r, any_float, x, V_DWORDS);
    v_df_store(got + 1, df_of(x));
    return got[0] == 0 && got[V_DWORDS + 1] == 0 && memcmp(got + 1, x, sizeof x) == 0;
}

static bool holds_v_df_add(rng *r)
{
    float x[V_DWORDS], y[V_DWORDS], wanted[V_DWORDS];
    fill_floats(r, small_float, x, V_DWORDS);
    fill_floats(r, small_float, y, V_DWORDS);
    for (size_t i = 0; i < V_DWORDS; i++)
        wanted[i] = x[i] + y[i];
    return df_is(v_df_add(df_of(x), df_of(y)), wanted);
}

static bool holds_v_df_mul(rng *r)
{
    float x[V_DWORDS], y[V_DWORDS], wanted[V_DWORDS];
    fill_floats(r, small_float, x, V_DWORDS);
    fill_floats(r, small_float, y, V_DWORDS);
    for (size_t i = 0; i < V_DWORDS; i++)
        wanted[i] = x[i] * y[i];
    return df_is(v_df_mul(df_of(x), df_of(y)), wanted);
}

/* ---- The list ---- */

/* Many times over: each test tries other numbers every time. */
#define MANY(result, word, arguments)                                                                        \
    static bool always_holds_##word(rng *r)                                                                  \
    {                                                                                                        \
        for (size_t i = 0; i < RUNS; i++)                                                                    \
            if (!holds_##word(r))                                                                            \
                return false;                                                                                \
        return true;                                                                                         \
    }
V_WORDS(MANY)
#undef MANY

const word_check WORDS[] = {
#define ROW(result, word, arguments) {#word, always_holds_##word},
    V_WORDS(ROW)
#undef ROW
        {NULL, NULL},
};
