/* Oniguruma's patterns by PCRE2 (regex.h).
 *
 * Source: Oniguruma's doc/RE (Ruby syntax, UTF-8) and pcre2pattern(3).
 */
#include "eval/model/regex.h"

#include "eval/model/utf8.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct regex {
    pcre2_code *code;
    char pattern[100]; /* its beginning, for messages */
};

struct regex_match {
    pcre2_match_data *data;
    pcre2_match_context *context;
};

/* ---- translation ---- */

/* Unicode's White_Space, spelt out: PCRE2's own \s also takes U+180E, which left that property in
 * Unicode 6.3. */
#define SPACE                                                                                                \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{" \
    "3000}"

/* Letters and what else is alphabetic, marks, decimal digits, connecting punctuation: PCRE2's \w has all
 * numbers and no marks. Oniguruma adds the fractions and powers of Latin-1, but no others. */
#define WORD                                                                                                 \
    "\\p{L}\\p{Nl}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"                                  \
    "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

typedef struct translation {
    const char *in;
    size_t n, at;
    char *out;
    size_t n_out;
    bool in_class;
} translation;

enum { LONGEST_EXPANSION = 512 }; /* of one or two characters of a pattern */

static void put(translation *t, const char *text)
{
    const size_t n = strlen(text);
    memcpy(t->out + t->n_out, text, n);
    t->n_out += n;
}

static void put_bytes(translation *t, size_t n)
{
    memcpy(t->out + t->n_out, t->in + t->at, n);
    t->n_out += n;
    t->at += n;
}

static bool starts(const translation *t, const char *text)
{
    const size_t n = strlen(text);
    return t->n - t->at >= n && memcmp(t->in + t->at, text, n) == 0;
}

/* An escape with its {...}, if it has one. The name of a script alone would be the script's extensions to
 * PCRE2, which has more characters; sc: is the script. */
static const char *braces(translation *t)
{
    const bool has = t->n - t->at > 2 && t->in[t->at + 2] == '{';
    const char *end = has ? memchr(t->in + t->at, '}', t->n - t->at) : NULL;
    if (has && !end)
        return "{ without }";
    if (!has) {
        put_bytes(t, 2);
        return NULL;
    }
    const bool property = t->in[t->at + 1] != 'x';
    put_bytes(t, 3);
    if (t->in[t->at] == '^')
        put_bytes(t, 1);
    const size_t n = (size_t)(end - (t->in + t->at));
    if (property && n > 2) /* else a general category */
        put(t, "sc:");
    put_bytes(t, n + 1);
    return NULL;
}

/* Translates the escape at t->at. Returns what it cannot translate, or NULL. */
static const char *escape(translation *t)
{
    const char c = t->at + 1 < t->n ? t->in[t->at + 1] : '\0';
    switch (c) {
    case 's':
        put(t, t->in_class ? SPACE : "[" SPACE "]");
        break;
    case 'S':
        put(t, t->in_class ? "\\P{White_Space}" : "[^" SPACE "]");
        break;
    case 'w':
        put(t, t->in_class ? WORD : "[" WORD "]");
        break;
    case 'W':
        if (t->in_class)
            return "\\W in a class";
        put(t, "[^" WORD "]");
        break;
    case 'b':
        if (t->in_class)
            return "\\b in a class";
        put(t, "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))");
        break;
    case 'u':
        for (size_t i = 0; i < 4; i++)
            if (t->n - t->at < 6 || !memchr("0123456789abcdefABCDEF", t->in[t->at + 2 + i], 22))
                return "\\u without four hexadecimal digits";
        put(t, "\\x{");
        t->at += 2;
        put_bytes(t, 4);
        put(t, "}");
        return NULL;
    case 'h': /* a hexadecimal digit to one, a space to the other */
    case 'H':
        return "\\h";
    case 'B':
        return "\\B";
    case 'R':
    case 'X':
    case 'K':
    case 'G':
    case 'Q':
    case 'E':
    case 'C':
    case 'N':
    case 'O':
    case 'y':
    case 'Y':
    case 'M':
    case 'v':
    case 'g':
    case 'k':
        return "an escape that means another thing to PCRE2";
    case 'p':
    case 'P':
    case 'x':
        return braces(t);
    default:
        put_bytes(t, t->at + 1 < t->n ? 2 : 1);
        return NULL;
    }
    t->at += 2;
    return NULL;
}

/* The same for a character inside [...]. */
static const char *inside_class(translation *t)
{
    if (starts(t, "[:")) {
        const char *end = memchr(t->in + t->at + 2, ']', t->n - t->at - 2);
        if (!end || end[-1] != ':')
            return "[: without :]";
        if (!starts(t, "[:digit:]") && !starts(t, "[:cntrl:]"))
            return "a POSIX class that means another thing to PCRE2";
        put_bytes(t, (size_t)(end - (t->in + t->at)) + 1);
        return NULL;
    }
    if (starts(t, "["))
        return "a class in a class";
    if (starts(t, "&&"))
        return "&& in a class";
    t->in_class = t->in[t->at] != ']';
    put_bytes(t, 1);
    return NULL;
}

