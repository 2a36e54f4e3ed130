/* The tests of halves and whole numbers, a part of check_words.c, which includes it behind its helpers. */

/* ---- v_h ---- */

static bool holds_v_h_load(rng *r)
{
    uint16_t x[N + 1];
    fill_bytes(r, x, sizeof x);
    return h_is(v_h_load(x + 1), x + 1);
}

static bool holds_v_h_store(rng *r)
{
    uint16_t x[N], got[N + 2] = {0};
    fill_bytes(r, x, sizeof x);
    v_h_store(got + 1, h_of(x));
    return got[0] == 0 && got[N + 1] == 0 && memcmp(got + 1, x, sizeof x) == 0;
}

static bool holds_v_h_max(rng *r)
{
    uint16_t x[N], y[N], wanted[N];
    fill_bytes(r, x, sizeof x);
    fill_bytes(r, y, sizeof y);
    for (size_t i = 0; i < N; i++) {
        x[i] &= 0x7fff;
        y[i] &= 0x7fff;
        wanted[i] = x[i] > y[i] ? x[i] : y[i];
    }
    return h_is(v_h_max(h_of(x), h_of(y)), wanted);
}

static bool holds_v_h_to_f(rng *r)
{
    uint16_t half[N];
    float wanted[N];
    any_halves(r, half, wanted);
    return v_is(v_h_to_f(h_of(half)), wanted);
}

static uint16_t half_below(float x)
{
    return x < -KVQ_F16_MAX ? 0xfc00 : kvq_f16_round_down(x);
}

static bool holds_v_h_down(rng *r)
{
    float x[N];
    uint16_t wanted[N];
    fill_floats(r, halfish, x, N);
    for (size_t i = 0; i < N; i++)
        wanted[i] = half_below(x[i]);
    return h_is(v_h_down(v_load(x)), wanted);
}

static bool holds_v_h_up(rng *r)
{
    float x[N];
    uint16_t wanted[N];
    fill_floats(r, halfish, x, N);
    for (size_t i = 0; i < N; i++)
        wanted[i] = half_below(-x[i]) ^ 0x8000;
    return h_is(v_h_up(v_load(x)), wanted);
}

/* ---- v_i ---- */

static bool holds_v_i_set1(rng *r)
{
    uint32_t x[N], one = (uint32_t)rng_u64(r);
    for (size_t i = 0; i < N; i++)
        x[i] = one;
    return i_is(v_i_set1(one), x);
}

static bool holds_v_i_load(rng *r)
{
    uint8_t x[4 * N + 1];
    uint32_t wanted[N];
    fill_bytes(r, x, sizeof x);
    memcpy(wanted, x + 1, sizeof wanted);
    return i_is(v_i_load(x + 1), wanted);
}

static bool holds_v_i_store(rng *r)
{
    uint32_t x[N];
    uint8_t got[4 * N + 2] = {0};
    fill_bytes(r, x, sizeof x);
    v_i_store(got + 1, i_of(x));
    return got[0] == 0 && got[4 * N + 1] == 0 && memcmp(got + 1, x, sizeof x) == 0;
}

static bool holds_v_i_nearest(rng *r)
{
    float x[N];
    uint32_t wanted[N];
    for (size_t i = 0; i < N; i++) {
        x[i] = rng_u64(r) & 1 ? 0.5f * (float)rng_below(r, 512) : fabsf(small_float(r)) * 30;
        wanted[i] = (uint32_t)nearbyintf(x[i]);
    }
    return i_is(v_i_nearest(v_load(x)), wanted);
}

/* What `word` makes of each of n dwords is what `wanted_of` says of x[i] and y[i]. */
#define BY_DWORD(word, name, n, wanted_of)                                                                   \
    static bool holds_##word(rng *r)                                                                         \
    {                                                                                                        \
        uint32_t x[n], y[n], wanted[n];                                                                      \
        fill_bytes(r, x, sizeof x);                                                                          \
        fill_bytes(r, y, sizeof y);                                                                          \
        for (size_t i = 0; i < n; i++)                                                                       \
            wanted[i] = wanted_of;                                                                           \
        return name##_is(word(name##_of(x), name##_of(y)), wanted);                                          \
    }

