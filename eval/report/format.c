/* Numbers and text as people read them (format.h). */
#include "eval/report/format.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

void format_bytes(char *s, uint64_t bytes)
{
    const double x = (double)bytes;
    if (bytes < 1000000)
        snprintf(s, FORMAT_SIZE, "%.1f kB", x / 1e3);
    else if (bytes < 1000000000)
        snprintf(s, FORMAT_SIZE, "%.2f MB", x / 1e6);
    else
        snprintf(s, FORMAT_SIZE, "%.2f GB", x / 1e9);
}

void format_count(char *s, uint64_t x)
{
    if (x < 1000)
        snprintf(s, FORMAT_SIZE, "%" PRIu64, x);
    else if (x < 1000000)
        snprintf(s, FORMAT_SIZE, "%" PRIu64 ",%03" PRIu64, x / 1000, x % 1000);
    else
        snprintf(s, FORMAT_SIZE, "%" PRIu64 ",%03" PRIu64 ",%03" PRIu64, x / 1000000, x / 1000 % 1000,
                 x % 1000);
}

/* Errors and divergences: four decimals where these show two digits or more, else with an exponent; exact
 * zeros as such. */
static void format_error(char *s, double x)
{
    if (x == 0.0)
        snprintf(s, FORMAT_SIZE, "0");
    else if (x >= 0.00095 && x < 100.0)
        snprintf(s, FORMAT_SIZE, "%.4f", x);
    else
        snprintf(s, FORMAT_SIZE, "%.1e", x);
}

/* With a sign, but not on what rounds to zero; no change at all is a dash. */
static void format_change(char *s, double percent)
{
    if (percent == 0.0)
        snprintf(s, FORMAT_SIZE, "-");
    else
        snprintf(s, FORMAT_SIZE, fabs(percent) < 0.005 ? "0.00 %%" : "%+.2f %%", percent);
}

void format_value(char *s, column_unit unit, const column_value *value)
{
    if (value->missing) {
        snprintf(s, FORMAT_SIZE, "-");
        return;
    }
    switch (unit) {
    case UNIT_TEXT:
        snprintf(s, FORMAT_SIZE, "%s", value->text);
        return;
    case UNIT_COUNT:
        format_count(s, value->whole);
        return;
    case UNIT_BYTES:
        format_bytes(s, value->whole);
        return;
    case UNIT_BITS:
        snprintf(s, FORMAT_SIZE, "%.2f", value->real);
        return;
    case UNIT_RATIO:
        snprintf(s, FORMAT_SIZE, "%.2fx", value->real);
        return;
    case UNIT_ERROR:
        format_error(s, value->real);
        return;
    case UNIT_SHARE:
        snprintf(s, FORMAT_SIZE, "%.1f %%", 100.0 * value->real);
        return;
    case UNIT_PERPLEXITY:
        snprintf(s, FORMAT_SIZE, value->real < 1e5 ? "%.2f" : "%.2e", value->real);
        return;
    case UNIT_CHANGE:
        format_change(s, value->real);
        return;
    case UNIT_POINTS:
        snprintf(s, FORMAT_SIZE, "%.2f %%", value->real);
        return;
    case UNIT_SECONDS:
        snprintf(s, FORMAT_SIZE, "%.1f s", value->real);
        return;
    }
}

void format_title(char *s, size_t size, const char *title)
{
    snprintf(s, size, "%s", title + (title[0] == '|'));
    char *bar = strchr(s, '|');
    if (bar)
        *bar = ' ';
}

void format_paragraph(FILE *f, const char *text, size_t width)
{
    size_t at = 0;
    for (const char *word = text; *word;) {
        size_t length = strcspn(word, " ");
        if (strncmp(word + length, " %", 2) == 0) /* stays with its number */
            length += 1 + strcspn(word + length + 1, " ");
        const bool fits = width == 0 || at + 1 + length <= width;
        if (at > 0)
            fputc(fits ? ' ' : '\n', f);
        at = at > 0 && fits ? at + 1 + length : length;
        fwrite(word, 1, length, f);
        word += length;
        word += strspn(word, " ");
    }
    fputc('\n', f);
}
