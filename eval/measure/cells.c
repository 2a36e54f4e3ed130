/* Cells from a window's sums (cells.h), and what they have in common. */
#include "eval/measure/cells.h"

#include "eval/common/checksum.h"
#include "eval/measure/quality.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t cells_n_blocks(const evaluate_config *config)
{
    return (config->n_tokens - config->n_prompt + CELL_BLOCK - 1) / CELL_BLOCK;
}

/* ---- the experiment ---- */

uint64_t evaluate_ids_checksum(const evaluate_config *config, size_t window)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    if (config->ids)
        checksum_words(&state, config->ids + window * config->n_tokens, config->n_tokens);
    return config->ids ? XXH3_64bits_digest(&state) : 0;
}

bool evaluate_experiment(experiment *x, const evaluate_config *config, const char *model_name,
                         const char *text_name, int32_t bos_id, uint64_t seed, eval_error *e)
{
    const model_shape *shape = evaluate_shape(config);
    const model *m = config->model;
    *x = (experiment){.n_layer = shape->n_layer,
                      .n_head = shape->n_head,
                      .n_kv_head = shape->n_kv_head,
                      .head_dim = shape->head_dim,
                      .n_embd = shape->n_embd,
                      .n_ctx = shape->n_ctx,
                      .vocab_size = shape->vocab_size,
                      .n_params = m ? m->n_params : 0,
                      .model_checksum = m ? model_checksum(m) : 0,
                      .bos_id = bos_id,
                      .n_tokens = config->n_tokens,
                      .n_prompt = config->n_prompt,
                      .append_only = config->append_only,
                      .has_quality = m && !m->random,
                      .kv_only = config->recording && !recording_has_queries(config->recording),
                      .seed = m && m->random ? seed : 0};
    if (config->recording && !recording_checksum(config->recording, &x->model_checksum, e))
        return false;
    snprintf(x->model, sizeof x->model, "%s", model_name);
    snprintf(x->text, sizeof x->text, "%s", text_name);
    snprintf(x->architecture, sizeof x->architecture, "%s", shape->architecture);
    snprintf(x->weights, sizeof x->weights, "%s", m ? m->weights : recording_type(config->recording));
    snprintf(x->precision, sizeof x->precision, "%s",
             config->precision == KVQ_PRECISION_FAST ? "fast" : "exact");
    snprintf(x->version, sizeof x->version, "%s", kvq_version());
    for (size_t layer = 0; layer < shape->n_layer; layer++) {
        const size_t window = evaluate_attn_window(config, layer);
        x->n_layer_windowed += window > 0 ? 1 : 0;
        x->attn_window = window > 0 ? window : x->attn_window;
    }
    return true;
}

/* ---- a cell ---- */

static bool start_cell(cell *c, const work *w, const evaluate_run *run, size_t window, double seconds,
                       eval_error *e)
{
    const size_t n_bytes = strlen(run->text) + 1;
    cell_clear(c);
    c->window = window;
    c->ids_checksum = evaluate_ids_checksum(w->config, window);
    c->usage = run->usage;
    c->seconds = seconds;
    snprintf(c->isa, sizeof c->isa, "%s", kvq_isa());
    c->scheme = malloc(n_bytes);
    c->n_blocks = cells_n_blocks(w->config);
    c->blocks = calloc(c->n_blocks, sizeof c->blocks[0]);
    c->heads = calloc(w->L * w->H, sizeof c->heads[0]);
    if (!c->scheme || !c->blocks || !c->heads)
        return eval_fail(e, "out of memory for the figures of a window");
    memcpy(c->scheme, run->text, n_bytes);
    return true;
}

static void fill_heads(cell *c, const evaluate_head *heads, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const evaluate_head *h = &heads[i];
        c->heads[i] = (cell_head){.k_error = h->k.error,
                                  .k_reference = h->k.reference,
                                  .v_error = h->v.error,
                                  .v_reference = h->v.reference,
                                  .attn_error = h->attn.error,
                                  .attn_reference = h->attn.reference,
                                  .attn_kl = h->prob_kl_sum,
                                  .n_steps = h->n_steps};
        c->attn_max_abs = fmaxf(c->attn_max_abs, h->attn_max_abs);
    }
}