/* Likewise, of x[i] and a number k below `most`. */
#define BY_NUMBER(word, name, n, most, wanted_of)                                                            \
    static bool holds_##word(rng *r)                                                                         \
    {                                                                                                        \
        uint32_t x[n], wanted[n], k = (uint32_t)rng_below(r, most);                                          \
        fill_bytes(r, x, sizeof x);                                                                          \
        for (size_t i = 0; i < n; i++)                                                                       \
            wanted[i] = wanted_of;                                                                           \
        return name##_is(word(name##_of(x), k), wanted);                                                     \
    }

BY_DWORD(v_i_and, i, N, x[i] & y[i])
BY_DWORD(v_i_and_not, i, N, x[i] & ~y[i])
BY_DWORD(v_i_or, i, N, x[i] | y[i])
BY_NUMBER(v_i_shift_left, i, N, 32, x[i] << k)
BY_NUMBER(v_i_shift_right, i, N, 32, x[i] >> k)

static bool holds_v_i_pick(rng *r)
{
    uint32_t x[N], y[N];
    float table[16], of_sixteen[N], of_eight[N];
    fill_floats(r, any_float, table, 16);
    for (size_t i = 0; i < N; i++) {
        x[i] = (uint32_t)rng_below(r, 16);
        of_sixteen[i] = table[x[i]];
        y[i] = (uint32_t)rng_below(r, 8);
        of_eight[i] = table[y[i]];
    }
    return v_is(v_i_pick(i_of(x), table, 16), of_sixteen) && v_is(v_i_pick(i_of(y), table, 8), of_eight);
}

static bool holds_v_i_pack(rng *r)
{
    uint32_t x[4][N], wanted[N] = {0};
    v_i four[4];
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < N; j++) {
            x[i][j] = (uint32_t)rng_below(r, 256);
            wanted[j / 4 * 4 + i] |= x[i][j] << 8 * (j % 4);
        }
        four[i] = i_of(x[i]);
    }
    return i_is(v_i_pack(four), wanted);
}

static bool holds_v_i_transpose(rng *r)
{
    uint32_t x[4][N], wanted[4][N];
    v_i four[4], got[4];
    fill_bytes(r, x, sizeof x);
    for (size_t i = 0; i < 4; i++) {
        four[i] = i_of(x[i]);
        for (size_t j = 0; j < N; j++)
            wanted[j / 4][4 * i + j % 4] = x[i][j];
    }
    v_i_transpose(four, got);
    return i_is(got[0], wanted[0]) && i_is(got[1], wanted[1]) && i_is(got[2], wanted[2]) &&
           i_is(got[3], wanted[3]);
}

/* ---- v_q ---- */

BY_DWORD(v_q_or, q, 4, x[i] | y[i])
BY_NUMBER(v_q_and, q, 4, 256, x[i] & k * 0x01010101u)
BY_NUMBER(v_q_shift_left, q, 4, 8, x[i] << k)

static bool holds_v_q_set1(rng *r)
{
    uint32_t one = (uint32_t)rng_u64(r), x[4] = {one, one, one, one};
    return q_is(v_q_set1(one), x);
}

static bool holds_v_q_set(rng *r)
{
    uint32_t x[4];
    fill_bytes(r, x, sizeof x);
    return q_is(v_q_set(x[0], x[1], x[2], x[3]), x);
}

static bool holds_v_q_shift_right(rng *r)
{
    uint32_t x[4], wanted[4], n[4];
    fill_bytes(r, x, sizeof x);
    for (size_t i = 0; i < 4; i++) {
        n[i] = (uint32_t)rng_below(r, 8);
        wanted[i] = x[i] >> n[i];
    }
    return q_is(v_q_shift_right(q_of(x), n), wanted);
}

