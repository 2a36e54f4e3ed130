/*
 * Pages from made-up results: scales, escaping, and whether pictures show what the tables say.
 */
#define _POSIX_C_SOURCE 200809L

#include "eval/page/markup.h"
#include "eval/page/page.h"
#include "eval/page/scale.h"
#include "eval/page/style.h"
#include "tests/page_data.h"

#include <criterion/criterion.h>

/* ---- scales ---- */

Test(page, linear_scales_have_round_limits_and_marks)
{
    static const struct {
        double lo, hi, from, to, ticks[SCALE_MAX_TICKS];
        size_t n;
    } cases[] = {
        {3, 97, 0, 100, {0, 20, 40, 60, 80, 100}, 6}, {0, 1, 0, 1, {0, 0.2, 0.4, 0.6, 0.8, 1}, 6},
        {-3, 4.2, -3, 5, {-2, 0, 2, 4}, 4},           {5, 5, 2, 8, {2, 3, 4, 5, 6, 7, 8}, 7},
        {0, 0, 0, 1, {0, 0.2, 0.4, 0.6, 0.8, 1}, 6},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const scale s = scale_linear(cases[i].lo, cases[i].hi, 10, 110);
        double ticks[SCALE_MAX_TICKS];
        const size_t n = scale_ticks(&s, 7, ticks);
        cr_expect(s.lo <= cases[i].lo && s.hi >= cases[i].hi, "case %zu: %g to %g", i, s.lo, s.hi);
        cr_expect_eq(n, cases[i].n, "case %zu: %zu marks from %g to %g", i, n, s.lo, s.hi);
        for (size_t j = 0; j < n && j < cases[i].n; j++)
            cr_expect(fabs(ticks[j] - cases[i].ticks[j]) < 1e-9, "case %zu, mark %zu: %g", i, j, ticks[j]);
        cr_expect(scale_at(&s, s.lo) == 10 && scale_at(&s, s.hi) == 110 && scale_at(&s, s.hi + 1) == 110);
        cr_expect(fabs(scale_at(&s, (s.lo + s.hi) / 2) - 60) < 1e-9);
    }
}

Test(page, log_scales_mark_powers_of_ten_or_few_between)
{
    double ticks[SCALE_MAX_TICKS];
    char label[32];
    const scale wide = scale_log(2e-6, 3.0, 300, 0);
    size_t n = scale_ticks(&wide, 9, ticks);
    cr_assert_eq(n, 6, "%zu", n);
    static const char *const labels[] = {"1e-5", "1e-4", "0.001", "0.01", "0.1", "1"};
    for (size_t i = 0; i < n; i++) {
        scale_label(label, sizeof label, ticks[i]);
        cr_expect_str_eq(label, labels[i]);
        cr_expect(i == 0 || scale_at(&wide, ticks[i]) < scale_at(&wide, ticks[i - 1]));
    }
    const scale bits = scale_log(1.9, 9, 0, 400);
    n = scale_ticks(&bits, 8, ticks);
    cr_assert_eq(n, 5, "%zu", n);
    static const double expected[] = {2, 3, 4, 6, 8};
    for (size_t i = 0; i < n; i++)
        cr_expect_eq(ticks[i], expected[i], "%g", ticks[i]);
    /* 4 is as far from 2 as from 8 */
    cr_expect(fabs(scale_at(&bits, 4) * 2 - scale_at(&bits, 2) - scale_at(&bits, 8)) < 1e-9);
    const scale narrow = scale_log(4.02, 4.2, 0, 400);
    n = scale_ticks(&narrow, 8, ticks);
    cr_expect(n >= 2 && ticks[0] >= narrow.lo && ticks[n - 1] <= narrow.hi, "%zu marks", n);
    for (double lo = 1e-12; lo < 1e6; lo *= 7)
        for (double factor = 1; factor < 1e15; factor *= 3) {
            const scale s = scale_log(lo, lo * factor, 0, 1);
            for (size_t most = 4; most <= SCALE_MAX_TICKS; most++) {
                n = scale_ticks(&s, most, ticks);
                cr_assert(n >= 1 && n <= most, "%zu of %zu marks from %g to %g", n, most, s.lo, s.hi);
                cr_assert(ticks[0] >= s.lo * (1 - 1e-9) && ticks[n - 1] <= s.hi * (1 + 1e-9));
            }
        }
}

/* ---- text ---- */

