/* Lists of schemes (grid.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/sweep/grid.h"

#include "eval/common/input_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_SCHEME = 65535 }; /* characters of any scheme (kvq.h) */

/* ---- the list ---- */

void scheme_list_free(scheme_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        kvq_scheme_free(list->schemes[i]);
    free(list->schemes);
    memset(list, 0, sizeof *list);
}

/* Takes the scheme. */
static bool keep(scheme_list *list, kvq_scheme *scheme, eval_error *e)
{
    const char *text = kvq_scheme_text(scheme);
    for (size_t i = 0; i < list->n; i++) {
        if (strcmp(kvq_scheme_text(list->schemes[i]), text) == 0) {
            list->n_duplicates++;
            kvq_scheme_free(scheme);
            return true;
        }
    }
    if (list->n == list->n_allocated) {
        const size_t n = list->n_allocated ? 2 * list->n_allocated : 64;
        kvq_scheme **more = n <= GRID_MAX_SCHEMES ? realloc(list->schemes, n * sizeof(kvq_scheme *)) : NULL;
        if (!more) {
            kvq_scheme_free(scheme);
            return n > GRID_MAX_SCHEMES ? eval_fail(e, "more than %d schemes", (int)GRID_MAX_SCHEMES)
                                        : eval_fail(e, "out of memory for %zu schemes", n);
        }
        list->schemes = more;
        list->n_allocated = n;
    }
    list->schemes[list->n++] = scheme;
    return true;
}

bool scheme_list_add(scheme_list *list, const char *source, const char *text, eval_error *e)
{
    kvq_scheme *scheme = NULL;
    kvq_error why;
    if (kvq_scheme_create(&scheme, text, &why) != KVQ_OK)
        return eval_fail(e, "%s: scheme '%.200s': %s, at character %llu", source, text, why.message,
                         (unsigned long long)why.offset + 1);
    return keep(list, scheme, e);
}

bool scheme_list_add_file(scheme_list *list, const char *path, eval_error *e)
{
    input_file file = {0};
    if (!input_file_read_stream(&file, path, e))
        return false;
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    const char *at = (const char *)file.data, *end = at + file.size;
    const size_t before = list->n + list->n_duplicates;
    bool good = true;
    for (size_t number = 1; good && at < end; number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline ? newline : end, *next = newline ? newline + 1 : end;
        char source[4200];
        static char text[LONGEST_SCHEME + 1];
        while (at < stop && strchr(" \t\r", *at))
            at++;
        while (stop > at && strchr(" \t\r", stop[-1]))
            stop--;
        snprintf(source, sizeof source, "%s: line %zu", name, number);
        snprintf(text, sizeof text, "%.*s", (int)(stop - at < LONGEST_SCHEME ? stop - at : LONGEST_SCHEME),
                 at);
        if (strlen(text) != (size_t)(stop - at)) /* a zero, or longer than any scheme */
            good = eval_fail(e, "%s: no scheme's text", source);
        else if (text[0] != '\0' && text[0] != '#')
            good = scheme_list_add(list, source, text, e);
        at = next;
    }
    input_file_free(&file);
    return good && (list->n + list->n_duplicates > before || eval_fail(e, "%s: no scheme in it", name));
}

/* ---- grids ---- */

enum { MAX_FACTORS = 12, MAX_VALUES = 256, MAX_GRID = 4096, MAX_VALUE = 256 };

typedef struct factor {
    const char *key;
    const char *prefix[MAX_VALUES]; /* what a value continues, up to its colon; "" mostly */
    size_t n_prefix[MAX_VALUES];
    const char *values[MAX_VALUES];
    size_t n_values;
} factor;

typedef struct grid {
    char text[MAX_GRID]; /* cut into the pieces that the factors point to */
    factor factors[MAX_FACTORS];
    size_t n_factors;
    char otherwise[sizeof "base=kvq2"]; /* the factor of a grid that makes no whole schemes, cut likewise */
} grid;

/* Digits, or digits and a colon with more: "2", "1.5", "2:fb". */
static bool is_number(const char *text)
{
    const size_t n = strspn(text, "0123456789.");
    return n > 0 && (text[n] == '\0' || text[n] == ':');
}

/* Cut "value,value" into values. */
static bool parse_values(factor *f, char *text, eval_error *e)
{
    const char separator = strchr(text, '|') ? '|' : ',';
    const char *prefix = "";
    size_t n_prefix = 0;
    char *end;
    for (char *at = text; at; at = end ? end + 1 : NULL) {
        end = strchr(at, separator);
        if (end)
            *end = '\0';
        if (f->n_values == MAX_VALUES)
            return eval_fail(e, "--grid: %s= has more than %d values", f->key, (int)MAX_VALUES);
        if (strlen(at) >= MAX_VALUE)
            return eval_fail(e, "--grid: a value of %s= has more than %d characters", f->key, MAX_VALUE - 1);
        const bool continues = separator == ',' && is_number(at);
        f->prefix[f->n_values] = continues ? prefix : "";
        f->n_prefix[f->n_values] = continues ? n_prefix : 0;
        f->values[f->n_values++] = at;
        const char *colon = strchr(at, ':');
        if (!continues) {
            prefix = at;
            n_prefix = colon ? (size_t)(colon - at) + 1 : 0;
        }
    }
    return true;
}

