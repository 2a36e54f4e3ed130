/* What the figures mean, in sentences (sentences.h). */
#include "eval/report/sentences.h"

#include "eval/report/format.h"
#include "eval/report/report.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>

typedef struct paragraph {
    char text[1024];
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

/* People run fp16, so that is what a cache is compared with first. */
static void say_size(paragraph *p, const evaluation *ev, const evaluate_run *run)
{
    char total[FORMAT_SIZE], fp16[FORMAT_SIZE], fp32[FORMAT_SIZE], tokens[FORMAT_SIZE], count[FORMAT_SIZE];
    format_bytes(total, run->usage.total);
    format_bytes(fp16, run->fp16_bytes);
    format_bytes(fp32, run->fp32_bytes);
    format_count(tokens, ev->n_tokens);
    say(p, "%s keeps the cache of %s tokens in %s, where plain fp16 takes %s and fp32 %s", run->text, tokens,
        total, fp16, fp32);
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

static void say_bits(paragraph *p, const evaluate_run *run)
{
    if (run->usage.n_packed_elements == 0) {
        say(p, "Nothing is packed yet, because all tokens fit the residual and the sinks.");
        return;
    }
    say(p, "A packed number costs %.2f bits, at this length and with everything around it %.2f",
        run->bits_packed, run->bits_here);
    const uint64_t unpacked = run->usage.residual + run->usage.sinks;
    if (unpacked > 0) {
        char bytes[FORMAT_SIZE];
        format_bytes(bytes, unpacked);
        say(p, "; %s of the cache are tokens kept as %s, a share that shrinks as the context grows", bytes,
            kvq_scheme_residual_dtype(run->scheme) == KVQ_F32 ? "float32" : "float16");
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

static void say_quality(paragraph *p, const evaluate_run *run)
{
    if (run->kld_mean == 0.0) {
        say(p, "Every next-token distribution is bit for bit that of fp32, with perplexity %.2f.", run->ppl);
        return;
    }
    const column_value change = {.real = evaluate_ppl_increase(run)};
    char percent[FORMAT_SIZE], pooled[FORMAT_SIZE], worst[FORMAT_SIZE];
    format_value(percent, UNIT_CHANGE, &change);
    two_digits(pooled, 100.0 * run->attn_rel_l2);
    two_digits(worst, 100.0 * run->attn_worst_rel_l2);
    say(p,
        "For that, attention is off by %s %%, layers and heads pooled; the worst, head %d of layer %d, by "
        "%s %%. ",
        pooled, (int)run->attn_worst_head, (int)run->attn_worst_layer, worst);
    say(p, "The most likely next token stays the same in %.1f %% of the steps, and perplexity ",
        100.0 * run->top1);
    if (isfinite(run->ppl_fp32) && isfinite(run->ppl))
        say(p, "goes from %.2f to %.2f (%s), %s.", run->ppl_fp32, run->ppl, percent, verdict(change.real));
    else
        say(p, "passes what a number can hold: with fp32 it is %.3g, here %.3g.", run->ppl_fp32, run->ppl);
}

void sentences(FILE *f, const evaluation *ev, size_t width)
{
    enum { READABLE = 110 };
    width = width == 0 || width > READABLE ? READABLE : width;
    const evaluate_run *run = NULL;
    for (size_t i = ev->n_runs; i > 0; i--)
        run = report_is_fp32(&ev->runs[i - 1]) && run ? run : &ev->runs[i - 1];
    assert(run != NULL); /* there always is the reference */
    paragraph memory = {.used = 0}, quality = {.used = 0};
    say_size(&memory, ev, run);
    say_bits(&memory, run);
    format_paragraph(f, memory.text, width);
    if (ev->has_quality)
        say_quality(&quality, run);
    else
        say(&quality,
            "The weights are random: bytes and times are real, but next-token divergence, agreement and "
            "perplexity would mean nothing and are left out, and the errors of K, V and attention are those "
            "of noise, not of a trained model.");
    format_paragraph(f, quality.text, width);
}
