/* --generate: text as it is written, JSON, and the arithmetic that was asked for. */
#define _XOPEN_SOURCE 700

#include "eval/cli/text_stream.h"
#include "eval/measure/generate.h"
#include "eval/model/tokenizer.h"
#include "tests/tool.h"

#include <signal.h>

TestSuite(generate, .init = enter, .fini = leave);

Test(generate, prints_the_text_of_each_scheme)
{
    cr_assert_eq(run("$E --generate 12 --prompt 8 --residual 32 --scheme fp32"), 0);
    cr_assert(strstr(out, "--- prompt, 8 tokens of sample.txt\nThe Lamp at Corran") &&
                  strstr(out, "--- kivi2,r=32"),
              "%s", out);
    cr_assert(strstr(out, "all 12 tokens as fp32"), "%s", out);
}

Test(generate, says_when_nothing_is_packed)
{
    cr_assert_eq(run("$E --generate 4 --prompt 8"), 0);
    const char *line = strstr(out, "--- kivi2\n");
    cr_assert(
        line &&
            strstr(line, "; nothing is packed yet, because all tokens fit the full-precision residual)\n"),
        "%s", out);
    cr_assert_gt(strstr(out, "nothing is packed yet"), line, "fp32 packs nothing, ever: %s", out);
    cr_assert_eq(run("$E --generate 4 --prompt 80 --residual 32"), 0);
    cr_assert(!strstr(out, "nothing is packed"), "%s", out);
}

/* ---- while it writes ---- */

Test(generate, characters_are_not_cut)
{
    /* One to four bytes each; then a continuation without a beginning, and beginnings without a
     * continuation. */
    static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z\x80\xc3z\xf0\x9f";
    const size_t n = sizeof text - 1, valid = 11;
    char *written = NULL;
    size_t n_written = 0;
    FILE *f = open_memstream(&written, &n_written);
    cr_assert_not_null(f);
    text_stream s = {.stream = f};
    for (size_t i = 0; i < n; i++) {
        text_stream_put(&s, text + i, 1);
        if (i < valid)
            cr_expect_eq(utf8_valid_prefix(written, n_written), n_written, "cut after byte %zu", i);
        cr_expect_geq(n_written + 3, i + 1, "too much is held back after byte %zu", i);
    }
    text_stream_end(&s);
    fclose(f);
    cr_assert(n_written == n && memcmp(written, text, n) == 0);
    free(written);
    cr_assert(utf8_incomplete_tail("", 0) == 0 && utf8_incomplete_tail("\xe2\x82", 2) == 2 &&
              utf8_incomplete_tail("\xff", 1) == 0 && utf8_incomplete_tail("\x80\x80\x80\x80", 4) == 0);
}

/* On a pipe, where a buffer would hold back all of it until the end. */
Test(generate, text_comes_while_it_is_written)
{
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    const pid_t child = fork();
    cr_assert_neq(child, -1);
    if (child == 0) {
        dup2(ends[1], 1);
        close(ends[0]);
        setenv("KVQ_DATA_DIR", DATA, 1);
        execl(KVQ_EVAL_BINARY, KVQ_EVAL_BINARY, "--generate", "200", "--threads", "1", "--quiet",
              (char *)NULL);
        _exit(99);
    }
    close(ends[1]);
    size_t n_reads = 0;
    char piece[4096];
    while (read(ends[0], piece, sizeof piece) > 0)
        n_reads++;
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
    close(ends[0]);
    cr_assert_gt(n_reads, 20, "400 tokens came in %zu pieces", n_reads);
}

/* ---- precision ---- */

/* The token ids of fp32 and of each scheme, as one array of arrays. */
static json_t *generated(const char *arguments)
{
    cr_assert_eq(run("$E %s --json -", arguments), 0, "%s", err);
    json_t *root = load_json(out), *ids = json_array(), *r;
    size_t i;
    json_array_foreach(json_object_get(root, "runs"), i, r)
    {
        json_array_append(ids, json_object_get(r, "ids"));
    }
    json_decref(root);
    return ids;
}

/* Few bits make a text in which likely tokens lie close together: fast arithmetic, 0.0001 off, sooner or
 * later takes another one than exact arithmetic does. Of these five schemes four do here within 500 tokens,
 * the first one after 263; one is enough. */
