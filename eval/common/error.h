/* The one error carrier of kvq-eval: a single clear line for the user. */
#ifndef KVQ_EVAL_COMMON_ERROR_H
#define KVQ_EVAL_COMMON_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#if defined(__GNUC__)
#define EVAL_PRINTF_LIKE(format_arg, first_arg) __attribute__((format(printf, format_arg, first_arg)))
#define EVAL_MUST_CHECK                         __attribute__((warn_unused_result))
#else
#define EVAL_PRINTF_LIKE(format_arg, first_arg)
#define EVAL_MUST_CHECK
#endif

typedef struct eval_error {
    char text[1024]; /* one line, no newline at its end; "" until something fails */
} eval_error;

/**
 * Write the message; eval_fail is false as well, so that a function can end with `return eval_fail(e, ...)`.
 * (A macro, so that static analysis sees the value in every file.)
 *
 * The message names the file, the field or tensor, the byte where that makes sense, and what was expected.
 * Control characters (names from damaged files may hold any byte) become '?', so it stays one line. A message
 * that does not fit is cut at its end.
 */
EVAL_PRINTF_LIKE(2, 3)
void eval_set_error(eval_error *e, const char *format, ...);
#define eval_fail(...) (eval_set_error(__VA_ARGS__), false)

/** The s of a plural: "" for one. */
static inline const char *eval_s(size_t n)
{
    return n == 1 ? "" : "s";
}

#endif
