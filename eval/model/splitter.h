/* Splitting a normalized text into the words that are encoded one by one. */
#ifndef KVQ_EVAL_MODEL_SPLITTER_H
#define KVQ_EVAL_MODEL_SPLITTER_H

#include "eval/model/normalizer.h"
#include "eval/model/regex.h"

/* What becomes of a pattern's matches; the names are those of tokenizer.json. */
typedef enum split_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS,
} split_behavior;

typedef enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } prepend_scheme;

/* One step: either splits every piece by a pattern, or (pattern NULL) writes each space of it as `space` and
 * prepends one by the scheme. */
typedef struct split_step {
    regex *pattern;
    split_behavior behavior;
    bool invert; /* what does not match counts as the match */
    char space[MAX_NORMALIZER_BYTES];
    size_t n_space;
    prepend_scheme scheme;
} split_step;

enum { MAX_SPLIT_STEPS = 16 };

typedef struct splitter {
    split_step steps[MAX_SPLIT_STEPS];
    size_t n_steps;
} splitter;

void splitter_free(splitter *s);

typedef struct text_span {
    size_t begin, end;
} text_span;

typedef struct span_list {
    text_span *spans;
    size_t n, capacity;
} span_list;

/* Memory for splitting, of one thread: all zero, and match, to begin with. */
typedef struct split_work {
    regex_match *match;
    span_list lists[2];
    text_buffer buffers[2];
    const char *text; /* what the words below are of */
    const span_list *words;
} split_work;

void split_work_free(split_work *w);

/**
 * Splits n bytes of valid UTF-8; w->words are the words, none empty, spans of w->text, which is `text` or
 * lives in w. `first`: the whole text begins here; `prepend`: spaces may be prepended at all.
 * Errors: out of memory, a pattern that takes too many steps.
 */
EVAL_MUST_CHECK bool split_text(const splitter *s, split_work *w, const char *text, size_t n, bool first,
                                bool prepend, eval_error *e);

#endif
