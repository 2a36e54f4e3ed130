/* Results files (results.h): lines, and the cells that were read from them. */
#include "eval/results/results.h"

#include "eval/common/input_file.h"
#include "eval/results/line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t results_key(const experiment *x, const char *scheme, size_t window, uint64_t ids_checksum)
{
    return line_key(x, scheme, window, ids_checksum);
}

char *results_line(const experiment *x, const cell *c)
{
    char *text = line_write(x, c);
    const size_t n = text ? strlen(text) : 0;
    char *line = text ? realloc(text, n + 2) : NULL;
    if (line)
        memcpy(line + n, "\n", 2);
    else
        free(text);
    return line;
}

/* ---- entries by their keys ---- */

/* The slot where a key is or would be: keys are hashes already. */
static size_t slot_of(const results *r, uint64_t key)
{
    size_t slot = (size_t)key & (r->n_slots - 1);
    while (r->slots[slot] != 0 && r->entries[r->slots[slot] - 1].key != key)
        slot = (slot + 1) & (r->n_slots - 1);
    return slot;
}

const cell *results_find(const results *r, uint64_t key)
{
    const size_t place = r->n_slots > 0 ? r->slots[slot_of(r, key)] : 0;
    return place > 0 ? &r->entries[place - 1].cell : NULL;
}

/* Room for one entry more, with at most half of the slots taken. */
static bool make_room(results *r)
{
    enum { LEAST = 64 };
    if (2 * (r->n_entries + 1) <= r->n_slots)
        return true;
    const size_t n_slots = r->n_slots ? 2 * r->n_slots : LEAST;
    results_entry *entries = realloc(r->entries, n_slots / 2 * sizeof entries[0]);
    if (!entries)
        return false;
    r->entries = entries;
    size_t *slots = calloc(n_slots, sizeof slots[0]);
    if (!slots)
        return false;
    free(r->slots);
    r->slots = slots;
    r->n_slots = n_slots;
    for (size_t i = 0; i < r->n_entries; i++)
        r->slots[slot_of(r, r->entries[i].key)] = i + 1;
    return true;
}

static bool find_experiment(results *r, const experiment *x, size_t *index)
{
    for (size_t i = r->n_experiments; i-- > 0;) { /* mostly that of the line before */
        if (line_same_experiment(&r->experiments[i], x)) {
            *index = i;
            return true;
        }
    }
    experiment *more = realloc(r->experiments, (r->n_experiments + 1) * sizeof more[0]);
    if (!more)
        return false;
    r->experiments = more;
    r->experiments[r->n_experiments] = *x;
    *index = r->n_experiments++;
    return true;
}

/* ---- reading ---- */

/* A line that is whole. Takes its cell. */
static bool add_line(results *r, const json_t *object, const char *where, eval_error *e)
{
    experiment x;
    results_entry entry = {0};
    if (!line_read(object, where, &x, &entry.cell, &entry.key, e))
        return false;
    if (results_find(r, entry.key)) {
        r->n_repeated++;
        cell_clear(&entry.cell);
        return true;
    }
    if (!make_room(r) || !find_experiment(r, &x, &entry.experiment)) {
        cell_clear(&entry.cell);
        return eval_fail(e, "%s: out of memory", where);
    }
    const size_t slot = slot_of(r, entry.key);
    r->entries[r->n_entries] = entry;
    r->slots[slot] = ++r->n_entries;
    return true;
}

/* Does a line begin as every line does that is written here, as far as it goes? Then it may have been cut
 * short. */
static bool is_beginning(const char *line, size_t n)
{
    static const char start[] = "{\"schema\":\"" LINE_SCHEMA "\"";
    return memcmp(line, start, n < sizeof start - 1 ? n : sizeof start - 1) == 0;
}

static void skip_line(results *r, const char *name, size_t number)
{
    if (r->n_skipped++ > 0)
        return;
    r->first_skipped = number;
    snprintf(r->first_skipped_in, sizeof r->first_skipped_in, "%.255s", name);
}

/* What a file's lines turned out to be. */
typedef struct tally {
    size_t n_cells, n_others; /* no JSON objects, but for a last one without its newline */
    size_t first;             /* number of the first line that is not empty; 0: there is none */
    bool foreign;             /* it is neither a cell nor the beginning of one */
} tally;

static bool read_line(results *r, tally *t, const char *line, size_t n, bool ended, const char *name,
                      size_t number, eval_error *e)
{
    char where[4200];
    json_t *object = ended ? json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL) : NULL;
    bool good = true;
    if (t->first == 0) {
        t->first = number;
        t->foreign = !json_is_object(object) && !is_beginning(line, n);
    }
    if (json_is_object(object)) {
        snprintf(where, sizeof where, "%s: line %zu", name, number);
        good = add_line(r, object, where, e);
        t->n_cells++;
    } else if (ended) {
        skip_line(r, name, number);
        t->n_others++;
    } else {
        r->n_cut++;
    }
    json_decref(object);
    return good;
}

