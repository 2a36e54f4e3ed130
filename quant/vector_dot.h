/*
 * Dot products of codes and folded numbers (portable_fast.c) in vectors: what attention over packed tokens
 * spends its time in.
 *
 * A sum goes over the runs of a superblock (kvq_run): codes of one width, one value of the reduction after
 * the other. A dword holds 32 / width values of one lane, four to each place within its bytes (layout.h).
 * Four values in one place are a quad: what one lane of a dot-product instruction takes. Loops go by k-steps
 * of 16 values (32 for one bit), because 16 folded numbers lie together. A row is dwords side by side, one
 * per lane:
 *
 *   width            1             2             4             8
 *   rows per k-step  1 of 8 quads  1 of 4        2 of 2        4 of 1
 *
 * All runs add to the same whole numbers, so that these become floats once. Runs come with the widest shift
 * first: where the next one has a smaller shift, what there is moves up by the difference (Horner). Where
 * v_dot takes codes below 16 only (V_NIBBLES), a run of 8 bits is two: of the upper halves and of the lower.
 *
 * Most sums stay in their v_acc to the end, always where that has room for all (V_ROOM 0), otherwise where
 * this call's products fit. The others are made in turns, of as many runs, or parts of runs, as a v_acc has
 * room for, and totals wait in dwords in memory (`in_turns`, a constant where it is inlined).
 */
#ifndef KVQ_QUANT_VECTOR_DOT_H
#define KVQ_QUANT_VECTOR_DOT_H

#include "quant/kernels.h"
#include "quant/vector_complete.h"

/* Prefetch the first `bytes` of it, which are taken off. (Always inlined: gcc 12 takes a function that only
 * prefetches for one without effect and drops its calls.) */
V_INLINE void v_prefetch_some(kvq_next *next, size_t bytes)
{
    if (next->n_bytes == 0)
        return;
    bytes = bytes < next->n_bytes ? bytes : next->n_bytes;
    for (size_t i = 0; i < bytes; i += 64)
        v_prefetch(next->bytes + i);
    next->bytes += bytes;
    next->n_bytes -= bytes;
}

/* A run as the loops take it, or so much of it as a v_acc has room for. */
typedef struct dot_part {
    const uint8_t *codes; /* of the first block of lanes */
    const int8_t *folded; /* of the first of n_q rows */
    size_t block_bytes, folded_stride;
    size_t n_k_steps;
    uint32_t width;
    uint32_t up;    /* how far to move up what there is, for what comes next */
    bool upper;     /* of codes of 8 bits it is the upper halves, where v_dot takes those only */
    bool ends_turn; /* behind it the v_acc are added to totals, and start again; or it is the last */
} dot_part;

_Static_assert((int)KVQ_MAX_PLANES <= (int)KVQ_RUNS_MAX, "planes of affine codes are runs");

/* Of 4 bits two k-steps always fit, so that a part has one only where it is the last of its run, or fills a
 * v_acc up. */
enum { DOT_PARTS_MAX = KVQ_DIM_MAX / 16 + 2 * KVQ_RUNS_MAX };

_Static_assert(V_ROOM == 0 || V_ROOM >= 2 * 4 * (V_NIBBLES ? 15 : 255), "a v_acc takes two k-steps");

/* Codes against n_q rows of folded numbers. Keys' lanes are tokens, values' channels. */
typedef struct dot_call {
    dot_part parts[DOT_PARTS_MAX];
    size_t n_parts;
    const float *step; /* one for each row */
    const float *bias; /* likewise */
    size_t first, end; /* lanes */
    kvq_next next;     /* to prefetch along the way */
    float *out;
    size_t out_stride; /* from row to row */
} dot_call;

/* ---- How registers are used. All of this is constant where it is inlined. ---- */

/* v_d that share one broadcast of folded bytes. */
V_INLINE uint32_t dot_registers(uint32_t n_q)
{
    uint32_t most = V_SUMS / (2 * n_q);
    return most < V_STRIP ? most : V_STRIP;
}

