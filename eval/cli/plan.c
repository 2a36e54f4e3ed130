/* `kvq-eval plan` (plan.h): options in, arithmetic, tables out. */
#define _GNU_SOURCE

#include "eval/cli/plan.h"

#include "eval/cli/plan_measure.h"
#include "eval/common/arguments.h"
#include "eval/common/exit_status.h"
#include "eval/common/output_file.h"
#include "eval/measure/evaluate.h"
#include "eval/plan/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_MODEL = 0x500,
    KEY_CONTEXT,
    KEY_BATCH,
    KEY_WEIGHTS,
    KEY_SCHEME,
    KEY_MACHINE,
    KEY_MEMORY,
    KEY_STATE_BYTES,
    KEY_RWKV,
    KEY_MEASURE,
    KEY_JSON,
    KEY_QUIET,
};

const struct argp_option plan_options_list[] = {
    {NULL, 0, NULL, 0, "What is planned:", 1},
    {"model", KEY_MODEL, "PATH", 0,
     "A published model's name, such as llama-3.1-8b, or a Hugging Face directory or GGUF file, of which the "
     "shape is read and not the weights",
     1},
    {"context", KEY_CONTEXT, "N", 0, "Tokens of each sequence; 32k is 32 * 1,024 (default 8k)", 1},
    {"batch", KEY_BATCH, "N", 0, "Sequences decoded together (default 1)", 1},
    {"weights", KEY_WEIGHTS, "TYPE", 0, "Type of the weights: f32, f16, bf16, q8_0, q4_k, ... (default bf16)",
     1},
    {"scheme", KEY_SCHEME, "TEXT", 0,
     "How the cache is stored; may be given many times (default: q8_0, kivi2 and kvq2; fp16 is always there)",
     1},

    {NULL, 0, NULL, 0, "On what:", 2},
    {"machine", KEY_MACHINE, "FILE", 0,
     "`this', which is measured (default); a name such as h100-sxm; or a JSON file with memory_bytes, "
     "bandwidth_bytes_per_s and flops_per_s",
     2},
    {"memory", KEY_MEMORY, "GB", 0, "Memory for weights and caches, instead of the machine's", 2},
    {"measure", KEY_MEASURE, NULL, 0,
     "Also run decode steps of the model with random weights here, and show by how much the prediction is "
     "off",
     2},

    {NULL, 0, NULL, 0, "To compare with a model whose state does not grow:", 3},
    {"state-bytes", KEY_STATE_BYTES, "N", 0, "Bytes of its state per sequence", 3},
    {"rwkv", KEY_RWKV, "L,E,HEAD", 0, "Computed for an RWKV of L layers, width E and heads of HEAD", 3},

    {NULL, 0, NULL, 0, "What is shown:", 4},
    {"json", KEY_JSON, "FILE", 0,
     "Write everything as JSON; - is standard output, and then nothing else is there", 4},
    {"quiet", KEY_QUIET, NULL, 0, "No progress on standard error", 4},

    {NULL, 0, NULL, 0, "Other:", -1},
    {0},
};

const char *const *plan_words(int key)
{
    return key == KEY_WEIGHTS ? plan_weight_names : NULL;
}

typedef struct plan_options {
    const char *model, *machine, *json;
    const char *schemes[PLAN_MAX_SCHEMES];
    size_t n_schemes;
    double memory; /* 0: the machine's */
    bool measure, quiet;
    plan_request request;
} plan_options;

/* L,E,HEAD; widths and heads of which the state fits 64 bits. */
static uint64_t parse_rwkv(const struct argp_state *state, const char *text)
{
    unsigned long n[3] = {0};
    int end = 0;
    const bool read = strspn(text, "0123456789,") == strlen(text) &&
                      sscanf(text, "%8lu,%8lu,%8lu%n", &n[0], &n[1], &n[2], &end) == 3 && text[end] == '\0';
    if (!read || n[0] < 1 || n[0] > 1024 || n[1] < 1 || n[1] > 1 << 18 || n[2] < 1 || n[1] % n[2] != 0)
        argp_error(state,
                   "--rwkv: expected L,E,HEAD: layers up to 1024, a width up to %d and a head that divides "
                   "it, such as 32,4096,64, not '%s'",
                   1 << 18, text);
    return plan_rwkv_state(n[0], n[1], n[2] > 0 ? n[2] : 1);
}

static void add_scheme(const struct argp_state *state, plan_options *o, const char *text)
{
    if (o->n_schemes == PLAN_MAX_SCHEMES - 1) /* and fp16 */
        argp_error(state, "--scheme: at most %d", PLAN_MAX_SCHEMES - 1);
    else
        o->schemes[o->n_schemes++] = text;
}

