/* kvq-eval as a user runs it: exit statuses, reports, limits, and one clear line for everything that is
 * wrong. */
#define _XOPEN_SOURCE 700

#include "eval/report/columns.h"
#include "eval/report/report.h"
#include "tests/tool.h"

#include <criterion/parameterized.h>

TestSuite(cli, .init = enter, .fini = leave);

/* ---- what people read ---- */

/* Lines, and what is left out of the table, follow the terminal's width; 100 where there is none. */
Test(cli, the_report_fits_the_width_and_ends_with_sentences)
{
    static const struct {
        const char *columns;
        size_t width;
        const char *shown, *left_out;
    } cases[] = {
        {"unset COLUMNS", 100, "perplexity   change\n", "K error, V error"},
        {"export COLUMNS=80", 80, "same   change\n", "perplexity"},
        {"export COLUMNS=100", 100, "perplexity   change\n", "K error, V error"},
        {"export COLUMNS=120", 120, "change    s.e.\n", "K error, V error, K err. packed"},
        {"export COLUMNS=140", 140, "      K       V   attn.", "K err. packed, V err. packed"},
        {"export COLUMNS=wide", 100, "perplexity   change\n", "K error, V error"},
        {"export COLUMNS=200", 200, "  K err.  V err.", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(run("%s; $E " SMALL "--scheme kivi4,r=32", cases[i].columns), 0);
        cr_assert(strstr(out, "\nfp32 ") && strstr(out, "\nkivi2,r=32 ") && strstr(out, "\nkivi4,r=32 "),
                  "%s", out);
        cr_expect(strstr(out, cases[i].shown), "%s: %s", cases[i].columns, out);
        char line[64];
        snprintf(line, sizeof line, "\nNot shown at a width of %zu: ", cases[i].width);
        const char *left_out = strstr(out, line);
        cr_expect_eq(left_out == NULL, cases[i].left_out == NULL, "%s: %s", cases[i].columns, out);
        if (left_out && cases[i].left_out)
            cr_expect(strstr(left_out, cases[i].left_out), "%s: %s", cases[i].columns, out);
        cr_assert(strstr(out, "\n\nkivi4,r=32 keeps the cache of 80 tokens") &&
                      strstr(out, "perplexity goes") && strstr(out, "\nNext to kivi2,r=32, kivi4,r=32 has "),
                  "%s", out);
        cr_assert(!strchr(out, '\033'), "colour without a terminal");
        cr_assert_eq(err[0], '\0', "%s", err);
        size_t longest = 0;
        for (const char *at = out; *at;) {
            const size_t length = strcspn(at, "\n");
            cr_expect_leq(length, cases[i].width, "%s: %.*s", cases[i].columns, (int)length, at);
            cr_expect(length == 0 || at[length - 1] != ' ', "a space at the end of '%.*s'", (int)length, at);
            longest = length > longest ? length : longest;
            at += length + 1;
        }
        cr_expect_geq(longest, cases[i].width < 130 ? cases[i].width - 5 : 130, "%s", out);
    }
}

Test(cli, the_bound_is_asked_for_as_told)
{
    static const struct {
        const char *option;
        int every;
    } cases[] = {{"", 10}, {"--bound 16", 16}, {"--bound off", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(run("$E " SMALL "%s --json -", cases[i].option), 0, "%s", err);
        json_t *root = load_json(out);
        const json_t *every = json_object_get(root, "bound_every");
        const json_t *local = json_object_get(json_array_get(json_object_get(root, "runs"), 1), "local");
        cr_expect_eq(json_integer_value(every), cases[i].every, "%s", cases[i].option);
        cr_expect_eq(json_is_null(every), cases[i].every == 0);
        cr_expect_eq(json_is_null(json_object_get(local, "bound_max")), cases[i].every == 0);
        json_decref(root);
    }
}

Test(cli, markdown_and_per_layer)
{
    cr_assert_eq(run("$E " SMALL "--markdown --per-layer"), 0);
    cr_assert(strstr(out, "| scheme | cache bytes | bits packed |") &&
              strstr(out, "| layer | head | K error |"));
    cr_assert(strstr(out, "| 5 | 3 |"), "six layers of four heads");
}

Test(cli, random_weights_leave_quality_out)
{
    cr_assert_eq(run("$E --model random:2,2,32,128,100 --residual 32"), 0);
    cr_assert(strstr(out, "weights are random") && !strstr(out, "top-1"), "%s", out);
    cr_assert_eq(run("$E --model random:2,2,32,128,100 --residual 32 --json -"), 0);
    json_t *root = load_json(out);
    json_t *r = json_array_get(json_object_get(root, "runs"), 1);
    cr_assert(json_object_get(r, "local") && !json_object_get(r, "propagated"));
    json_decref(root);
    cr_assert_eq(run("$E --model random:2,2,32,128,100 --residual 32 --csv -"), 0);
    cr_assert_eq(n_lines(out), 3);
}

/* ---- what programs read ---- */

typedef struct key {
    const char *name;
    char type; /* s string, i integer, r real, b boolean, o object, a array, n real or null */
} key;

static void check_keys(const json_t *object, const char *where, const key *keys, size_t n)
{
    cr_assert(json_is_object(object), "%s", where);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_object_get(object, keys[i].name);
        const char t = keys[i].type;
        const bool good = t == 's'   ? json_is_string(v)
                          : t == 'i' ? json_is_integer(v)
                          : t == 'r' ? json_is_real(v)
                          : t == 'b' ? json_is_boolean(v)
                          : t == 'o' ? json_is_object(v)
                          : t == 'a' ? json_is_array(v)
                                     : json_is_real(v) || json_is_null(v);
        cr_expect(good, "%s.%s is missing or of another type", where, keys[i].name);
    }
    cr_expect_eq(json_object_size(object), n, "%s has other keys, too", where);
}

#define CHECK_KEYS(object, where, ...)                                                                       \
    do {                                                                                                     \
        static const key keys_[] = {__VA_ARGS__};                                                            \
        check_keys(object, where, keys_, sizeof keys_ / sizeof keys_[0]);                                    \
    } while (0)

/* A run of SMALL has every column of the list, in its object, and nothing else but the arrays per window and
 * per layer. */
static void check_run(const json_t *r)
{
    size_t n_found[N_PARTS] = {0}, n_top = 2;
    for (size_t i = 0; i < n_columns; i++) {
        const column *c = &columns[i];
        const char *object = column_parts[c->part].object;
        const json_t *o = object ? json_object_get(r, object) : r, *v = json_object_get(o, c->name);
        const bool good = c->unit == UNIT_TEXT ? json_is_string(v)
                          : c->unit == UNIT_COUNT || c->unit == UNIT_BYTES
                              ? json_is_integer(v) || json_is_null(v)
                              : json_is_real(v) || json_is_null(v);
        cr_expect(good, "%s is missing or of another type", c->name);
        n_top += object ? n_found[c->part] == 0 : 1;
        n_found[c->part]++;
        if (object)
            cr_expect_leq(n_found[c->part], json_object_size(o), "%s", c->name);
    }
    for (size_t p = 0; p < N_PARTS; p++)
        if (column_parts[p].object)
            cr_expect_eq(json_object_size(json_object_get(r, column_parts[p].object)), n_found[p],
                         "%s has other keys, too", column_parts[p].object);
    cr_expect_eq(json_object_size(r), n_top, "a run has other keys, too");
    const json_t *layers = json_object_get(r, "per_layer");
    cr_assert_eq(json_array_size(layers), 6 * 4);
    CHECK_KEYS(json_array_get(layers, 23), "per_layer", {"layer", 'i'}, {"head", 'i'}, {"k_rel_l2", 'r'},
               {"v_rel_l2", 'r'}, {"k_rel_l2_packed", 'n'}, {"v_rel_l2_packed", 'n'}, {"attn_rel_l2", 'r'},
               {"attn_max_abs", 'r'}, {"attn_prob_kl", 'r'});
}

static double number(const json_t *r, const char *part, const char *name)
{
    return json_number_value(json_object_get(json_object_get(r, part), name));
}

Test(cli, json_has_every_key_and_fp32_is_exactly_zero)
{
    cr_assert_eq(run("$E " SMALL "--scheme fp32 --json -"), 0);
    json_t *root = load_json(out);
    CHECK_KEYS(root, "report", {"schema", 's'}, {"version", 's'}, {"isa", 's'}, {"precision", 's'},
               {"append_only", 'b'}, {"bound_every", 'i'}, {"threads", 'i'}, {"seed", 'i'},
               {"uncertainty", 'o'}, {"partial", 'b'}, {"model", 'o'}, {"text", 'o'}, {"runs", 'a'});
    cr_assert_str_eq(json_string_value(json_object_get(root, "schema")), "kvq-eval/1");
    CHECK_KEYS(json_object_get(root, "model"), "model", {"name", 's'}, {"n_layer", 'i'}, {"n_head", 'i'},
               {"n_kv_head", 'i'}, {"architecture", 's'}, {"attn_window", 'n'}, {"n_layer_windowed", 'i'},
               {"weights", 's'}, {"head_dim", 'i'}, {"n_ctx", 'i'}, {"n_params", 'i'}, {"checksum", 's'},
               {"head", 's'});
    CHECK_KEYS(json_object_get(root, "text"), "text", {"name", 's'}, {"n_tokens", 'i'}, {"n_windows", 'i'},
               {"n_windows_asked", 'i'}, {"bos_id", 'n'});
    cr_assert(json_is_false(json_object_get(root, "partial")));
    const json_t *runs = json_object_get(root, "runs");
    cr_assert_eq(json_array_size(runs), 2);
    for (size_t i = 0; i < 2; i++)
        check_run(json_array_get(runs, i));
    const json_t *fp32 = json_array_get(runs, 0), *kivi = json_array_get(runs, 1);
    cr_assert_str_eq(json_string_value(json_object_get(fp32, "scheme")), "fp32");
    cr_assert_str_eq(json_string_value(json_object_get(kivi, "scheme")), "kivi2,r=32");
    static const char *const local[] = {"k_rel_l2", "v_rel_l2", "attn_rel_l2", "attn_max_abs",
                                        "attn_prob_kl"};
    static const char *const propagated[] = {"kld_mean", "kld_p99", "kld_max"};
    for (size_t i = 0; i < 5; i++) {
        cr_expect_eq(number(fp32, "local", local[i]), 0.0, "%s", local[i]);
        cr_expect_gt(number(kivi, "local", local[i]), 0.0, "%s", local[i]);
    }
    for (size_t i = 0; i < 3; i++) {
        cr_expect_eq(number(fp32, "propagated", propagated[i]), 0.0, "%s", propagated[i]);
        cr_expect_gt(number(kivi, "propagated", propagated[i]), 0.0, "%s", propagated[i]);
    }
    cr_assert_eq(number(fp32, "propagated", "ppl"), number(kivi, "propagated", "ppl_fp32"));
    json_decref(root);
}

/* The schemes of the CSV's rows, each followed by a blank. */
static void expect_schemes(const char *options, const char *schemes)
{
    char found[1024] = "";
    cr_assert_eq(run("$E --windows 1 --tokens 16 --csv - %s", options), 0, "%s", err);
    for (const char *line = strchr(out, '\n') + 1; *line; line = strchr(line, '\n') + 1) {
        const size_t used = strlen(found);
        snprintf(found + used, sizeof found - used, "%.*s ", (int)strcspn(line + 1, "\""), line + 1);
    }
    cr_expect_str_eq(found, schemes, "%s: %s", options, found);
}

#define KIVI_DEFAULT "\"kivi2\",2,2,32,128,\"kivi\",\"f32\",0,"

Test(cli, no_option_at_all_is_kivi2_and_kvq2)
{
    expect_schemes("", "fp32 kivi2 kvq2 ");
    cr_assert(strstr(out, "\n" KIVI_DEFAULT), "%s", out);
    cr_assert(strstr(out, "\n\"kvq2\",0,2,0,128,\"sliding\",\"f16/i8\",4,"), "%s", out);
    expect_schemes("--bits 2", "fp32 kivi2 ");
    cr_assert(strstr(out, "\n" KIVI_DEFAULT), "%s", out);
    expect_schemes("--scheme kvq4", "fp32 kvq4 ");
    expect_schemes("--scheme fp32", "fp32 ");
    expect_schemes("--scheme kvq3 --bits 4", "fp32 kivi4 kvq3 ");
}

/* 24 schemes: KIVI as published and with what the others have, ours, the rivals. After what was asked for. */
#define COMPARED                                                                                             \
    "kivi2 kivi2,mode=sliding,rtype=f16/i8,s=4 kivi4,mode=sliding,rtype=f16/i8,s=4 kvq1.5 kvq2 kvq2-fb "     \
    "kvq2.5 kvq3 kvq4 q4_0 q4_1 q8_0 turbo1 turbo2 turbo2-nc turbo3 turbo3-nc turbo4 turbo4-nc kvarn2 "      \
    "kvarn4 quarot2 quarot4 nuq2 "

Test(cli, compare_has_all_rivals)
{
    expect_schemes("--compare", "fp32 " COMPARED);
    expect_schemes("--compare --scheme kivi8 --residual 32", "fp32 kivi2,r=32 kivi8 " COMPARED);
}

Test(cli, csv_rows_have_as_many_fields_as_the_header)
{
    cr_assert_eq(run("$E " SMALL "--csv -"), 0);
    size_t expected = 0;
    for (const char *line = out; *line; line = strchr(line, '\n') + 1) {
        size_t n = 1;
        bool quoted = false;
        for (const char *c = line; *c != '\n'; c++) {
            quoted = quoted != (*c == '"');
            n += *c == ',' && !quoted;
        }
        expected = expected ? expected : n;
        cr_expect_eq(n, expected, "%s", line);
    }
    cr_assert_geq(expected, 30);
}

Test(cli, logits_are_a_numpy_array)
{
    cr_assert_eq(run("$E --windows 1 --tokens 16 --prompt 4 --quiet --logits logits.npy"), 0);
    char path[256], head[128];
    snprintf(path, sizeof path, "%s/logits.npy", work);
    FILE *f = fopen(path, "rb");
    cr_assert(f && fread(head, 1, 128, f) == 128);
    cr_assert_eq(memcmp(head, "\x93NUMPY\x01\x00\x76\x00{'descr': '", 21), 0);
    cr_assert(strstr(head + 10, "'shape': (16, 4096), }") && head[127] == '\n');
    fseek(f, 0, SEEK_END);
    cr_assert_eq(ftell(f), 128 + 16 * 4096 * 4);
    fclose(f);
}

Test(cli, a_report_replaces_the_old_one_whole)
{
    write_text("report.json", "old", 3);
    cr_assert_eq(run("$E " SMALL "--json report.json --csv report.csv"), 0);
    cr_assert(strstr(out, "perplexity"), "the table is still shown");
    static char text[1 << 17];
    read_file("report.json", text, sizeof text);
    json_decref(load_json(text));
    cr_assert_eq(n_files(), 2, "temporary files are left");
}

/* The run is done and its table shown, whatever becomes of the files; and of two files one is written all
 * the same. */
Test(cli, a_report_that_cannot_be_written_costs_no_run)
{
    static char text[1 << 17];
    static const char *const cases[] = {"--json /dev/full --csv report", "--csv /dev/full --json report",
                                        "--logits /dev/full --json report"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("rm -f report; $E " SMALL "%s", cases[i]), 1, "%s", cases[i]);
        cr_expect(strstr(out, "\nkivi2,r=32 keeps the cache") && strstr(out, "perplexity goes from"),
                  "%s: %s", cases[i], out);
        cr_expect(strstr(err, "/dev/full: write failed: No space left") && n_lines(err) == 1, "%s: %s",
                  cases[i], err);
        cr_expect_gt(read_file("report", text, sizeof text), 100, "%s", cases[i]);
    }
    cr_expect_eq(run("$E " SMALL "--json /dev/full --csv /dev/full"), 1);
    cr_expect_eq(n_lines(err), 2, "one line for each: %s", err);
}

