/* Results files: JSON Lines, one cell a line, that processes append to and later runs read.
 *
 * A line is one JSON object: "schema": "kvq-eval-cell/1", "key": 16 hexadecimal digits, "experiment": {...},
 * "cell": {...}. The key is XXH3-64 over all that could change what is measured (the experiment, the scheme,
 * the window and its token ids), so a run that is repeated finds what is there. A line is written by one
 * write() to a file opened for appending: several processes may share a file, and one that is killed leaves
 * at most its last line cut short. That one has no newline at its end; it is skipped and counted. The next
 * process that appends ends it first, so such lines stand between others, too: they are skipped, and counted
 * apart, because what is no cell for another reason looks the same.
 */
#ifndef KVQ_EVAL_RESULTS_RESULTS_H
#define KVQ_EVAL_RESULTS_RESULTS_H

#include "eval/common/error.h"
#include "eval/results/cell.h"

#include <stdio.h>

typedef struct results_entry {
    uint64_t key;
    size_t experiment; /* index */
    cell cell;
} results_entry;

typedef struct results {
    experiment *experiments; /* distinct ones, in the order of their first line */
    size_t n_experiments;
    results_entry *entries; /* one for each key, the first that was read */
    size_t n_entries;
    size_t n_cut;         /* last lines cut short */
    size_t n_repeated;    /* lines whose key was there before */
    size_t n_skipped;     /* lines that are no JSON objects, with others behind them or a newline */
    size_t first_skipped; /* the number of the first, and its file */
    char first_skipped_in[256];
    size_t *slots; /* [n_slots]: places of entries by their keys, for results_find */
    size_t n_slots;
} results;

/** The key of a cell that is or would be measured. */
uint64_t results_key(const experiment *x, const char *scheme, size_t window, uint64_t ids_checksum);

/** One line with its newline, as a string of the caller's; NULL without memory. */
char *results_line(const experiment *x, const cell *c);

/**
 * Read files that were appended to; "-" is standard input. Errors name file, line and field: a line that is
 * JSON but not a cell, one of another schema, a key that does not fit its content, a file that holds
 * something else: no cell, and more than one line cut short, or a first line that is not even the beginning
 * of one. On failure *out is untouched.
 */
EVAL_MUST_CHECK bool results_load(results *out, const char *const *paths, size_t n_paths, eval_error *e);

/** The same for those who need a cell: none in all files is an error. */
EVAL_MUST_CHECK bool results_load_some(results *out, const char *const *paths, size_t n_paths, eval_error *e);

/** One line on `f` about lines that were skipped, if any were. */
void results_note_skipped(FILE *f, const results *r);

void results_free(results *r); /* an all-zero one is fine */

/** The entry with this key; NULL if there is none. */
const cell *results_find(const results *r, uint64_t key);

/** The cells of one scheme (canonical text) in the experiment of that index, by window, those of one window
 * (of texts with the same name) by their token ids' checksum: writes at most n_max pointers, returns how many
 * there are. */
size_t results_of_scheme(const results *r, size_t index, const char *scheme, const cell **out, size_t n_max);

/** Of two schemes' cells, as results_of_scheme gives them, keep those of the same tokens: the first n of
 * both, pair by pair. Returns n. */
size_t results_pair(const cell **a, size_t n_a, const cell **b, size_t n_b);

/** The i-th distinct scheme of an experiment in the order of first appearance; NULL past the last. */
const char *results_scheme(const results *r, size_t index, size_t i);

#endif
