/* The one error carrier of kvq-eval: a single clear line for the user. */
#ifndef KVQ_EVAL_COMMON_ERROR_H
#define KVQ_EVAL_COMMON_ERROR_H

#include <stdbool.h>

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
 * Write the message and return false, so that a function can end with `return eval_fail(e, ...)`.
 *
 * The message names the file, the field or tensor, the byte where that makes sense, and what was expected.
 * Control characters (names from damaged files may hold any byte) become '?', so it stays one line. A message
 * that does not fit is cut at its end.
 */
EVAL_PRINTF_LIKE(2, 3)
bool eval_fail(eval_error *e, const char *format, ...);

#endif
