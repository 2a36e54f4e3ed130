/* The report for people: a header line, tables and two sentences (report.h). */
#include "eval/report/report.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum {
    CELL = 32,
    SCHEME_WIDTH = 14, /* longer scheme texts stand on a line of their own */
    TEXT_WIDTH = 110,
};

typedef struct column {
    const char *line1, *line2; /* heading in the plain table */
    const char *markdown;
    int width;
} column;

/* A heading over two columns is cut where they meet. */
static const column columns[] = {
    {"", "scheme", "scheme", SCHEME_WIDTH},
    {"bits/", "elem.", "bits/element", 6},
    {"cache", "bytes", "cache bytes", 10},
    {"vs", "fp32", "vs fp32", 7},
    {"vs", "fp16", "vs fp16", 7},
    {"K", "error", "K error", 8},
    {"V", "error", "V error", 8},
    {"attn.", "error", "attention error", 8},
    {"attn.", "KL", "attention KL", 8},
    {"next-to", "mean", "next-token KL mean", 8},
    {"ken KL  ", "p99", "next-token KL p99", 8},
    {"top-1", "same", "top-1 same", 8},
    {"", "perplexity", "perplexity", 11},
    {"", "change", "change", 9},
};

enum {
    N_COLUMNS = sizeof columns / sizeof columns[0],
    N_CACHE_COLUMNS = 9, /* those that do not need a trained model */
};

bool report_is_fp32(const evaluate_run *run)
{
    return strcmp(run->text, "fp32") == 0;
}

size_t report_group(const kvq_scheme *scheme, size_t head_dim)
{
    const kvq_side_info sides[] = {report_keys(scheme), report_values(scheme)};
    for (size_t i = 0; i < 2; i++)
        if (strcmp(sides[i].codec, "affine") == 0)
            return sides[i].group == KVQ_GROUP_FULL ? head_dim : sides[i].group;
    return 0;
}

kvq_side_info report_keys(const kvq_scheme *scheme)
{
    kvq_side_info info = {.codec = ""};
    return kvq_scheme_keys(scheme, &info) == KVQ_OK ? info : (kvq_side_info){.codec = ""};
}

kvq_side_info report_values(const kvq_scheme *scheme)
{
    kvq_side_info info = {.codec = ""};
    return kvq_scheme_values(scheme, &info) == KVQ_OK ? info : (kvq_side_info){.codec = ""};
}

/* ---- numbers as people read them ---- */

static void format_bytes(char *s, uint64_t bytes)
{
    const double x = (double)bytes;
    if (bytes < 1000000)
        snprintf(s, CELL, "%.1f kB", x / 1e3);
    else if (bytes < 1000000000)
        snprintf(s, CELL, "%.2f MB", x / 1e6);
    else
        snprintf(s, CELL, "%.2f GB", x / 1e9);
}

/* Errors and divergences: four decimals where these show two digits or more, else with an exponent; exact
 * zeros as such. */
static void format_error(char *s, double x)
{
    if (x == 0.0)
        snprintf(s, CELL, "0");
    else if (x >= 0.00095 && x < 100.0)
        snprintf(s, CELL, "%.4f", x);
    else
        snprintf(s, CELL, "%.1e", x);
}

static void format_count(char *s, size_t x)
{
    if (x < 1000)
        snprintf(s, CELL, "%zu", x);
    else if (x < 1000000)
        snprintf(s, CELL, "%zu,%03zu", x / 1000, x % 1000);
    else
        snprintf(s, CELL, "%zu,%03zu,%03zu", x / 1000000, x / 1000 % 1000, x % 1000);
}

static double ppl_change_percent(const evaluate_run *run)
{
    return 100.0 * (run->ppl / run->ppl_fp32 - 1.0);
}

/* With a sign, but not on what rounds to zero. */
static void format_change(char *s, double percent)
{
    snprintf(s, CELL, fabs(percent) < 0.005 ? "0.00 %%" : "%+.2f %%", percent);
}

/* ---- the table ---- */

static void fill_cells(char cells[N_COLUMNS][CELL], const evaluate_run *run)
{
    snprintf(cells[1], CELL, "%.2f", run->bits_per_element);
    format_bytes(cells[2], run->usage.total);
    snprintf(cells[3], CELL, "%.2fx", run->ratio_vs_fp32);
    snprintf(cells[4], CELL, "%.2fx", run->ratio_vs_fp16);
    format_error(cells[5], run->k_rel_l2);
    format_error(cells[6], run->v_rel_l2);
    format_error(cells[7], run->attn_rel_l2);
    format_error(cells[8], run->attn_prob_kl);
    format_error(cells[9], run->kld_mean);
    format_error(cells[10], run->kld_p99);
    snprintf(cells[11], CELL, "%.1f %%", 100.0 * run->top1);
    snprintf(cells[12], CELL, run->ppl < 1e5 ? "%.2f" : "%.2e", run->ppl);
    const double change = ppl_change_percent(run);
    if (change == 0.0)
        snprintf(cells[13], CELL, "-");
    else
        format_change(cells[13], change);
}

