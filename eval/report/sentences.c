/* What the figures mean, in sentences (sentences.h). */
#include "eval/report/sentences.h"

#include "eval/report/format.h"
#include "eval/report/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

typedef struct paragraph {
    char text[2048];
    size_t used;
} paragraph;

EVAL_PRINTF_LIKE(2, 3)
static void say(paragraph *p, const char *format, ...)
{
    const size_t left = sizeof p->text - p->used;
    va_list arguments;
    va_start(arguments, format);
    const int n = vsnprintf(p->text + p->used, left, format, arguments);
    va_end(arguments);
    p->used += n < 0 ? 0 : (size_t)n < left ? (size_t)n : left - 1;
}

/* What a scheme is called in a sentence: its text, cut if it is one of many layers. */
typedef struct scheme_name {
    char text[120];
} scheme_name;

static scheme_name name_of(const evaluate_run *run)
{
    scheme_name name;
    const int n = snprintf(name.text, sizeof name.text, "%s", run->text);
    if (n >= (int)sizeof name.text)
        snprintf(name.text + sizeof name.text - 4, 4, "...");
    return name;
}

/* People run fp16, so that is what a cache is compared with first. */
static void say_size(paragraph *p, const evaluation *ev, const evaluate_run *run)
{
    char total[FORMAT_SIZE], fp16[FORMAT_SIZE], fp32[FORMAT_SIZE], tokens[FORMAT_SIZE], count[FORMAT_SIZE];
    format_bytes(total, run->usage.total);
    format_bytes(fp16, run->fp16_bytes);
    format_bytes(fp32, run->fp32_bytes);
    format_count(tokens, ev->n_tokens);
    say(p, "%s keeps the cache of %s tokens in %s, where plain fp16 takes %s and fp32 %s", name_of(run).text,
        tokens, total, fp16, fp32);
    if (run->ratio_vs_fp16 >= 1.0)
        say(p, ": %.2f times smaller than fp16. ", run->ratio_vs_fp16);
    else
        say(p, ": larger than fp16. ");
    format_count(count, run->pays_from > 0 ? run->pays_from : ev->n_weighed);
    if (run->pays_from > 0)
        say(p, "From %s tokens on it stays smaller than fp16. ", count);
    else
        say(p, "Up to %s tokens there is no length from which on it stays smaller than fp16. ", count);
}

static void say_dtypes(paragraph *p, const kvq_scheme *scheme)
{
    static const char *const names[] = {[KVQ_F32] = "float32", [KVQ_F16] = "float16", [KVQ_I8] = "int8"};
    kvq_side_info k, v;
    if (kvq_scheme_min_layers(scheme) > 0) {
        say(p, "their layer's scheme says");
        return;
    }
    if (kvq_scheme_keys(scheme, &k) != KVQ_OK || kvq_scheme_values(scheme, &v) != KVQ_OK)
        return;
    say(p, "%s", names[k.residual_dtype]);
    if (v.residual_dtype != k.residual_dtype)
        say(p, " keys and %s values", names[v.residual_dtype]);
}

