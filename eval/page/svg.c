/* Shapes, axes, legends (svg.h). */
#include "eval/page/svg.h"

#include "eval/page/markup.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

double svg_text_width(size_t n_characters)
{
    return 8.1 *
           (double)n_characters; /* 15 units high, as on a phone; sans serif letters are about 0.54 as wide */
}

void svg_line(FILE *f, const char *class, double x1, double y1, double x2, double y2)
{
    fprintf(f, "<line class=\"%s\" x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\"/>\n", class, x1, y1, x2,
            y2);
}

void svg_rect(FILE *f, const char *class, double x, double y, double width, double height)
{
    fprintf(f, "<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"/>\n", class, x, y,
            width, height);
}

void svg_text(FILE *f, const char *class, const char *anchor, double x, double y, const char *text)
{
    fprintf(f, "<text class=\"%s\" x=\"%.2f\" y=\"%.2f\" dy=\".34em\" text-anchor=\"%s\">", class, x, y,
            anchor);
    markup_text(f, text);
    fputs("</text>\n", f);
}

void svg_polyline(FILE *f, const char *class, const double *x, const double *y, size_t n)
{
    bool down = false;
    fprintf(f, "<path class=\"%s\" d=\"", class);
    for (size_t i = 0; i < n; i++) {
        const bool there = !isnan(x[i]) && !isnan(y[i]);
        if (there)
            fprintf(f, "%c%.2f %.2f", down ? 'L' : 'M', x[i], y[i]);
        down = there;
    }
    fputs("\"/>\n", f);
}

void svg_marker(FILE *f, size_t kind)
{
    static const char *const shapes[] = {
        "<circle r=\"4.2\"/>",
        "<path d=\"M-4 -4h8v8h-8z\"/>",
        "<path d=\"M0 -5.2L5 3.6L-5 3.6z\"/>",
        "<path d=\"M0 -5.6L5.6 0L0 5.6L-5.6 0z\"/>",
        "<path d=\"M0 5.2L5 -3.6L-5 -3.6z\"/>",
        "<path d=\"M-1.6 -5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z\"/>",
        "<path d=\"M0 -5.6L1.6 -1.8L5.6 -1.6L2.5 1L3.5 5L0 2.7L-3.5 5L-2.5 1L-5.6 -1.6L-1.6 -1.8z\"/>",
        "<path d=\"M-5 0L-2.5 -4.4L2.5 -4.4L5 0L2.5 4.4L-2.5 4.4z\"/>",
        "<path d=\"M-4.6 -4.6L0 -1.6L4.6 -4.6L1.6 0L4.6 4.6L0 1.6L-4.6 4.6L-1.6 0z\"/>",
        "<path d=\"M-5.5 -2.2h11v4.4h-11z\"/>",
        "<path d=\"M-2.2 -5.5h4.4v11h-4.4z\"/>",
        "<path d=\"M-4.6 -4.6h9.2L-4.6 4.6h9.2z\"/>",
    };
    fputs(shapes[kind % (sizeof shapes / sizeof shapes[0])], f);
}

void svg_begin(FILE *f, const char *class, double x, double y, const char *text)
{
    fprintf(f, "<g class=\"%s\" transform=\"translate(%.2f %.2f)\"><title>", class, x, y);
    markup_text(f, text);
    fputs("</title>", f);
}

void svg_end(FILE *f)
{
    fputs("</g>\n", f);
}

static void x_axis(FILE *f, const axes *a)
{
    double ticks[SCALE_MAX_TICKS];
    const size_t n = a->n_x > 0 ? scale_ticks(&a->x, a->n_x, ticks) : 0;
    for (size_t i = 0; i < n; i++) {
        char text[32];
        const double x = scale_at(&a->x, ticks[i]);
        scale_label(text, sizeof text, ticks[i]);
        svg_line(f, "grid", x, a->y.from, x, a->y.to);
        svg_text(f, "tx", "middle", x, a->y.from + 13, a->x_label ? a->x_label(ticks[i]) : text);
    }
    svg_line(f, "axis", a->x.from, a->y.from, a->x.to, a->y.from);
    svg_text(f, "title", "middle", (a->x.from + a->x.to) / 2, a->y.from + 31, a->x_title);
}

void svg_axes(FILE *f, const axes *a)
{
    double ticks[SCALE_MAX_TICKS];
    const size_t n = a->n_y > 0 ? scale_ticks(&a->y, a->n_y, ticks) : 0;
    for (size_t i = 0; i < n; i++) {
        char text[32];
        const double y = scale_at(&a->y, ticks[i]);
        scale_label(text, sizeof text, ticks[i]);
        svg_line(f, "grid", a->x.from, y, a->x.to, y);
        svg_text(f, "ty", "end", a->x.from - 6, y, text);
    }
    x_axis(f, a);
    /* Above the axis and level: what stands upright is hard to read. */
    svg_text(f, "title", "start", 2, a->y.to - 15, a->y_title);
}

double svg_legend(FILE *f, const legend_item *items, size_t n, double x, double y, double width)
{
    enum { ROW = 20, SIGN = 18, GAP = 12 };
    double at = 0, row = 0;
    for (size_t i = 0; i < n; i++) {
        const double wide = SIGN + svg_text_width(markup_length(items[i].text)) + GAP;
        if (at > 0 && at + wide - GAP > width) {
            at = 0;
            row += ROW;
        }
        if (f) {
            fprintf(f, "<g class=\"%s\" transform=\"translate(%.2f %.2f)\">", items[i].class, x + at + 7,
                    y + row + ROW / 2.0);
            if (items[i].marker == LEGEND_SQUARE)
                fputs("<path class=\"fill\" d=\"M-6 -6h12v12h-12z\"/>", f);
            else if (items[i].marker == LEGEND_LINE)
                fputs("<path class=\"stroke\" d=\"M-7 0h14\"/>", f);
            else
                svg_marker(f, items[i].marker);
            fputs("</g>\n", f);
            svg_text(f, "legend", "start", x + at + SIGN, y + row + ROW / 2.0, items[i].text);
        }
        at += wide;
    }
    return n > 0 ? row + ROW : 0;
}