static char *text_of(void (*write)(FILE *f, const void *what), const void *what)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    cr_assert_not_null(f);
    write(f, what);
    cr_assert_eq(fclose(f), 0);
    return text;
}

static void write_text(FILE *f, const void *text)
{
    markup_text(f, text);
}

Test(page, text_cannot_leave_its_place)
{
    static const char *const cases[][2] = {
        {"a<b>&\"c'", "a&lt;b&gt;&amp;&quot;c&#39;"},
        {"gr\xc3\xbc\xc3\x9f \xe4\xb8\xad \xf0\x9f\x8e\x89",
         "gr\xc3\xbc\xc3\x9f \xe4\xb8\xad \xf0\x9f\x8e\x89"},
        {"\x01\x7f\x1b[", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd["}, /* no character of XML */
        {"\xff\xc3", "\xef\xbf\xbd\xef\xbf\xbd"},                   /* no UTF-8 */
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},   /* a surrogate */
        {"\xc0\xbc", "\xef\xbf\xbd\xef\xbf\xbd"},                   /* an overlong < */
        {"\xef\xbf\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},   /* U+FFFF */
        {"line\n\ttab", "line\n\ttab"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = text_of(write_text, cases[i][0]);
        cr_expect_str_eq(text, cases[i][1], "case %zu: %s", i, text);
        free(text);
    }
    char cut[16];
    markup_cut(cut, sizeof cut, "\xc3\xa4\xc3\xb6\xc3\xbc\xc3\x9fx", 3);
    cr_expect_str_eq(cut, "\xc3\xa4\xc3\xb6\xe2\x80\xa6", "%s", cut);
    markup_cut(cut, sizeof cut, "kvq2", 4);
    cr_expect_str_eq(cut, "kvq2");
}

Test(page, numbers_have_three_digits)
{
    static const struct {
        double x;
        const char *text;
    } cases[] = {{0, "0"},         {2.871e-6, "2.87e-6"}, {1.5e-12, "1.50e-12"}, {3e7, "3.00e7"},
                 {12345, "12345"}, {0.00155, "0.00155"},  {0.0438, "0.0438"},    {5.1, "5.10"},
                 {97.13, "97.1"},  {-0.25, "-0.250"},     {NAN, "\xe2\x80\x93"}, {100.4, "100"}};
    char text[MARKUP_NUMBER];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        markup_number(text, cases[i].x);
        cr_expect_str_eq(text, cases[i].text, "%s, expected %s", text, cases[i].text);
    }
    markup_bytes(text, 999);
    cr_expect_str_eq(text, "999 B");
    markup_bytes(text, 2901);
    cr_expect_str_eq(text, "2.9 kB");
    markup_bytes(text, 12.4e6);
    cr_expect_str_eq(text, "12.4 MB");
}

Test(page, csv_quotes_what_needs_it)
{
    table t = {0};
    table_column(&t, "scheme", false);
    table_column(&t, "x", true);
    table_text(&t, "kivi2,r=32");
    table_number(&t, 0.125);
    table_text(&t, "say \"hi\"\n");
    table_number(&t, NAN);
    char *text = text_of((void (*)(FILE *, const void *))table_csv, &t);
    cr_expect_str_eq(text, "scheme,x\n\"kivi2,r=32\",0.125\n\"say \"\"hi\"\"\n\",\n", "%s", text);
    free(text);
    table_clear(&t);
}

/* ---- a whole page ---- */

/* Results in memory, by writing and reading a file. */
static results load(const experiment *x, size_t n_experiments, size_t n_windows)
{
    char path[] = "/tmp/kvq-page-XXXXXX";
    const int fd = mkstemp(path);
    cr_assert(fd >= 0);
    FILE *f = fdopen(fd, "w");
    for (size_t i = 0; i < n_experiments; i++)
        page_write_lines(f, &x[i], n_windows, 1 + i);
    cr_assert_eq(fclose(f), 0);
    results r = {0};
    eval_error e = {""};
    const char *const paths[] = {path};
    cr_assert(results_load(&r, paths, 1, &e), "%s", e.text);
    remove(path);
    return r;
}

static page make(const results *r)
{
    static const char *const files[] = {"a<b>.jsonl"};
    page p;
    eval_error e = {""};
    cr_assert(page_make(&p, r, "kvq-eval report 'a<b>.jsonl'", files, 1, 0, NULL, &e), "%s", e.text);
    return p;
}

static void write_page(FILE *f, const void *p)
{
    page_html(f, p);
}

static const picture *find(const page *p, size_t i_experiment, const char *id)
{
    for (size_t i = 0; i < p->lists[i_experiment].n; i++)
        if (strcmp(p->lists[i_experiment].at[i].id, id) == 0)
            return &p->lists[i_experiment].at[i];
    cr_assert(false, "there is no figure %s", id);
    return NULL;
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, what)); at++)
        n++;
    return n;
}

