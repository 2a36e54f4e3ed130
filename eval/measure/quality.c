/* Divergence, agreement and perplexity of the next-token distributions (quality.h).
 *
 * Step t of a window is counted if t >= n_prompt: its distribution is compared with the reference's.
 * Perplexity is exp of the mean negative log-likelihood of the token that really follows, over the counted
 * steps but the last of each window, whose next token lies outside it.
 */
#include "eval/measure/quality.h"

#include "eval/model/model.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_TOKENS = 64, /* 13 MB of logits at GPT-2's vocabulary */
};

/* One scheme's sums. */
typedef struct quality_stream {
    const char *scheme;
    const float *x;
    evaluate_step *steps; /* [n_windows * counted steps] */
    uint64_t n_agree;
    double nll_sum;
} quality_stream;

struct quality {
    const evaluate_config *config;
    size_t vocab;
    size_t window;
    const int32_t *ids;
    const float *reference_x;
    float *scratch, *reference_logits, *logits;
    double reference_lse[CHUNK_TOKENS];
    evaluate_step *reference_steps; /* as a stream's */
    double *kl;                     /* for quantiles, [n_windows * counted steps] */
    double reference_nll_sum;
    size_t n_counted; /* steps so far, of all windows */
    size_t n_targets; /* of them, those with a next token */
    quality_stream *streams;
    size_t n_streams;
};

quality *quality_create(const evaluate_config *config, size_t n_streams)
{
    quality *q = calloc(1, sizeof *q);
    if (!q)
        return NULL;
    const size_t n_steps = config->n_windows * (config->n_tokens - config->n_prompt);
    q->config = config;
    q->vocab = config->model->shape.vocab_size;
    q->scratch = calloc(model_scratch_floats(config->model, CHUNK_TOKENS), sizeof(float));
    q->reference_logits = calloc(q->vocab, CHUNK_TOKENS * sizeof(float));
    q->logits = calloc(q->vocab, CHUNK_TOKENS * sizeof(float));
    q->streams = calloc(n_streams ? n_streams : 1, sizeof q->streams[0]);
    q->reference_steps = calloc(n_steps, sizeof q->reference_steps[0]);
    q->kl = calloc(n_steps, sizeof q->kl[0]);
    bool good = q->scratch && q->reference_logits && q->logits && q->streams && q->reference_steps && q->kl;
    for (size_t i = 0; good && i < n_streams; i++) {
        q->n_streams = i + 1;
        q->streams[i].steps = calloc(n_steps, sizeof q->streams[i].steps[0]);
        good = q->streams[i].steps != NULL;
    }
    if (!good) {
        quality_free(q);
        return NULL;
    }
    return q;
}

void quality_free(quality *q)
{
    if (!q)
        return;
    for (size_t i = 0; i < q->n_streams; i++)
        free(q->streams[i].steps);
    free(q->streams);
    free(q->scratch);
    free(q->reference_logits);
    free(q->logits);
    free(q->reference_steps);
    free(q->kl);
    free(q);
}

void quality_begin_window(quality *q, size_t window, const int32_t *ids, const float *reference_x)
{
    q->window = window;
    q->ids = ids;
    q->reference_x = reference_x;
}

void quality_set_stream(quality *q, size_t stream, const char *scheme, const float *x)
{
    q->streams[stream].scheme = scheme;
    q->streams[stream].x = x;
}

static bool write_floats(const float *x, size_t n, FILE *stream, eval_error *e)
{
    return fwrite(x, sizeof x[0], n, stream) == n || eval_fail(e, "write failed: %s", strerror(errno));
}

/* Logits of tokens [first, first + n), which must all be finite. */
static bool finite_logits(const quality *q, const char *scheme, const float *x, size_t first, size_t n,
                          float *logits, eval_error *e)
{
    const model *m = q->config->model;
    bool finite[CHUNK_TOKENS];
    model_logits(m, x + first * m->shape.n_embd, n, q->scratch, logits);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++)
        finite[i] = metric_all_finite(logits + i * q->vocab, q->vocab);
    for (size_t i = 0; i < n; i++)
        if (!finite[i])
            return eval_fail(e, "scheme %s: window %zu, token %zu: the logits are not finite (NaN or Inf)",
                             scheme, q->config->first_window + q->window, first + i);
    return true;
}

/* Log-likelihood and best token of the step at row i of a chunk that begins at token `first`. */
static void judge_step(const quality *q, evaluate_step *step, const float *row, double lse, size_t token)
{
    step->best = (int32_t)metric_argmax(row, q->vocab);
    step->nll = token + 1 < q->config->n_tokens ? lse - (double)row[q->ids[token + 1]] : 0.0;
}