/* All lines of a file. */
static bool read_lines(results *r, const input_file *file, const char *name, eval_error *e)
{
    const char *at = (const char *)file->data, *end = at + file->size;
    tally t = {0};
    for (size_t number = 1; at < end; number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const size_t n = (size_t)((newline ? newline : end) - at);
        if (n > 0 && !read_line(r, &t, at, n, newline != NULL, name, number, e))
            return false;
        at += n + (newline ? 1 : 0);
    }
    /* A file of something else should not pass for one whose lines are all cut: lines would be appended to
     * it. */
    if (t.foreign || (t.n_cells == 0 && (t.n_others > 0 || (file->size > 0 && t.first == 0))))
        return eval_fail(e, "%s, line %zu: is not a line of results, which kvq-eval sweep writes", name,
                         t.first > 0 ? t.first : 1);
    return true;
}

bool results_load(results *out, const char *const *paths, size_t n_paths, eval_error *e)
{
    results r = {0};
    for (size_t i = 0; i < n_paths; i++) {
        input_file file = {0};
        const bool good = input_file_read_stream(&file, paths[i], e) &&
                          read_lines(&r, &file, strcmp(paths[i], "-") == 0 ? "standard input" : paths[i], e);
        input_file_free(&file);
        if (!good) {
            results_free(&r);
            return false;
        }
    }
    *out = r;
    return true;
}

bool results_load_some(results *out, const char *const *paths, size_t n_paths, eval_error *e)
{
    results r = {0};
    if (!results_load(&r, paths, n_paths, e))
        return false;
    if (r.n_entries == 0) {
        results_free(&r);
        return eval_fail(e, "%s%s, line 1: is not a line of results, which kvq-eval sweep writes",
                         strcmp(paths[0], "-") == 0 ? "standard input" : paths[0],
                         n_paths > 1 ? " and the other files" : "");
    }
    *out = r;
    return true;
}

void results_note_skipped(FILE *f, const results *r)
{
    if (r->n_skipped > 0)
        fprintf(f, "kvq-eval: note: %zu line%s no cell%s and skipped; the first is %s, line %zu\n",
                r->n_skipped, r->n_skipped == 1 ? " is" : "s are", r->n_skipped == 1 ? "" : "s",
                r->first_skipped_in, r->first_skipped);
}

void results_free(results *r)
{
    for (size_t i = 0; i < r->n_entries; i++)
        cell_clear(&r->entries[i].cell);
    free(r->experiments);
    free(r->entries);
    free(r->slots);
    memset(r, 0, sizeof *r);
}

/* ---- what there is ---- */

static int compare_windows(const cell *a, const cell *b)
{
    return a->window != b->window ? (a->window > b->window) - (a->window < b->window)
                                  : (a->ids_checksum > b->ids_checksum) - (a->ids_checksum < b->ids_checksum);
}

size_t results_of_scheme(const results *r, size_t index, const char *scheme, const cell **out, size_t n_max)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_entries; i++) {
        const results_entry *entry = &r->entries[i];
        if (entry->experiment != index || strcmp(entry->cell.scheme, scheme) != 0)
            continue;
        /* Kept in order; what does not fit is the last. */
        size_t at = n < n_max ? n : n_max;
        while (at > 0 && compare_windows(out[at - 1], &entry->cell) > 0) {
            if (at < n_max)
                out[at] = out[at - 1];
            at--;
        }
        if (at < n_max)
            out[at] = &entry->cell;
        n++;
    }
    return n;
}

size_t results_pair(const cell **a, size_t n_a, const cell **b, size_t n_b)
{
    size_t n = 0;
    for (size_t i = 0, j = 0; i < n_a && j < n_b;) {
        const int order = compare_windows(a[i], b[j]);
        if (order == 0) {
            a[n] = a[i];
            b[n++] = b[j];
        }
        i += order <= 0 ? 1 : 0;
        j += order >= 0 ? 1 : 0;
    }
    return n;
}

const char *results_scheme(const results *r, size_t index, size_t i)
{
    for (size_t j = 0; j < r->n_entries; j++) {
        const results_entry *entry = &r->entries[j];
        bool seen = entry->experiment != index;
        for (size_t before = 0; !seen && before < j; before++)
            seen = r->entries[before].experiment == index &&
                   strcmp(r->entries[before].cell.scheme, entry->cell.scheme) == 0;
        if (!seen && i-- == 0)
            return entry->cell.scheme;
    }
    return NULL;
}
