/* kvq-eval dump, and what --kv measures of the files it writes. */
#define _XOPEN_SOURCE 700

#include "tests/tiny_llama.h"
#include "tests/tool.h"

#include <math.h>

TestSuite(dump, .init = enter, .fini = leave);

/* The run of kivi2 in a report that run() has printed. */
static json_t *local_of(json_t *root)
{
    json_t *local = json_object_get(json_array_get(json_object_get(root, "runs"), 1), "local");
    cr_assert(json_is_object(local), "%s", out);
    return local;
}

/* The dump's forward pass sums attention in tiles, the direct run over an fp32 cache: the queries, keys and
 * values of later layers differ in their last bits, and a few numbers are packed into the code next to
 * theirs. Measured here: the figures differ by up to 5e-6 of themselves; over other windows by a few 1e-5.
 * Asserted are 2e-4, and 1e-3 of the Kullback-Leibler divergence, a small difference of large numbers. */
static void same_figures(const json_t *a, const json_t *b, bool attention)
{
    static const char *const keys[] = {"k_rel_l2",    "v_rel_l2",     "k_rel_l2_packed",  "v_rel_l2_packed",
                                       "attn_rel_l2", "attn_prob_kl", "attn_worst_layer", "attn_worst_head"};
    for (size_t i = 0; i < (attention ? 8 : 4); i++) {
        const double x = json_number_value(json_object_get(a, keys[i]));
        const double y = json_number_value(json_object_get(b, keys[i]));
        cr_expect(fabs(x - y) <= (i == 5 ? 1e-3 : 2e-4) * fabs(x), "%s: %.9g direct, %.9g recorded", keys[i],
                  x, y);
        cr_expect(i >= 6 || x > 0, "%s is 0", keys[i]);
    }
}

Test(dump, a_recording_gives_the_figures_of_the_direct_run)
{
    cr_assert_eq(run("$E --windows 2 --tokens 80 --scheme kivi2,r=32 --quiet --json -"), 0, "%s", err);
    json_t *direct = load_json(out);
    cr_assert_eq(run("$E dump --windows 2 --tokens 80 --quiet --out d.safetensors"), 0, "%s", err);
    cr_expect_str_eq(out, "");
    cr_assert_eq(run("$E dump --windows 2 --tokens 80 --quiet --out d.npy"), 0, "%s", err);
    cr_assert_eq(n_files(), 2);
    cr_assert_eq(run("$E --kv d.safetensors --scheme kivi2,r=32 --quiet --json -"), 0, "%s", err);
    cr_expect_str_eq(err, "");
    json_t *recorded = load_json(out);
    same_figures(local_of(direct), local_of(recorded), true);
    cr_assert_eq(run("$E --kv d.npy --scheme kivi2,r=32 --quiet --json -"), 0, "%s", err);
    cr_expect_str_eq(err, "");
    json_t *npy = load_json(out);
    same_figures(local_of(direct), local_of(npy), false);
    json_decref(direct);
    json_decref(recorded);
    json_decref(npy);
}

Test(dump, refusals)
{
    static const struct {
        const char *line;
        int status;
        const char *mentions;
    } cases[] = {
        {"$E --kv d.npy --model x", 2, "--kv and --model"},
        {"$E --kv d.npy --text x", 2, "--kv and --text"},
        {"$E --kv d.npy --no-bos", 2, "--kv and --no-bos"},
        {"$E --kv d.npy --seed 3", 2, "--kv and --seed"},
        {"$E --kv d.npy --generate 4", 2, "--kv and --generate"},
        {"$E --kv d.npy --logits x", 2, "--kv and --logits"},
        {"$E --kv d.npy --max-kld 1", 2, "--kv and --max-kld"},
        {"$E dump", 2, "--out FILE is missing"},
        {"$E dump --out d.bin", 2, "ends in .safetensors or .npy"},
        {"$E dump --out d.npy --dtype bf16", 2, ".npy has no such type"},
        {"$E dump --quiet --tokens 8 --out missing/d.npy", 1, "missing/d.npy: cannot create"},
        {"$E dump --quiet --text none --out d.npy", 1, "none"},
        {"$E --kv d.npy", 1, "d.npy"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("%s", cases[i].line), cases[i].status, "%s: %s", cases[i].line, err);
        cr_expect(strstr(err, cases[i].mentions), "%s: %s", cases[i].line, err);
        cr_expect_eq(n_files(), 0, "%s left a file", cases[i].line);
    }
}

/* The text alone has four tokens: with BOS before them its last one falls out of the window. */
Test(dump, windows_begin_with_bos_or_with_the_text)
{
    gguf_image image = {.n = 0};
    tiny_llama_with_tokenizer(&image);
    write_text("m.gguf", (const char *)image.bytes, image.n);
    gguf_image_free(&image);
    write_text("t", "aabaa", 5);
    cr_assert_eq(run("$E tokenize --model m.gguf --text t"), 0, "%s", err);
    cr_assert_str_eq(out, "1\n2\n5\n2\n2\n");
    cr_assert_eq(run("$E tokenize --model m.gguf --text t --no-bos"), 0, "%s", err);
    cr_assert_str_eq(out, "2\n5\n2\n2\n");
    cr_assert_eq(run("$E dump --model m.gguf --text t --tokens 4 --quiet --out with.npy"), 0, "%s", err);
    cr_assert_eq(run("$E dump --model m.gguf --text t --tokens 4 --quiet --no-bos --out without.npy"), 0,
                 "%s", err);
    static char with[1024], without[1024];
    const size_t n = read_file("with.npy", with, sizeof with);
    cr_assert_eq(read_file("without.npy", without, sizeof without), n);
    /* In order: 4 keys of 4 numbers, 4 values. The values, which no position rotates, are those of tokens 1 2
     * 5 2, and of 2 5 2 2. */
    const char *v = with + n - 64, *w = without + n - 64;
    cr_expect_eq(memcmp(v + 16, w, 16), 0, "token 2 behind BOS, and first");
    cr_expect_eq(memcmp(v + 32, w + 16, 16), 0, "token 5");
    cr_expect_neq(memcmp(v, w, 16), 0, "BOS, and the text");
    cr_expect_eq(memcmp(w + 32, w + 48, 16), 0);
}

/* A write that fails in the middle leaves what was there as it was. */
Test(dump, a_failed_write_leaves_the_old_file)
{
    write_text("d.npy", "old", 3);
    cr_expect_neq(run("trap '' XFSZ; ulimit -f 8; $E dump --quiet --tokens 80 --windows 1 --out d.npy"), 0);
    char text[16];
    cr_expect_eq(read_file("d.npy", text, sizeof text), 3);
    cr_expect_eq(n_files(), 1);
}
