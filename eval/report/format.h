/* Numbers and text as people read them. */
#ifndef KVQ_EVAL_REPORT_FORMAT_H
#define KVQ_EVAL_REPORT_FORMAT_H

#include "eval/report/columns.h"

#include <stdio.h>

enum { FORMAT_SIZE = 32 }; /* holds every number below */

void format_bytes(char *s, uint64_t bytes); /* 2.90 MB */
void format_count(char *s, uint64_t x);     /* 1,024 */

/** A column's value by its unit; a dash if it is missing. Texts are cut. */
void format_value(char *s, column_unit unit, const column_value *value);

/** A title in one line: '|' becomes a space, or nothing at its beginning. */
void format_title(char *s, size_t size, const char *title);

/** Print text as one paragraph with lines of at most `width` characters; 0: in one line. */
void format_paragraph(FILE *f, const char *text, size_t width);

#endif
