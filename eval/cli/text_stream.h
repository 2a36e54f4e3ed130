/* Text that is shown while it comes in pieces, which may end inside a character. */
#ifndef KVQ_EVAL_CLI_TEXT_STREAM_H
#define KVQ_EVAL_CLI_TEXT_STREAM_H

#include <stddef.h>
#include <stdio.h>

typedef struct text_stream {
    FILE *stream;
    char pending[4]; /* the beginning of a character whose rest has not come */
    size_t n_pending;
} text_stream;

/** Write and flush n bytes, but for what begins a UTF-8 character without ending it. */
void text_stream_put(text_stream *s, const char *bytes, size_t n);

/** Write what was held back: nothing more comes. */
void text_stream_end(text_stream *s);

#endif