/* ---- the head ---- */

/* data/gpt2-6m, whose config.json ties the head, with an lm_head.weight all the same: wte.weight, but for
 * its last value if `differs`. */
static void make_model_with_head(const char *name, bool differs)
{
    cr_assert_eq(run("mkdir %s; cp '%s'/gpt2-6m/*.json '%s'/gpt2-6m/merges.txt %s", name, DATA, DATA, name),
                 0);
    FILE *f = fopen(DATA "/gpt2-6m/model.safetensors", "rb");
    uint64_t length = 0;
    cr_assert(f && fread(&length, 1, 8, f) == 8 && length < 1 << 20);
    char *header = calloc(1, length + 1);
    cr_assert_eq(fread(header, 1, length, f), length);
    json_t *root = load_json(header), *wte = json_object_get(root, "wte.weight");
    wte = wte ? wte : json_object_get(root, "transformer.wte.weight");
    const json_t *offsets = json_object_get(wte, "data_offsets");
    const long begin = (long)json_integer_value(json_array_get(offsets, 0)),
               n = (long)json_integer_value(json_array_get(offsets, 1)) - begin;
    cr_assert_eq(fseek(f, 0, SEEK_END), 0);
    const long n_data = ftell(f) - 8 - (long)length;
    char *data = malloc((size_t)(n_data + n));
    cr_assert_eq(fseek(f, 8 + (long)length, SEEK_SET), 0);
    cr_assert_eq(fread(data, 1, (size_t)n_data, f), (size_t)n_data);
    fclose(f);
    memcpy(data + n_data, data + begin, (size_t)n);
    if (differs)
        data[n_data + n - 2] ^= 1; /* of a little-endian number: not the exponent */
    json_t *head = json_deep_copy(wte);
    json_object_set_new(head, "data_offsets",
                        json_pack("[I, I]", (json_int_t)n_data, (json_int_t)(n_data + n)));
    json_object_set_new(root, "lm_head.weight", head);
    char *text = json_dumps(root, JSON_COMPACT), path[64];
    length = strlen(text);
    char *file = malloc(8 + length + (size_t)(n_data + n));
    memcpy(file, &length, 8);
    memcpy(file + 8, text, length);
    memcpy(file + 8 + length, data, (size_t)(n_data + n));
    snprintf(path, sizeof path, "%s/model.safetensors", name);
    write_text(path, file, 8 + length + (size_t)(n_data + n));
    json_decref(root);
    free(header), free(data), free(text), free(file);
}