static void check(const struct argp_state *state, const plan_options *o)
{
    if (!o->model)
        argp_error(state, "--model is missing: which model is planned for?");
    else if (o->measure && strcmp(o->machine, "this") != 0)
        argp_error(state, "--measure: measures here, so --machine must be `this'");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    plan_options *o = state->input;
    plan_request *r = &o->request;
    switch (key) {
    case KEY_MODEL:
        o->model = argument_file(state, "model", arg);
        return 0;
    case KEY_CONTEXT:
        r->context = argument_count(state, "context", arg, 1, PLAN_MAX_CONTEXT);
        return 0;
    case KEY_BATCH:
        r->batch = argument_count(state, "batch", arg, 1, PLAN_MAX_BATCH);
        return 0;
    case KEY_WEIGHTS:
        if (!plan_weight_type(arg, &r->weights))
            argp_error(state,
                       "--weights: expected f32, f16, bf16 or a type of blocks such as q8_0, q4_0 or "
                       "q4_k, not '%s'",
                       arg);
        return 0;
    case KEY_SCHEME:
        add_scheme(state, o, arg);
        return 0;
    case KEY_MACHINE:
        o->machine = argument_file(state, "machine", arg);
        return 0;
    case KEY_MEMORY:
        o->memory = argument_real(state, "memory", arg, false, 1e9) * 1e9;
        return 0;
    case KEY_STATE_BYTES:
        r->state_bytes = argument_number(state, "state-bytes", arg, 1, UINT64_C(1) << 50);
        return 0;
    case KEY_RWKV:
        r->state_bytes = parse_rwkv(state, arg);
        return 0;
    case KEY_MEASURE:
        o->measure = true;
        return 0;
    case KEY_JSON:
        o->json = argument_file(state, "json", arg);
        return 0;
    case KEY_QUIET:
        o->quiet = true;
        return 0;
    case ARGP_KEY_END:
        check(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- the work ---- */

static bool make_scheme(plan_request *r, const char *text, eval_error *e)
{
    kvq_scheme *scheme = NULL;
    if (!evaluate_make_scheme(&scheme, text, e))
        return false;
    for (size_t i = 0; i < r->n_schemes; i++) {
        if (strcmp(kvq_scheme_text(r->schemes[i]), kvq_scheme_text(scheme)) == 0) {
            kvq_scheme_free(scheme); /* once is enough */
            return true;
        }
    }
    r->schemes[r->n_schemes++] = scheme;
    return true;
}

static bool make_schemes(plan_options *o, eval_error *e)
{
    static const char *const usual[] = {"q8_0", "kivi2", "kvq2"};
    const char *const *texts = o->n_schemes > 0 ? o->schemes : usual;
    const size_t n = o->n_schemes > 0 ? o->n_schemes : sizeof usual / sizeof usual[0];
    bool good = make_scheme(&o->request, "fp16", e);
    for (size_t i = 0; good && i < n; i++)
        good = make_scheme(&o->request, texts[i], e);
    return good;
}

static bool find_machine(plan_options *o, this_machine *here, progress *line, eval_error *e)
{
    const bool is_this = strcmp(o->machine, "this") == 0;
    if (is_this ? !plan_measure_machine(here, line, e)
                : !plan_machine_find(&o->request.machine, o->machine, e))
        return false;
    if (is_this)
        o->request.machine = here->machine;
    if (o->memory > 0.0)
        o->request.machine.memory = o->memory;
    return true;
}

static bool write_json(const plan_options *o, const plan_result *p, eval_error *e)
{
    output_file file;
    if (!output_file_open(&file, o->json, e))
        return false;
    if (!plan_json(file.stream, &o->request, p, e)) {
        output_file_discard(&file);
        return false;
    }
    return output_file_commit(&file, e);
}

static bool run(plan_options *o, progress *line, eval_error *e)
{
    static plan_result result; /* large */
    this_machine here;
    if (!model_dims_find(&o->request.dims, o->model, e) || !make_schemes(o, e) ||
        (o->json && !output_file_check(o->json, e)) || !find_machine(o, &here, line, e) ||
        !plan_compute(&o->request, &result, line, e))
        return false;
    if (o->measure && !plan_measure_steps(&o->request, &here, &result.measured, line, e))
        return false;
    progress_end(line);
    if (!o->json || strcmp(o->json, "-") != 0)
        plan_print(&o->request, &result);
    return !o->json || write_json(o, &result, e);
}

int plan_main(const char *doc, int argc, char **argv)
{
    static const char after[] =
        "Models: the names of kvq-eval's table, which an unknown name is answered with; so it is with "
        "machines.\n\n"
        "Exit status: 0 good, 1 bad input or failure, 2 bad usage. See kvq-eval(1).";
    static plan_options o;
    eval_error e = {""};
    o = (plan_options){.machine = "this", .request = {.context = 8192, .batch = 1, .weights = TENSOR_BF16}};
    arguments_parse(plan_options_list, parse_option, doc, after, argc, argv, &o);
    if (!kvq_isa()) {
        const char *wanted = getenv("KVQ_ISA");
        fprintf(stderr, "kvq-eval: KVQ_ISA=%s: no instruction set of that name runs here\n",
                wanted ? wanted : "");
        return STATUS_BAD_INPUT;
    }
    progress line;
    progress_start(&line, o.quiet);
    const bool good = run(&o, &line, &e);
    progress_end(&line);
    for (size_t i = 0; i < o.request.n_schemes; i++)
        kvq_scheme_free((kvq_scheme *)(uintptr_t)o.request.schemes[i]);
    if (!good)
        fprintf(stderr, "kvq-eval: %s\n", e.text);
    return good ? STATUS_GOOD : STATUS_BAD_INPUT;
}