static bool holds_v_q_to_f(rng *r)
{
    uint32_t x[4];
    float wanted[N];
    fill_bytes(r, x, sizeof x);
    for (size_t i = 0; i < N; i++)
        wanted[i] = (float)(x[i / 4] >> 8 * (i % 4) & 255);
    return v_is(v_q_to_f(q_of(x)), wanted);
}

/* ---- v_d ---- */

BY_DWORD(v_d_add, d, V_DWORDS, x[i] + y[i])
BY_NUMBER(v_d_and, d, V_DWORDS, 256, x[i] & k * 0x01010101u)
BY_NUMBER(v_d_shift_left, d, V_DWORDS, 8, x[i] << k)

static bool holds_v_d_zero(rng *r)
{
    (void)r;
    return d_is(v_d_zero(), (uint32_t[V_DWORDS]){0});
}

static bool holds_v_d_load(rng *r)
{
    uint8_t x[4 * V_DWORDS + 1];
    uint32_t wanted[V_DWORDS];
    fill_bytes(r, x, sizeof x);
    memcpy(wanted, x + 1, sizeof wanted);
    return d_is(v_d_load(x + 1), wanted);
}

static bool holds_v_d_four_folded(rng *r)
{
    int8_t x[5];
    uint32_t wanted[V_DWORDS];
    fill_bytes(r, x, sizeof x);
    for (size_t i = 0; i < V_DWORDS; i++)
        memcpy(&wanted[i], x + 1, 4);
    return d_is(v_d_four_folded(x + 1), wanted);
}

static bool holds_v_d_shift_bytes(rng *r)
{
    uint8_t x[4 * V_DWORDS], got[4 * V_DWORDS];
    uint32_t n = (uint32_t)rng_below(r, 8);
    fill_bytes(r, x, sizeof x);
    v_d shifted = v_d_shift_bytes(d_of(x), n);
    memcpy(got, &shifted, sizeof got);
    for (size_t i = 0; i < sizeof x; i++)
        if (((got[i] ^ x[i] >> n) & (255 >> n)) != 0)
            return false;
    return true;
}

/* Add `times` the products of codes up to `largest` and folded bytes; are the sums what they should be? */
static bool dots(rng *r, uint32_t largest, size_t times, bool extreme)
{
    uint8_t codes[4 * V_DWORDS];
    int8_t folded[4 * V_DWORDS];
    uint32_t wanted[V_DWORDS] = {0};
    v_acc sum = v_acc_zero();
    for (size_t step = 0; step < times; step++) {
        fill_bytes(r, folded, sizeof folded);
        for (size_t i = 0; i < sizeof codes; i++) {
            codes[i] = (uint8_t)(extreme ? largest : rng_below(r, largest + 1));
            folded[i] = extreme ? -128 : folded[i];
            wanted[i / 4] += (uint32_t)(codes[i] * folded[i]);
        }
        sum = v_dot(sum, d_of(codes), d_of(folded));
    }
    return d_is(v_widen(sum), wanted);
}

static bool holds_v_acc_zero(rng *r)
{
    (void)r;
    return d_is(v_widen(v_acc_zero()), (uint32_t[V_DWORDS]){0});
}

static bool holds_v_dot(rng *r)
{
    return dots(r, V_NIBBLES ? 15 : 255, 1, false);
}

static bool holds_v_widen(rng *r)
{
    /* Negative numbers reach V_ROOM first. */
    for (uint32_t largest = 1; largest <= (V_NIBBLES ? 15 : 255); largest = 2 * largest + 1)
        if (!dots(r, largest, V_ROOM > 0 ? V_ROOM / largest : KVQ_DIM_MAX, true))
            return false;
    return dots(r, V_NIBBLES ? 15 : 255, 3, false);
}