static const char *head_of_report(void)
{
    json_t *root = load_json(out);
    const char *head = json_string_value(json_object_get(json_object_get(root, "model"), "head"));
    static char copy[64];
    snprintf(copy, sizeof copy, "%s", head ? head : "?");
    json_decref(root);
    return copy;
}

Test(cli, a_head_that_is_not_tied_is_told)
{
    make_model_with_head("same", false);
    make_model_with_head("other", true);
    cr_assert_eq(run("$E " SMALL "--model same --json -"), 0, "%s", err);
    cr_assert_str_empty(err);
    cr_assert_str_eq(head_of_report(), "wte.weight");
    cr_assert_eq(run("$E " SMALL "--model other --json -"), 0, "%s", err);
    cr_assert(strstr(err, "kvq-eval: note: other: config.json says tie_word_embeddings, but") &&
                  n_lines(err) == 1,
              "%s", err);
    cr_assert_str_eq(head_of_report(), "lm_head.weight");
}

/* ---- the seed ---- */

/* The report of random weights without its times, which are never the same. */
static json_t *report_of_seed(int seed)
{
    cr_assert_eq(run("$E --model random:2,2,32,128,100 --residual 32 --seed %d --json -", seed), 0, "%s",
                 err);
    json_t *root = load_json(out), *r;
    size_t i;
    json_array_foreach(json_object_get(root, "runs"), i, r)
    {
        cr_assert_eq(json_object_del(r, "seconds"), 0);
    }
    return root;
}