Test(page, same_results_same_bytes_and_nothing_from_outside)
{
    const experiment x = page_experiment();
    results r = load(&x, 1, 2);
    page p = make(&r), q = make(&r);
    char *a = text_of(write_page, &p), *b = text_of(write_page, &q);
    cr_expect_str_eq(a, b);
    cr_expect_eq(count(a, "http://") + count(a, "https://") + count(a, "<script") + count(a, " src=") +
                     count(a, "url(") + count(a, "@import"),
                 0);
    cr_expect_eq(count(a, "a<b>"), 0, "the name of a file is markup");
    cr_expect(count(a, "nan") == 0 || strstr(a, "NaN") == NULL);
    cr_expect_eq(count(a, "=\"nan\"") + count(a, "nan ") + count(a, " inf"), 0, "a place that is no number");
    free(a);
    free(b);
    page_free(&p);
    page_free(&q);
    results_free(&r);
}

Test(page, hostile_names_stay_text)
{
    static const char bad[] = "\"><script>alert(1)</script>&amp;<svg onload=x>";
    experiment x = page_experiment();
    snprintf(x.model, sizeof x.model, "%s", bad);
    snprintf(x.text, sizeof x.text, "%s", bad);
    snprintf(x.weights, sizeof x.weights, "%.40s", bad);
    results r = load(&x, 1, 1);
    for (size_t i = 0; i < r.n_entries; i++) { /* and schemes of one name */
        if (strcmp(r.entries[i].cell.scheme, "mine:7") == 0) {
            free(r.entries[i].cell.scheme);
            r.entries[i].cell.scheme = strdup(bad);
        }
    }
    page p = make(&r);
    char *text = text_of(write_page, &p);
    cr_expect_eq(count(text, "<script"), 0);
    cr_expect_eq(count(text, "<svg onload"), 0);
    cr_expect_geq(count(text, "&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;&lt;svg onload=x&gt;"),
                  4);
    free(text);
    page_free(&p);
    results_free(&r);
}

