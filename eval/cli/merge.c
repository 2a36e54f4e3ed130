/* `kvq-eval merge` (merge.h). */
#define _GNU_SOURCE

#include "eval/cli/merge.h"

#include "eval/common/arguments.h"
#include "eval/common/exit_status.h"
#include "eval/common/input_file.h"
#include "eval/common/output_file.h"
#include "eval/sweep/merge.h"

#include <stdio.h>
#include <stdlib.h>

enum { KEY_OUT = 0x400, KEY_QUIET };

const struct argp_option merge_options_list[] = {
    {"out", KEY_OUT, "FILE", 0,
     "Where to, which may be one of the files read; - (default) is standard output", 1},
    {"quiet", KEY_QUIET, NULL, 0, "No last line on standard error", 1},
    {0},
};

typedef struct request {
    const char **files; /* as many as there are words at most */
    size_t n_files;
    const char *out;
    bool quiet;
} request;

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case KEY_OUT:
        r->out = argument_file(state, "out", arg);
        return 0;
    case KEY_QUIET:
        r->quiet = true;
        return 0;
    case ARGP_KEY_ARG:
        r->files[r->n_files++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (r->n_files == 0)
            argp_error(state, "which files? They are what kvq-eval sweep has written");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static bool merge(const request *r, eval_error *e)
{
    results all = {0};
    output_file file;
    if (!results_load(&all, r->files, r->n_files, e))
        return false;
    if (all.n_entries == 0 && all.n_cut > 0) { /* of empty files one may well be made */
        results_free(&all);
        return results_load_some(&all, r->files, r->n_files, e);
    }
    results_note_skipped(stderr, &all);
    input_file_forget_all(); /* all that they hold will be in the new one */
    bool good = output_file_open(&file, r->out, e);
    if (good && !merge_write(file.stream, &all, e)) {
        output_file_discard(&file);
        good = false;
    }
    good = good && output_file_commit(&file, e);
    if (good && !r->quiet)
        fprintf(stderr, "kvq-eval: %zu cell%s of %zu experiment%s; %zu repeated, %zu cut short\n",
                all.n_entries, all.n_entries == 1 ? "" : "s", all.n_experiments,
                all.n_experiments == 1 ? "" : "s", all.n_repeated, all.n_cut);
    results_free(&all);
    return good;
}

int merge_main(const char *doc, int argc, char **argv)
{
    request r = {.out = "-"};
    eval_error e = {""};
    r.files = calloc((size_t)argc + 1, sizeof r.files[0]);
    if (!r.files) {
        fputs("kvq-eval: out of memory\n", stderr);
        return STATUS_BAD_INPUT;
    }
    arguments_parse_words(merge_options_list, parse_option, "FILE...", doc, "", argc, argv, &r);
    const bool good = merge(&r, &e);
    if (!good)
        fprintf(stderr, "kvq-eval: %s\n", e.text);
    free(r.files);
    return good ? STATUS_GOOD : STATUS_BAD_INPUT;
}