Test(cli, the_seed_is_used_and_reported)
{
    json_t *a = report_of_seed(1), *again = report_of_seed(1), *b = report_of_seed(2);
    cr_assert_eq(json_integer_value(json_object_get(a, "seed")), 1);
    cr_assert_eq(json_integer_value(json_object_get(b, "seed")), 2);
    cr_assert(json_equal(a, again), "the same seed gives another result");
    cr_assert(!json_equal(json_object_get(a, "runs"), json_object_get(b, "runs")),
              "two seeds give the same result");
    const json_t *checksums[] = {json_object_get(json_object_get(a, "model"), "checksum"),
                                 json_object_get(json_object_get(b, "model"), "checksum")};
    cr_assert(!json_equal(checksums[0], checksums[1]), "two seeds give the same weights");
    json_decref(a);
    json_decref(again);
    json_decref(b);
}

/* ---- where texts come from, and where reports go ---- */

Test(cli, a_text_may_come_through_a_pipe)
{
    static char file[1 << 17];
    cr_assert_eq(run("$E " SMALL "--text '%s/sample.txt' --csv -", DATA), 0, "%s", err);
    strcpy(file, out);
    *strrchr(file, ',') = '\0'; /* without partial */
    *strrchr(file, ',') = '\0'; /* nor the last row's seconds */
    static const char *const ways[] = {"cat \"$T\" | $E " SMALL "--text - --csv -",
                                       "$E " SMALL "--text - --csv - <\"$T\"",
                                       "cat \"$T\" | $E " SMALL "--text /dev/stdin --csv -",
                                       "mkfifo .p; cat \"$T\" >.p & $E " SMALL "--text .p --csv -"};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        cr_assert_eq(run("T='%s/sample.txt'; %s", DATA, ways[i]), 0, "%s: %s", ways[i], err);
        const char *a = strstr(out, "\"kivi2"), *b = strstr(file, "\"kivi2");
        cr_assert(a && b && strncmp(a, b, strlen(b)) == 0, "%s: other figures than from the file: %s",
                  ways[i], out);
    }
    cr_assert_eq(run("cat '%s/sample.txt' | $E " SMALL "--text -", DATA), 0);
    cr_assert(strstr(out, ", standard input: 1 window of 80 tokens"), "%s", out);
    cr_assert_eq(run("$E --text - <.err"), 1); /* which is empty */
    cr_assert(strstr(err, "standard input: 0 tokens found"), "%s", err);
    cr_assert_eq(run("printf 'caf\\351' | $E --text -"), 1);
    cr_assert(strstr(err, "standard input") && strstr(err, "byte 3"), "%s", err);
    cr_assert_eq(run("$E --text - <."), 1);
    cr_assert(strstr(err, "standard input: is a directory"), "%s", err);
}