Test(page, every_figure_has_title_description_and_table)
{
    const experiment x = page_experiment();
    results r = load(&x, 1, 2);
    page p = make(&r);
    size_t n_pictures = 0;
    static const char *const wanted[] = {
        "quality-bits", "quality-bytes", "position", "spread",          "bytes-1", "bytes-2", "heads-keys",
        "heads-values", "portrait",      "worst-1",  "heads-attention", "worst-2", "schemes"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        (void)find(&p, 0, wanted[i]);
    for (size_t i = 0; i < p.lists[0].n; i++) {
        const picture *fig = &p.lists[0].at[i];
        cr_expect(fig->title[0] != '\0' && fig->note[0] != '\0', "%s", fig->id);
        cr_expect(fig->table.n_columns > 1 && fig->table.n_cells > 0, "%s has no table", fig->id);
        cr_expect_eq(fig->table.n_cells % fig->table.n_columns, 0, "%s: a row is cut short", fig->id);
        n_pictures += fig->body != NULL;
    }
    char *text = text_of(write_page, &p);
    cr_expect_eq(count(text, "<svg "), n_pictures);
    cr_expect_eq(count(text, "role=\"img\""), n_pictures);
    cr_expect_eq(count(text, "<desc id="), n_pictures);
    cr_expect_eq(count(text, "<details>"), n_pictures);
    cr_expect_eq(count(text, "<table>"), p.lists[0].n);
    free(text);
    page_free(&p);
    results_free(&r);
}

/* ---- do pictures show what was measured? ---- */

/* From two marks of an axis, read from the picture: value = exp(a + b * place). */
typedef struct reading {
    double a, b;
} reading;

static reading read_axis(const char *body, const char *class, const char *coordinate)
{
    double place[2] = {0}, value[2] = {0};
    char start[32];
    size_t n = 0;
    snprintf(start, sizeof start, "<text class=\"%s\"", class);
    for (const char *at = body; (at = strstr(at, start)); at++) {
        const size_t i = n == 0 ? 0 : 1; /* the first and the last */
        place[i] = strtod(strstr(at, coordinate) + strlen(coordinate), NULL);
        value[i] = log(strtod(strchr(at, '>') + 1, NULL));
        n++;
    }
    cr_assert_geq(n, 2, "%zu marks on the axis %s", n, class);
    const double b = (value[1] - value[0]) / (place[1] - place[0]);
    return (reading){value[0] - b * place[0], b};
}

static double read_at(reading r, double place)
{
    return exp(r.a + r.b * place);
}

/* By definition, straight from the cells that were made. */
static double planted_kl(const char *scheme, const experiment *x, size_t n_windows, double *bits)
{
    (void)x;
    for (size_t s = 0; s < PAGE_N_SCHEMES; s++) {
        if (strcmp(page_schemes[s].text, scheme) != 0)
            continue;
        double kl = 0, n = 0;
        for (size_t w = 0; w < n_windows; w++) {
            cell c = page_cell(s, w, 1);
            for (size_t b = 0; b < c.n_blocks; b++) {
                kl += c.blocks[b].kl;
                n += c.blocks[b].n_steps;
            }
            cell_clear(&c);
        }
        *bits = page_schemes[s].bits;
        return kl / n;
    }
    cr_assert(false, "%s was not made", scheme);
    return 0;
}

Test(page, points_lie_where_their_values_are)
{
    const experiment x = page_experiment();
    results r = load(&x, 1, 3);
    page p = make(&r);
    const picture *fig = find(&p, 0, "quality-bits");
    const reading rx = read_axis(fig->body, "tx", " x=\""), ry = read_axis(fig->body, "ty", " y=\"");
    size_t n = 0;
    for (const char *at = fig->body; (at = strstr(at, "<g class=\"pt ")); at++) {
        double px, py, bits = 0;
        char name[128];
        cr_assert_eq(sscanf(strstr(at, "translate("), "translate(%lf %lf)", &px, &py), 2);
        const char *title = strstr(at, "<title>") + 7;
        snprintf(name, sizeof name, "%.*s", (int)(strstr(title, ": ") - title), title);
        const double kl = planted_kl(name, &x, 3, &bits);
        /* Places have two decimals of some 300 units for a dozen nats of logarithm. */
        cr_expect(fabs(read_at(rx, px) / bits - 1) < 2e-3, "%s: %g bits, drawn %g", name, bits,
                  read_at(rx, px));
        cr_expect(fabs(read_at(ry, py) / kl - 1) < 4e-3, "%s: KL %g, drawn %g", name, kl, read_at(ry, py));
        n++;
    }
    cr_expect_eq(n, PAGE_N_SCHEMES - 1, "%zu points; all but fp16 have one", n);
    page_free(&p);
    results_free(&r);
}

/* Each point's bar stands before it, and reaches from one limit to the other. */
Test(page, bars_are_intervals)
{
    const experiment x = page_experiment();
    results r = load(&x, 1, 3);
    page p = make(&r);
    const view *v = &p.views[0];
    const picture *fig = find(&p, 0, "quality-bits");
    const reading ry = read_axis(fig->body, "ty", " y=\"");
    size_t n = 0;
    for (const char *at = fig->body; (at = strstr(at, "<line class=\"bar ")); at++) {
        const double y1 = strtod(strstr(at, " y1=\"") + 5, NULL), y2 = strtod(strstr(at, " y2=\"") + 5, NULL);
        const char *title = strstr(at, "<title>") + 7;
        const size_t length = (size_t)(strstr(title, ": ") - title);
        for (size_t i = 0; i < v->n; i++) {
            const scheme_view *s = &v->schemes[i];
            const estimate *q = &s->figures[FIGURE_KL];
            if (strlen(s->text) != length || strncmp(s->text, title, length) != 0)
                continue;
            cr_expect(fabs(read_at(ry, y1) / q->low - 1) < 4e-3, "%s: %g", s->text, read_at(ry, y1));
            cr_expect(fabs(read_at(ry, y2) / q->high - 1) < 4e-3, "%s: %g", s->text, read_at(ry, y2));
            n++;
        }
    }
    cr_expect_eq(n, PAGE_N_SCHEMES - 1, "%zu", n);
    page_free(&p);
    results_free(&r);
}

static double table_at(const table *t, size_t row, size_t column)
{
    return strtod(t->cells[row * t->n_columns + column], NULL);
}

/* Places, means of blocks, shares above an edge, errors of heads: by definition, from one window's cell. */
static void expect_lines(bool quality)
{
    experiment x = page_experiment();
    x.has_quality = quality;
    results r = load(&x, 1, 1);
    page p = make(&r);
    const view *v = &p.views[0];
    const cell *c = v->schemes[v->chosen[0]].cells[0];
    const table *position = &find(&p, 0, "position")->table, *values = &find(&p, 0, "heads-values")->table;
    cr_assert_eq(position->n_cells / position->n_columns, PAGE_BLOCKS);
    for (size_t b = 0; b < PAGE_BLOCKS; b++) {
        const cell_block *block = &c->blocks[b];
        const double mean =
            quality ? block->kl / block->n_steps : sqrt(block->attn_error / block->attn_reference);
        cr_expect_eq(table_at(position, b, 0), (double)(x.n_prompt + b * CELL_BLOCK));
        cr_expect_float_eq(table_at(position, b, 1) / mean, 1.0, 1e-5);
    }
    for (size_t layer = 0; layer < PAGE_LAYERS; layer++) {
        const cell_head *h = &c->heads[layer * PAGE_HEADS + 2];
        cr_expect_float_eq(table_at(values, layer * PAGE_KV_HEADS + 1, 2) / sqrt(h->v_error / h->v_reference),
                           1.0, 1e-5);
    }
    if (quality) {
        const table *spread = &find(&p, 0, "spread")->table;
        for (size_t row = 0; row < spread->n_cells / spread->n_columns; row++) {
            double above = 0.0, total = 0.0;
            for (size_t b = 0; b < CELL_N_BINS; b++) {
                total += c->bins[b];
                above += cell_bin_edge(b) >= table_at(spread, row, 0) * (1 - 1e-4) ? c->bins[b] : 0;
            }
            cr_expect_float_eq(table_at(spread, row, 1), 100.0 * above / total, 1e-3);
        }
    }
    page_free(&p);
    results_free(&r);
}

Test(page, lines_and_maps_are_of_the_cells)
{
    expect_lines(true);
    expect_lines(false);
}

Test(page, words_and_tables_have_the_right_limits)
{
    const experiment x = page_experiment();
    results r = load(&x, 1, 3);
    page p = make(&r);
    const view *v = &p.views[0];
    const estimate *ratio = &v->against.log_ratio;
    char *text = text_of(write_page, &p);
    double times = 0.0, low = 0.0, high = 0.0;
    cr_assert_eq(
        sscanf(strstr(text, "That is <b>"), "That is <b>%lf times</b> [%lf, %lf]", &times, &low, &high), 3);
    cr_expect_float_eq(log(times), -ratio->value, 0.006);
    cr_expect_float_eq(log(low), -ratio->high, 0.006);
    cr_expect_float_eq(log(high), -ratio->low, 0.006);
    free(text);
    const table *t = &find(&p, 0, "schemes")->table;
    size_t kl = 0;
    while (strcmp(t->names[kl], "KL") != 0)
        kl++;
    for (size_t i = 1; i < v->n; i++) {
        const estimate *q = &v->schemes[i].figures[FIGURE_KL];
        if (q->value == 0.0)
            continue;
        cr_expect_float_eq(table_at(t, i, kl) / q->value, 1.0, 1e-5);
        cr_expect_float_eq(table_at(t, i, kl + 1) / (q->high - q->low), 0.5, 1e-5);
    }
    page_free(&p);
    results_free(&r);
}

Test(page, the_front_is_the_front)
{
    const experiment x = page_experiment();
    results r = load(&x, 1, 2);
    page p = make(&r);
    const view *v = &p.views[0];
    size_t n = 0;
    for (size_t i = 0; i < v->n; i++) {
        bool beaten = v->schemes[i].plain;
        for (size_t j = 0; j < v->n; j++)
            beaten =
                beaten || (j != i && !v->schemes[j].plain && v->schemes[j].bits <= v->schemes[i].bits &&
                           v->schemes[j].figures[FIGURE_KL].value < v->schemes[i].figures[FIGURE_KL].value);
        cr_expect_eq(v->schemes[i].front_bits, !beaten, "%s", v->schemes[i].text);
        n += !beaten;
    }
    cr_expect(n > 5 && n < v->n / 2, "%zu on the front", n);
    cr_expect_str_eq(v->schemes[v->baseline].text, "kivi2");
    cr_expect(v->best < v->n && v->schemes[v->best].bits <= v->schemes[v->baseline].bits);
    for (size_t i = 0; i < v->n; i++)
        cr_expect(v->schemes[i].bits > v->schemes[v->baseline].bits ||
                  v->schemes[i].figures[FIGURE_KL].value >= v->schemes[v->best].figures[FIGURE_KL].value);
    page_free(&p);
    results_free(&r);
}

/* The bytes of the figure are those of a cache, and the crossing is where it is. */
Test(page, bytes_are_those_of_a_cache)
{
    const experiment x = page_experiment();
    results r = load(&x, 1, 1);
    page p = make(&r);
    const picture *fig = find(&p, 0, "bytes-2"); /* kivi2 */
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = PAGE_LAYERS;
    config.n_heads = PAGE_HEADS;
    config.n_kv_heads = PAGE_KV_HEADS;
    config.head_dim = PAGE_DIM;
    config.scheme_text = "kivi2";
    kvq_cache *cache = NULL;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
    static float zeros[PAGE_KV_HEADS * PAGE_DIM];
    size_t row = 0, from = 0;
    for (size_t n = 1; n <= PAGE_TOKENS; n++) {
        kvq_usage usage;
        for (size_t layer = 0; layer < PAGE_LAYERS; layer++)
            cr_assert_eq(kvq_cache_append(cache, layer, 0, zeros, zeros, 1), KVQ_OK);
        cr_assert_eq(kvq_cache_usage(cache, &usage), KVQ_OK);
        const size_t fp16 = n * PAGE_LAYERS * 2 * PAGE_KV_HEADS * PAGE_DIM * 2;
        from = usage.total >= fp16 ? 0 : from == 0 ? n : from;
        const size_t at = row * fig->table.n_columns;
        if (at < fig->table.n_cells && strtoul(fig->table.cells[at], NULL, 10) == n) {
            cr_expect_eq(strtoul(fig->table.cells[at + 1], NULL, 10), usage.payload, "payload at %zu", n);
            cr_expect_eq(strtoul(fig->table.cells[at + 8], NULL, 10), usage.total, "total at %zu", n);
            row++;
        }
    }
    kvq_cache_free(cache);
    cr_expect_eq(row, fig->table.n_cells / fig->table.n_columns);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "smaller than fp16 from %zu tokens on", from);
    cr_expect(strstr(fig->body, wanted), "%s", wanted);
    page_free(&p);
    results_free(&r);
}

