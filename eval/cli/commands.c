/* The table of commands, and what is decided before one of them runs (commands.h). */
#define _GNU_SOURCE

#include "eval/cli/commands.h"

#include "eval/bench/bench.h"
#include "eval/bench/options.h"
#include "eval/cli/compare.h"
#include "eval/cli/completion.h"
#include "eval/cli/dump.h"
#include "eval/cli/evaluation.h"
#include "eval/cli/info.h"
#include "eval/cli/merge.h"
#include "eval/cli/options.h"
#include "eval/cli/page.h"
#include "eval/cli/plan.h"
#include "eval/cli/sweep.h"
#include "eval/cli/tokenize.h"
#include "eval/cli/tune.h"
#include "eval/common/exit_status.h"
#include "lib/kvq.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRINGIFY_(x) #x
#define STRINGIFY(x)  STRINGIFY_(x)

static const command table[] = {
    {"", "Measure what quantizing the KV cache costs on real decodes, and what it saves.", evaluation_main,
     options_list, options_words, NULL, false},
    {"bench", "Measure speed on this machine: attention, encoding, generation", bench_main,
     bench_options_list, NULL, NULL, false},
    {"sweep", "Measure many schemes into a file, from which it goes on", sweep_main, sweep_options_list,
     sweep_words, NULL, false},
    {"compare", "Say which of two schemes is better, and how sure", compare_main, compare_options_list,
     compare_words, NULL, true},
    {"tune", "Find widths by layer for a number of bytes, by measurement", tune_main, tune_options_list,
     tune_words, NULL, false},
    {"merge", "Make one file of several that sweeps have written", merge_main, merge_options_list, NULL, NULL,
     true},
    {"dump", "Record a model's queries, keys and values into a file for --kv", dump_main, dump_options_list,
     dump_words, NULL, false},
    {"plan", "Compute before running: does it fit, what binds, what is saved", plan_main, plan_options_list,
     plan_words, NULL, false},
    {"report", "Make a page, figures and tables from results files", page_main, page_options_list, NULL, NULL,
     true},
    {"tokenize", "Print a text's token ids as a model sees it", tokenize_main, tokenize_options_list, NULL,
     NULL, false},
    {"info", "Print version, instruction set, threads and data directory", info_main, info_options_list, NULL,
     NULL, false},
    {"completion", "Print completion for a shell: source <(kvq-eval completion bash)", completion_main,
     completion_options_list, NULL, completion_arguments, false},
};

const command *commands_at(size_t i)
{
    return i < sizeof table / sizeof table[0] ? &table[i] : NULL;
}

/* ---- words that do not exist ---- */

/* Number of letters to change, add or leave out, or neighbours to swap, to make one word of the other. */
static size_t distance(const char *a, const char *b)
{
    enum { MAX_WORD = 31 };
    size_t cost[MAX_WORD + 1][MAX_WORD + 1];
    const size_t n = strlen(a), m = strlen(b);
    if (n > MAX_WORD || m > MAX_WORD)
        return MAX_WORD;
    for (size_t i = 0; i <= n; i++) {
        for (size_t j = 0; j <= m; j++) {
            size_t best = i == 0 ? j : j == 0 ? i : cost[i - 1][j - 1] + (a[i - 1] != b[j - 1] ? 1 : 0);
            if (i > 0 && j > 0) {
                best = cost[i - 1][j] + 1 < best ? cost[i - 1][j] + 1 : best;
                best = cost[i][j - 1] + 1 < best ? cost[i][j - 1] + 1 : best;
            }
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = cost[i - 2][j - 2] + 1 < best ? cost[i - 2][j - 2] + 1 : best;
            cost[i][j] = best;
        }
    }
    return cost[n][m];
}

/* Keeps the nearest word so far, if it is near enough to have been meant. */
static void consider(const char *text, const char *word, const char **nearest, size_t *least)
{
    const size_t d = distance(text, word);
    if (word[0] != '\0' && d < *least && d <= 2 && 2 * d < strlen(word) + 1) {
        *least = d;
        *nearest = word;
    }
}

static int bad_usage(const char *program, const char *what, const char *text, const char *dashes,
                     const char *nearest)
{
    fprintf(stderr, "%s: %s '%s%s'", program, what, dashes, text);
    if (nearest)
        fprintf(stderr, "; did you mean '%s%s'?", dashes, nearest);
    fprintf(stderr, "\nTry `%s --help' for more information.\n", program);
    return STATUS_BAD_USAGE;
}

static int no_command(const char *program, const char *text)
{
    const char *nearest = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; commands_at(i); i++)
        consider(text, commands_at(i)->name, &nearest, &least);
    return bad_usage(program, "there is no command", text, "", nearest);
}

/* The option of that name, in full or as a beginning of no other: NULL otherwise, and then *beginnings says
 * of how many it is one. */