/* Whatever is read and would be written, by another name or as a part of a model. */
Test(cli, inputs_are_not_overwritten)
{
    static const char *const cases[] = {
        SMALL "--text text --json text",
        SMALL "--text text --csv link",
        SMALL "--text text --per-token hard",
        SMALL "--model m --json m/config.json",
        SMALL "--model m --logits m/model.safetensors",
        SMALL "--kv kv.safetensors --json kv.safetensors",
        "dump --model m --tokens 50 --out m/model.safetensors",
        "report cells.jsonl --html cells.jsonl",
    };
    cr_assert_eq(
        run("cp -r '%s'/gpt2-6m m; chmod -R u+w m; cp '%s'/sample.txt text; ln -s text link; ln text hard; "
            "$E dump --tokens 80 --out kv.safetensors && "
            "$E sweep --tokens 50 --windows 1 --quiet --out cells.jsonl --scheme kivi2 && cat m/* text "
            "kv.safetensors cells.jsonl | cksum >../sum",
            DATA, DATA),
        0, "%s", err);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("$E %s", cases[i]), 1, "%s: %s", cases[i], err);
        cr_expect(strstr(err, "is an input of this command"), "%s: %s", cases[i], err);
    }
    cr_assert_eq(run("cat m/* text kv.safetensors cells.jsonl | cksum | cmp - ../sum"), 0, "%s", out);
    cr_assert_eq(run("$E merge cells.jsonl --out cells.jsonl"), 0, "its cells are still there: %s", err);
}

Test(cli, one_file_by_two_names_is_refused)
{
    static const char *const cases[] = {
        "--json a --csv ./a",         "--json a --csv $PWD/a",
        "--json a --csv sub/../a",    "--json a --csv there/../a",
        "--json a --logits dangling", "--csv dangling --json chain",
        "--json there/x --csv sub/x", "--json old --csv hard",
        "--json old --csv soft",      "--json no/where --csv no/where",
    };
    cr_assert_eq(
        run("mkdir sub; ln -s sub there; ln -s a dangling; ln -s dangling chain; echo old >old; ln old hard; "
            "ln -s \"$PWD/old\" soft"),
        0);
    const size_t before = n_files();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("$E %s", cases[i]), 2, "%s: %s", cases[i], err);
        cr_expect(strstr(err, "are one file"), "%s: %s", cases[i], err);
    }
    cr_assert_eq(n_files(), before);
    /* And what must not be taken for one. */
    cr_assert_eq(run("$E " SMALL "--json a --csv sub/a && $E " SMALL "--json /dev/null --csv /dev/null"), 0,
                 "%s", err);
}

/* The file behind a symbolic link is replaced or made; the link stays. */
Test(cli, a_report_goes_through_a_symbolic_link)
{
    static char text[1 << 17];
    cr_assert_eq(run("mkdir sub; echo old >sub/old; ln -s sub/old link; ln -s ../new.csv sub/dangling; "
                     "$E " SMALL "--json link --csv sub/dangling"),
                 0, "%s", err);
    cr_assert_eq(run("test -L link && test -L sub/dangling && test ! -L sub/old && test ! -L new.csv"), 0);
    read_file("sub/old", text, sizeof text);
    json_decref(load_json(text));
    read_file("new.csv", text, sizeof text);
    cr_assert_eq(strncmp(text, "scheme,", 7), 0);
    cr_assert_eq(run("test \"$(ls -A sub)\" = \"$(printf 'dangling\\nold')\""), 0,
                 "temporary files are left");
    cr_assert_eq(run("ln -s round a; ln -s a round; $E " SMALL "--json a"), 1);
    cr_assert(strstr(err, "a: not a usable file name"), "%s", err);
}

/* ---- limits ---- */

Test(cli, limits_give_status_3_and_a_line_each)
{
    cr_assert_eq(run("$E " SMALL "--max-kld 100 --max-attn-error 1 --max-ppl-increase 1000 --min-ratio 0.01"),
                 0);
    cr_assert_eq(err[0], '\0', "%s", err);
    /* kivi2,r=32 at 80 tokens: smaller than fp32, larger than fp16; the limit is about fp32. */
    cr_assert_eq(run("$E " SMALL "--min-ratio 1.01"), 0, "%s", err);
    cr_assert_eq(run("$E " SMALL "--max-kld 0 --max-attn-error 0.001 --max-ppl-increase 1000 --min-ratio 99"),
                 3);
    cr_assert_eq(n_lines(err), 3, "%s", err);
    cr_assert(strstr(err, "--max-kld 0\n") && strstr(err, "--max-attn-error 0.001\n") &&
              strstr(err, "--min-ratio 99\n"));
    cr_assert_eq(
        run("$E " SMALL "--scheme fp32 --bits 32 --max-kld 0 --max-attn-error 0 --max-ppl-increase 0"), 0,
        "%s", err);
}