Test(generate, precision_is_honoured)
{
    static const char *const few_bits[] = {"k=1,v=8,r=32", "kivi2,r=32", "kivi1,r=32",
                                           "kivi1,r=0,mode=sliding", "kivi2,r=0,mode=sliding"};
    bool differs = false;
    for (size_t i = 0; !differs && i < sizeof few_bits / sizeof few_bits[0]; i++) {
        char arguments[128];
        const int n =
            snprintf(arguments, sizeof arguments, "--generate 500 --prompt 200 --scheme %s", few_bits[i]);
        json_t *fast = generated(arguments);
        snprintf(arguments + n, sizeof arguments - (size_t)n, " --precision exact");
        json_t *exact = generated(arguments);
        cr_assert(json_equal(json_array_get(fast, 0), json_array_get(exact, 0)), "fp32 knows one arithmetic");
        cr_assert(json_array_size(json_array_get(fast, 1)) == 500 && json_array_size(exact) == 2);
        differs = !json_equal(json_array_get(fast, 1), json_array_get(exact, 1));
        json_decref(fast);
        json_decref(exact);
    }
    cr_assert(differs, "fast and exact arithmetic write the same with every scheme");
}

Test(generate, the_seed_chooses_the_weights_and_the_prompt)
{
    static const char one[] = "--model random:2,2,32,128,1000 --generate 20 --seed 1",
                      two[] = "--model random:2,2,32,128,1000 --generate 20 --seed 2";
    json_t *a = generated(one), *again = generated(one), *b = generated(two);
    cr_assert(json_equal(a, again), "the same seed gives the same tokens");
    cr_assert(!json_equal(a, b), "another seed gives others");
    json_decref(a);
    json_decref(again);
    json_decref(b);
}

/* ---- JSON ---- */

Test(generate, json_has_ids_texts_and_differences)
{
    cr_assert_eq(run("$E --generate 100 --prompt 40 --residual 32 --bits 1 --scheme fp32 --json r.json"), 0,
                 "%s", err);
    cr_assert(strstr(out, "--- prompt, 40 tokens") && strstr(out, "--- fp32\n"),
              "the texts are shown as well");
    static char text[1 << 16];
    read_file("r.json", text, sizeof text);
    json_t *root = load_json(text), *prompt = json_object_get(root, "prompt"),
           *runs = json_object_get(root, "runs");
    cr_assert_str_eq(json_string_value(json_object_get(root, "schema")), "kvq-eval-generate/1");
    cr_assert_eq(json_array_size(json_object_get(prompt, "ids")), 40);
    cr_assert_eq(strncmp(json_string_value(json_object_get(prompt, "text")), "The Lamp at Corran", 18), 0);
    cr_assert_eq(json_array_size(runs), 3);
    const json_t *fp32 = json_array_get(runs, 0), *one_bit = json_array_get(runs, 1);
    cr_assert_str_eq(json_string_value(json_object_get(fp32, "scheme")), "fp32");
    cr_assert_str_eq(json_string_value(json_object_get(one_bit, "scheme")), "kivi1,r=32");
    for (size_t i = 0; i < 3; i++) {
        const json_t *r = json_array_get(runs, i);
        cr_expect_eq(json_array_size(json_object_get(r, "ids")), 100);
        cr_expect_gt(json_number_value(json_object_get(r, "tokens_per_second")), 0.0);
        cr_expect(json_is_true(json_object_get(r, "packed")), "140 tokens are more than the residual");
        cr_expect(strstr(out, json_string_value(json_object_get(r, "text"))),
                  "shown and written text differ");
    }
    /* Where the ids first differ is what the report says. */
    const json_t *a = json_object_get(fp32, "ids"), *b = json_object_get(one_bit, "ids");
    const json_t *at = json_object_get(one_bit, "first_difference");
    size_t n = 0;
    while (n < 100 && json_equal(json_array_get(a, n), json_array_get(b, n)))
        n++;
    cr_assert_lt(n, 100, "one bit is enough to write the same?");
    cr_assert_eq(json_integer_value(at), (json_int_t)n);
    cr_assert(json_is_null(json_object_get(json_array_get(runs, 2), "first_difference")),
              "fp32 differs from itself");
    cr_assert(json_is_null(json_object_get(fp32, "first_difference")));
    json_decref(root);
}

Test(generate, json_alone_on_standard_output_and_for_random_weights)
{
    cr_assert_eq(run("$E --model random:2,2,32,128,100 --generate 5 --json -"), 0, "%s", err);
    json_t *root = load_json(out), *r = json_array_get(json_object_get(root, "runs"), 1);
    cr_assert(json_is_null(json_object_get(r, "text")) && json_array_size(json_object_get(r, "ids")) == 5);
    json_decref(root);
    cr_assert_eq(run("$E --generate 3 --json /dev/full"), 1);
    cr_assert(strstr(out, "--- kivi2\n") && strstr(err, "/dev/full: write failed"), "%s", err);
    cr_assert_eq(run("$E --generate 3 --json no/where.json"), 1);
    cr_assert(out[0] == '\0' && strstr(err, "no/where.json: cannot write"), "%s", err);
}