static void say_bits(paragraph *p, const evaluate_run *run)
{
    if (run->usage.n_packed_elements == 0) {
        say(p, "Nothing is packed yet, because all tokens fit the residual and the sinks.");
        return;
    }
    say(p, "A packed number costs %.2f bits, at this length and with everything around it %.2f",
        run->bits_packed, run->bits_here);
    const uint64_t unpacked = run->usage.residual + run->usage.sinks;
    char bytes[FORMAT_SIZE];
    if (unpacked > 0) {
        format_bytes(bytes, unpacked);
        say(p, "; %s of the cache are tokens kept as ", bytes);
        say_dtypes(p, run->scheme);
        say(p, ", a share that shrinks as the context grows");
    }
    if (run->usage.evidence > 0) {
        format_bytes(bytes, run->usage.evidence);
        say(p, "; %s are for what it learns from the queries", bytes);
    }
    say(p, ".");
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

/* Two digits, or all before the point: 0.62, 6.2, 62, 620. */
static void two_digits(char *text, double x)
{
    snprintf(text, FORMAT_SIZE, x < 99.5 ? "%.2g" : "%.0f", x);
}

static void say_attention(paragraph *p, const evaluate_run *run)
{
    char pooled[FORMAT_SIZE], worst[FORMAT_SIZE];
    two_digits(pooled, 100.0 * run->attn_rel_l2);
    two_digits(worst, 100.0 * run->attn_worst_rel_l2);
    say(p, "attention is off by %s %%, layers and heads pooled; the worst, head %d of layer %d, by %s %%. ",
        pooled, (int)run->attn_worst_head, (int)run->attn_worst_layer, worst);
}

/* What a recorded cache can tell and what not. */
static void say_recorded(paragraph *p, const evaluate_run *run)
{
    if (run->kv_only) {
        char k[FORMAT_SIZE], v[FORMAT_SIZE];
        two_digits(k, 100.0 * run->k_rel_l2);
        two_digits(v, 100.0 * run->v_rel_l2);
        say(p,
            "For that, keys read back are off by %s %% and values by %s %%. The recording has no queries: "
            "attention could not be measured, and schemes that learn from queries have learned nothing.",
            k, v);
        return;
    }
    say(p, "For that, ");
    say_attention(p, run);
    say(p, "These are local errors, on what was recorded: what they do to the next token, only a run of the "
           "model can tell.");
}

static void say_quality(paragraph *p, const evaluate_run *run)
{
    if (run->kld_mean == 0.0) {
        say(p, "Every next-token distribution is bit for bit that of fp32, with perplexity %.2f.", run->ppl);
        return;
    }
    const column_value change = {.real = evaluate_ppl_increase(run)};
    char percent[FORMAT_SIZE];
    format_value(percent, UNIT_CHANGE, &change);
    say(p, "For that, ");
    say_attention(p, run);
    say(p, "The most likely next token stays the same in %.1f %% of the steps, and perplexity ",
        100.0 * run->top1);
    const estimate *e = &run->estimates[FIGURE_PPL_CHANGE];
    char uncertain[FORMAT_SIZE] = "";
    if (e->se > 0.0)
        snprintf(uncertain, sizeof uncertain, " ± %.2f", e->se);
    if (isfinite(run->ppl_fp32) && isfinite(run->ppl))
        say(p, "goes from %.2f to %.2f (%s%s), %s.", run->ppl_fp32, run->ppl, percent, uncertain,
            e->low < 0.0 && e->high > 0.0 ? "which may be chance" : verdict(change.real));
    else
        say(p, "passes what a number can hold: with fp32 it is %.3g, here %.3g.", run->ppl_fp32, run->ppl);
}

/* ---- Several schemes ---- */

enum { MANY = 3 }; /* above it, the table is not about any one of them */

static bool is_compared(const evaluate_run *run)
{
    return !report_is_fp32(run);
}

/* No other takes no more bytes and diverges less, or fewer and no more. */
static bool is_on_front(const evaluation *ev, const evaluate_run *run)
{
    for (size_t i = 0; i < ev->n_runs; i++) {
        const evaluate_run *other = &ev->runs[i];
        if (is_compared(other) && statistics_beats((double)other->usage.total, other->kld_mean,
                                                   (double)run->usage.total, run->kld_mean))
            return false;
    }
    return true;
}

static void say_front(paragraph *p, const evaluation *ev)
{
    const char *separator = "";
    say(p, "On the front, where no other scheme here is both smaller and closer to fp32: ");
    for (size_t i = 0; i < ev->n_runs; i++)
        if (is_compared(&ev->runs[i]) && is_on_front(ev, &ev->runs[i])) {
            say(p, "%s%s", separator, name_of(&ev->runs[i]).text);
            separator = "; ";
        }
    say(p, ".");
}

/* Do two schemes of one layer keep the same tokens unpacked, in the same types? */
static bool layers_keep_alike(const kvq_scheme *a, const kvq_scheme *b)
{
    kvq_side_info ak, av, bk, bv;
    return kvq_scheme_keys(a, &ak) == KVQ_OK && kvq_scheme_values(a, &av) == KVQ_OK &&
           kvq_scheme_keys(b, &bk) == KVQ_OK && kvq_scheme_values(b, &bv) == KVQ_OK &&
           ak.residual_dtype == bk.residual_dtype && av.residual_dtype == bv.residual_dtype &&
           kvq_scheme_sinks(a) == kvq_scheme_sinks(b) && kvq_scheme_residual(a) == kvq_scheme_residual(b) &&
           kvq_scheme_residual_mode(a) == kvq_scheme_residual_mode(b);
}

static bool keep_alike(const evaluation *ev, const kvq_scheme *a, const kvq_scheme *b)
{
    for (size_t layer = 0; layer < ev->n_layer; layer++)
        if (!layers_keep_alike(kvq_scheme_of_layer(a, layer), kvq_scheme_of_layer(b, layer)))
            return false;
    return true;
}

/* The range that the ratio of two divergences lies in, at 95 %, larger over smaller. */
static void say_range(paragraph *p, const evaluation *ev, const evaluate_run *large,
                      const evaluate_run *small)
{
    char low[FORMAT_SIZE], high[FORMAT_SIZE];
    const cell **a = evaluate_cells(ev, large), **b = evaluate_cells(ev, small);
    if (a && b) {
        const difference d = statistics_compare(FIGURE_KL, a, b, ev->n_windows, STATISTICS_SEED);
        two_digits(low, exp(d.log_ratio.low));
        two_digits(high, exp(d.log_ratio.high));
        if (isfinite(d.log_ratio.low) && isfinite(d.log_ratio.high))
            say(p, " (95 %% interval %s to %s)", low, high);
    }
    free(a);
    free(b);
}

static void say_against(paragraph *p, const evaluation *ev, const evaluate_run *run,
                        const evaluate_run *other)
{
    char here[FORMAT_SIZE], there[FORMAT_SIZE], factor[FORMAT_SIZE];
    format_bytes(here, run->usage.total);
    format_bytes(there, other->usage.total);
    const bool less = run->kld_mean < other->kld_mean;
    const double small = less ? run->kld_mean : other->kld_mean;
    const bool packed = run->usage.n_packed_elements > 0 && other->usage.n_packed_elements > 0;
    if (small > 0.0 && packed) { /* against one that has packed nothing yet, any factor is about the length */
        two_digits(factor, (less ? other->kld_mean : run->kld_mean) / small);
        say(p, "Next to %s, %s has %s times", name_of(other).text, name_of(run).text, factor);
        say_range(p, ev, less ? other : run, less ? run : other);
        say(p, " %s next-token divergence, in %s instead of %s", less ? "less" : "more", here, there);
        if (isfinite(run->bits_packed) && isfinite(other->bits_packed))
            say(p, " and %.2f instead of %.2f bits for a packed number", run->bits_packed,
                other->bits_packed);
        say(p, ". ");
        if (!keep_alike(ev, run->scheme, other->scheme))
            say(p,
                "The two differ in what they keep beside packed numbers as well; --compare has them alike. ");
    }
}

static size_t n_compared(const evaluation *ev)
{
    size_t n = 0;
    for (size_t i = 0; i < ev->n_runs; i++)
        n += is_compared(&ev->runs[i]);
    return n;
}

static void say_comparison(paragraph *p, const evaluation *ev, const evaluate_run *run)
{
    const evaluate_run *first = NULL;
    for (size_t i = ev->n_runs; i > 0; i--)
        first = is_compared(&ev->runs[i - 1]) ? &ev->runs[i - 1] : first;
    if (first != NULL && first != run && n_compared(ev) <= MANY)
        say_against(p, ev, run, first);
    if (n_compared(ev) > 2)
        say_front(p, ev);
}

/* Only where it makes a difference. */
static void say_window(paragraph *p, const evaluation *ev)
{
    if (ev->n_layer_windowed == 0 || ev->n_tokens <= ev->attn_window)
        return;
    char window[FORMAT_SIZE];
    format_count(window, ev->attn_window);
    say(p,
        " In %zu of %zu layers a token attends to the newest %s alone, in every scheme; the caches here keep "
        "the "
        "others all the same.",
        ev->n_layer_windowed, ev->n_layer, window);
}

void sentences(FILE *f, const evaluation *ev, size_t width)
{
    enum { READABLE = 110 };
    width = width == 0 || width > READABLE ? READABLE : width;
    const evaluate_run *run = &ev->runs[0]; /* the last that is not fp32, if any */
    for (size_t i = 0; i < ev->n_runs; i++)
        run = is_compared(&ev->runs[i]) ? &ev->runs[i] : run;
    paragraph memory = {.used = 0}, quality = {.used = 0}, comparison = {.used = 0};
    if (ev->has_quality && n_compared(ev) > MANY) {
        say_comparison(&comparison, ev, run);
        format_paragraph(f, comparison.text, width);
        return;
    }
    say_size(&memory, ev, run);
    say_bits(&memory, run);
    say_window(&memory, ev);
    format_paragraph(f, memory.text, width);
    if (ev->has_quality)
        say_quality(&quality, run);
    else if (ev->recorded)
        say_recorded(&quality, run);
    else
        say(&quality,
            "The weights are random: bytes and times are real, but next-token divergence, agreement and "
            "perplexity would mean nothing and are left out, and the errors of K, V and attention are those "
            "of noise, not of a trained model.");
    format_paragraph(f, quality.text, width);
    if (ev->has_quality)
        say_comparison(&comparison, ev, run);
    if (comparison.used > 0)
        format_paragraph(f, comparison.text, width);
}