/* Keep the n_worst largest, the first of equals before the others. */
static void consider_worst(cell *c, uint32_t position, const evaluate_step *step, const evaluate_step *fp32,
                           int32_t next)
{
    size_t at = c->n_worst;
    while (at > 0 && c->worst[at - 1].kl < step->kl)
        at--;
    if (at == CELL_N_WORST || step->kl == 0.0)
        return;
    c->n_worst += c->n_worst < CELL_N_WORST ? 1 : 0;
    memmove(&c->worst[at + 1], &c->worst[at], (c->n_worst - 1 - at) * sizeof c->worst[0]);
    c->worst[at] = (cell_worst){
        .position = position, .kl = step->kl, .next = next, .best_fp32 = fp32->best, .best = step->best};
}

static bool fill_quantiles(cell *c, const evaluate_step *steps, size_t n, eval_error *e)
{
    double *kl = calloc(n, sizeof kl[0]);
    if (!kl)
        return eval_fail(e, "out of memory for the figures of a window");
    for (size_t i = 0; i < n; i++)
        kl[i] = steps[i].kl;
    c->kld_p99 = metric_quantile(kl, n, 0.99);
    c->kld_max = kl[n - 1];
    free(kl);
    return true;
}

static void fill_steps(cell *c, const work *w, const evaluate_step *steps, const evaluate_step *fp32)
{
    const size_t P = w->config->n_prompt, T = w->T;
    const int32_t *ids = w->config->ids + c->window * T;
    for (size_t t = P; t < T; t++) {
        const evaluate_step *step = &steps[t - P], *reference = &fp32[t - P];
        cell_block *block = &c->blocks[(t - P) / CELL_BLOCK];
        block->n_targets += t + 1 < T ? 1 : 0;
        block->n_agree += step->best == reference->best ? 1 : 0;
        block->kl += step->kl;
        block->nll += step->nll;
        block->nll_fp32 += reference->nll;
        c->bins[cell_bin(step->kl)]++;
        consider_worst(c, (uint32_t)t, step, reference, t + 1 < T ? ids[t + 1] : -1);
    }
}

static bool fill_cell(cell *c, const work *w, const evaluate_head *heads, size_t index, eval_error *e)
{
    const size_t n = w->T - w->config->n_prompt;
    fill_heads(c, heads, w->L * w->H);
    for (size_t i = 0; i < c->n_blocks; i++)
        c->blocks[i].n_steps = (uint32_t)(n - i * CELL_BLOCK < CELL_BLOCK ? n - i * CELL_BLOCK : CELL_BLOCK);
    if (!w->quality)
        return true;
    const evaluate_step *steps = quality_steps(w->quality, index, c->window);
    fill_steps(c, w, steps, quality_steps(w->quality, QUALITY_REFERENCE, c->window));
    return fill_quantiles(c, steps, n, e);
}

/* ---- the picture of a head ---- */

/* How much the strongest channel of keys stands out of one KV head: its mean size over the mean of all. */
static double prominence(const float *k, size_t n_tokens, size_t stride, size_t D)
{
    double largest = 0.0, sum = 0.0;
    for (size_t d = 0; d < D; d++) {
        double channel = 0.0;
        for (size_t t = 0; t < n_tokens; t++)
            channel += fabs((double)k[t * stride + d]);
        sum += channel;
        largest = fmax(largest, channel);
    }
    return sum > 0.0 ? largest * (double)D / sum : 0.0;
}

static void draw(float *out, const float *x, size_t n_rows, size_t T, size_t stride, size_t D)
{
    for (size_t t = 0; t < T; t++)
        for (size_t d = 0; d < D; d++) {
            float *at = &out[t * n_rows / T * D + d];
            *at = fmaxf(*at, fabsf(x[t * stride + d]));
        }
}