/* ---- what is wrong ---- */

typedef struct bad {
    char command[256];
    char wanted[2][80]; /* must be in the message */
    int status;
} bad;

ParameterizedTestParameters(cli, bad_input_gets_one_line)
{
    static bad list[] = {
        {"$E --model nowhere", {"nowhere/config.json", "No such file"}, 1},
        {"$E --model short.txt", {"short.txt", ""}, 1},
        {"$E --model random:gpt5", {"random:gpt5", ""}, 1},
        {"$E --model truncated", {"truncated/model.safetensors", ""}, 1},
        {"$E --model nan", {"nan/model.safetensors", "expected a finite number"}, 1},
        {"$E --model mismatch", {"mismatch/model.safetensors", "wpe"}, 1},
        {"$E --model novocab", {"novocab: neither tokenizer.json nor vocab.json", ""}, 1},
        {"$E --model epsilon", {"epsilon/config.json", "layer_norm_epsilon is 2.5"}, 1},
        {"$E --model type", {"type/config.json", "model_type is 7"}, 1},
        {"$E --model tied", {"tied/config.json", "tie_word_embeddings is \"yes\""}, 1},
        {"$E --model novocab/model.safetensors",
         {"novocab/model.safetensors: byte 0", "the folder is wanted"},
         1},
        {"$E tokenize --model cut/config.json", {"cut/config.json: byte 0", "the folder is wanted"}, 1},
        {"$E --model typeless", {"typeless/config.json: model_type is missing, expected gpt2, llama", ""}, 1},
        {"$E --model cut", {"cut/merges.txt: 100 merges found", "makes token "}, 1},
        {"$E --model gap", {"gap/vocab.json", "4095 tokens need the ids 0 to 4094"}, 1},
        {"$E --text missing.txt", {"missing.txt", "No such file"}, 1},
        {"$E --text .", {".: is a directory", "expected a file"}, 1},
        {"$E --text empty.txt", {"empty.txt", "0 tokens found"}, 1},
        {"$E --text short.txt", {"short.txt", "1024 needed"}, 1},
        {"$E --text latin1.txt --tokens 4", {"latin1.txt", "byte 3"}, 1},
        {"$E --windows 99", {"sample.txt", "101376 needed"}, 1},
        {"$E --tokens 1025", {"--tokens 1025", "context of 1024"}, 1},
        {"$E --context 2048", {"--context 2048", "1024"}, 1},
        {"$E --context 64 --tokens 65", {"--tokens 65", "context of 64"}, 1},
        {"$E --tokens 64 --prompt 63", {"--prompt 63", "64"}, 1},
        {"$E --generate 2000", {"--generate 2000", "1024"}, 1},
        {"$E --generate 2 --prompt 0", {"--prompt 0", "at least 1"}, 1},
        {"KVQ_ISA=abacus $E", {"KVQ_ISA=abacus", ""}, 1},
        {"KVQ_DATA_DIR=/nowhere $E", {"/nowhere/gpt2-6m/config.json", "No such file"}, 1},
        {"$E " SMALL "--json no/where.json", {"no/where.json", "No such file"}, 1},
        {"$E " SMALL "--csv .", {".: cannot write", "directory"}, 1},
        {"$E " SMALL "--logits no/where.npy", {"no/where.npy", "No such file"}, 1},
        {"$E " SMALL "--json /dev/full", {"/dev/full", "No space left"}, 1},
        {"$E " SMALL "--logits /dev/full", {"/dev/full: write failed", "No space left"}, 1},
        {"$E " SMALL "--csv /dev/full", {"/dev/full: write failed", "No space left"}, 1},
        {"$E " SMALL "--logits - >/dev/full", {"standard output: write failed", "No space left"}, 1},
        {"$E " SMALL "--json - >/dev/full", {"standard output", ""}, 1},
        {"$E " SMALL ">/dev/full", {"standard output", ""}, 1},
        {"$E --help >/dev/full", {"standard output", ""}, 1},
    };
    return cr_make_param_array(bad, list, sizeof list / sizeof list[0]);
}

