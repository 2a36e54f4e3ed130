/* The palette, and what a page looks like (style.h).
 *
 * Source of the colours c0 to c6: M. Okabe, K. Ito, "Color Universal Design", 2002; some are lighter on
 * dark ground. Heat is one hue by lightness, so that it reads the same for everybody and in grey.
 */
#include "eval/page/style.h"

#include <stddef.h>

typedef struct colour {
    const char *name, *light, *dark;
} colour;

static const colour palette[] = {
    {"bg", "#ffffff", "#14181d"},   {"card", "#f7f8fa", "#1b2127"}, {"ink", "#1b1f24", "#e4e8ec"},
    {"dim", "#57606a", "#a3adb8"},  {"line", "#d8dee4", "#343c45"}, {"axis", "#57606a", "#8b96a2"},
    {"link", "#0a58a8", "#79b8f2"}, {"mark", "#ffe08a", "#6b5200"}, {"c0", "#0072b2", "#4aa8e0"},
    {"c1", "#d55e00", "#f0803c"},   {"c2", "#009e73", "#2cc498"},   {"c3", "#b8578f", "#e08fbd"},
    {"c4", "#c98a00", "#e6a91f"},   {"c5", "#3f9fd8", "#9ad4f7"},   {"c6", "#5c636b", "#b4bcc5"},
    {"h0", "#e1ebf4", "#22333f"},   {"h1", "#cbdeee", "#213f52"},   {"h2", "#b0cfe6", "#1f4860"},
    {"h3", "#86b6d9", "#265e7e"},   {"h4", "#5a9bc9", "#30769c"},   {"h5", "#367fb5", "#4a90b5"},
    {"h6", "#1f649b", "#72abc9"},   {"h7", "#114a7d", "#a0c9de"},   {"h8", "#08305a", "#d8ebf5"},
};
enum { N_PALETTE = sizeof palette / sizeof palette[0] };

/* What the classes of a picture mean; $name is a colour. */
static const char shapes[] =
    "svg text{font:11.5px system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif;"
    "fill:$ink;stroke:none}\n"
    "svg .tx,svg .ty{fill:$dim}\n"
    "svg .title{fill:$dim;font-weight:600}\n"
    "svg .strong{font-weight:600}\n"
    "svg .label,svg .strong{paint-order:stroke;stroke:$card;stroke-width:3px;stroke-linejoin:round}\n"
    ".grid{stroke:$line;stroke-width:.7}\n"
    ".axis{stroke:$axis;stroke-width:1}\n"
    ".leader{stroke:$axis;stroke-width:.7;fill:none}\n"
    ".front{stroke:$ink;stroke-width:1.4;fill:none;stroke-opacity:.55}\n"
    ".ref{stroke:$ink;stroke-width:1.4;stroke-dasharray:5 3;fill:none}\n"
    ".bar{stroke-width:1.3;stroke-opacity:.7;fill:none}\n"
    ".ring circle.r{fill:none;stroke:$ink;stroke-width:1.5}\n"
    ".faint{opacity:.7}\n"
    ".pt{stroke:$bg;stroke-width:.6}\n"
    ".ln{fill:none;stroke-width:2;stroke-linejoin:round}\n"
    ".stroke{fill:none;stroke-width:3}\n"
    ".band{stroke:none!important;fill-opacity:.16}\n"
    ".hit{fill:$ink;fill-opacity:0;stroke:none}\n"
    ".hit:hover{fill-opacity:.18}\n";

/* Text with $name as var(--name), or as its light value. */
static void put(FILE *f, const char *text, int plain)
{
    for (; *text != '\0'; text++) {
        if (*text != '$') {
            putc(*text, f);
            continue;
        }
        size_t n = 0;
        while ((text[1 + n] >= 'a' && text[1 + n] <= 'z') || (text[1 + n] >= '0' && text[1 + n] <= '9'))
            n++;
        for (size_t i = 0; plain && i < N_PALETTE; i++) {
            size_t m = 0;
            while (m < n && palette[i].name[m] == text[1 + m])
                m++;
            if (m == n && palette[i].name[m] == '\0')
                fputs(palette[i].light, f);
        }
        if (!plain)
            fprintf(f, "var(--%.*s)", (int)n, text + 1);
        text += n;
    }
}

