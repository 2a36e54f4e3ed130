/* The cells of an evaluation (results/cell.h), made from a window's sums as soon as it is done. */
#ifndef KVQ_EVAL_MEASURE_CELLS_H
#define KVQ_EVAL_MEASURE_CELLS_H

#include "eval/measure/evaluate.h"
#include "eval/measure/window.h"
#include "eval/model/tokenizer.h"

/** Blocks that a window's counted steps make. */
size_t cells_n_blocks(const evaluate_config *config);

/** Fill the cell of stream i for the window that w has run last, or the reference's own with its portrait (of
 * window 0). The run's usage must be known, and the window's logits judged. */
EVAL_MUST_CHECK bool cells_make(const work *w, size_t stream, size_t window, eval_error *e);
EVAL_MUST_CHECK bool cells_make_reference(evaluate_run *reference, const work *w, size_t window,
                                          eval_error *e);

/** Put text beside the worst tokens of a cell. ids are its window's. t may be NULL: then there is none. */
EVAL_MUST_CHECK bool cells_add_text(cell *c, const tokenizer *t, const int32_t *ids, eval_error *e);

#endif