static bool has_factor(const grid *g, const char *key)
{
    for (size_t i = 0; i < g->n_factors; i++)
        if (strcmp(g->factors[i].key, key) == 0)
            return true;
    return false;
}

static bool parse_factor(grid *g, char *word, eval_error *e)
{
    static const char *const keys[] = {"base", "k", "v", "r", "mode", "rtype", "s", "hh", "arith"};
    char *equals = strchr(word, '=');
    if (!equals || equals == word)
        return eval_fail(e, "--grid: expected families or KEY=VALUE,VALUE,..., not '%.100s'", word);
    *equals = '\0';
    size_t i = 0;
    while (i < sizeof keys / sizeof keys[0] && strcmp(keys[i], word) != 0)
        i++;
    if (i == sizeof keys / sizeof keys[0])
        return eval_fail(
            e, "--grid: there is no factor '%.100s'; there are base, k, v, r, mode, rtype, s, hh and arith",
            word);
    if (has_factor(g, word))
        return eval_fail(e, "--grid: %s= is given twice", word);
    factor *f = &g->factors[g->n_factors++];
    f->key = word;
    return parse_values(f, equals + 1, e);
}

static bool parse_grid(grid *g, const char *text, eval_error *e)
{
    if (strlen(text) >= sizeof g->text)
        return eval_fail(e, "--grid: more than %d characters", MAX_GRID - 1);
    memcpy(g->text, text, strlen(text) + 1);
    char *rest = NULL;
    for (char *word = strtok_r(g->text, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        if (!parse_factor(g, word, e))
            return false;
    if (g->n_factors == 0)
        return eval_fail(e, "--grid: expected families or KEY=VALUE,VALUE,..., found nothing");
    const bool whole = has_factor(g, "base") || (has_factor(g, "k") && has_factor(g, "v"));
    snprintf(g->otherwise, sizeof g->otherwise, "base=kvq2");
    return whole || parse_factor(g, g->otherwise, e);
}

/* base stands first, wherever it was given. */
static void append_value(char *text, size_t size, const factor *f, size_t i)
{
    const size_t used = strlen(text);
    const bool base = strcmp(f->key, "base") == 0;
    if (f->values[i][0] != '\0')
        snprintf(text + used, size - used, "%s%s%s%.*s%s", used > 0 ? "," : "", base ? "" : f->key,
                 base ? "" : "=", (int)f->n_prefix[i], f->prefix[i], f->values[i]);
}

/* Combination number i: the last factor changes fastest. */
static void combine(const grid *g, size_t i, char *text, size_t size)
{
    size_t chosen[MAX_FACTORS] = {0};
    for (size_t j = g->n_factors; j-- > 0; i /= g->factors[j].n_values)
        chosen[j] = i % g->factors[j].n_values;
    text[0] = '\0';
    for (int pass = 0; pass < 2; pass++)
        for (size_t j = 0; j < g->n_factors; j++)
            if ((strcmp(g->factors[j].key, "base") == 0) == (pass == 0))
                append_value(text, size, &g->factors[j], chosen[j]);
}

static bool add_combinations(scheme_list *list, const grid *g, eval_error *e)
{
    size_t n = 1, n_valid = 0;
    for (size_t j = 0; j < g->n_factors; j++) {
        n *= g->factors[j].n_values; /* at most MAX_VALUES times GRID_MAX_SCHEMES */
        if (n > GRID_MAX_SCHEMES)
            return eval_fail(e, "--grid: more than %d combinations", (int)GRID_MAX_SCHEMES);
    }
    for (size_t i = 0; i < n; i++) {
        char text[MAX_FACTORS * (MAX_VALUE + MAX_VALUE + 8)];
        kvq_scheme *scheme = NULL;
        kvq_error why;
        combine(g, i, text, sizeof text);
        const kvq_status status = kvq_scheme_create(&scheme, text, &why);
        if (status == KVQ_ERR_NOMEM)
            return eval_fail(e, "out of memory");
        if (status == KVQ_OK) {
            n_valid++;
            if (!keep(list, scheme, e))
                return false;
        } else if (list->n_invalid++ == 0) {
            snprintf(list->first_invalid, sizeof list->first_invalid, "%.100s: %s, at character %llu", text,
                     why.message, (unsigned long long)why.offset + 1);
        }
    }
    return n_valid > 0 ||
           eval_fail(e, "--grid: none of the %zu combinations is a scheme; %s", n, list->first_invalid);
}

bool scheme_list_add_grid(scheme_list *list, const char *text, eval_error *e)
{
    if (strcmp(text, "families") == 0) {
        for (size_t i = 0; grid_families(i, NULL); i++)
            if (!scheme_list_add_grid(list, grid_families(i, NULL), e))
                return false;
        return true;
    }
    grid *g = calloc(1, sizeof *g);
    const bool good =
        g ? parse_grid(g, text, e) && add_combinations(list, g, e) : eval_fail(e, "out of memory");
    free(g);
    return good;
}
