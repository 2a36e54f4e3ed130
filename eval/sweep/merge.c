/* Cells in a fixed order (merge.h). */
#include "eval/sweep/merge.h"

#include <stdlib.h>
#include <string.h>

/* Where a cell stands. */
typedef struct place {
    size_t experiment, window, scheme; /* the entry with which its scheme appears first */
    size_t entry;
} place;

static int compare_places(const void *a, const void *b)
{
    const place *p = a, *q = b;
    const size_t of_p[] = {p->experiment, p->window, p->scheme, p->entry};
    const size_t of_q[] = {q->experiment, q->window, q->scheme, q->entry};
    for (size_t i = 0; i < sizeof of_p / sizeof of_p[0]; i++)
        if (of_p[i] != of_q[i])
            return of_p[i] < of_q[i] ? -1 : 1;
    return 0;
}

/* Entries by experiment and scheme, the first of each before its others. */
typedef struct named {
    const char *scheme;
    size_t experiment, entry;
} named;

static int compare_names(const void *a, const void *b)
{
    const named *p = a, *q = b;
    if (p->experiment != q->experiment)
        return p->experiment < q->experiment ? -1 : 1;
    const int order = strcmp(p->scheme, q->scheme);
    return order != 0 ? order : p->entry < q->entry ? -1 : 1;
}

static void fill_places(place *places, named *names, const results *r)
{
    for (size_t i = 0; i < r->n_entries; i++)
        names[i] = (named){r->entries[i].cell.scheme, r->entries[i].experiment, i};
    qsort(names, r->n_entries, sizeof names[0], compare_names);
    size_t first = 0;
    for (size_t i = 0; i < r->n_entries; i++) {
        if (names[i].experiment != names[first].experiment ||
            strcmp(names[i].scheme, names[first].scheme) != 0)
            first = i;
        const results_entry *entry = &r->entries[names[i].entry];
        places[i] = (place){entry->experiment, entry->cell.window, names[first].entry, names[i].entry};
    }
    qsort(places, r->n_entries, sizeof places[0], compare_places);
}

bool merge_write(FILE *f, const results *r, eval_error *e)
{
    const size_t n = r->n_entries > 0 ? r->n_entries : 1;
    place *places = calloc(n, sizeof places[0]);
    named *names = calloc(n, sizeof names[0]);
    bool good = (places && names) || eval_fail(e, "out of memory for %zu cells", n);
    if (good && r->n_entries > 0)
        fill_places(places, names, r);
    for (size_t i = 0; good && i < r->n_entries; i++) {
        const results_entry *entry = &r->entries[places[i].entry];
        char *line = results_line(&r->experiments[entry->experiment], &entry->cell);
        good = line != NULL || eval_fail(e, "out of memory");
        if (good)
            fputs(line, f); /* whoever closes it sees whether that failed */
        free(line);
    }
    free(places);
    free(names);
    return good;
}
