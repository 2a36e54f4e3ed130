/*
 * The certified bound of attention's output.
 *
 * Let k, v be the keys and values as appended, s_t = scale q.k_t, p = softmax(s), o* = sum_t p_t v_t in real
 * arithmetic, and o the output that was returned. We look for B with max_c |o*_c - o_c| <= B, knowing only
 * what is stored: khat, vhat, and bounds |k - khat| <= e (likewise f for v) per element. t runs over the
 * tokens that the query sees.
 *
 * 1. Scores. a_t = scale q.khat_t differs from s_t by at most d_t = |scale| sum_c |q_c| e_tc.
 * 2. Fix a channel. o*_c - o_c = sum_t p_t (v_tc - o_c) is a weighted mean of numbers of at most
 *    x_t = vhat_tc + f_tc - o_c, with weights proportional to exp(s_t), for which
 *    l_t = exp(a_t - d_t) <= exp(s_t) <= exp(a_t + d_t) = u_t.
 *    The largest such mean is the root in lambda of
 *        F(lambda) = sum_t [ u_t max(x_t - lambda, 0) - l_t max(lambda - x_t, 0) ],
 *    because F is the largest value of sum_t w_t (x_t - lambda) over l <= w <= u, and that is positive
 *    exactly while lambda is below the largest mean. F is convex and decreasing, with slopes from -sum u to
 *    -sum l.
 * 3. Hence for every lambda: largest mean <= lambda + max(F(lambda), 0) / sum_t l_t.
 *    One Newton step from 0 is lambda_1 = F(0) / G(0), G = -F' = sum_t [ u_t if x_t > lambda else l_t ]. By
 *    convexity it stays left of the root and comes close to it. So a second pass over the tokens, which
 *    evaluates F(lambda_1), gives a bound that is nearly tight for the box.
 * 4. No weighted mean passes max_t x_t, which serves where the d_t are so large that sums overflow or vanish.
 * 5. The other sign is the same with x_t = o_c - vhat_tc + f_tc.
 *
 * How the output was computed does not enter: o is taken as it is, so the bound holds for any precision of
 * attend. a_t is computed here in double; its own rounding is added to d_t, that of the sums to the result.
 * What makes B loose is step 1: the errors of the channels of a key add up with one sign in no real cache.
 */
#include "lib/internal.h"

#include <math.h>

enum { ROWS = 8 }; /* tokens dequantized at a time: 128 KB of stack at the largest D */

/* One direction: largest o* - o (sign +1) or o - o* (sign -1), for all channels. */
typedef struct direction {
    double sign;
    double f[KVQ_DIM_MAX]; /* F at lambda */
    double g[KVQ_DIM_MAX]; /* G at lambda */
    double lambda[KVQ_DIM_MAX];
    double max_x[KVQ_DIM_MAX];
} direction;

typedef struct bound_state {
    const kvq_view *view;
    size_t kv_head, dim;
    const float *q, *out;
    double scale;
    double norm; /* weights are relative to exp(norm) */
    double sum_l, sum_u;
    direction up, down;
} bound_state;

/* a_t and d_t of tokens [begin, begin + n). */
static void score_interval(const bound_state *b, size_t begin, size_t n, double a[ROWS], double d[ROWS])
{
    float k[ROWS * KVQ_DIM_MAX], e[ROWS * KVQ_DIM_MAX];
    kvq_read_head(b->view, KVQ_KEYS, b->kv_head, begin, n, k, b->dim);
    kvq_read_head_bound(b->view, KVQ_KEYS, b->kv_head, begin, n, e, b->dim);
    for (size_t i = 0; i < n; i++) {
        double score = 0, error = 0, magnitude = 0;
        for (size_t c = 0; c < b->dim; c++) {
            double q = (double)b->q[c], x = (double)k[i * b->dim + c];
            score += q * x;
            magnitude += fabs(q * x);
            error += fabs(q) * (double)e[i * b->dim + c];
        }
        a[i] = b->scale * score;
        d[i] = fabs(b->scale) * (error + (error + magnitude) * 0x1p-52 * (double)(b->dim + 8));
    }
}

/* Make the weights relative to a larger exponent. */
static void raise_norm(bound_state *b, double norm)
{
    double factor = exp(b->norm - norm);
    b->norm = norm;
    b->sum_l *= factor;
    b->sum_u *= factor;
    for (size_t c = 0; c < b->dim; c++) {
        b->up.f[c] *= factor;
        b->up.g[c] *= factor;
        b->down.f[c] *= factor;
        b->down.g[c] *= factor;
    }
}