/* Sums that quads go to in turn, so that none waits for the one before. */
V_INLINE uint32_t dot_chains(uint32_t n_q)
{
    uint32_t most = V_SUMS / (2 * n_q * dot_registers(n_q));
    return most >= 4 && V_CHAINS >= 4 ? 4 : most >= 2 && V_CHAINS >= 2 ? 2 : 1;
}

V_INLINE uint32_t k_step_rows(uint32_t width)
{
    return width < 4 ? 1 : width / 2;
}

V_INLINE uint32_t k_step_quads(uint32_t width)
{
    return width == 1 ? 8 : 4;
}

/* The sums of the products of n_q queries and `registers` v_d: by row, then register, then chain. */
typedef struct dot_sums {
    v_acc low[V_SUMS / 2], high[V_SUMS / 2];
} dot_sums;

/* The same when all is added: by row, then register. */
typedef struct dot_totals {
    v_d low[V_SUMS / 2], high[V_SUMS / 2];
} dot_totals;

V_INLINE void dot_start(dot_sums *s)
{
    V_UNROLL(16)
    for (uint32_t i = 0; i < V_SUMS / 2; i++)
        s->low[i] = s->high[i] = v_acc_zero();
}

V_INLINE v_d dot_chained(uint32_t chains, const v_acc *sum)
{
    v_d total = v_widen(sum[0]);
    V_UNROLL(4)
    for (uint32_t j = 1; j < chains; j++)
        total = v_d_add(total, v_widen(sum[j]));
    return total;
}

V_INLINE void dot_finish(uint32_t n_q, const dot_sums *s, dot_totals *t)
{
    const uint32_t chains = dot_chains(n_q);
    V_UNROLL(8)
    for (uint32_t i = 0; i < n_q * dot_registers(n_q); i++) {
        t->low[i] = dot_chained(chains, s->low + i * chains);
        t->high[i] = dot_chained(chains, s->high + i * chains);
    }
}

/* Move sums up by so many bits, above what comes after them: of a v_acc that is a v_d (V_ROOM 0). */
V_INLINE void dot_move_up(uint32_t n_q, dot_sums *s, uint32_t up)
{
    V_UNROLL(16)
    for (uint32_t i = 0; i < n_q * dot_registers(n_q) * dot_chains(n_q); i++) {
        s->low[i] = v_d_shift_left(s->low[i], up);
        s->high[i] = v_d_shift_left(s->high[i], up);
    }
}

V_INLINE void dot_add(uint32_t n_q, const dot_totals *more, dot_totals *t)
{
    V_UNROLL(8)
    for (uint32_t i = 0; i < n_q * dot_registers(n_q); i++) {
        t->low[i] = v_d_add(t->low[i], more->low[i]);
        t->high[i] = v_d_add(t->high[i], more->high[i]);
    }
}

V_INLINE void dot_shift(uint32_t n_q, uint32_t up, dot_totals *t)
{
    V_UNROLL(8)
    for (uint32_t i = 0; i < n_q * dot_registers(n_q); i++) {
        t->low[i] = v_d_shift_left(t->low[i], up);
        t->high[i] = v_d_shift_left(t->high[i], up);
    }
}

/* ---- Parts ---- */

/* The codes of a quad of the k-step that starts at `row`; of 8 bits their upper or lower half, or all. */
V_INLINE v_d quad_codes(uint32_t width, const uint8_t *row, size_t row_bytes, uint32_t quad, uint32_t down,
                        uint32_t mask)
{
    if (width == 8)
        return v_d_and(v_d_shift_bytes(v_d_load(row + quad * row_bytes), down), mask);
    uint32_t place = width == 4 ? 4 * (quad % 2) : width * quad; /* of the quad, in bits */
    return v_d_and(v_d_shift_bytes(v_d_load(row + (width == 4 ? quad / 2 * row_bytes : 0)), place), mask);
}

