/* Results files: what is written comes back to the last bit; lines that are cut, repeated or changed. */
#define _XOPEN_SOURCE 700

#include "eval/results/results.h"
#include "tests/results_cells.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

static char path[64];

static void make_path(void)
{
    strcpy(path, "/tmp/kvq-results-XXXXXX");
    const int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
}

static void remove_path(void)
{
    unlink(path);
}

TestSuite(results, .init = make_path, .fini = remove_path);

static void write_file(const char *text, size_t n)
{
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(text, 1, n, f) == n && fclose(f) == 0);
}

static bool load(results *r, eval_error *e)
{
    const char *const paths[] = {path};
    return results_load(r, paths, 1, e);
}

static char *line_of(const char *scheme, size_t window, uint64_t seed)
{
    const experiment x = some_experiment();
    cell c = some_cell(&x, scheme, window, seed);
    char *line = results_line(&x, &c);
    cr_assert_not_null(line);
    cell_clear(&c);
    return line;
}

/* All bits, of arrays too; NaN is NaN, whichever. */
static void assert_same_double(double a, double b, const char *what)
{
    cr_assert((isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0, "%s: %.17g and %.17g", what, a, b);
}

static void assert_same_cell(const cell *a, const cell *b, size_t n_heads)
{
    cr_assert_str_eq(a->scheme, b->scheme);
    cr_assert(a->window == b->window && a->ids_checksum == b->ids_checksum && a->n_blocks == b->n_blocks);
    for (size_t i = 0; i < a->n_blocks; i++) {
        const cell_block *p = &a->blocks[i], *q = &b->blocks[i];
        cr_assert(p->n_steps == q->n_steps && p->n_targets == q->n_targets && p->n_agree == q->n_agree &&
                  p->n_attn == q->n_attn);
        assert_same_double(p->kl, q->kl, "kl");
        assert_same_double(p->nll, q->nll, "nll");
        assert_same_double(p->nll_fp32, q->nll_fp32, "nll_fp32");
        assert_same_double(p->attn_error, q->attn_error, "attn_error");
        assert_same_double(p->attn_reference, q->attn_reference, "attn_reference");
        assert_same_double(p->attn_kl, q->attn_kl, "attn_kl");
    }
    cr_assert_arr_eq((const char *)a->heads, (const char *)b->heads, n_heads * sizeof a->heads[0]);
    cr_assert_arr_eq(a->bins, b->bins, sizeof a->bins);
    assert_same_double(a->kld_p99, b->kld_p99, "kld_p99");
    assert_same_double(a->kld_max, b->kld_max, "kld_max");
    cr_assert(a->attn_max_abs == b->attn_max_abs && a->n_worst == b->n_worst && a->seconds == b->seconds);
    for (size_t i = 0; i < a->n_worst; i++)
        cr_assert_eq(memcmp(&a->worst[i], &b->worst[i], sizeof a->worst[i]), 0, "worst %zu", i);
    cr_assert(a->portrait.layer == b->portrait.layer && a->portrait.kv_head == b->portrait.kv_head &&
              a->portrait.n_rows == b->portrait.n_rows && a->portrait.n_columns == b->portrait.n_columns);
    const size_t n_bytes = a->portrait.n_rows * a->portrait.n_columns * sizeof(float);
    cr_assert_arr_eq((const char *)a->portrait.k, (const char *)b->portrait.k, n_bytes);
    cr_assert_arr_eq((const char *)a->portrait.v, (const char *)b->portrait.v, n_bytes);
    cr_assert_eq(memcmp(&a->usage, &b->usage, sizeof a->usage), 0);
    cr_assert_str_eq(a->isa, b->isa);
}

Test(results, what_is_written_comes_back_bit_for_bit)
{
    const experiment x = some_experiment();
    for (uint64_t seed = 1; seed <= 50; seed++) {
        cell c = some_cell(&x, "k=2,v=2", seed, seed);
        char *line = results_line(&x, &c);
        cr_assert_not_null(line);
        cr_assert_eq(strchr(line, '\n'), line + strlen(line) - 1, "one line");
        write_file(line, strlen(line));
        results r;
        eval_error e = {""};
        cr_assert(load(&r, &e), "%s", e.text);
        cr_assert(r.n_experiments == 1 && r.n_entries == 1 && r.n_cut == 0 && r.n_repeated == 0);
        cr_assert_eq(memcmp(&r.experiments[0], &x, sizeof x), 0, "the experiment");
        assert_same_cell(&r.entries[0].cell, &c, x.n_layer * x.n_head);
        const uint64_t key = results_key(&x, c.scheme, c.window, c.ids_checksum);
        cr_assert_eq(r.entries[0].key, key);
        cr_assert_eq(results_find(&r, key), &r.entries[0].cell);
        cr_assert_null(results_find(&r, key + 1));
        char *again = results_line(&r.experiments[0], &r.entries[0].cell);
        cr_assert_str_eq(again, line);
        free(again);
        free(line);
        results_free(&r);
        cell_clear(&c);
    }
}

Test(results, the_key_is_of_all_that_could_change_what_is_measured)
{
    const experiment x = some_experiment();
    const uint64_t key = results_key(&x, "kivi2", 0, 1);
    cr_expect_neq(results_key(&x, "kivi3", 0, 1), key);
    cr_expect_neq(results_key(&x, "kivi2", 1, 1), key);
    cr_expect_neq(results_key(&x, "kivi2", 0, 2), key);
    /* Every byte of the struct that is no padding and not behind a string's end. */
    size_t n_same = 0;
    for (size_t i = 0; i < sizeof x; i++) {
        experiment y = x;
        ((unsigned char *)&y)[i] ^= 1;
        n_same += results_key(&y, "kivi2", 0, 1) == key;
    }
    const size_t strings[] = {sizeof x.model, sizeof x.architecture, sizeof x.weights,
                              sizeof x.text,  sizeof x.precision,    sizeof x.version};
    size_t n_hidden = 0; /* behind the zero */
    const char *const texts[] = {x.model, x.architecture, x.weights, x.text, x.precision, x.version};
    for (size_t i = 0; i < 6; i++)
        n_hidden += strings[i] - strlen(texts[i]) - 1;
    cr_expect_geq(n_same, n_hidden);
    cr_expect_leq(n_same, n_hidden + 24,
                  "%zu bytes change nothing, %zu are behind strings, the rest is padding", n_same, n_hidden);
    /* Two fields that say the same together are not one. */
    experiment a = x, b = x;
    strcpy(a.architecture, "gpt2\nweights=3:F32");
    strcpy(a.weights, "x");
    strcpy(b.architecture, "gpt2");
    strcpy(b.weights, "F32\nx");
    cr_expect_neq(results_key(&a, "kivi2", 0, 1), results_key(&b, "kivi2", 0, 1));
}

Test(results, a_last_line_cut_anywhere_is_skipped_and_counted)
{
    char *first = line_of("kivi2", 0, 1), *last = line_of("kivi2", 1, 2);
    const size_t n_first = strlen(first), n_last = strlen(last);
    char *text = malloc(n_first + n_last + 1);
    cr_assert_not_null(text);
    strcpy(text, first);
    strcat(text, last);
    for (size_t n = 0; n <= n_last; n++) {
        results r;
        eval_error e = {""};
        write_file(text, n_first + n);
        cr_assert(load(&r, &e), "%zu bytes: %s", n, e.text);
        cr_assert_eq(r.n_entries, n == n_last ? 2 : 1, "%zu bytes", n);
        cr_assert_eq(r.n_cut, n > 0 && n < n_last ? 1 : 0, "%zu bytes", n);
        results_free(&r);
        if (n > 0 && n + 1 < n_last) { /* and with what is appended to it later on lines of its own */
            char *more = malloc(n_first + n + 1 + n_last + 1);
            sprintf(more, "%.*s\n%s", (int)(n_first + n), text, last);
            write_file(more, strlen(more));
            cr_assert(load(&r, &e), "%zu bytes: %s", n, e.text);
            cr_assert(r.n_entries == 2 && r.n_cut == 0 && r.n_skipped == 1 && r.first_skipped == 2,
                      "%zu bytes: %zu entries", n, r.n_entries);
            cr_assert_str_eq(r.first_skipped_in, path);
            results_free(&r);
            free(more);
        }
    }
    free(text);
    free(first);
    free(last);
}

Test(results, of_lines_with_one_key_the_first_counts)
{
    const experiment x = some_experiment();
    cell a = some_cell(&x, "kivi2", 0, 1), b = some_cell(&x, "kivi2", 0, 1);
    b.seconds = 99.0;
    char *lines[] = {results_line(&x, &a), results_line(&x, &b)}, text[1 << 15];
    snprintf(text, sizeof text, "%s%s%s\n\n", lines[0], lines[1], lines[0]);
    write_file(text, strlen(text));
    results r;
    eval_error e = {""};
    const char *const twice[] = {path, path};
    cr_assert(results_load(&r, twice, 2, &e), "%s", e.text);
    cr_assert(r.n_entries == 1 && r.n_repeated == 5 && r.n_cut == 0, "%zu, %zu", r.n_entries, r.n_repeated);
    cr_assert_eq(r.entries[0].cell.seconds, 1.25);
    results_free(&r);
    free(lines[0]);
    free(lines[1]);
    cell_clear(&a);
    cell_clear(&b);
}

/* The text with its first `from` as `to`. */
static void replace(char *out, size_t size, const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    cr_assert(at, "%s is not in %s", from, text);
    snprintf(out, size, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

/* What makes a line something else than a cell, and what is said of it. */
static const struct {
    const char *from, *to, *wanted;
} no_cells[] = {
    {"kvq-eval-cell/1", "kvq-eval-cell/2",
     "line 2: schema is \"kvq-eval-cell/2\", expected \"kvq-eval-cell/1\""},
    {"\"schema\":\"kvq-eval-cell/1\",", "", "line 2: schema is missing"},
    {"\"key\":\"", "\"key\":\"x", "line 2: key is"},
    {"\"scheme\":\"kivi2\"", "\"scheme\":\"kivi3\"", "but what the line holds has"},
    {"\"window\":0", "\"window\":1", "line 2: key is"},
    {"\"n_ctx\":1024", "\"n_ctx\":1025", "line 2: key is"},
    {"\"seed\":\"0x8000000000000001\"", "\"seed\":1", "line 2: key is"},
    {"\"n_layer\":2", "\"n_layer\":1", "line 2: cell.heads has 4 rows, expected an array of 2"},
    {"\"n_layer\":2", "\"n_layer\":0", "experiment.n_layer is 0, expected 1 to 4096"},
    {"\"n_layer\":2", "\"n_layer\":1e3", "experiment.n_layer is 1000.0, expected a whole number"},
    {"\"n_prompt\":2", "\"n_prompt\":131", "experiment.n_prompt is 131, expected 0 to 130"},
    {"\"n_prompt\":2", "\"n_prompt\":1", "cell.blocks: the last 1 steps of 129 are missing"},
    {"\"has_quality\":true", "\"has_quality\":1", "experiment.has_quality is 1, expected true or false"},
    {"\"bos_id\":-1", "\"bos_id\":-2147483649",
     "experiment.bos_id is -2147483649, expected a 32-bit integer"},
    {"\"precision\":\"fast\"", "\"precision\":\"very fast\"",
     "experiment.precision is \"very fast\", expected a string of at most 7 bytes"},
    {"[[64,64,60", "[[64,65,60", "line 2: cell.blocks[0].n_targets is 65, expected at most 64"},
    {"[[64,64,60", "[[64,64,640", "line 2: cell.blocks[0].n_agree is 640, expected at most 64"},
    {"[[64,64,60", "[[63,64,60", "line 2: cell.blocks[0].n_steps is 63, expected 64"},
    {"[[64,64,60,", "[[64,64,60,-0.5,0,0,0,0,0,1],[64,64,60,",
     "line 2: cell.blocks[0].kl is -0.5, expected a number from 0"},
    {"[[64,64,60,", "[[64,64,60,\"inf\",0,0,0,0,0,1],[64,64,60,",
     "line 2: cell.blocks[0].kl is inf, expected 0 to"},
    {"[[64,64,60,", "[[64,64,60,0,1e8,0,0,0,0,1],[64,64,60,",
     "line 2: cell.blocks[0].nll is 1e+08, expected 0 to 6.4e+07"},
    {"[[64,64,60,", "[[64,64,60,0,0,null,0,0,0,1],[64,64,60,",
     "line 2: cell.blocks[0].nll_fp32 is nan, expected 0 to 6.4e+07"},
    {"[[64,64,60,", "[[64,64,60,0,0,-1,0,0,0,1],[64,64,60,",
     "line 2: cell.blocks[0].nll_fp32 is -1, expected a number from 0"},
    {"[[64,64,60,", "[[64,64,60,0,0,0,-1,0,0,1],[64,64,60,",
     "line 2: cell.blocks[0].attn_error is -1, expected a number from 0"},
    {"[[64,64,60,", "[[64,64,60,0,0,0,0,\"-inf\",0,1],[64,64,60,",
     "line 2: cell.blocks[0].attn_reference is \"-inf\", expected a number from 0"},
    {"[[64,64,60,", "[[64,64,60,0,0,0,0,0,-1e-9,1],[64,64,60,", "line 2: cell.blocks[0].attn_kl is -1"},
    {"\"heads\":[[", "\"heads\":[[-", "line 2: cell.heads[0].k_error is -"},
    {"\"kl\":0.25", "\"kl\":-0.25", "line 2: cell.worst[0].kl is -0.25, expected a number from 0"},
    {"\"total\":\"0x8000000000000018\"", "\"total\":0",
     "line 2: cell.usage.total is 0, less than the sum of its parts"},
    {"\"total\":\"0x8000000000000018\"", "\"total\":\"0x8000000000000017\"",
     "line 2: cell.usage.total is 9223372036854775831, less than the sum of its parts"},
    {"\"total\":\"0x8000000000000018\"", "\"total\":\"0x8000000000000019\"",
     "line 2: cell.usage.total is 9223372036854775833, expected the sum of its parts, "
     "9223372036854775832"},
    {"[[64,64,60", "[[64,60", "cell.blocks[0] is "},
    {"[[64,64,60", "[[64,-1,60", "cell.blocks[0].n_targets is -1, expected a whole number"},
    {"[[64,64,60", "[[64,4294967296,60", "cell.blocks[0].n_targets is 4294967296, expected a whole number"},
    {"\"kld_p99\":0.33333333333333331", "\"kld_p99\":\"much\"",
     "cell.kld_p99 is \"much\", expected a number from 0, null or \"inf\""},
    {"\"attn_max_abs\":3.4", "\"attn_max_abs\":4.4", "cell.attn_max_abs is 4.4"},
    {"\"bins\":[4294967295", "\"bins\":[\"x\"", "cell.bins[0] is \"x\", expected a whole number"},
    {"\"bins\":[4294967295,", "\"bins\":[", "cell.bins is ["},
    {"\"worst\":[", "\"worst\":[{},", "cell.worst[0].position is missing"},
    {"\"n_rows\":3", "\"n_rows\":4", "cell.portrait.k: expected 128 hexadecimal digits"},
    {"\"n_rows\":3", "\"n_rows\":0", "cell.portrait: 0 rows of 4, expected 1 to 128 of 1 to 1024"},
    {"\"n_rows\":3", "\"n_rows\":\"0xffffffffffffffff\"", "cell.portrait: 18446744073709551615 rows"},
    {"\"k\":\"00000000", "\"k\":\"0000000g", "cell.portrait.k: expected 96 hexadecimal digits"},
    {"\"usage\":{", "\"usage\":{\"total\":0},\"x\":{", "cell.usage.payload is missing"},
    {"\"cell\":{", "\"cell\":7,\"x\":{", "line 2: cell is 7, expected an object"},
};

Test(results, what_is_no_cell_is_an_error_that_names_line_and_field)
{
    char *first = line_of("kivi2", 1, 2), *line = line_of("kivi2", 0, 1);
    static char changed[1 << 15], text[1 << 16];
    for (size_t i = 0; i < sizeof no_cells / sizeof no_cells[0]; i++) {
        results r = {.n_entries = 77};
        eval_error e = {""};
        replace(changed, sizeof changed, line, no_cells[i].from, no_cells[i].to);
        snprintf(text, sizeof text, "%s%s", first, changed);
        write_file(text, strlen(text));
        cr_expect_not(load(&r, &e), "%s", no_cells[i].to);
        cr_expect(strstr(e.text, no_cells[i].wanted), "%s: '%s' is not in: %s", no_cells[i].to,
                  no_cells[i].wanted, e.text);
        cr_expect_eq(strncmp(e.text, path, strlen(path)), 0, "%s", e.text);
        cr_expect_eq(r.n_entries, 77, "*out is touched");
    }
    free(first);
    free(line);
}

Test(results, other_files_are_told_from_cut_ones)
{
    results r;
    eval_error e = {""};
    write_file("# a text\nof two lines\n", 22);
    cr_assert_not(load(&r, &e));
    cr_assert(strstr(e.text, ", line 1: is not a line of results"), "%s", e.text);
    write_file("", 0);
    cr_assert(load(&r, &e));
    cr_assert(r.n_entries == 0 && r.n_cut == 0 && results_find(&r, 0) == NULL);
    results_free(&r);
    unlink(path);
    cr_assert_not(load(&r, &e));
    cr_assert(strstr(e.text, path), "%s", e.text);
}

/* A line of `cell` stands where @ does. */
Test(results, files_that_are_not_ours_are_refused)
{
    static const struct {
        const char *text;
        size_t n_cells, n_cut, n_skipped;
        const char *wanted; /* NULL: they are read */
    } cases[] = {
        {"@", 1, 0, 0, NULL},
        {"@\n\n", 1, 0, 0, NULL},
        {"{\"schema\":\"kvq-eval-ce", 0, 1, 0, NULL}, /* killed at the first line */
        {"{", 0, 1, 0, NULL},
        {"{\"schema\":\"kvq-eval-ce\n@", 1, 0, 1, NULL}, /* and gone on */
        {"@{\"schema\":\"kvq-eval-ce\njunk\n@", 1, 0, 2, NULL},
        {"@junk", 1, 1, 0, NULL},
        {"{\n  \"schema\": \"kvq-eval/1\"\n}\n", 0, 0, 0, ", line 1: is not a line of results"},
        {"{\n  \"schema\": \"kvq-eval/1\"\n}", 0, 0, 0, ", line 1: is not a line of results"},
        {"{color: red}\n", 0, 0, 0, ", line 1: is not a line of results"},
        {"{color: red}", 0, 0, 0, ", line 1: is not a line of results"},
        {"[1]\n@", 0, 0, 0, ", line 1: is not a line of results"},
        {"\n\njunk\n@", 0, 0, 0, ", line 3: is not a line of results"},
        {"\n", 0, 0, 0, ", line 1: is not a line of results"},
    };
    char *line = line_of("kivi2", 1, 2);
    static char text[1 << 16];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        results r = {.n_entries = 77};
        eval_error e = {""};
        text[0] = '\0';
        for (const char *at = cases[i].text; *at; at++) {
            const size_t used = strlen(text);
            if (*at == '@')
                strcpy(text + used, line);
            else
                snprintf(text + used, 2, "%c", *at);
        }
        write_file(text, strlen(text));
        cr_expect_eq(load(&r, &e), cases[i].wanted == NULL, "%s: %s", cases[i].text, e.text);
        if (cases[i].wanted) {
            cr_expect(strstr(e.text, cases[i].wanted) && r.n_entries == 77, "%s: %s", cases[i].text, e.text);
            continue;
        }
        cr_expect(r.n_entries == cases[i].n_cells && r.n_cut == cases[i].n_cut &&
                      r.n_skipped == cases[i].n_skipped,
                  "%s: %zu cells, %zu cut, %zu skipped", cases[i].text, r.n_entries, r.n_cut, r.n_skipped);
        results_free(&r);
        const char *const paths[] = {path};
        const bool some = results_load_some(&r, paths, 1, &e);
        cr_expect_eq(some, cases[i].n_cells > 0, "%s", cases[i].text);
        if (some)
            results_free(&r);
    }
    free(line);
}

Test(results, cells_by_scheme_and_window)
{
    static const struct {
        const char *scheme;
        size_t window;
    } order[] = {{"kivi2", 2}, {"fp32", 1}, {"kivi2", 0}, {"kvq2", 0}, {"fp32", 0}, {"kivi2", 1}};
    static char text[1 << 17];
    for (size_t i = 0; i < 6; i++) {
        char *line = line_of(order[i].scheme, order[i].window, i + 1);
        strcat(text, line);
        free(line);
    }
    write_file(text, strlen(text));
    results r;
    eval_error e = {""};
    cr_assert(load(&r, &e), "%s", e.text);
    cr_assert_str_eq(results_scheme(&r, 0, 0), "kivi2");
    cr_assert_str_eq(results_scheme(&r, 0, 1), "fp32");
    cr_assert_str_eq(results_scheme(&r, 0, 2), "kvq2");
    cr_assert_null(results_scheme(&r, 0, 3));
    cr_assert_null(results_scheme(&r, 1, 0));
    const cell *cells[3] = {NULL, NULL, NULL};
    cr_assert_eq(results_of_scheme(&r, 0, "kivi2", cells, 3), 3);
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(cells[i]->window, i);
    cells[2] = NULL;
    cr_assert_eq(results_of_scheme(&r, 0, "kivi2", cells, 2), 3, "how many there are");
    cr_assert(cells[0]->window == 0 && cells[1]->window == 1 && cells[2] == NULL);
    cr_assert_eq(results_of_scheme(&r, 0, "fp16", cells, 3), 0);
    cr_assert_eq(results_of_scheme(&r, 0, "fp32", NULL, 0), 2);
    results_free(&r);
}

/* Two texts of one name: windows of the same number are pairs only if their tokens are the same. */
Test(results, pairs_are_of_the_same_tokens)
{
    static const struct {
        const char *scheme;
        size_t window;
        uint64_t seed; /* of the ids' checksum, too */
    } order[] = {{"kivi2", 0, 2}, {"kivi2", 0, 1}, {"kivi2", 1, 3}, {"kivi2", 2, 4},
                 {"kvq2", 0, 1},  {"kvq2", 0, 2},  {"kvq2", 1, 5},  {"kvq2", 2, 4}};
    static char text[1 << 17];
    for (size_t i = 0; i < 8; i++) {
        char *line = line_of(order[i].scheme, order[i].window, order[i].seed);
        strcat(text, line);
        free(line);
    }
    write_file(text, strlen(text));
    results r;
    eval_error e = {""};
    cr_assert(load(&r, &e), "%s", e.text);
    const cell *a[4], *b[4];
    cr_assert_eq(results_of_scheme(&r, 0, "kivi2", a, 4), 4);
    cr_assert_eq(results_of_scheme(&r, 0, "kvq2", b, 4), 4);
    cr_assert_eq(results_pair(a, 4, b, 4), 3);
    for (size_t i = 0; i < 3; i++) {
        cr_expect(strcmp(a[i]->scheme, "kivi2") == 0 && strcmp(b[i]->scheme, "kvq2") == 0);
        cr_expect_eq(a[i]->window, i < 2 ? 0 : 2);
        cr_expect_eq(b[i]->window, a[i]->window);
        cr_expect_eq(b[i]->ids_checksum, a[i]->ids_checksum);
    }
    cr_expect_neq(a[0]->ids_checksum, a[1]->ids_checksum);
    results_free(&r);
}

/* A scheme of many layers: whatever may be written must be read again. */
Test(results, the_longest_scheme_comes_back)
{
    static char scheme[65536];
    memset(scheme, 'k', sizeof scheme - 1);
    char *line = line_of(scheme, 0, 1);
    write_file(line, strlen(line));
    free(line);
    results r;
    eval_error e = {""};
    cr_assert(load(&r, &e), "%s", e.text);
    cr_assert_str_eq(r.entries[0].cell.scheme, scheme);
    results_free(&r);
}

Test(results, many_keys_are_found)
{
    const experiment x = some_experiment();
    enum { N = 300 };
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f);
    for (size_t i = 0; i < N; i++) {
        cell c = some_cell(&x, "kivi2", i, 1);
        char *line = results_line(&x, &c);
        fputs(line, f);
        free(line);
        cell_clear(&c);
    }
    fclose(f);
    results r;
    eval_error e = {""};
    cr_assert(load(&r, &e), "%s", e.text);
    cr_assert_eq(r.n_entries, N);
    for (size_t i = 0; i < N; i++) {
        const cell *c = results_find(&r, results_key(&x, "kivi2", i, splitmix64(1, 1)));
        cr_assert(c && c->window == i, "window %zu", i);
    }
    results_free(&r);
}

/* Names are cut to their fields, maybe inside a character. */
Test(results, text_that_is_no_utf8_is_written_and_found_again)
{
    experiment x = some_experiment();
    strcpy(x.text, "caf\xc3");
    cell c = some_cell(&x, "kivi2", 0, 1);
    strcpy(c.worst[0].context, "\xff\xfe");
    char *line = results_line(&x, &c);
    cr_assert_not_null(line);
    write_file(line, strlen(line));
    results r;
    eval_error e = {""};
    cr_assert(load(&r, &e), "%s", e.text);
    cr_assert_str_eq(r.experiments[0].text, "caf?");
    cr_assert_str_eq(r.entries[0].cell.worst[0].context, "??");
    cr_assert_not_null(results_find(&r, results_key(&x, "kivi2", 0, c.ids_checksum)));
    results_free(&r);
    free(line);
    cell_clear(&c);
}