/* The picture of the head whose keys have the most prominent channel, in fp32's cell of the first window. */
static bool add_portrait(cell *c, const work *w, eval_error *e)
{
    if (w->config->first_window + c->window > 0 || strcmp(c->scheme, "fp32") != 0)
        return true;
    cell_portrait *p = &c->portrait;
    double most = -1.0;
    for (size_t layer = 0; layer < w->L; layer++) {
        if (kvq_cache_read(w->reference, layer, 0, 0, w->T, w->k, w->v) != KVQ_OK)
            return eval_fail(e, "reading back layer %zu of fp32 failed", layer);
        for (size_t h = 0; h < w->Hkv; h++) {
            const double x = prominence(w->k + h * w->D, w->T, w->KV, w->D);
            if (x > most) {
                most = x;
                p->layer = layer;
                p->kv_head = h;
            }
        }
    }
    p->n_rows = w->T < CELL_PORTRAIT ? w->T : CELL_PORTRAIT;
    p->n_columns = w->D;
    p->k = calloc(p->n_rows * p->n_columns, sizeof p->k[0]);
    p->v = calloc(p->n_rows * p->n_columns, sizeof p->v[0]);
    if (!p->k || !p->v)
        return eval_fail(e, "out of memory for the figures of a window");
    if (kvq_cache_read(w->reference, p->layer, 0, 0, w->T, w->k, w->v) != KVQ_OK)
        return eval_fail(e, "reading back layer %zu of fp32 failed", p->layer);
    draw(p->k, w->k + p->kv_head * w->D, p->n_rows, w->T, w->KV, w->D);
    draw(p->v, w->v + p->kv_head * w->D, p->n_rows, w->T, w->KV, w->D);
    return true;
}

/* ---- from a window ---- */

bool cells_make(const work *w, size_t i, size_t window, eval_error *e)
{
    const stream *s = &w->streams[i];
    cell *c = &s->run->cells[window];
    if (!start_cell(c, w, s->run, window, s->seconds, e))
        return false;
    memcpy(c->blocks, s->blocks, c->n_blocks * sizeof c->blocks[0]);
    const bool good = fill_cell(c, w, s->heads, i, e) && add_portrait(c, w, e);
    c->window += w->config->first_window;
    return good;
}

bool cells_make_reference(evaluate_run *reference, const work *w, size_t window, eval_error *e)
{
    cell *c = &reference->cells[window];
    const bool good = start_cell(c, w, reference, window, w->ref_seconds, e) &&
                      fill_cell(c, w, w->ref_heads, QUALITY_REFERENCE, e) && add_portrait(c, w, e);
    c->window += w->config->first_window;
    return good;
}

/* ---- text ---- */

/* The last bytes of a text that fit, valid UTF-8 whatever the text is: what is not becomes '?'. */
static void copy_tail(char *out, size_t size, const char *text, size_t n)
{
    size_t first = n < size ? 0 : n - (size - 1);
    while (first < n && ((uint8_t)text[first] & 0xc0u) == 0x80u)
        first++;
    memcpy(out, text + first, n - first);
    out[n - first] = '\0';
    for (size_t at = 0; at < n - first;) {
        uint32_t character;
        const size_t length = utf8_decode(out + at, n - first - at, &character);
        if (length == 0 || character == 0)
            out[at] = '?';
        at += length > 0 ? length : 1;
    }
}

static bool add_tokens(char *out, size_t size, const tokenizer *t, const int32_t *ids, size_t n,
                       eval_error *e)
{
    char *text;
    size_t n_bytes;
    if (!tokenizer_decode(t, ids, n, &text, &n_bytes, e))
        return false;
    copy_tail(out, size, text, n_bytes);
    free(text);
    return true;
}

/* One token as it stands in a text: decoding alone would take a leading space away where the tokenizer puts
 * one. */
static void add_token_text(char *out, size_t size, const tokenizer *t, int32_t id)
{
    size_t n_bytes = 0;
    const bool known = id >= 0 && (size_t)id < tokenizer_vocab_size(t);
    const char *text = known ? tokenizer_token(t, id, &n_bytes) : "";
    copy_tail(out, size, text, n_bytes);
}

bool cells_add_text(cell *c, const tokenizer *t, const int32_t *ids, eval_error *e)
{
    enum { N_BEFORE = 31 };
    for (size_t i = 0; t && i < c->n_worst; i++) {
        cell_worst *worst = &c->worst[i];
        const size_t first = worst->position > N_BEFORE ? worst->position - N_BEFORE : 0;
        if (!add_tokens(worst->context, sizeof worst->context, t, ids + first, worst->position - first + 1,
                        e))
            return false;
        add_token_text(worst->next_text, sizeof worst->next_text, t, worst->next);
        add_token_text(worst->best_fp32_text, sizeof worst->best_fp32_text, t, worst->best_fp32);
        add_token_text(worst->best_text, sizeof worst->best_text, t, worst->best);
    }
    return true;
}
