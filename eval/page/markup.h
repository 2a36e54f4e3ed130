/* Text in XML and HTML, and numbers as people read them. */
#ifndef KVQ_EVAL_PAGE_MARKUP_H
#define KVQ_EVAL_PAGE_MARKUP_H

#include <stddef.h>
#include <stdio.h>

enum { MARKUP_NUMBER = 32 }; /* holds every number below */

/** Text for element content and for attributes in double quotes, whatever it holds: bytes that are no
 * UTF-8 and characters that XML does not allow become U+FFFD. */
void markup_text(FILE *f, const char *text);

/** printf, then markup_text of what comes out; at most 2,047 bytes of it. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void markup_textf(FILE *f, const char *format, ...);

/** Copy at most `most` characters, whole ones, with an ellipsis where it was cut. */
void markup_cut(char *s, size_t size, const char *text, size_t most);

/** Number of characters (bytes that begin one). */
size_t markup_length(const char *text);

/** Three significant digits or more where the number is above 1,000; NaN is a dash. */
void markup_number(char s[MARKUP_NUMBER], double x);

/** 812 B, 2.9 kB, 12.4 MB, 1.2 GB. */
void markup_bytes(char s[MARKUP_NUMBER], double bytes);

#endif