static void print_markdown_table(FILE *f, const evaluation *ev, size_t n_columns)
{
    for (size_t c = 0; c < n_columns; c++)
        fprintf(f, "| %s ", columns[c].markdown);
    fputs("|\n", f);
    for (size_t c = 0; c < n_columns; c++)
        fputs(c == 0 ? "|---" : "|---:", f);
    fputs("|\n", f);
    for (size_t i = 0; i < ev->n_runs; i++) {
        char cells[N_COLUMNS][CELL];
        fill_cells(cells, &ev->runs[i]);
        fprintf(f, "| %s ", ev->runs[i].text);
        for (size_t c = 1; c < n_columns; c++)
            fprintf(f, "| %s ", cells[c]);
        fputs("|\n", f);
    }
    fputc('\n', f);
}

static void print_plain_table(FILE *f, const evaluation *ev, size_t n_columns, bool colour)
{
    const char *bold = colour ? "\033[1m" : "", *faint = colour ? "\033[2m" : "",
               *plain = colour ? "\033[0m" : "";
    for (int line = 0; line < 2; line++) {
        char text[256];
        int used = snprintf(text, sizeof text, "%-*s", columns[0].width,
                            line == 0 ? columns[0].line1 : columns[0].line2);
        for (size_t c = 1; c < n_columns; c++) {
            used += snprintf(text + used, sizeof text - (size_t)used, "%*s", columns[c].width,
                             line == 0 ? columns[c].line1 : columns[c].line2);
        }
        while (used > 0 && text[used - 1] == ' ')
            text[--used] = '\0';
        fprintf(f, "%s%s%s\n", bold, text, plain);
    }
    for (size_t i = 0; i < ev->n_runs; i++) {
        const evaluate_run *run = &ev->runs[i];
        char cells[N_COLUMNS][CELL];
        fill_cells(cells, run);
        fputs(report_is_fp32(run) ? faint : "", f);
        if (strlen(run->text) >= SCHEME_WIDTH)
            fprintf(f, "%s\n%-*s", run->text, SCHEME_WIDTH, "");
        else
            fprintf(f, "%-*s", SCHEME_WIDTH, run->text);
        for (size_t c = 1; c < n_columns; c++)
            fprintf(f, "%*s", columns[c].width, cells[c]);
        fprintf(f, "%s\n", report_is_fp32(run) ? plain : "");
    }
    fputc('\n', f);
}

static void print_per_layer(FILE *f, const evaluation *ev, const evaluate_run *run, bool markdown)
{
    fprintf(f, markdown ? "Per layer and head, %s:\n\n" : "Per layer and head, %s:\n", run->text);
    fputs(markdown ? "| layer | head | K error | V error | attention error | attention KL |\n"
                     "|---:|---:|---:|---:|---:|---:|\n"
                   : "layer  head   K error   V error  attn. error   attn. KL\n",
          f);
    for (size_t i = 0; i < ev->n_layer * ev->n_head; i++) {
        const evaluate_head *head = &run->heads[i];
        char k[CELL], v[CELL], attn[CELL], kl[CELL];
        format_error(k, metric_l2_value(&head->k));
        format_error(v, metric_l2_value(&head->v));
        format_error(attn, metric_l2_value(&head->attn));
        format_error(kl, head->n_steps ? head->prob_kl_sum / (double)head->n_steps : 0.0);
        fprintf(f, markdown ? "| %zu | %zu | %s | %s | %s | %s |\n" : "%5zu %5zu %9s %9s %12s %10s\n",
                i / ev->n_head, i % ev->n_head, k, v, attn, kl);
    }
    fputc('\n', f);
}

/* ---- the sentences ---- */

static void print_wrapped(FILE *f, const char *text)
{
    int at = 0;
    for (const char *word = text; *word;) {
        const int length = (int)strcspn(word, " ");
        if (at > 0 && at + 1 + length > TEXT_WIDTH) {
            fputc('\n', f);
            at = 0;
        }
        at += fprintf(f, "%s%.*s", at > 0 ? " " : "", length, word);
        word += length;
        word += strspn(word, " ");
    }
    fputc('\n', f);
}