static void add_token(direction *r, const float *v, const float *f, const float *out, size_t dim, double l,
                      double u)
{
    for (size_t c = 0; c < dim; c++) {
        double x = r->sign * ((double)v[c] - (double)out[c]) + (double)f[c];
        double over = x - r->lambda[c];
        double w = over > 0 ? u : l;
        r->f[c] += w * over;
        r->g[c] += w;
        r->max_x[c] = x > r->max_x[c] ? x : r->max_x[c];
    }
}

/* Evaluate F and G at the present lambdas over tokens [first, end). */
static void pass_over(bound_state *b, size_t first, size_t end)
{
    float v[ROWS * KVQ_DIM_MAX], f[ROWS * KVQ_DIM_MAX];
    double a[ROWS], d[ROWS];
    b->sum_l = b->sum_u = 0;
    memset(b->up.f, 0, sizeof b->up.f);
    memset(b->up.g, 0, sizeof b->up.g);
    memset(b->down.f, 0, sizeof b->down.f);
    memset(b->down.g, 0, sizeof b->down.g);
    for (size_t begin = first; begin < end; begin += ROWS) {
        size_t n = kvq_min_size(ROWS, end - begin);
        score_interval(b, begin, n, a, d);
        kvq_read_head(b->view, KVQ_VALUES, b->kv_head, begin, n, v, b->dim);
        kvq_read_head_bound(b->view, KVQ_VALUES, b->kv_head, begin, n, f, b->dim);
        for (size_t i = 0; i < n; i++) {
            if (a[i] + d[i] > b->norm)
                raise_norm(b, a[i] + d[i]);
            double l = exp(a[i] - d[i] - b->norm), u = exp(a[i] + d[i] - b->norm);
            b->sum_l += l;
            b->sum_u += u;
            add_token(&b->up, v + i * b->dim, f + i * b->dim, b->out, b->dim, l, u);
            add_token(&b->down, v + i * b->dim, f + i * b->dim, b->out, b->dim, l, u);
        }
    }
}

static void newton_step(direction *r, size_t dim)
{
    for (size_t c = 0; c < dim; c++) {
        double step = r->f[c] > 0 ? r->f[c] / r->g[c] : 0;
        r->lambda[c] = isfinite(step) ? step : 0;
    }
}

/* The bound of a direction over all channels, from the second pass. */
static double direction_bound(const bound_state *b, const direction *r, size_t n_tokens)
{
    double worst = 0, rounding = (double)(n_tokens + 64) * 0x1p-51;
    for (size_t c = 0; c < b->dim; c++) {
        double f = r->f[c] > 0 ? r->f[c] : 0, max_x = r->max_x[c] > 0 ? r->max_x[c] : 0;
        /* F was summed from terms of at most sum_u (|x| + lambda); |x| can pass max_x, but only downwards,
         * where it takes part with l: twice the larger direction covers both. */
        double reach = fmax(fmax(b->up.max_x[c], b->down.max_x[c]), 0) + r->lambda[c];
        double mean = r->lambda[c] + (f + rounding * 2 * b->sum_u * reach) / b->sum_l;
        double bound = mean < max_x ? mean : max_x; /* false for NaN, which takes max_x */
        worst = bound > worst || isnan(bound) ? bound : worst;
    }
    return worst;
}

float kvq_attend_bound(const kvq_view *view, size_t kv_head, const float *q, float scale, size_t begin,
                       size_t end, const float *out)
{
    bound_state b = {
        .view = view,
        .kv_head = kv_head,
        .dim = view->cache->config.head_dim,
        .q = q,
        .out = out,
        .scale = (double)scale,
        .norm = -INFINITY,
    };
    if (!view->cache->kernels->all_finite_f32(out, b.dim))
        return INFINITY;
    b.up.sign = 1;
    b.down.sign = -1;
    for (size_t c = 0; c < b.dim; c++)
        b.up.max_x[c] = b.down.max_x[c] = -INFINITY;
    pass_over(&b, begin, end);
    newton_step(&b.up, b.dim);
    newton_step(&b.down, b.dim);
    pass_over(&b, begin, end);
    double bound = fmax(direction_bound(&b, &b.up, end - begin), direction_bound(&b, &b.down, end - begin));
    if (isnan(bound))
        return INFINITY;
    return nextafterf((float)bound, INFINITY); /* rounding to float may have gone down */
}