/* Model directories that are wrong in one way each. */
static void make_bad_inputs(void)
{
    static const char latin1[] = {'c', 'a', 'f', (char)0xe9, ' ', 'a', 'u', ' ', 'l', 'a', 'i', 't'};
    write_text("latin1.txt", latin1, sizeof latin1);
    write_text("short.txt", "Too short.\n", 11);
    write_text("empty.txt", "", 0);
    const int status =
        run("M='%s/gpt2-6m'; for d in truncated nan mismatch novocab; do mkdir $d; cp $M/*.json "
            "$M/merges.txt $d; done; "
            "head -c 4000000 $M/model.safetensors > truncated/model.safetensors; "
            "cp $M/model.safetensors nan/; ls -l nan/model.safetensors | awk '{print $5}' > size; "
            "printf '\\377\\177' | dd of=nan/model.safetensors bs=1 seek=$(( $(cat size) - 2 )) conv=notrunc "
            "2>/dev/null; "
            "rm size; cp $M/model.safetensors mismatch/; chmod u+w */*; "
            "sed 's/1024/512/' $M/config.json > mismatch/config.json; "
            "cp $M/model.safetensors novocab/; rm novocab/vocab.json; "
            "for d in epsilon type tied cut gap; do mkdir $d; cp $M/*.json $M/merges.txt $d; chmod u+w $d/*; "
            "ln -s $M/model.safetensors $d; done; "
            "sed 's/1e-05/2.5/' $M/config.json > epsilon/config.json; "
            "sed 's/\"gpt2\"/7/' $M/config.json > type/config.json; "
            "mkdir typeless; echo '{\"hidden_size\": 8}' > typeless/config.json; "
            "sed 's/true/\"yes\"/' $M/config.json > tied/config.json; "
            "head -n 101 $M/merges.txt > cut/merges.txt; "
            "sed 's/\"!\": *[0-9]*, *//' $M/vocab.json > gap/vocab.json",
            DATA);
    cr_assert_eq(status, 0, "%s", err);
}

ParameterizedTest(const bad *b, cli, bad_input_gets_one_line)
{
    enter();
    make_bad_inputs();
    const size_t before = n_files();
    const int status = run("%s", b->command);
    cr_expect_eq(status, b->status, "%s: status %d", b->command, status);
    cr_expect_eq(n_lines(err), 1, "%s: %s", b->command, err);
    cr_expect_eq(strncmp(err, "kvq-eval: ", 10), 0, "%s", err);
    for (int i = 0; i < 2; i++)
        cr_expect(strstr(err, b->wanted[i]), "%s: '%s' is not in: %s", b->command, b->wanted[i], err);
    cr_expect_eq(n_files(), before, "%s: left a file behind", b->command);
    leave();
}

/* One layer of width 16 with the default model's vocabulary; `big` is what the head's weights are. */
static void write_tiny_model(float big)
{
    static const struct {
        const char *name;
        size_t shape[2]; /* the second 0: one dimension */
    } tensors[] = {
        {"wte.weight", {4096, 16}},        {"wpe.weight", {64, 16}},
        {"ln_f.weight", {16, 0}},          {"ln_f.bias", {16, 0}},
        {"lm_head.weight", {4096, 16}},    {"h.0.ln_1.weight", {16, 0}},
        {"h.0.ln_1.bias", {16, 0}},        {"h.0.attn.c_attn.weight", {16, 48}},
        {"h.0.attn.c_attn.bias", {48, 0}}, {"h.0.attn.c_proj.weight", {16, 16}},
        {"h.0.attn.c_proj.bias", {16, 0}}, {"h.0.ln_2.weight", {16, 0}},
        {"h.0.ln_2.bias", {16, 0}},        {"h.0.mlp.c_fc.weight", {16, 64}},
        {"h.0.mlp.c_fc.bias", {64, 0}},    {"h.0.mlp.c_proj.weight", {64, 16}},
        {"h.0.mlp.c_proj.bias", {16, 0}},
    };
    static char file[1 << 20];
    char *header = file + 8;
    size_t used = 0, n_bytes = 0;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        const size_t *shape = tensors[i].shape, n = shape[0] * (shape[1] ? shape[1] : 1);
        char second[24] = "";
        if (shape[1])
            snprintf(second, sizeof second, ",%zu", shape[1]);
        used += (size_t)sprintf(header + used,
                                "%c\"%s\":{\"dtype\":\"F32\",\"shape\":[%zu%s],\"data_offsets\":[%zu,%zu]}",
                                i ? ',' : '{', tensors[i].name, shape[0], second, n_bytes, n_bytes + 4 * n);
        n_bytes += 4 * n;
    }
    used += (size_t)sprintf(header + used, "}");
    for (size_t i = 0; i < 8; i++)
        file[i] = (char)(used >> (8 * i) & 0xff);
    size_t at = 8 + used;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        const size_t n = tensors[i].shape[0] * (tensors[i].shape[1] ? tensors[i].shape[1] : 1);
        for (size_t j = 0; j < n; j++, at += 4) {
            const float size = strcmp(tensors[i].name, "lm_head.weight") == 0 ? big : 0.5f;
            const float x = (j * 2654435761u >> 7) % 2 ? size : -size;
            memcpy(file + at, &x, 4);
        }
    }
    cr_assert_eq(run("mkdir -p tiny && cp '%s'/gpt2-6m/vocab.json '%s'/gpt2-6m/merges.txt tiny", DATA, DATA),
                 0);
    write_text("tiny/model.safetensors", file, at);
    static const char config[] = "{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_head\": 1, \"n_embd\": 16, "
                                 "\"n_positions\": 64, \"vocab_size\": 4096, "
                                 "\"tie_word_embeddings\": false}";
    write_text("tiny/config.json", config, sizeof config - 1);
}

/* Weights of 3e38: every one of them is finite, and no logit is. */
Test(cli, logits_that_are_not_finite_are_an_error)
{
    write_tiny_model(1.0f);
    cr_assert_eq(run("$E --model tiny --residual 32 --windows 2"), 0, "%s", err);
    cr_assert(!strstr(out, "nan") && !strstr(out, "inf"), "%s", out);
    write_tiny_model(3e38f);
    cr_assert_eq(run("$E --model tiny --residual 32 --windows 2 --prompt 3 --json report.json"), 1);
    cr_assert_str_eq(err,
                     "kvq-eval: scheme fp32: window 0, token 3: the logits are not finite (NaN or Inf)\n");
    cr_assert(out[0] == '\0' && n_files() == 1, "no report of such a run");
}