/* Add the products of a part. */
V_INLINE void dot_k_steps(uint32_t width, uint32_t down, uint32_t mask, uint32_t n_q, const dot_part *part,
                          const uint8_t *const *at, size_t row_bytes, dot_sums *s)
{
    const uint32_t registers = dot_registers(n_q), chains = dot_chains(n_q);
    const size_t n = part->n_k_steps, folded_stride = part->folded_stride;
    const int8_t *folded = part->folded;
    for (size_t k = 0; k < n; k++) {
        V_UNROLL(8)
        for (uint32_t quad = 0; quad < k_step_quads(width); quad++) {
            v_d code[V_STRIP];
            V_UNROLL(4)
            for (uint32_t r = 0; r < registers; r++)
                code[r] = quad_codes(width, at[r] + k * k_step_rows(width) * row_bytes, row_bytes, quad, down,
                                     mask);
            V_UNROLL(4)
            for (uint32_t i = 0; i < n_q; i++) {
                const int8_t *w =
                    folded + i * folded_stride + 8 * k_step_quads(width) * k + quad / 4 * 32 + quad % 4 * 4;
                v_d w_low = v_d_four_folded(w), w_high = v_d_four_folded(w + 16);
                V_UNROLL(4)
                for (uint32_t r = 0; r < registers; r++) {
                    uint32_t sum = (i * registers + r) * chains + quad % chains;
                    s->low[sum] = v_dot(s->low[sum], code[r], w_low);
                    s->high[sum] = v_dot(s->high[sum], code[r], w_high);
                }
            }
        }
    }
}

V_INLINE void dot_of_part(uint32_t n_q, const dot_part *part, const uint8_t *const *at, size_t row_bytes,
                          dot_sums *s)
{
    switch (part->width) {
    case 1:
        dot_k_steps(1, 0, 1, n_q, part, at, row_bytes, s);
        return;
    case 2:
        dot_k_steps(2, 0, 3, n_q, part, at, row_bytes, s);
        return;
    case 4:
        dot_k_steps(4, 0, 15, n_q, part, at, row_bytes, s);
        return;
    default:
        if (V_NIBBLES && part->upper)
            dot_k_steps(8, 4, 15, n_q, part, at, row_bytes, s);
        else
            dot_k_steps(8, 0, V_NIBBLES ? 15 : 255, n_q, part, at, row_bytes, s);
    }
}

/* Totals of n parts in one strip: lanes `first` and following. */
V_INLINE void dot_strip(uint32_t n_q, size_t block_lanes, const dot_call *call, const dot_part *part,
                        size_t n, size_t first, dot_totals *t)
{
    dot_sums s;
    dot_start(&s);
    for (const dot_part *behind = part + n; part < behind; part++) {
        const uint8_t *at[V_STRIP];
        for (uint32_t r = 0; r < dot_registers(n_q); r++) {
            size_t lane = first + r * V_DWORDS;
            lane = lane < call->end ? lane : first; /* past the end something is read, and never stored */
            at[r] = part->codes + lane / block_lanes * part->block_bytes + lane % block_lanes * 4;
        }
        dot_of_part(n_q, part, at, 4 * block_lanes, &s);
        if (V_ROOM == 0 && part->up > 0)
            dot_move_up(n_q, &s, part->up);
    }
    dot_finish(n_q, &s, t);
}

/* Totals of all parts in the strips of lanes [first, end), where the v_acc have no room for all: as many
 * parts at a time as they have, in all strips, so that in a strip nothing but sums is in registers. */
V_INLINE void dot_in_turns(uint32_t n_q, size_t block_lanes, const dot_call *call, size_t first, size_t end,
                           dot_totals *totals, kvq_next *next, size_t bytes)
{
    const dot_part *part = call->parts, *behind = part + call->n_parts;
    for (size_t n; part < behind; part += n) {
        n = 1;
        while (!part[n - 1].ends_turn)
            n++;
        dot_totals *t = totals;
        for (size_t lane = first; lane < end; lane += dot_registers(n_q) * V_DWORDS, t++) {
            dot_totals now;
            dot_strip(n_q, block_lanes, call, part, n, lane, &now);
            if (part == call->parts) {
                v_prefetch_some(next, bytes);
                *t = now;
            } else
                dot_add(n_q, &now, t);
            if (part[n - 1].up > 0)
                dot_shift(n_q, part[n - 1].up, t);
        }
    }
}