static void put_shapes(FILE *f, int plain)
{
    char line[64];
    put(f, shapes, plain);
    for (int i = 0; i < STYLE_N_COLOURS; i++) {
        snprintf(line, sizeof line, ".c%d{fill:$c%d;stroke:$c%d}\n", i, i, i);
        put(f, line, plain);
        snprintf(line, sizeof line, ".pt.c%d{stroke:$bg}\n", i);
        put(f, line, plain);
    }
    for (int i = 0; i < STYLE_N_HEAT; i++) {
        snprintf(line, sizeof line, ".h%d{fill:$h%d}\n", i, i);
        put(f, line, plain);
    }
    fputs(".ln,.bar{fill:none}\n", f);
}

static void put_variables(FILE *f, int dark)
{
    for (size_t i = 0; i < N_PALETTE; i++)
        fprintf(f, "--%s:%s;", palette[i].name, dark ? palette[i].dark : palette[i].light);
}

void style_page(FILE *f)
{
    fputs(":root{color-scheme:light dark;", f);
    put_variables(f, 0);
    fputs("}\n@media (prefers-color-scheme:dark){:root{", f);
    put_variables(f, 1);
    fputs("}}\n", f);
    put_shapes(f, 0);
    put(f,
        "*{box-sizing:border-box}\n"
        "body{margin:0;background:$bg;color:$ink;font:16px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,"
        "\"DejaVu Sans\",sans-serif;overflow-wrap:anywhere}\n"
        "main,header,footer{max-width:1240px;margin:0 auto;padding:0 16px}\n"
        "h1{font-size:1.6rem;line-height:1.25;margin:1.2rem 0 .4rem}\n"
        "h2{font-size:1.35rem;line-height:1.3;margin:2.4rem 0 .3rem;padding-top:.6rem;border-top:2px solid "
        "$line}\n"
        "h3{font-size:1.1rem;margin:1.8rem 0 .3rem}\n"
        "p{margin:.4rem 0;max-width:75ch}\n"
        "a{color:$link}\n"
        "nav ul{list-style:none;padding:0;margin:.4rem 0;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}\n"
        ".verdict{max-width:56rem;font-size:1.12rem;background:$card;border-left:4px solid $c0;padding:.7rem "
        "1rem;margin:.8rem 0}\n"
        ".verdict p{margin:.25rem 0}\n"
        ".dim,figcaption{color:$dim;font-size:.92rem}\n"
        "figcaption b{display:block;color:$ink;font-size:1rem}\n"
        ".grid2{display:grid;grid-template-columns:minmax(0,1fr);gap:1.2rem;margin:.6rem 0}\n"
        "figure{margin:0;min-width:0;background:$card;border:1px solid $line;border-radius:6px;padding:12px;"
        "display:flex;flex-direction:column}\n"
        "svg{display:block;width:100%;height:auto;margin:.5rem 0}\n"
        "figure details{margin-top:auto}\n"
        "summary{cursor:pointer;color:$link;font-size:.92rem;padding:.3rem 0}\n"
        ".box{overflow:auto;max-width:100%;max-height:40rem;border:1px solid $line;background:$bg}\n"
        "table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;overflow-wrap:"
        "normal}\n"
        "th,td{padding:.22rem .55rem;text-align:left;white-space:nowrap;border-bottom:1px solid $line;"
        "vertical-align:top}\n"
        "thead th{position:sticky;top:0;background:$card;color:$dim}\n"
        "td:first-child{position:sticky;left:0;background:$bg}\n"
        ".n{text-align:right}\n"
        "td.text{white-space:pre-wrap;overflow-wrap:anywhere;min-width:16rem;width:100%}\n"
        "mark{background:$mark;color:inherit;padding:0 .15em;border-radius:2px}\n"
        "dl{display:grid;grid-template-columns:minmax(6rem,12rem) minmax(0,1fr);gap:.2rem 1rem;margin:.5rem "
        "0}\n"
        "dt{color:$dim}\n"
        "dd{margin:0}\n"
        "code{font:.92em ui-monospace,\"DejaVu Sans Mono\",monospace}\n"
        "footer{color:$dim;font-size:.85rem;padding-top:1.5rem;padding-bottom:2rem}\n"
        "@media (min-width:860px){.grid2{grid-template-columns:repeat(2,minmax(0,1fr))}"
        "figure.wide{grid-column:1/-1}}\n"
        "@media (max-width:560px){svg text{font-size:15px}main,header,footer{padding:0 "
        "10px}figure{padding:8px}"
        "dl{grid-template-columns:minmax(0,1fr)}dd{margin:0 0 .4rem}"
        "td:first-child{position:static;white-space:normal;min-width:7rem}td.text{min-width:13rem}}\n"
        "@media print{details{display:none}.box{max-height:none}}\n",
        0);
}

void style_svg(FILE *f)
{
    fputs("<style>\n", f);
    put_shapes(f, 1);
    fputs("</style>\n", f);
}