/* The reference's side of tokens [first, first + n): what every stream is compared with. */
static void reference_chunk(quality *q, size_t first, size_t n)
{
    evaluate_step *steps = q->reference_steps + q->n_counted;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        const float *row = q->reference_logits + i * q->vocab;
        q->reference_lse[i] = metric_log_sum_exp(row, q->vocab);
        judge_step(q, &steps[i], row, q->reference_lse[i], first + i);
    }
    for (size_t i = 0; i < n; i++)
        q->reference_nll_sum += steps[i].nll;
}

static void stream_chunk(quality *q, quality_stream *s, size_t first, size_t n)
{
    evaluate_step *steps = s->steps + q->n_counted;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        const float *reference = q->reference_logits + i * q->vocab;
        const float *row = q->logits + i * q->vocab;
        const double lse = metric_log_sum_exp(row, q->vocab);
        steps[i].kl = metric_kl_logits(reference, q->reference_lse[i], row, lse, q->vocab);
        judge_step(q, &steps[i], row, lse, first + i);
    }
    for (size_t i = 0; i < n; i++) { /* in order, so that sums do not depend on the number of threads */
        s->nll_sum += steps[i].nll;
        s->n_agree += steps[i].best == q->reference_steps[q->n_counted + i].best ? 1 : 0;
    }
}

bool quality_end_window(quality *q, eval_error *e)
{
    const size_t T = q->config->n_tokens, P = q->config->n_prompt;
    for (size_t first = P; first < T; first += CHUNK_TOKENS) {
        const size_t n = T - first < CHUNK_TOKENS ? T - first : CHUNK_TOKENS;
        if (!finite_logits(q, "fp32", q->reference_x, first, n, q->reference_logits, e))
            return false;
        reference_chunk(q, first, n);
        for (size_t i = 0; i < q->n_streams; i++) {
            quality_stream *s = &q->streams[i];
            if (!finite_logits(q, s->scheme, s->x, first, n, q->logits, e))
                return false;
            stream_chunk(q, s, first, n);
        }
        q->n_counted += n;
    }
    q->n_targets += T - P - 1;
    return true;
}

const evaluate_step *quality_steps(const quality *q, size_t stream, size_t window)
{
    const evaluate_step *steps = stream == QUALITY_REFERENCE ? q->reference_steps : q->streams[stream].steps;
    return steps + window * (q->config->n_tokens - q->config->n_prompt);
}

void quality_finish(quality *q, size_t stream, evaluate_run *run)
{
    quality_stream *s = &q->streams[stream];
    const double n = (double)q->n_counted;
    double sum = 0.0;
    for (size_t i = 0; i < q->n_counted; i++) {
        q->kl[i] = s->steps[i].kl;
        sum += q->kl[i];
    }
    run->kld_mean = sum / n;
    run->kld_p99 = metric_quantile(q->kl, q->n_counted, 0.99);
    run->kld_max = q->kl[q->n_counted - 1]; /* metric_quantile sorted them */
    run->top1 = (double)s->n_agree / n;
    run->ppl = exp(s->nll_sum / (double)q->n_targets);
    run->ppl_fp32 = exp(q->reference_nll_sum / (double)q->n_targets);
    run->steps = s->steps;
    s->steps = NULL;
}

void quality_finish_reference(quality *q, evaluate_run *run)
{
    run->top1 = 1.0;
    run->ppl_fp32 = exp(q->reference_nll_sum / (double)q->n_targets);
    run->ppl = run->ppl_fp32;
    run->steps = q->reference_steps;
    q->reference_steps = NULL;
}

bool quality_write_logits(const model *m, const float *x, size_t n_tokens, FILE *stream, eval_error *e)
{
    const size_t vocab = m->shape.vocab_size, E = m->shape.n_embd;
    float *scratch = calloc(model_scratch_floats(m, CHUNK_TOKENS), sizeof(float));
    float *logits = calloc(vocab, CHUNK_TOKENS * sizeof(float));
    bool good = (scratch && logits) || eval_fail(e, "out of memory for logits");
    for (size_t first = 0; good && first < n_tokens; first += CHUNK_TOKENS) {
        const size_t n = n_tokens - first < CHUNK_TOKENS ? n_tokens - first : CHUNK_TOKENS;
        model_logits(m, x + first * E, n, scratch, logits);
        good = write_floats(logits, n * vocab, stream, e);
    }
    free(scratch);
    free(logits);
    return good;
}