/* ---- All lanes ---- */

/* step * (low + 256 high), with the bias. */
V_INLINE v_df dot_scaled(v_d low, v_d high, float step)
{
    v_df sum = v_df_add(v_df_of(low), v_df_mul(v_df_set1(256.0f), v_df_of(high)));
    return v_df_mul(v_df_set1(step), sum);
}

enum { DOT_LANES = KVQ_SUPERBLOCK }; /* whose totals wait in memory, at most */

/* How much of what is to be prefetched goes with each strip: whole lines. */
V_INLINE size_t dot_bytes_per_strip(const dot_call *call, size_t strip)
{
    const uint32_t lines = (uint32_t)((call->next.n_bytes + 63) / 64);
    const uint32_t n_strips = (uint32_t)((call->end - call->first + strip - 1) / strip);
    return n_strips == 0 ? 0 : (size_t)((lines + n_strips - 1) / n_strips) * 64;
}

/* Scores of tokens: whole blocks of 32. */
V_INLINE void dot_store_scores(uint32_t n_q, const dot_call *call, size_t lane, const dot_totals *t)
{
    const uint32_t registers = dot_registers(n_q);
    V_UNROLL(4)
    for (uint32_t i = 0; i < n_q; i++) {
        float *out = call->out + i * call->out_stride + lane;
        V_UNROLL(4)
        for (uint32_t r = 0; r < registers; r++, out += V_DWORDS) {
            uint32_t at = i * registers + r;
            v_df x = dot_scaled(t->low[at], t->high[at], call->step[i]);
            v_df_store(out, v_df_add(v_df_set1(call->bias[i]), x));
        }
    }
}

/* Sums of channels, up to the last one. */
V_INLINE void dot_add_sums(uint32_t n_q, const dot_call *call, size_t lane, const dot_totals *t)
{
    const uint32_t registers = dot_registers(n_q), strip = registers * V_DWORDS;
    v_df x[V_SUMS / 2];
    V_UNROLL(16)
    for (uint32_t at = 0; at < n_q * registers; at++)
        x[at] = v_df_add(dot_scaled(t->low[at], t->high[at], call->step[at / registers]),
                         v_df_set1(call->bias[at / registers]));
    if (lane + strip <= call->end) {
        V_UNROLL(16)
        for (uint32_t at = 0; at < n_q * registers; at++) {
            float *out = call->out + at / registers * call->out_stride + lane + at % registers * V_DWORDS;
            v_df_store(out, v_df_add(v_df_load(out), x[at]));
        }
        return;
    }
    float sums[V_SUMS / 2 * V_DWORDS] = {0};
    V_UNROLL(16)
    for (uint32_t at = 0; at < n_q * registers; at++)
        v_df_store(sums + at * V_DWORDS, x[at]);
    for (size_t i = 0; i < n_q; i++)
        for (size_t channel = lane; channel < call->end; channel++)
            call->out[i * call->out_stride + channel] += sums[i * strip + channel - lane];
}

V_INLINE void dot_put(uint32_t n_q, bool channels, const dot_call *call, size_t lane, const dot_totals *t)
{
    if (channels)
        dot_add_sums(n_q, call, lane, t);
    else
        dot_store_scores(n_q, call, lane, t);
}