Test(cli, a_failure_keeps_the_old_report)
{
    write_text("report.json", "old", 3);
    write_text("short.txt", "Too short.\n", 11);
    char text[16];
    cr_assert_eq(run("$E --text short.txt --json report.json --logits logits.npy"), 1);
    read_file("report.json", text, sizeof text);
    cr_assert_str_eq(text, "old");
    /* A file that may not grow: the write itself fails. 2 KB, because LLVM's OpenMP wants 1 KB of shared
     * memory. */
    cr_assert_eq(run("ulimit -f 4; $E " SMALL "--json report.json"), 1);
    cr_assert(strstr(err, "report.json: write failed: File too large"), "%s", err);
    read_file("report.json", text, sizeof text);
    cr_assert_str_eq(text, "old");
    cr_assert_eq(n_files(), 2, "temporary files are left");
}

ParameterizedTestParameters(cli, bad_usage_is_status_2)
{
    static char list[][80] = {
        "--json= ",
        "--model=",
        "--text=",
        "--json a --csv a",
        "--json a --csv ./a",
        "--logits .//a --csv a",
        "--csv short --logits link",
        "--bogus",
        "word",
        "--bits two",
        "--bits 7",
        "--bits 02",
        "--k-bits 9",
        "--v-bits 0",
        "--group 33",
        "--group full",
        "--residual 33",
        "--residual 0",
        "--residual 1073741825",
        "--sinks 1048577",
        "--bits",
        "--residual -1",
        "--residual-mode soft",
        "--residual-dtype f64",
        "--tokens 0",
        "--tokens 1",
        "--windows 0",
        "--threads 0",
        "--seed x",
        "--bound 0",
        "--bound no",
        "--max-kld nan",
        "--min-ratio -1",
        "--max-kld 1x",
        "--json - --csv -",
        "--generate 5 --csv -",
        "--windows 1 info",
        "--generate 0",
        "info info",
        "--model random:gpt2 --max-kld 1",
    };
    return cr_make_param_array(char[80], list, sizeof list / sizeof list[0]);
}

ParameterizedTest(const char *arguments, cli, bad_usage_is_status_2)
{
    enter();
    const int status = run(": >short; ln short link; $E %s", arguments);
    cr_expect_eq(status, 2, "%s: status %d", arguments, status);
    cr_expect(out[0] == '\0' && strstr(err, "kvq-eval"), "%s: %s", arguments, err);
    leave();
}

Test(cli, impossible_schemes_show_the_character)
{
    cr_assert_eq(run("$E --scheme k=2,v=9"), 1);
    cr_assert_eq(n_lines(err), 3, "%s", err);
    cr_assert(strstr(err, "kvq-eval: --scheme: ") && strstr(err, "\n    k=2,v=9\n          ^\n"), "%s", err);
    cr_assert_eq(run("$E --scheme ''"), 1);
    cr_assert_eq(run("$E --scheme kivi2 --scheme nonsense"), 1);
    cr_assert(strstr(err, "nonsense\n    ^\n"), "%s", err);
}

Test(cli, bad_values_are_told_what_is_allowed)
{
    static const struct {
        const char *arguments, *wanted;
    } cases[] = {
        {"--bits x", "--bits: must be 1, 2, 3, 4, 5, 6, 8, 16 or 32, not 'x'\n"},
        {"--bits 7", "--bits: must be 1, 2, 3, 4, 5, 6, 8, 16 or 32, not '7'\n"},
        {"--k-bits 7", "--k-bits: must be 1, 2, 3, 4, 5, 6, 8, 16 or 32, not '7'\n"},
        {"--v-bits 7", "--v-bits: must be 1, 2, 3, 4, 5, 6, 8, 16 or 32, not '7'\n"},
        {"--group 33", "--group: must be 16, 32, 64, 128 or full, not '33'\n"},
        {"--group full", "--group full: is for values only, and keys of 2 bits have groups per channel"},
        {"--residual x", "--residual: expected a whole number from 0 to 1073741824, not 'x'\n"},
        {"--residual 33", "--residual: must be a multiple of the group of 32, and not 0 with --residual-mode "
                          "kivi, not '33'\n"},
        {"--residual 40 --group 16 --residual-mode sliding",
         "--residual: must be a multiple of the group of 16, not '40'\n"},
        {"--model=", "--model: the name is empty\n"},
        {"--text=", "--text: the name is empty\n"},
        {"--json a --csv ./a", "--json and --csv: 'a' and './a' are one file\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("$E %s", cases[i].arguments), 2, "%s", cases[i].arguments);
        cr_expect(strstr(err, cases[i].wanted), "%s: %s", cases[i].arguments, err);
    }
}

/* What the checks above must let through. */
Test(cli, a_full_group_and_any_residual_without_key_groups)
{
    cr_assert_eq(run("$E --tokens 40 --windows 1 --k-bits 16 --group full --residual 7 --csv -"), 0, "%s",
                 err);
    cr_assert(strstr(out, "\"k=f16,v=2@token/full,r=7\""), "%s", out);
    cr_assert_eq(run("$E --tokens 40 --windows 1 --residual 0 --residual-mode sliding --csv -"), 0, "%s",
                 err);
    cr_assert_eq(run("$E --tokens 16 --windows 1 --json /dev/null --csv /dev/null"), 0, "%s", err);
}
