/*
 * A small attention engine on libkvq: grouped-query attention layers with random weights, a prompt that is
 * prefilled in one step per layer, then token-by-token decode, all over a 2-bit cache. It also runs the same
 * decode over an fp32 cache, to show how far the two drift and what each takes.
 *
 * Build it against the installed library:
 *   cc -O2 engine.c $(pkg-config --cflags --libs kvq) -lm -o engine
 */
#include <kvq.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { L = 4, H = 4, HKV = 2, D = 64, WIDTH = H * D, PROMPT = 300, DECODE = 60 };

/* One layer: x += Wo attention(Wq x, Wk x, Wv x), with x normalised first. */
typedef struct {
    float wq[WIDTH][WIDTH], wk[HKV * D][WIDTH], wv[HKV * D][WIDTH], wo[WIDTH][WIDTH];
} layer_weights;

typedef struct {
    layer_weights *layer; /* [L] */
    kvq_cache *cache;
} engine;

static void check(kvq_status status, const char *what)
{
    if (status != KVQ_OK) {
        fprintf(stderr, "engine: %s: %s\n", what, kvq_status_string(status));
        exit(1);
    }
}

static float random_value(void)
{
    static unsigned long long state = 1;
    float sum = 0;
    for (int i = 0; i < 4; i++) { /* four uniform numbers make a fair bell curve */
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        sum += (float)(state >> 40) * 0x1p-24f - 0.5f;
    }
    return sum;
}

static void fill(float *x, size_t n, float size)
{
    for (size_t i = 0; i < n; i++)
        x[i] = size * random_value();
}

static void matvec(const float *w, const float *x, size_t rows, float *y)
{
    for (size_t r = 0; r < rows; r++) {
        float sum = 0;
        for (size_t c = 0; c < WIDTH; c++)
            sum += w[r * WIDTH + c] * x[c];
        y[r] = sum;
    }
}

static void normalise(const float *x, float *y)
{
    float square = 0;
    for (size_t i = 0; i < WIDTH; i++)
        square += x[i] * x[i];
    float factor = 1.0f / sqrtf(square / WIDTH + 1e-5f);
    for (size_t i = 0; i < WIDTH; i++)
        y[i] = x[i] * factor;
}

/* Run n tokens x[n][WIDTH] through all layers; afterwards the cache holds them. */
static void forward(engine *e, float *x, size_t n)
{
    float *q = malloc(n * WIDTH * sizeof *q), *out = malloc(n * WIDTH * sizeof *out);
    float *k = malloc(n * HKV * D * sizeof *k), *v = malloc(n * HKV * D * sizeof *v);
    float h[WIDTH], y[WIDTH];
    for (size_t l = 0; l < L; l++) {
        const layer_weights *w = &e->layer[l];
        for (size_t i = 0; i < n; i++) {
            normalise(x + i * WIDTH, h);
            matvec(&w->wq[0][0], h, WIDTH, q + i * WIDTH);
            matvec(&w->wk[0][0], h, HKV * D, k + i * HKV * D);
            matvec(&w->wv[0][0], h, HKV * D, v + i * HKV * D);
        }
        check(kvq_cache_step(e->cache, l, NULL, 1, &n, q, k, v, 1.0f / sqrtf(D), NULL, out), "step");
        for (size_t i = 0; i < n; i++) {
            matvec(&w->wo[0][0], out + i * WIDTH, WIDTH, y);
            for (size_t c = 0; c < WIDTH; c++)
                x[i * WIDTH + c] += y[c];
        }
    }
    free(q), free(k), free(v), free(out);
}

/* Prefill and decode with one scheme; state[WIDTH] gets the last token's vector. */
static void run(layer_weights *weights, const float *tokens, const char *text, float *state)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = L;
    config.n_heads = H;
    config.n_kv_heads = HKV;
    config.head_dim = D;
    config.scheme_text = text;
    engine e = {.layer = weights};
    check(kvq_cache_create(&e.cache, &config), "create");

    float *x = malloc(PROMPT * WIDTH * sizeof *x);
    memcpy(x, tokens, PROMPT * WIDTH * sizeof *x);
    forward(&e, x, PROMPT);
    for (size_t t = PROMPT; t < PROMPT + DECODE; t++) {
        memcpy(state, tokens + t * WIDTH, WIDTH * sizeof *state);
        forward(&e, state, 1);
    }
    free(x);

    kvq_usage usage;
    check(kvq_cache_usage(e.cache, &usage), "usage");
    printf("%-6s %zu tokens: %8llu bytes (codes %llu, scales %llu, residual %llu, evidence %llu, slack "
           "%llu, bookkeeping %llu)\n",
           text, kvq_cache_n_tokens(e.cache, 0, 0), (unsigned long long)usage.total,
           (unsigned long long)usage.payload, (unsigned long long)usage.metadata,
           (unsigned long long)usage.residual, (unsigned long long)usage.evidence,
           (unsigned long long)usage.slack, (unsigned long long)usage.bookkeeping);
    kvq_cache_free(e.cache);
}

int main(void)
{
    layer_weights *weights = malloc(L * sizeof *weights);
    float *tokens = malloc((PROMPT + DECODE) * WIDTH * sizeof *tokens);
    float exact[WIDTH], packed[WIDTH], error = 0, norm = 0;
    fill((float *)weights, L * sizeof *weights / sizeof(float), 1.0f / sqrtf(WIDTH));
    fill(tokens, (PROMPT + DECODE) * WIDTH, 1.0f);
    run(weights, tokens, "fp32", exact);
    run(weights, tokens, "kivi2", packed);
    for (size_t i = 0; i < WIDTH; i++) {
        error += (packed[i] - exact[i]) * (packed[i] - exact[i]);
        norm += exact[i] * exact[i];
    }
    printf("the last token's vector differs by %.2f %% (libkvq %s, %s kernels)\n", 100 * sqrtf(error / norm),
           kvq_version(), kvq_isa());
    free(weights), free(tokens);
    return error < norm ? 0 : 1;
}
