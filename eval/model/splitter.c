/* Words (splitter.h). Every step turns a list of pieces into a list of smaller ones. */
#include "eval/model/splitter.h"

#include "eval/model/utf8.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void splitter_free(splitter *s)
{
    for (size_t i = 0; i < s->n_steps; i++)
        regex_free(s->steps[i].pattern);
    memset(s, 0, sizeof *s);
}

void split_work_free(split_work *w)
{
    regex_match_free(w->match);
    for (size_t i = 0; i < 2; i++) {
        free(w->lists[i].spans);
        text_buffer_free(&w->buffers[i]);
    }
    memset(w, 0, sizeof *w);
}

/* Empty pieces count for nothing. */
static bool add_span(span_list *list, size_t begin, size_t end, eval_error *e)
{
    if (begin == end)
        return true;
    if (list->n == list->capacity) {
        const size_t capacity = list->capacity + list->capacity / 2 + 64;
        text_span *spans = realloc(list->spans, capacity * sizeof *spans);
        if (!spans)
            return eval_fail(e, "tokenizer: out of memory for %zu words", capacity);
        list->spans = spans;
        list->capacity = capacity;
    }
    list->spans[list->n++] = (text_span){begin, end};
    return true;
}

/* ---- by a pattern ---- */

/* The pieces between and of the matches, as they come, with what the last one was. */
typedef struct split_state {
    span_list *out;
    split_behavior behavior;
    bool pending, pending_match;
    size_t begin, end; /* of the piece that may still grow */
} split_state;

static bool flush(split_state *s, eval_error *e)
{
    const bool keep = s->pending;
    s->pending = false;
    return !keep || add_span(s->out, s->begin, s->end, e);
}

static bool add_piece(split_state *s, size_t begin, size_t end, bool match, eval_error *e)
{
    bool join = false;
    if (s->behavior == SPLIT_REMOVED && match)
        return flush(s, e);
    if (s->pending && s->behavior == SPLIT_CONTIGUOUS)
        join = match == s->pending_match;
    else if (s->pending && s->behavior == SPLIT_MERGED_WITH_PREVIOUS)
        join = match && !s->pending_match;
    else if (s->pending && s->behavior == SPLIT_MERGED_WITH_NEXT)
        join = !match && s->pending_match;
    if (!join && !flush(s, e))
        return false;
    if (!join)
        s->begin = begin;
    s->end = end;
    s->pending = true;
    s->pending_match = match;
    return true;
}

/* The text of a piece is looked at by itself: patterns do not see beyond it. */
static bool split_piece(const split_step *step, regex_match *match, const char *text, text_span piece,
                        span_list *out, eval_error *e)
{
    const size_t n = piece.end - piece.begin;
    const char *own = text + piece.begin;
    split_state s = {.out = out, .behavior = step->behavior};
    size_t last = 0; /* end of the last match */
    for (size_t from = 0; from <= n;) {
        size_t begin = 0, end = 0;
        if (!regex_find(step->pattern, match, own, n, from, &begin, &end, e))
            return false;
        if (begin > n)
            break;
        if (end == begin && begin == n)
            break;
        if (begin > last && !add_piece(&s, piece.begin + last, piece.begin + begin, step->invert, e))
            return false;
        if (!add_piece(&s, piece.begin + begin, piece.begin + end, !step->invert, e))
            return false;
        last = from = end;
        if (end == begin) { /* an empty match: go on behind the next character */
            uint32_t character;
            from += utf8_decode(own + end, n - end, &character);
        }
    }
    return (last == n || add_piece(&s, piece.begin + last, piece.end, step->invert, e)) && flush(&s, e);
}

/* ---- by another space ---- */

static bool respace_piece(const split_step *step, const char *text, text_span piece, bool first,
                          text_buffer *buffer, span_list *out, eval_error *e)
{
    const size_t begin = buffer->n;
    const char *own = text + piece.begin;
    const size_t n = piece.end - piece.begin, n_space = step->n_space;
    const bool has = own[0] == ' ' || (n >= n_space && memcmp(own, step->space, n_space) == 0);
    const bool wanted = step->scheme == PREPEND_ALWAYS || (step->scheme == PREPEND_FIRST && first);
    if (wanted && !has && !text_append(buffer, step->space, n_space, e))
        return false;
    for (size_t i = 0; i < n;) {
        const char *space = memchr(own + i, ' ', n - i);
        const size_t plain = space ? (size_t)(space - own) - i : n - i;
        if (!text_append(buffer, own + i, plain, e) ||
            (space && !text_append(buffer, step->space, n_space, e)))
            return false;
        i += plain + (space != NULL);
    }
    return add_span(out, begin, buffer->n, e);
}

bool split_text(const splitter *s, split_work *w, const char *text, size_t n, bool first, bool prepend,
                eval_error *e)
{
    size_t in = 0, buffer = 0;
    w->lists[0].n = 0;
    if (!add_span(&w->lists[0], 0, n, e))
        return false;
    for (size_t i = 0; i < s->n_steps; i++, in = 1 - in) {
        const split_step *step = &s->steps[i];
        const span_list *pieces = &w->lists[in];
        span_list *out = &w->lists[1 - in];
        split_step quiet;
        out->n = 0;
        if (!step->pattern) {
            w->buffers[buffer].n = 0;
            quiet = *step;
            if (!prepend)
                quiet.scheme = PREPEND_NEVER;
            step = &quiet;
        }
        for (size_t j = 0; j < pieces->n; j++)
            if (!(step->pattern ? split_piece(step, w->match, text, pieces->spans[j], out, e)
                                : respace_piece(step, text, pieces->spans[j], first && j == 0,
                                                &w->buffers[buffer], out, e)))
                return false;
        if (!step->pattern) {
            text = w->buffers[buffer].n > 0 ? w->buffers[buffer].data : "";
            buffer = 1 - buffer;
        }
    }
    w->text = text;
    w->words = &w->lists[in];
    return true;
}
