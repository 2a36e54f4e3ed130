/* Takes numbers and strings from the front of a GGUF file (gguf_header.h).
 *
 * The file is read, in pieces that grow, and not mapped: one that another program cuts short meanwhile is an
 * error, where a mapping would end the process with SIGBUS.
 */
#include "eval/model/gguf_header.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BYTES = 1 << 16 };

static size_t limit(const gguf_header *h)
{
    return h->source->size < GGUF_MAX_HEADER_BYTES ? h->source->size : GGUF_MAX_HEADER_BYTES;
}

size_t gguf_left(const gguf_header *h)
{
    return limit(h) - h->at;
}

/* Fails with the reason why `what`, which begins at byte `at`, cannot be there. */
static bool fail_short(const gguf_header *h, size_t at, const char *what, uint64_t n, const char *unit,
                       eval_error *e)
{
    if (h->source->size > limit(h))
        return eval_fail(
            e, "%s: byte %zu: %s%s has %llu %s, which do not fit in the %zu bytes a header may have",
            h->source->path, at, h->where, what, (unsigned long long)n, unit, GGUF_MAX_HEADER_BYTES);
    return eval_fail(e, "%s: byte %zu: %s%s has %llu %s, but only %zu bytes follow; is the file cut short?",
                     h->source->path, at, h->where, what, (unsigned long long)n, unit, gguf_left(h));
}

/* Makes the first `needed` bytes, which are no more than the limit, be in memory; doubles, so that all of it
 * is read in few pieces. */
static bool load(gguf_header *h, size_t needed, eval_error *e)
{
    if (needed <= h->n_bytes)
        return true;
    size_t target = h->n_bytes ? 2 * h->n_bytes : FIRST_BYTES;
    target = target < needed ? needed : target;
    target = target < limit(h) ? target : limit(h);
    uint8_t *bytes = realloc(h->bytes, target + 1);
    if (!bytes)
        return eval_fail(e, "%s: out of memory for a header of %zu bytes", h->source->path, target);
    h->bytes = bytes;
    if (!tensor_source_read(h->source, h->n_bytes, target - h->n_bytes, bytes + h->n_bytes, e))
        return false;
    h->n_bytes = target;
    return true;
}

bool gguf_take(gguf_header *h, size_t n, const char *what, eval_error *e)
{
    if (n > gguf_left(h))
        return fail_short(h, h->at, what, n, "bytes", e);
    if (!load(h, h->at + n, e))
        return false;
    h->at += n;
    return true;
}

bool gguf_take_u32(gguf_header *h, const char *what, uint32_t *value, eval_error *e)
{
    if (!gguf_take(h, sizeof *value, what, e))
        return false;
    memcpy(value, h->bytes + h->at - sizeof *value, sizeof *value);
    return true;
}

bool gguf_take_u64(gguf_header *h, const char *what, uint64_t *value, eval_error *e)
{
    if (!gguf_take(h, sizeof *value, what, e))
        return false;
    memcpy(value, h->bytes + h->at - sizeof *value, sizeof *value);
    return true;
}

bool gguf_take_count(gguf_header *h, const char *what, size_t min_bytes, size_t *n, eval_error *e)
{
    const size_t at = h->at;
    uint64_t count = 0;
    if (!gguf_take_u64(h, what, &count, e))
        return false;
    if (count > gguf_left(h) / min_bytes)
        return fail_short(h, at, what, count, "entries", e);
    *n = (size_t)count;
    return true;
}

bool gguf_take_string(gguf_header *h, const char *what, size_t max_bytes, size_t *at, size_t *n_bytes,
                      eval_error *e)
{
    const size_t length_at = h->at;
    uint64_t length = 0;
    if (!gguf_take_u64(h, what, &length, e))
        return false;
    if (length > max_bytes)
        return eval_fail(e, "%s: byte %zu: %s%s has %llu bytes, expected at most %zu", h->source->path,
                         length_at, h->where, what, (unsigned long long)length, max_bytes);
    if (length > gguf_left(h))
        return fail_short(h, length_at, what, length, "bytes", e);
    *at = h->at;
    *n_bytes = (size_t)length;
    return gguf_take(h, *n_bytes, what, e);
}

bool gguf_take_name(gguf_header *h, const char *noun, size_t max_bytes, size_t *at, size_t *n_bytes,
                    eval_error *e)
{
    char what[32];
    (void)snprintf(what, sizeof what, "a %s's name", noun);
    h->where[0] = '\0';
    if (!gguf_take_string(h, what, max_bytes, at, n_bytes, e))
        return false;
    if (*n_bytes == 0)
        return eval_fail(e, "%s: byte %zu: %s is empty", h->source->path, *at - 8, what);
    const char *name = (const char *)h->bytes + *at;
    (void)snprintf(h->where, sizeof h->where, "%s '%.*s': ", noun, *n_bytes < 200 ? (int)*n_bytes : 200,
                   name);
    const char *nul = memchr(name, 0, *n_bytes);
    if (nul)
        return eval_fail(e, "%s: byte %zu: %sa NUL in its name", h->source->path, *at + (size_t)(nul - name),
                         h->where);
    return true;
}

void gguf_header_trim(gguf_header *h)
{
    uint8_t *bytes = realloc(h->bytes, h->at + 1);
    if (bytes)
        h->bytes = bytes;
    h->n_bytes = h->at;
}
