/* Formats the one-line error messages of kvq-eval. */
#include "eval/common/error.h"

#include <stdarg.h>
#include <stdio.h>

void eval_set_error(eval_error *e, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (vsnprintf(e->text, sizeof e->text, format, args) < 0)
        snprintf(e->text, sizeof e->text, "an error occurred, and its message could not be written");
    va_end(args);
    for (char *c = e->text; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}
