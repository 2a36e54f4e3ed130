/* `kvq-eval report` (page.h). */
#define _GNU_SOURCE

#include "eval/page/page.h"

#include "eval/cli/page.h"
#include "eval/common/arguments.h"
#include "eval/common/exit_status.h"
#include "eval/common/output_file.h"
#include "lib/kvq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { KEY_HTML = 0x400, KEY_SVG, KEY_CSV, KEY_CONTEXT, KEY_BASELINE };

const struct argp_option page_options_list[] = {
    {NULL, 0, NULL, 0,
     "RESULTS are files of results, JSON Lines; - is standard input. What is made of them:", 1},
    {"html", KEY_HTML, "FILE", 0, "One page with all figures, which needs nothing else; - is standard output",
     1},
    {"svg", KEY_SVG, "PATH", 0, "A directory for each figure as an SVG file", 1},
    {"csv", KEY_CSV, "PATH", 0, "A directory for each figure's table as a CSV file", 1},
    {"context", KEY_CONTEXT, "N", 0, "Tokens for which bytes are told (default: the windows' length)", 2},
    {"baseline", KEY_BASELINE, "TEXT", 0, "The scheme that the summary compares with (default: kivi2)", 2},
    {NULL, 0, NULL, 0, "Other:", -1},
    {0}};

typedef struct request {
    const char **files; /* [n_files] */
    size_t n_files;
    const char *html, *svg, *csv;
    size_t context;
    kvq_scheme *baseline; /* NULL: not said */
} request;

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case KEY_HTML:
        r->html = argument_file(state, "html", arg);
        return 0;
    case KEY_SVG:
        r->svg = argument_file(state, "svg", arg);
        return 0;
    case KEY_CSV:
        r->csv = argument_file(state, "csv", arg);
        return 0;
    case KEY_CONTEXT:
        r->context = argument_number(state, "context", arg, 2, 1 << 20);
        return 0;
    case KEY_BASELINE:
        kvq_scheme_free(r->baseline);
        r->baseline = NULL;
        if (kvq_scheme_create(&r->baseline, arg, NULL) != KVQ_OK)
            argp_error(state, "--baseline: '%s' is no scheme", arg);
        return 0;
    case ARGP_KEY_ARG:
        r->files[r->n_files++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (r->n_files == 0)
            argp_error(state, "which results? Name at least one file");
        else if (!r->html && !r->svg && !r->csv)
            argp_error(state, "--html FILE is missing: where should the page go? (or --svg, --csv)");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static bool make_directory(const char *path, eval_error *e)
{
    struct stat s;
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && stat(path, &s) == 0 && S_ISDIR(s.st_mode)))
        return true;
    return eval_fail(e, "%s: cannot make this directory: %s", path,
                     strerror(errno == EEXIST ? ENOTDIR : errno));
}

static bool write_figure(const page *p, size_t i, const picture *fig, const char *directory,
                         const char *ending, eval_error *e)
{
    output_file file;
    char path[4096], name[128];
    page_figure_name(name, sizeof name, p, i, fig);
    if ((size_t)snprintf(path, sizeof path, "%s/%s.%s", directory, name, ending) >= sizeof path)
        return eval_fail(e, "%s: this name is too long", directory);
    if (!output_file_open(&file, path, e))
        return false;
    if (strcmp(ending, "svg") == 0)
        picture_svg(file.stream, fig);
    else
        table_csv(file.stream, &fig->table);
    return output_file_commit(&file, e);
}

static bool write_figures(const page *p, const char *directory, const char *ending, eval_error *e)
{
    if (!directory)
        return true;
    bool good = make_directory(directory, e);
    for (size_t i = 0; good && i < p->n; i++)
        for (size_t j = 0; good && j < p->lists[i].n; j++)
            if (p->lists[i].at[j].body || strcmp(ending, "csv") == 0)
                good = write_figure(p, i, &p->lists[i].at[j], directory, ending, e);
    return good;
}

static bool write_page(const page *p, const char *path, eval_error *e)
{
    output_file file;
    if (!path)
        return true;
    if (!output_file_open(&file, path, e))
        return false;
    page_html(file.stream, p);
    return output_file_commit(&file, e);
}

/* The command line as text; arguments with more than letters, digits and some signs in quotes. */
static char *join(int argc, char **argv)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    for (int i = 0; f && i < argc; i++) {
        const bool plain =
            i == 0 || (argv[i][0] != '\0' && !strpbrk(argv[i], " \t\n\"'\\$&;|<>*?()[]{}!#~`"));
        const char *quote = plain ? "" : "'";
        fprintf(f, "%s%s%s%s", i > 0 ? " " : "", quote, argv[i], quote);
    }
    if (f && fclose(f) == 0)
        return text;
    free(text);
    return NULL;
}

/* Was the baseline measured in any experiment? */
static bool check_baseline(const results *all, const char *baseline, eval_error *e)
{
    bool found = !baseline;
    for (size_t i = 0; !found && i < all->n_experiments; i++)
        found = results_of_scheme(all, i, baseline, NULL, 0) > 0;
    return found || eval_fail(e, "--baseline %.600s: the results have no such scheme", baseline);
}

static bool make(const request *r, const char *command, eval_error *e)
{
    results all = {0};
    page p = {0};
    if (r->html && !output_file_check(r->html, e))
        return false;
    if (!results_load_some(&all, r->files, r->n_files, e))
        return false;
    results_note_skipped(stderr, &all);
    bool good =
        check_baseline(&all, kvq_scheme_text(r->baseline), e) &&
        page_make(&p, &all, command, r->files, r->n_files, r->context, kvq_scheme_text(r->baseline), e);
    good = good && write_figures(&p, r->svg, "svg", e) && write_figures(&p, r->csv, "csv", e) &&
           write_page(&p, r->html, e);
    page_free(&p);
    results_free(&all);
    return good;
}

int page_main(const char *doc, int argc, char **argv)
{
    request r = {0};
    eval_error e = {""};
    char *command = join(argc, argv);
    r.files = calloc((size_t)argc + 1, sizeof *r.files);
    bool good = (command && r.files) || eval_fail(&e, "no memory");
    if (good) {
        arguments_parse_words(page_options_list, parse_option, "RESULTS...", doc, "", argc, argv, &r);
        good = make(&r, command, &e);
    }
    free(command);
    free(r.files);
    kvq_scheme_free(r.baseline);
    if (!good)
        fprintf(stderr, "kvq-eval: %s\n", e.text);
    return good ? STATUS_GOOD : STATUS_BAD_INPUT;
}