static void memory_sentence(char *s, size_t size, const evaluation *ev, const evaluate_run *run)
{
    char total[CELL], fp32[CELL], fp16[CELL], tokens[CELL], unpacked[CELL];
    format_bytes(total, run->usage.total);
    format_bytes(fp32, run->fp32_bytes);
    format_bytes(fp16, run->fp16_bytes);
    format_count(tokens, ev->n_tokens);
    format_bytes(unpacked, run->usage.residual + run->usage.sinks);
    const int n =
        snprintf(s, size, "%s keeps the cache of %s tokens in %s, where plain fp32 takes %s and fp16 %s; ",
                 run->text, tokens, total, fp32, fp16);
    char *rest = s + n;
    const size_t left = size - (size_t)n;
    if (run->usage.n_packed_elements == 0) {
        snprintf(rest, left, "nothing is packed yet, because all tokens fit the full-precision window.");
    } else if (run->usage.residual + run->usage.sinks == 0) {
        snprintf(rest, left, "each value costs %.2f bits.", run->bits_per_element);
    } else {
        snprintf(rest, left,
                 "packed values cost %.2f bits each; %s of the cache are tokens kept as %s, a share that "
                 "shrinks as the context grows.",
                 run->bits_per_element, unpacked,
                 kvq_scheme_residual_dtype(run->scheme) == KVQ_F32 ? "float32" : "float16");
    }
}

/* What the change of perplexity amounts to, in words that fit its size. */
static const char *verdict(double change)
{
    const double size = fabs(change);
    return size < 0.1     ? "which is nothing one could notice"
           : size < 1.0   ? "a small change"
           : change < 0.0 ? "a change for the better that is chance, not a gain"
           : size < 5.0   ? "a clear but moderate loss"
           : size < 20.0  ? "a serious loss"
                          : "which ruins the model's predictions";
}

static void quality_sentence(char *s, size_t size, const evaluate_run *run)
{
    if (run->kld_mean == 0.0) {
        snprintf(s, size, "Every next-token distribution is bit for bit that of fp32, with perplexity %.2f.",
                 run->ppl);
        return;
    }
    const double change = ppl_change_percent(run);
    char percent[CELL];
    format_change(percent, change);
    snprintf(s, size,
             "For that, attention is off by %.2g %% in each layer, the most likely next token stays the same "
             "in %.1f %% "
             "of the steps, and perplexity goes from %.2f to %.2f (%s), %s.",
             100.0 * run->attn_rel_l2, 100.0 * run->top1, run->ppl_fp32, run->ppl, percent, verdict(change));
}

static void print_sentences(FILE *f, const evaluation *ev)
{
    const evaluate_run *run = NULL;
    for (size_t i = ev->n_runs; i > 0; i--)
        run = report_is_fp32(&ev->runs[i - 1]) && run ? run : &ev->runs[i - 1];
    char text[1024];
    memory_sentence(text, sizeof text, ev, run);
    print_wrapped(f, text);
    if (ev->has_quality) {
        quality_sentence(text, sizeof text, run);
    } else {
        snprintf(text, sizeof text,
                 "The weights are random: bytes and times are real, but next-token divergence, agreement and "
                 "perplexity would mean nothing and are left out, and the errors of K, V and attention are "
                 "those of "
                 "noise, not of a trained model.");
    }
    print_wrapped(f, text);
}

/* ---- all of it ---- */

void report_header(FILE *f, const report_context *c, size_t n_windows, size_t n_tokens, size_t n_prompt,
                   const report_style *style)
{
    char tokens[CELL], prompt[CELL];
    format_count(tokens, n_tokens);
    format_count(prompt, n_prompt);
    fprintf(f, "%s%s (%.1f M parameters%s), %s: %zu window%s of %s tokens", style->markdown ? "**" : "",
            c->model_name, (double)c->model->n_params / 1e6, c->model->random ? ", random" : "", c->text_name,
            n_windows, n_windows == 1 ? "" : "s", tokens);
    if (n_prompt > 0)
        fprintf(f, " (prompt %s)", prompt);
    fprintf(f, ", %s kernels, %d thread%s%s\n\n", c->isa, c->threads, c->threads == 1 ? "" : "s",
            style->markdown ? "**" : "");
}

void report_people(FILE *f, const report_context *c, const evaluation *ev, const report_style *style)
{
    report_header(f, c, ev->n_windows, ev->n_tokens, ev->n_prompt, style);
    if (evaluation_is_partial(ev)) {
        fprintf(f, "PARTIAL: interrupted when %zu of %zu windows were done.\n\n", ev->n_windows,
                ev->n_windows_asked);
    }
    const size_t n_columns = ev->has_quality ? N_COLUMNS : N_CACHE_COLUMNS;
    if (style->markdown)
        print_markdown_table(f, ev, n_columns);
    else
        print_plain_table(f, ev, n_columns, style->colour);
    for (size_t i = 0; style->per_layer && i < ev->n_runs; i++)
        if (!ev->runs[i].is_reference)
            print_per_layer(f, ev, &ev->runs[i], style->markdown);
    print_sentences(f, ev);
}