static const char *outside_class(translation *t)
{
    if (starts(t, "[]") || starts(t, "[^]"))
        return "a class that begins with ]";
    if (starts(t, "[")) {
        t->in_class = true;
        put_bytes(t, starts(t, "[^") ? 2 : 1);
        return NULL;
    }
    if (starts(t, "{,"))
        return "{,n}";
    if (starts(t, "}+"))
        return "{n}+";
    if (starts(t, "(?") && t->n - t->at > 2 && !strchr(":=!<>i-", t->in[t->at + 2]))
        return "a group that means another thing to PCRE2";
    if (starts(t, "(?-") && !starts(t, "(?-i"))
        return "an option that means another thing to PCRE2";
    if (starts(t, "(?i") && !starts(t, "(?i:") && !starts(t, "(?i)"))
        return "an option that means another thing to PCRE2";
    if (starts(t, "(*"))
        return "(*";
    put_bytes(t, 1);
    return NULL;
}

/* The pattern for PCRE2, to be freed; NULL and an error otherwise. */
static char *translate(const char *file, const char *pattern, size_t n, size_t *n_out, eval_error *e)
{
    /* Only an escape grows, and it has two bytes. */
    translation t = {.in = pattern, .n = n, .out = malloc((n / 2 + 1) * LONGEST_EXPANSION)};
    if (!t.out) {
        (void)eval_fail(e, "%s: out of memory", file);
        return NULL;
    }
    while (t.at < n) {
        const char *wrong = pattern[t.at] == '\\' ? escape(&t)
                            : t.in_class          ? inside_class(&t)
                                                  : outside_class(&t);
        if (wrong) {
            (void)eval_fail(e, "%s: pattern '%.100s': byte %zu: %s is not supported", file, pattern, t.at,
                            wrong);
            free(t.out);
            return NULL;
        }
    }
    *n_out = t.n_out;
    return t.out;
}

/* ---- compiling ---- */

enum { LONGEST_PATTERN = 1 << 14 };

static bool compile(regex *r, const char *file, const char *pattern, size_t n, uint32_t options,
                    eval_error *e)
{
    int code;
    PCRE2_SIZE offset;
    PCRE2_UCHAR reason[200] = "";
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return eval_fail(e, "%s: out of memory", file);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 50);
    r->code = pcre2_compile((PCRE2_SPTR)pattern, n, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!r->code) {
        pcre2_get_error_message(code, reason, sizeof reason);
        return eval_fail(e, "%s: pattern '%s': %s (PCRE2 error %d)", file, r->pattern, (const char *)reason,
                         code);
    }
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* if it fails, matching is only slower */
    return true;
}

bool regex_compile(regex **out, const char *file, const char *pattern, size_t n, bool literal, eval_error *e)
{
    if (n > LONGEST_PATTERN)
        return eval_fail(e, "%s: a pattern of %zu bytes, expected at most %d", file, n, LONGEST_PATTERN);
    regex *r = calloc(1, sizeof *r);
    if (!r)
        return eval_fail(e, "%s: out of memory", file);
    memcpy(r->pattern, pattern, n < sizeof r->pattern ? n : sizeof r->pattern - 1);
    bool ok;
    if (literal) {
        ok = compile(r, file, pattern, n, PCRE2_UTF | PCRE2_LITERAL, e);
    } else {
        size_t n_translated = 0;
        char *translated = translate(file, pattern, n, &n_translated, e);
        ok = translated &&
             compile(r, file, translated, n_translated, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, e);
        free(translated);
    }
    if (!ok) {
        regex_free(r);
        return false;
    }
    *out = r;
    return true;
}

void regex_free(regex *r)
{
    if (!r)
        return;
    pcre2_code_free(r->code);
    free(r);
}

/* ---- matching ---- */

regex_match *regex_match_create(void)
{
    regex_match *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    if (!m->data || !m->context) {
        regex_match_free(m);
        return NULL;
    }
    pcre2_set_heap_limit(m->context, 1 << 20); /* KiB */
    return m;
}

void regex_match_free(regex_match *m)
{
    if (!m)
        return;
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    free(m);
}

bool regex_find(const regex *r, regex_match *m, const char *text, size_t n, size_t from, size_t *begin,
                size_t *end, eval_error *e)
{
    /* Stepping back through a long run takes a step per character; a pattern that needs many per character
     * takes time that grows without bound. */
    const size_t steps = 1000000 + 8 * (n - from);
    pcre2_set_match_limit(m->context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
    int found = pcre2_match(r->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(r->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data,
                            m->context);
    if (found == PCRE2_ERROR_NOMATCH) {
        *begin = n + 1;
        return true;
    }
    if (found < 0) {
        PCRE2_UCHAR reason[200] = "";
        pcre2_get_error_message(found, reason, sizeof reason);
        return eval_fail(e, "tokenizer: pattern '%s': %s (PCRE2 error %d) at byte %zu of the text",
                         r->pattern, (const char *)reason, found, from);
    }
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(m->data);
    *begin = span[0];
    *end = span[1] > span[0] ? span[1] : span[0]; /* \K could put the end first */
    return true;
}
