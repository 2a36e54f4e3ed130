/*
 * IEEE half in software (quant/half.h) against its definition in double: every half, every midpoint between
 * two halves, and floats of every size.
 *
 * The reference knows only that the finite halves of one sign, in the order of their bits, are in the order
 * of their values; it finds a number's neighbours by bisection and picks as the definition says.
 */
#include <criterion/criterion.h>
#include <math.h>

#include "quant/half.h"
#include "tests/support.h"

enum { INF_BITS = 0x7c00, MAX_BITS = 0x7bff, SIGN_BIT = 0x8000 };

/* Value of a half; Inf counts as 65536, where the next half would be, which is how IEEE rounds to it. */
static double value_of(unsigned half)
{
    unsigned exponent = half >> 10 & 31, fraction = half & 1023;
    double magnitude = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, (int)exponent - 25);
    return half & SIGN_BIT ? -magnitude : magnitude;
}

/* Largest half, of finite ones and Inf, that is not above x >= 0. */
static unsigned floor_of(double x)
{
    unsigned low = 0, high = INF_BITS + 1;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (value_of(middle) <= x)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static unsigned nearest_even(double x)
{
    unsigned sign = signbit(x) ? SIGN_BIT : 0, low = floor_of(fabs(x));
    if (low == INF_BITS)
        return sign | INF_BITS;
    double below = fabs(x) - value_of(low), above = value_of(low + 1) - fabs(x);
    unsigned half = below < above || (below == above && low % 2 == 0) ? low : low + 1;
    return sign | half;
}

/* Largest finite half <= x, or the lowest finite one. */
static double value_below(double x)
{
    unsigned half = floor_of(fabs(x));
    if (x >= 0)
        return value_of(half < MAX_BITS ? half : MAX_BITS);
    if (value_of(half) != fabs(x))
        half++;
    return -value_of(half < MAX_BITS ? half : MAX_BITS);
}

static bool is_zero(unsigned half)
{
    return (half & 0x7fff) == 0;
}

/* Everything half.h says of a float that is not NaN. */
static void check(float x)
{
    unsigned wanted = nearest_even((double)x);
    unsigned got = kvq_f16_from_f32(x);
    cr_assert(got == wanted, "%a to half: %04x, not %04x", (double)x, got, wanted);

    unsigned saturated = (wanted & 0x7fff) == INF_BITS ? wanted - 1 : wanted;
    got = kvq_f16_from_f32_saturating(x);
    cr_assert(got == saturated, "%a to half, saturating: %04x, not %04x", (double)x, got, saturated);

    float nearest = kvq_round_to_f16(x), nearest_wanted = (float)value_of(saturated);
    cr_assert(kvq_bits_of_f32(nearest) == kvq_bits_of_f32(nearest_wanted), "%a rounded: %a, not %a",
              (double)x, (double)nearest, (double)nearest_wanted);

    double below = value_below((double)x), above = -value_below(-(double)x);
    unsigned down = kvq_f16_round_down(x), up = kvq_f16_round_up(x);
    cr_assert((down & INF_BITS) != INF_BITS && value_of(down) == below, "%a rounded down: %04x, not %a",
              (double)x, down, below);
    cr_assert((up & INF_BITS) != INF_BITS && value_of(up) == above, "%a rounded up: %04x, not %a", (double)x,
              up, above);
    /* A zero has the sign of what was rounded to it, unless it is x itself. */
    cr_assert(!is_zero(up) || x > 0 || x == 0 || up == SIGN_BIT, "%a rounded up: +0", (double)x);
    cr_assert(!is_zero(down) || x < 0 || x == 0 || down == 0, "%a rounded down: -0", (double)x);
}

static void check_both_signs(float x)
{
    check(x);
    check(-x);
}

static void check_with_neighbours(float x)
{
    check_both_signs(x);
    check_both_signs(nextafterf(x, INFINITY));
    check_both_signs(nextafterf(x, -INFINITY));
}

Test(half, every_half_becomes_its_float_and_comes_back)
{
    for (unsigned half = 0; half <= 0xffff; half++) {
        float x = kvq_f32_from_f16((uint16_t)half);
        unsigned back = kvq_f16_from_f32(x);
        if ((half & INF_BITS) == INF_BITS && (half & 1023) != 0) {
            cr_assert(isnan(x), "%04x is NaN", half);
            cr_assert((back & INF_BITS) == INF_BITS && (back & 0x200) != 0, "%04x came back as %04x", half,
                      back);
            continue;
        }
        double wanted = value_of(half);
        if ((half & 0x7fff) == INF_BITS)
            wanted = half & SIGN_BIT ? -INFINITY : INFINITY;
        cr_assert((double)x == wanted && !signbit(x) == !(half & SIGN_BIT), "%04x is %a, not %a", half,
                  (double)x, wanted);
        cr_assert(back == half, "%04x came back as %04x", half, back);
    }
}

Test(half, rounds_as_defined_at_every_half)
{
    for (unsigned half = 0; half <= MAX_BITS; half++)
        check_with_neighbours((float)value_of(half));
}

Test(half, rounds_as_defined_at_every_midpoint)
{
    for (unsigned half = 0; half <= MAX_BITS; half++) /* the last one is 65520, the border of Inf */
        check_with_neighbours((float)((value_of(half) + value_of(half + 1)) / 2));
}

Test(half, rounds_as_defined_at_random)
{
    rng r = rng_make(1);
    for (size_t i = 0; i < 1000000; i++) { /* any bits: floats of every exponent */
        float x = kvq_f32_of_bits((uint32_t)rng_u64(&r));
        if (!isnan(x))
            check(x);
        check(rng_normal(&r));
        check(rng_normal(&r) * 0x1p-16f); /* around the border of the subnormal halves */
    }
}

Test(half, rounds_as_defined_at_the_ends)
{
    const float ends[] = {0.0f,      0x1p-149f, 0x1p-126f, 0x1p-26f,     0x1p-25f, 0x1p-24f,
                          0x1.8p-24, 0x1p-14f,  65504.0f,  65519.996f,   65520.0f, 65536.0f,
                          131008.0f, 0x1p30f,   0x1p127f,  3.4028235e38f};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        check_with_neighbours(ends[i]);
    check_both_signs(INFINITY);
}

Test(half, nan_stays_nan)
{
    const uint32_t nans[] = {0x7fc00000, 0x7f800001, 0x7f801fff, 0x7fffffff, 0xffc00000, 0xff800001};
    for (size_t i = 0; i < sizeof nans / sizeof nans[0]; i++) {
        unsigned half = kvq_f16_from_f32(kvq_f32_of_bits(nans[i]));
        cr_assert((half & 0x7e00) == 0x7e00, "NaN %08x became %04x", nans[i], half);
        cr_assert(half >> 15 == nans[i] >> 31, "the sign of NaN %08x", nans[i]);
    }
}

#ifdef __SSE__
#include <xmmintrin.h>

/* A program may flush subnormal floats to zero (MXCSR: FTZ 0x8000, DAZ 0x40); halves must not notice. */
Test(half, conversions_do_not_depend_on_subnormal_floats)
{
    unsigned kept = _mm_getcsr();
    static float wanted[65536], got[65536];
    for (uint32_t i = 0; i < 65536; i++)
        wanted[i] = kvq_f32_from_f16((uint16_t)i);
    _mm_setcsr(kept | 0x8040u);
    for (uint32_t i = 0; i < 65536; i++)
        got[i] = kvq_f32_from_f16((uint16_t)i);
    bool same = memcmp(wanted, got, sizeof got) == 0;
    bool back = true;
    for (uint32_t i = 0; i < 0x7c00; i++)
        back = back && kvq_f16_from_f32(got[i]) == i &&
               kvq_bits_of_f32(kvq_round_to_f16(got[i])) == kvq_bits_of_f32(got[i]);
    _mm_setcsr(kept);
    cr_assert(same);
    cr_assert(back);
}
#endif