/* Strip by strip: scores of tokens, or sums of channels. */
V_INLINE void dot_strips(uint32_t n_q, bool in_turns, bool channels, const dot_call *call)
{
    const size_t strip = dot_registers(n_q) * V_DWORDS, block_lanes = channels ? 16 : KVQ_BLOCK;
    const size_t bytes = dot_bytes_per_strip(call, strip);
    kvq_next next = call->next;
    for (size_t lane = call->first; !in_turns && lane < call->end; lane += strip) {
        dot_totals t;
        v_prefetch_some(&next, bytes);
        dot_strip(n_q, block_lanes, call, call->parts, call->n_parts, lane, &t);
        dot_put(n_q, channels, call, lane, &t);
    }
    for (size_t first = call->first, end; in_turns && first < call->end; first = end) {
        dot_totals totals[DOT_LANES / V_DWORDS], *t = totals;
        end = call->end - first < DOT_LANES ? call->end : first + DOT_LANES;
        dot_in_turns(n_q, block_lanes, call, first, end, totals, &next, bytes);
        for (size_t lane = first; lane < end; lane += strip)
            dot_put(n_q, channels, call, lane, t++);
    }
}

V_INLINE void dot_scores(uint32_t n_q, bool in_turns, const dot_call *call)
{
    dot_strips(n_q, in_turns, false, call);
}

V_INLINE void dot_accumulate(uint32_t n_q, bool in_turns, const dot_call *call)
{
    dot_strips(n_q, in_turns, true, call);
}

/* ---- Any number of rows ---- */

enum { DOT_ROWS = 4 }; /* that share one unpacking of codes, at most */

#define DOT_INSTANCE(name, n_q)                                                                              \
    static void name##_##n_q(const dot_call *call)                                                           \
    {                                                                                                        \
        name(n_q, false, call);                                                                              \
    }                                                                                                        \
    static void name##_in_turns_##n_q(const dot_call *call)                                                  \
    {                                                                                                        \
        name(n_q, true, call);                                                                               \
    }