Test(page, several_experiments_and_missing_data)
{
    experiment x[3] = {page_experiment(), page_experiment(), page_experiment()};
    snprintf(x[1].model, sizeof x[1].model, "other");
    x[1].has_quality = false; /* random weights: attention only */
    x[1].seed = 3;
    snprintf(x[2].model, sizeof x[2].model, "recorded");
    x[2].has_quality = false;
    results r = load(x, 3, 1);
    page p = make(&r);
    char *text = text_of(write_page, &p), name[128];
    cr_expect_eq(count(text, "<article "), 3);
    cr_expect_eq(count(text, "<a href=\"#e2\">"), 1);
    cr_expect(strstr(text, "Left out: <i>how divergences are spread</i>"));
    cr_expect(strstr(text, "random weights"));
    page_figure_name(name, sizeof name, &p, 1, find(&p, 1, "quality-bits"));
    cr_expect_str_eq(name, "2-quality-bits");
    cr_expect(strstr(find(&p, 1, "quality-bits")->body, "relative error of attention"));
    free(text);
    page_free(&p);
    results_free(&r);
}

Test(page, no_results_are_a_page_too)
{
    const results r = {0};
    page p = make(&r);
    char *text = text_of(write_page, &p);
    cr_expect(strstr(text, "no results") && strstr(text, "</html>"));
    free(text);
    page_free(&p);
}

/* An SVG file stands alone: no variables of a page that is not there. */
static void write_svg(FILE *f, const void *fig)
{
    picture_svg(f, fig);
}

Test(page, svg_files_have_their_colours_inside)
{
    const experiment x = page_experiment();
    results r = load(&x, 1, 1);
    page p = make(&r);
    char *text = text_of(write_svg, find(&p, 0, "quality-bits"));
    cr_expect_eq(count(text, "var("), 0);
    cr_expect(strstr(text, ".c0{fill:#0072b2;stroke:#0072b2}"));
    cr_expect(strstr(text, "xmlns=\"http://www.w3.org/2000/svg\""));
    free(text);
    page_free(&p);
    results_free(&r);
}
