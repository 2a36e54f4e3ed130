/* What reaches the next-token distribution: divergences, agreement and perplexity from final activations. */
#ifndef KVQ_EVAL_MEASURE_QUALITY_H
#define KVQ_EVAL_MEASURE_QUALITY_H

#include "eval/measure/evaluate.h"

typedef struct quality quality;

/** For all windows of a run and n_streams schemes; NULL without memory. */
quality *quality_create(const evaluate_config *config, size_t n_streams);

void quality_free(quality *q); /* NULL is fine */

/**
 * Window number `window`: its ids [T], the reference's final activations x [T][E] and each stream's, which
 * must stay until quality_end_window; it turns them into logits a chunk of tokens at a time, never
 * [T][vocab] at once. `scheme` is what messages call the stream. Fails where a counted step's logits are not
 * all finite: no metric of them would mean anything.
 */
void quality_begin_window(quality *q, size_t window, const int32_t *ids, const float *reference_x);
void quality_set_stream(quality *q, size_t stream, const char *scheme, const float *x);
EVAL_MUST_CHECK bool quality_end_window(quality *q, eval_error *e);

/** The counted steps of a window that has ended: of a stream, or with QUALITY_REFERENCE of the reference. */
#define QUALITY_REFERENCE SIZE_MAX
const evaluate_step *quality_steps(const quality *q, size_t stream, size_t window);

/** Fill in run's propagated metrics, and hand over its steps. Once per stream, after the last window. */
void quality_finish(quality *q, size_t stream, evaluate_run *run);

/** The same for the reference itself: no divergence, full agreement, and its perplexity. */
void quality_finish_reference(quality *q, evaluate_run *run);

/** Write logits[n_tokens][vocab] of activations x, without metrics. */
EVAL_MUST_CHECK bool quality_write_logits(const model *m, const float *x, size_t n_tokens, FILE *stream,
                                          eval_error *e);

#endif