#define DOT_INSTANCES(name)                                                                                  \
    DOT_INSTANCE(name, 1)                                                                                    \
    DOT_INSTANCE(name, 2)                                                                                    \
    DOT_INSTANCE(name, 3)                                                                                    \
    DOT_INSTANCE(name, 4)                                                                                    \
    static const dot_table name##_table = {                                                                  \
        {name##_1, name##_2, name##_3, name##_4},                                                            \
        {V_ROOM != 0 ? name##_in_turns_1 : NULL, V_ROOM != 0 ? name##_in_turns_2 : NULL,                     \
         V_ROOM != 0 ? name##_in_turns_3 : NULL, V_ROOM != 0 ? name##_in_turns_4 : NULL}};

typedef void (*const dot_table[2][DOT_ROWS])(const dot_call *);

DOT_INSTANCES(dot_scores)
DOT_INSTANCES(dot_accumulate)

/* Cut a run, or of its codes of 8 bits a half, into parts. room: what is left of a v_acc. */
V_INLINE void dot_cut(dot_part part, uint32_t largest, size_t block_lanes, uint32_t *room, dot_call *call)
{
    const uint32_t quads = k_step_quads(part.width), cost = quads * largest, up = part.up;
    part.up = 0;
    for (size_t left = part.n_k_steps; left > 0; left -= part.n_k_steps) {
        if (V_ROOM != 0 && *room < cost) {
            call->parts[call->n_parts - 1].ends_turn = true;
            *room = V_ROOM;
        }
        part.n_k_steps = V_ROOM == 0 || left * cost <= *room ? left : *room / cost;
        *room -= (uint32_t)part.n_k_steps * cost; /* without V_ROOM nobody asks */
        call->parts[call->n_parts++] = part;
        part.codes += part.n_k_steps * k_step_rows(part.width) * 4 * block_lanes;
        part.folded += part.n_k_steps * 8 * quads;
    }
    if (up > 0) {
        call->parts[call->n_parts - 1].up = up;
        call->parts[call->n_parts - 1].ends_turn = true;
        *room = V_ROOM;
    }
}

/* What the loops need to know of runs. Returns whether their sums have to be put away on the way. (The last
 * lane sees as many products as any other.) */
V_INLINE bool dot_prepare(const kvq_run *runs, size_t n_runs, size_t block_lanes, const uint8_t *superblock,
                          const int8_t *folded, dot_call *call)
{
    uint32_t room = V_ROOM;
    bool in_turns = false;
    call->n_parts = 0;
    for (size_t i = 0; i < n_runs; i++) {
        const kvq_run *run = &runs[i];
        const bool halves = V_NIBBLES && run->width == 8; /* it is alone */
        dot_part part = {.codes = superblock + run->offset,
                         .folded = folded + run->folded,
                         .block_bytes = run->block_bytes,
                         .folded_stride = run->folded_stride,
                         .n_k_steps = run->width == 1 ? (run->n + 31) / 32 : (run->n + 15) / 16,
                         .width = run->width,
                         .up = halves ? 4 : run->shift - (i + 1 < n_runs ? run[1].shift : 0),
                         .upper = halves};
        dot_cut(part, halves ? 15 : (1u << run->width) - 1u, block_lanes, &room, call);
        part.up = 0;
        part.upper = false;
        if (halves)
            dot_cut(part, 15, block_lanes, &room, call);
    }
    if (call->n_parts == 0)
        return false;
    for (size_t i = 0; i + 1 < call->n_parts; i++)
        in_turns = in_turns || call->parts[i].ends_turn;
    call->parts[call->n_parts - 1].ends_turn = true;
    return V_ROOM != 0 && in_turns;
}

/* All n_q rows of a call, of which `call` has the first one. */
V_INLINE void dot_rows_of(const dot_table table, dot_call *call, bool in_turns, size_t n_q)
{
    for (size_t left = n_q, n; left > 0; left -= n) {
        n = left < DOT_ROWS ? left : DOT_ROWS;
        table[in_turns][n - 1](call);
        for (size_t i = 0; i < call->n_parts && n < left; i++)
            call->parts[i].folded += n * call->parts[i].folded_stride;
        call->step += n;
        call->bias += n;
        call->out += n * call->out_stride;
        call->next.n_bytes = 0; /* it is under way */
    }
}

static void score_runs_v(const kvq_run *runs, size_t n_runs, const uint8_t *superblock, kvq_next next,
                         size_t n, const int8_t *folded, const float *step, const float *bias, size_t n_q,
                         float *scores)
{
    dot_call call;
    const bool in_turns = dot_prepare(runs, n_runs, KVQ_BLOCK, superblock, folded, &call);
    call.step = step;
    call.bias = bias;
    call.first = 0;
    call.end = (n + KVQ_BLOCK - 1) / KVQ_BLOCK * KVQ_BLOCK;
    call.next = next;
    call.out = scores;
    call.out_stride = KVQ_SUPERBLOCK;
    dot_rows_of(dot_scores_table, &call, in_turns, n_q);
}

static void accumulate_folded_v(const kvq_layout *l, const uint8_t *superblock, kvq_next next, size_t n,
                                const int8_t *p_folded, const float *step, const float *bias, size_t n_q,
                                float *acc)
{
    const size_t stride = 2 * KVQ_SUPERBLOCK;
    kvq_run runs[KVQ_MAX_PLANES];
    kvq_layout_runs(l, n, stride, runs);
    for (size_t c = 0; c < l->dim && n > 0; c += l->group) {
        size_t end = l->dim - c < l->group ? l->dim : c + l->group;
        dot_call call;
        const bool in_turns = dot_prepare(runs, l->n_planes, 16, superblock, p_folded, &call);
        call.step = step;
        call.bias = bias;
        call.first = c;
        call.end = end;
        call.next = kvq_next_part(next, c, end - c, l->dim);
        call.out = acc;
        call.out_stride = l->dim;
        dot_rows_of(dot_accumulate_table, &call, in_turns, n_q);
        p_folded += n_q * stride;
        step += n_q;
        bias += n_q;
    }
}

/* The slots of a table that this file fills. */
#define V_DOT_KERNELS .score_runs = score_runs_v, .accumulate_folded = accumulate_folded_v

#endif /* KVQ_QUANT_VECTOR_DOT_H */