static const struct argp_option *find_option(const struct argp_option *list, const char *name, size_t length,
                                             size_t *beginnings)
{
    const struct argp_option *found = NULL;
    *beginnings = 0;
    for (const struct argp_option *o = list; o->name || o->key || o->doc || o->group; o++) {
        if (!o->name || strncmp(o->name, name, length) != 0)
            continue;
        if (o->name[length] == '\0')
            return o;
        (*beginnings)++;
        found = o;
    }
    return *beginnings == 1 ? found : NULL;
}

static int no_option(const command *c, const char *program, const char *name, size_t length)
{
    char text[64];
    const char *nearest = NULL;
    size_t least = SIZE_MAX;
    snprintf(text, sizeof text, "%.*s", (int)length, name);
    for (const struct argp_option *o = c->options; o->name || o->key || o->doc || o->group; o++)
        if (o->name)
            consider(text, o->name, &nearest, &least);
    return bad_usage(program, "unrecognized option", text, "--", nearest);
}

static int check_word(const command *c, const char *program, const char *word)
{
    if (c->files)
        return STATUS_GOOD;
    for (size_t i = 0; c->arguments && c->arguments[i]; i++)
        if (strcmp(c->arguments[i], word) == 0)
            return STATUS_GOOD;
    for (size_t i = 0; c->name[0] == '\0' && commands_at(i); i++)
        if (strcmp(commands_at(i)->name, word) == 0)
            return bad_usage(program, "only as the first word can stand the command", word, "", NULL);
    if (!c->arguments)
        return bad_usage(program, "nothing but options can stand here, not", word, "", NULL);
    const char *nearest = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; c->arguments[i]; i++)
        consider(word, c->arguments[i], &nearest, &least);
    return bad_usage(program, "it takes no", word, "", nearest ? nearest : c->arguments[0]);
}

/* The options that argp has for every command. */
static const struct argp_option standard_options[] = {
    {"help", 0, NULL, 0, "", 0}, {"usage", 0, NULL, 0, "", 0}, {"version", 0, NULL, 0, "", 0}, {0}};

/* Do all options and words exist? argp would say no, too, but not what was meant instead. Its values are
 * its own. */
static int check_arguments(const command *c, int argc, char **argv)
{
    int status = STATUS_GOOD;
    bool only_words = false;
    for (int i = 1; i < argc && status == STATUS_GOOD; i++) {
        const char *name = argv[i] + 2;
        if (only_words || argv[i][0] != '-' || argv[i][1] == '\0') {
            status = check_word(c, argv[0], argv[i]);
        } else if (argv[i][1] == '-' && name[0] == '\0') {
            only_words = true;
        } else if (argv[i][1] == '-') {
            size_t n = 0, n_standard = 0;
            const size_t length = strcspn(name, "=");
            const struct argp_option *o = find_option(c->options, name, length, &n);
            const bool standard = find_option(standard_options, name, length, &n_standard) != NULL;
            if (!o && !standard && n + n_standard > 1)
                return STATUS_GOOD; /* which of them is meant, argp will ask */
            if (!o && !standard && n + n_standard == 0)
                status = no_option(c, argv[0], name, length);
            i += o && o->arg && name[length] == '\0' ? 1 : 0; /* the value is not looked at */
        }
    }
    return status;
}

/* ---- running one ---- */

/* What --help says first: the command's line; without a command, also which commands there are. */
static void write_doc(const command *c, char *text, size_t size)
{
    int used = snprintf(text, size, "%s", c->doc);
    if (c->name[0] != '\0')
        return;
    used += snprintf(text + used, size - (size_t)used, "\n\nCommands, each with a --help of its own:\n");
    for (size_t i = 1; commands_at(i) && (size_t)used < size; i++)
        used += snprintf(text + used, size - (size_t)used, "  %-11s %s\n", commands_at(i)->name,
                         commands_at(i)->doc);
}

int commands_main(int argc, char **argv)
{
    static char program[64], doc[2048];
    const command *c = commands_at(0);
    /* Assigned, not defined: a definition of ours would be hidden from the C library. */
    argp_program_version = "kvq-eval " STRINGIFY(KVQ_VERSION_MAJOR) "." STRINGIFY(
        KVQ_VERSION_MINOR) "." STRINGIFY(KVQ_VERSION_PATCH);
    if (argc > 1 && argv[1][0] != '-') {
        size_t i = 1;
        while (commands_at(i) && strcmp(commands_at(i)->name, argv[1]) != 0)
            i++;
        c = commands_at(i);
        if (!c)
            return no_command("kvq-eval", argv[1]);
        argc--;
        argv++;
    }
    snprintf(program, sizeof program, "kvq-eval%s%s", c->name[0] != '\0' ? " " : "", c->name);
    argv[0] = program;
    const int status = check_arguments(c, argc, argv);
    if (status != STATUS_GOOD)
        return status;
    write_doc(c, doc, sizeof doc);
    return c->run(doc, argc, argv);
}
