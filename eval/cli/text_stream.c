/* Text in pieces (text_stream.h). */
#include "eval/cli/text_stream.h"

#include "eval/model/tokenizer.h"

#include <string.h>

void text_stream_put(text_stream *s, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        s->pending[s->n_pending++] = bytes[i];
        const size_t held = utf8_incomplete_tail(s->pending, s->n_pending), ready = s->n_pending - held;
        fwrite(s->pending, 1, ready, s->stream);
        memmove(s->pending, s->pending + ready, held);
        s->n_pending = held;
    }
    fflush(s->stream);
}

void text_stream_end(text_stream *s)
{
    fwrite(s->pending, 1, s->n_pending, s->stream);
    s->n_pending = 0;
    fflush(s->stream);
}
