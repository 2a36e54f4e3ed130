/* The summary of an experiment (page.h): which scheme is best at the bytes of the baseline, by how much,
 * and whether that is more than chance. */
#include "eval/page/markup.h"
#include "eval/page/page.h"

#include <math.h>

static void put_interval(FILE *f, double value, double low, double high, double factor, const char *unit)
{
    char text[3][MARKUP_NUMBER];
    markup_number(text[0], value * factor);
    markup_number(text[1], low * factor);
    markup_number(text[2], high * factor);
    if (isnan(low))
        fprintf(f, "%s%s", text[0], unit);
    else
        fprintf(f, "%s%s [%s, %s]", text[0], unit, text[1], text[2]);
}

static void put_name(FILE *f, const scheme_view *s)
{
    fputs("<code>", f);
    markup_text(f, s->text);
    fputs("</code>", f);
}

static void put_first(FILE *f, const view *v, const scheme_view *s)
{
    const estimate *kl = &s->figures[v->main], *top = &s->figures[FIGURE_TOP1];
    char bits[MARKUP_NUMBER];
    markup_number(bits, s->bits);
    fputs("<p>", f);
    put_name(f, s);
    fprintf(f, ", at <b>%s bits</b> per number with every byte counted, ", bits);
    if (v->main == FIGURE_KL) {
        fputs("stays within a KL divergence of <b>", f);
        put_interval(f, kl->value, kl->low, kl->high, 1, "</b> nats per token");
        fputs(" of fp32", f);
    } else {
        fputs("keeps attention\342\200\231s output within a relative error of <b>", f);
        put_interval(f, kl->value, kl->low, kl->high, 1, "</b>");
    }
    if (v->main == FIGURE_KL && !isnan(top->value)) {
        fputs(", and agrees with it on the most likely token in ", f);
        put_interval(f, top->value, top->low, top->high, 100, " %");
        fputs(" of the steps", f);
    }
    fputs(".</p>\n", f);
}

/* The scheme with the fewest bits that is no worse than the baseline, if it is neither of the two. */
static void put_smallest(FILE *f, const view *v, const scheme_view *b)
{
    size_t i = 0;
    while (i < v->n &&
           (v->schemes[i].plain || !(v->schemes[i].figures[v->main].value <= b->figures[v->main].value)))
        i++;
    if (i >= v->n || i == v->best || i == v->baseline)
        return;
    char bits[MARKUP_NUMBER];
    markup_number(bits, v->schemes[i].bits);
    fputs(" The smallest that is no worse than ", f);
    put_name(f, b);
    fputs(" is ", f);
    put_name(f, &v->schemes[i]);
    fprintf(f, ", at %s bits: %.0f %% fewer bytes.", bits, 100.0 * (1.0 - v->schemes[i].bits / b->bits));
}

/* Ratio of the baseline's figure to the best's, with its interval turned round: log(a / b) is of the best
 * to it. */
static void put_second(FILE *f, const view *v, const scheme_view *a, const scheme_view *b)
{
    char value[MARKUP_NUMBER];
    const estimate *r = &v->against.log_ratio;
    const double saved = 100.0 * (1.0 - a->bits / b->bits);
    const char *what = v->main == FIGURE_KL ? "KL" : "error";
    markup_number(value, v->against.b.value);
    fputs("<p>", f);
    if (!v->compared || isnan(r->value)) {
        fputs("It cannot be held against ", f);
        put_name(f, b);
        fputs(": they share no windows, or a figure is zero.</p>\n", f);
        return;
    }
    fprintf(f, "That is <b>");
    put_interval(f, exp(-r->value), exp(-r->high), exp(-r->low), 1, " times</b>");
    fputs(" less than the ", f);
    fprintf(f, "%s of ", what);
    put_name(f, b);
    fprintf(f, " (%s), ", value);
    if (saved < 0.05)
        fputs("at the same size", f);
    else
        fprintf(f, "in %.*f %% fewer bytes", saved < 10 ? 1 : 0, saved);
    fprintf(f, " (%zu window%s, paired).", v->n_common, v->n_common == 1 ? "" : "s");
    if (isnan(r->low))
        fputs(" Too little was measured for an interval.", f);
    else if (r->high > 0.0)
        fputs(" The interval holds 1: the two cannot be told apart by this.", f);
    put_smallest(f, v, b);
    fputs("</p>\n", f);
}

void verdict_html(FILE *f, const view *v)
{
    fputs("<div class=\"verdict\">\n", f);
    if (v->x->seed != 0 && !v->x->has_quality)
        fputs("<p>These are random weights: what they say of quality means little.</p>\n", f);
    if (v->best < v->n) {
        put_first(f, v, &v->schemes[v->best]);
        if (v->best != v->baseline)
            put_second(f, v, &v->schemes[v->best], &v->schemes[v->baseline]);
        else
            fprintf(f, "<p>No scheme of the %zu does better in as few bytes.</p>\n", v->n);
    } else if (v->x->kv_only) {
        fputs("<p>A recording of keys and values alone: how well attention does cannot be told, only how "
              "near keys and values "
              "are.</p>\n",
              f);
    } else {
        fputs("<p>No scheme that quantizes has figures here, so there is no verdict.</p>\n", f);
    }
    fputs("</div>\n", f);
}
