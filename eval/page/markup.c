/* Escaping (markup.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/page/markup.h"

#include "eval/model/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* The bytes of the character that begins here; 0 if none does or XML does not take it. */
static size_t character(const char *s)
{
    uint32_t c = 0;
    const size_t n = utf8_decode(s, strnlen(s, 4), &c);
    const bool bad =
        (c < 0x20 && c != '\t' && c != '\n') || (c >= 0x7f && c < 0xa0) || (c & 0xfffe) == 0xfffe;
    return bad ? 0 : n;
}

static const char *entity(char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

void markup_text(FILE *f, const char *text)
{
    const char *s = text;
    while (*s != '\0') {
        const size_t n = character(s);
        if (n == 0)
            fputs("\xef\xbf\xbd", f);
        else if (n == 1 && entity(*s))
            fputs(entity(*s), f);
        else
            fwrite(s, 1, n, f);
        s += n == 0 ? 1 : n;
    }
}

void markup_textf(FILE *f, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    markup_text(f, text);
}

size_t markup_length(const char *text)
{
    size_t n = 0;
    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

void markup_cut(char *s, size_t size, const char *text, size_t most)
{
    if (markup_length(text) <= most && strlen(text) < size) {
        snprintf(s, size, "%s", text);
        return;
    }
    size_t end = 0, n = 0, kept = 0;
    for (; text[end] != '\0' && end + 4 < size; end++) {
        if (((unsigned char)text[end] & 0xc0) == 0x80)
            continue;
        kept = end;
        if (++n == most)
            break;
    }
    memcpy(s, text, kept);
    snprintf(s + kept, size - kept, "\xe2\x80\xa6");
}

/* 2.87e-6, not 2.87e-06. */
static void put_exponent(char s[MARKUP_NUMBER], double x)
{
    snprintf(s, MARKUP_NUMBER, "%.2e", x);
    char *e = strchr(s, 'e');
    if (!e || (e[1] != '-' && e[1] != '+') || e[2] != '0')
        return;
    memmove(e + 2, e + 3, strlen(e + 3) + 1);
    if (e[1] == '+')
        memmove(e + 1, e + 2, strlen(e + 2) + 1);
}

void markup_number(char s[MARKUP_NUMBER], double x)
{
    const double a = fabs(x);
    if (isnan(x))
        snprintf(s, MARKUP_NUMBER, "\xe2\x80\x93");
    else if (x == 0.0)
        snprintf(s, MARKUP_NUMBER, "0");
    else if (a >= 1e6 || a < 1e-4)
        put_exponent(s, x);
    else if (a >= 100.0)
        snprintf(s, MARKUP_NUMBER, "%.0f", x);
    else
        snprintf(s, MARKUP_NUMBER, "%.*f",
                 a >= 10.0    ? 1
                 : a >= 1.0   ? 2
                 : a >= 0.1   ? 3
                 : a >= 0.01  ? 4
                 : a >= 0.001 ? 5
                              : 6,
                 x);
}

void markup_bytes(char s[MARKUP_NUMBER], double bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t i = 0;
    while (bytes >= 999.5 && i < 4) {
        bytes /= 1000.0;
        i++;
    }
    snprintf(s, MARKUP_NUMBER, i == 0 || bytes >= 100.0 ? "%.0f %s" : "%.3g %s", bytes, units[i]);
}
