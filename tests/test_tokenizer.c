/* Tokenizer: reference ids, exact round trips of every byte string, long words, damaged files. */
#define _XOPEN_SOURCE 700

#include "eval/model/tokenizer.h"
#include "tests/checkpoint_files.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <time.h>

#define MODEL KVQ_SOURCE_DIR "/data/gpt2-6m"

static tokenizer *load_default(void)
{
    tokenizer *t;
    eval_error e;
    cr_assert(tokenizer_load(&t, MODEL, &e), "%s", e.text);
    return t;
}

static int32_t *encode(const tokenizer *t, const char *text, size_t n, size_t *n_ids)
{
    int32_t *ids;
    eval_error e;
    cr_assert(tokenizer_encode(t, text, n, &ids, n_ids, &e), "%s", e.text);
    return ids;
}

static void assert_round_trip(const tokenizer *t, const char *text, size_t n)
{
    size_t n_ids, n_decoded;
    char *decoded;
    eval_error e;
    int32_t *ids = encode(t, text, n, &n_ids);
    cr_assert(tokenizer_decode(t, ids, n_ids, &decoded, &n_decoded, &e), "%s", e.text);
    cr_assert_eq(n_decoded, n);
    cr_assert(n == 0 || memcmp(decoded, text, n) == 0);
    cr_assert_eq(decoded[n], '\0');
    free(decoded);
    free(ids);
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

Test(tokenizer, reference_ids)
{
    tokenizer *t = load_default();
    FILE *f = fopen(KVQ_SOURCE_DIR "/tests/reference/tokens.jsonl", "r");
    static char line[65536];
    int n_lines = 0;
    cr_assert_not_null(f);
    while (fgets(line, sizeof line, f)) {
        json_t *test = json_loads(line, JSON_ALLOW_NUL, NULL), *text = json_object_get(test, "text");
        const json_t *expected = json_object_get(test, "ids");
        size_t n_ids;
        int32_t *ids = encode(t, json_string_value(text), json_string_length(text), &n_ids);
        n_lines++;
        cr_assert_eq(n_ids, json_array_size(expected), "line %d: %zu ids, expected %zu", n_lines, n_ids,
                     json_array_size(expected));
        for (size_t i = 0; i < n_ids; i++)
            cr_assert_eq(ids[i], json_integer_value(json_array_get(expected, i)), "line %d, id %zu", n_lines,
                         i);
        assert_round_trip(t, json_string_value(text), json_string_length(text));
        free(ids);
        json_decref(test);
    }
    cr_assert_eq(n_lines, 29);
    fclose(f);
    tokenizer_free(t);
}

Test(tokenizer, vocabulary)
{
    tokenizer *t = load_default();
    size_t n;
    cr_assert_eq(tokenizer_vocab_size(t), 4096);
    cr_assert_eq(tokenizer_eos_id(t), 4095);
    const char *token = tokenizer_token(t, 4095, &n);
    cr_assert(n == 13 && memcmp(token, "<|endoftext|>", n) == 0);
    token = tokenizer_token(t, 4091, &n);
    cr_assert(n == 6 && memcmp(token, " stick", n) == 0);

    const int32_t bad[2] = {5, 4096};
    char *text;
    eval_error e;
    cr_assert_not(tokenizer_decode(t, bad, 2, &text, &n, &e));
    assert_mentions(e, "id 4096 is out of range, expected 0 to 4095");
    tokenizer_free(t);
}

Test(tokenizer, random_bytes_round_trip)
{
    tokenizer *t = load_default();
    uint64_t seed = 1;
    static const char *const alphabets[] = {NULL, "\xe2\x80\x8a\xc3 a'", " \ntheingA1"};
    char text[300];
    for (int i = 0; i < 20000; i++) {
        size_t n = next_random(&seed) % sizeof text;
        const size_t kind = next_random(&seed) % 3;
        for (size_t j = 0; j < n; j++) {
            const uint64_t r = next_random(&seed);
            text[j] = kind == 0 ? (char)(r & 0xff) : alphabets[kind][r % strlen(alphabets[kind])];
        }
        assert_round_trip(t, text, n);
    }
    tokenizer_free(t);
}

/* An invalid run stands between two texts: the ids are those of the parts. */
Test(tokenizer, invalid_utf8_is_a_word_of_its_own)
{
    static const char *const parts[] = {"some text ", "\xff\xfe", " and\n more", "\xe4\xb8", " end"};
    tokenizer *t = load_default();
    char whole[64] = "";
    size_t n_whole, at = 0;
    for (size_t i = 0; i < 5; i++)
        strcat(whole, parts[i]);
    int32_t *ids = encode(t, whole, strlen(whole), &n_whole);
    for (size_t i = 0; i < 5; i++) {
        size_t n;
        int32_t *part = encode(t, parts[i], strlen(parts[i]), &n);
        cr_assert(at + n <= n_whole && memcmp(ids + at, part, n * sizeof *part) == 0, "part %zu", i);
        at += n;
        free(part);
    }
    cr_assert_eq(at, n_whole);
    free(ids);
    tokenizer_free(t);
}

Test(tokenizer, utf8_check)
{
    static const struct {
        const char *text;
        size_t valid;
    } cases[] = {
        {"", 0},
        {"plain", 5},
        {"\xc2\xa0\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 13},
        {"a\x80", 1},              /* continuation byte first */
        {"ab\xc3", 2},             /* cut short */
        {"ab\xe2\x82", 2},         /* cut short */
        {"ab\xc0\xaf", 2},         /* overlong */
        {"ab\xe0\x9f\xbf", 2},     /* overlong */
        {"ab\xf0\x8f\xbf\xbf", 2}, /* overlong */
        {"\xed\xa0\x80", 0},       /* surrogate */
        {"\xf4\x90\x80\x80", 0},   /* beyond U+10FFFF */
        {"x\xff", 1},
    };
    eval_error e;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n = strlen(cases[i].text);
        cr_assert_eq(utf8_valid_prefix(cases[i].text, n), cases[i].valid, "case %zu", i);
        cr_assert_eq(text_check_utf8("t.txt", cases[i].text, n, &e), n == cases[i].valid);
    }
    cr_assert_not(text_check_utf8("t.txt", "abc\xff", 4, &e));
    assert_mentions(e, "t.txt: byte 3 (0xff) is not valid UTF-8");
}

static void assert_encodes_quickly(const tokenizer *t, const char *what, const char *text, size_t n)
{
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    assert_round_trip(t, text, n);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    cr_assert_lt(seconds, 20.0, "%s: %.1f s", what, seconds); /* quadratic time would be an hour */
}

Test(tokenizer, long_words)
{
    tokenizer *t = load_default();
    const size_t n = 1 << 20;
    uint64_t seed = 7;
    char *text = malloc(n);
    cr_assert_not_null(text);
    memset(text, 'e', n);
    assert_encodes_quickly(t, "one letter", text, n);
    for (size_t i = 0; i < n; i++)
        text[i] = "etaoinshr"[next_random(&seed) % 9];
    assert_encodes_quickly(t, "letters", text, n);
    memset(text, ' ', n);
    assert_encodes_quickly(t, "spaces", text, n);
    memset(text, '\xff', n);
    assert_encodes_quickly(t, "invalid bytes", text, n);
    for (size_t i = 0; i < n; i++)
        text[i] = i % 2 ? 'a' : '\xff';
    assert_encodes_quickly(t, "letters and invalid bytes", text, n);
    free(text);
    tokenizer_free(t);
}

/* ---- small vocabularies ---- */

/* The 256 characters that stand for bytes, as JSON members with ids 0..255 in byte order, without `missing`.
 */
static size_t write_byte_tokens(char *out, int missing)
{
    size_t n = 0;
    unsigned beyond = 0x100;
    int id = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
        unsigned character = printable ? byte : beyond++;
        if ((int)byte != missing)
            n += (size_t)sprintf(out + n, "%s\"\\u%04x\":%d", id ? "," : "{", character, id), id++;
    }
    return n;
}

static bool load_small(tokenizer **t, int missing, const char *more_vocab, const char *merges, eval_error *e)
{
    static char vocab[16384];
    size_t n = write_byte_tokens(vocab, missing);
    n += (size_t)sprintf(vocab + n, "%s}", more_vocab);
    return tokenizer_load_memory(t, "vocab-file", vocab, n, "merges-file", merges, strlen(merges), e);
}

/* BPE as it is defined: find the pair of lowest rank, leftmost first; merge; again. The words are over a, b,
 * c (bytes 97..99), and the merges are those of the test below. */
static size_t encode_slowly(const int32_t (*merges)[3], size_t n_merges, const char *word, size_t n,
                            int32_t *ids)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = word[i];
    for (;;) {
        size_t best = n_merges, at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t m = 0; m < best; m++)
                if (ids[i] == merges[m][0] && ids[i + 1] == merges[m][1]) {
                    best = m;
                    at = i;
                }
        if (best == n_merges)
            return n;
        ids[at] = merges[best][2];
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

Test(tokenizer, merges_by_rank_then_leftmost)
{
    static const int32_t merges[][3] = {{'b', 'c', 256}, {'a', 'a', 257}, {'a', 256, 258}, {257, 257, 259},
                                        {'c', 'a', 260}, {258, 258, 261}, {'b', 'b', 262}};
    tokenizer *t;
    eval_error e;
    cr_assert(
        load_small(&t, -1,
                   ",\"bc\":256,\"aa\":257,\"abc\":258,\"aaaa\":259,\"ca\":260,\"abcabc\":261,\"bb\":262",
                   "#version: 0.2\nb c\na a\na bc\naa aa\nc a\r\nabc abc\n\nb b", &e),
        "%s", e.text);
    cr_assert_eq(tokenizer_eos_id(t), -1);
    uint64_t seed = 3;
    for (int i = 0; i < 20000; i++) {
        char word[40];
        int32_t expected[40];
        size_t n = 1 + next_random(&seed) % sizeof word, n_ids;
        for (size_t j = 0; j < n; j++)
            word[j] = "abc"[next_random(&seed) % 3];
        int32_t *ids = encode(t, word, n, &n_ids);
        size_t n_expected = encode_slowly(merges, 7, word, n, expected);
        cr_assert(n_ids == n_expected && memcmp(ids, expected, n_ids * sizeof *ids) == 0, "%.*s", (int)n,
                  word);
        free(ids);
    }
    tokenizer_free(t);
}

/* A run of spaces gives its last one to the word that follows. U+180E is such a word, U+3000 is another
 * space. */
Test(tokenizer, unicode_spaces)
{
    static const int32_t before_word[] = {32, 32, 0xe1, 0xa0, 0x8e}, all_spaces[] = {256, 0xe3, 0x80, 0x80};
    tokenizer *t;
    eval_error e;
    size_t n;
    cr_assert(load_small(&t, -1, ",\"\\u0120\\u0120\":256", "\xc4\xa0 \xc4\xa0", &e), "%s", e.text);
    int32_t *ids = encode(t, "  \xe1\xa0\x8e", 5, &n);
    cr_assert(n == 5 && memcmp(ids, before_word, sizeof before_word) == 0);
    free(ids);
    ids = encode(t, "  \xe3\x80\x80", 5, &n);
    cr_assert(n == 4 && memcmp(ids, all_spaces, sizeof all_spaces) == 0);
    free(ids);
    tokenizer_free(t);
}

/* Tokens with characters that stand for no byte were added by hand; they decode to themselves and are no
 * byte. */
Test(tokenizer, added_tokens)
{
    tokenizer *t;
    eval_error e;
    size_t n;
    cr_assert(load_small(&t, -1, ",\"\\u4e2d \":256,\" \":257", "", &e), "%s", e.text);
    const char *token = tokenizer_token(t, 256, &n);
    cr_assert(n == 4 && memcmp(token, "\xe4\xb8\xad ", n) == 0);
    int32_t *ids = encode(t, " ", 1, &n);
    cr_assert(n == 1 && ids[0] == 32);
    free(ids);
    tokenizer_free(t);
}

Test(tokenizer, wrong_vocabularies_are_named)
{
    static const struct {
        int missing;
        const char *vocab, *merges, *mentions[2];
    } cases[] = {
        {'a', ",\"xy\":255", "", {"vocab-file", "no token for byte 0x61"}},
        {-1, ",\"xy\":255", "", {"vocab-file", "both have id 255"}},
        {-1, ",\"xy\":257", "", {"token 'xy' has id 257,", "0 to 256"}},
        {-1, ",\"xy\":256.0", "", {"token 'xy' has id 256.0,", "0 to 256"}},
        {-1, ",\"xy\":\"256\"", "", {"token 'xy' has id \"256\"", "0 to 256"}},
        {-1, ",\"\":256", "", {"token 256 is empty", "vocab-file"}},
        {-1, ",\"a\":256", "", {"vocab-file", "duplicate"}},
        {-1, ",", "", {"vocab-file", "bad JSON"}},
        {'a', "", "", {"vocab-file", "has 255 tokens"}},
        {-1, ",\"xy\":256", "#version: 0.2\nx y\nx q", {"merges-file: line 3", "'xq'"}},
        {-1, ",\"xy\":256", "x y\nxyz y", {"merges-file: line 2", "'xyz'"}},
        {-1, ",\"xy\":256", "x y\nx yyz", {"merges-file: line 2", "'yyz'"}},
        {-1, ",\"xy\":256", "x y\nx", {"merges-file: line 2", "two tokens"}},
        {-1, ",\"xy\":256", "x y z", {"merges-file: line 1", "two tokens"}},
        {-1, ",\"xy\":256", " x", {"merges-file: line 1", "two tokens"}},
        {-1, ",\"xy\":256", "x ", {"merges-file: line 1", "two tokens"}},
        {-1, ",\"xy\":256", "x y\n#version: 0.2", {"merges-file: line 2", "'#version:'"}},
        {-1, ",\"xy\":256", "x y\n\nx y", {"merges-file: line 3", "same merge as line 1"}},
        {-1, ",\"xy\":-1", "", {"token 'xy' has id -1", "no token has id 256"}},
        {-1, ",\"xy\":256,\"ab\":258", "", {"token 'ab' has id 258", "258 tokens need the ids 0 to 257"}},
        {-1, ",\"xy\":256,\"ab\":258", "", {"vocab-file", "no token has id 257"}},
        {-1, ",\"xy\":256", "", {"merges-file: 0 merges found", "token 256, 'xy'"}},
        {-1, ",\"xyz\":257,\"xy\":256,\"yz\":258", "x y\n", {"merges-file: 1 merges", "token 257, 'xyz'"}},
        {-1, ",\"<x\":256", "", {"merges-file: 0 merges", "token 256, '<x'"}},
        {-1, ",\"[x\":256", "", {"merges-file: 0 merges", "token 256, '[x'"}},
        {-1, ",\"x>\":256", "", {"merges-file: 0 merges", "token 256, 'x>'"}},
        {-1, ",\"\\u0120\\u0120\":256", "", {"merges-file: 0 merges", "token 256"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tokenizer *t;
        eval_error e = {""};
        cr_assert_not(load_small(&t, cases[i].missing, cases[i].vocab, cases[i].merges, &e), "case %zu", i);
        for (size_t j = 0; j < 2; j++)
            assert_mentions(e, cases[i].mentions[j]);
    }
}

/* Special tokens are no merge's result. */
Test(tokenizer, special_tokens_need_no_merge)
{
    tokenizer *t;
    eval_error e;
    cr_assert(load_small(&t, -1, ",\"<|endoftext|>\":256,\"[PAD]\":257", "#version: 0.2\n", &e), "%s",
              e.text);
    cr_assert_eq(tokenizer_eos_id(t), 256);
    tokenizer_free(t);
}

/* A file that ends at a line is well formed; only the vocabulary tells that something is missing. */
Test(tokenizer, cut_merges_are_noticed)
{
    static char vocab[1 << 20], merges[1 << 20];
    const struct {
        const char *path;
        char *text;
    } files[] = {{MODEL "/vocab.json", vocab}, {MODEL "/merges.txt", merges}};
    size_t sizes[2];
    for (size_t i = 0; i < 2; i++) {
        FILE *f = fopen(files[i].path, "rb");
        cr_assert_not_null(f);
        sizes[i] = fread(files[i].text, 1, sizeof vocab, f);
        cr_assert(sizes[i] > 0 && sizes[i] < sizeof vocab);
        fclose(f);
    }
    size_t n_lines = 0;
    for (size_t size = 0; size <= sizes[1]; size++) {
        const bool boundary = size == 0 || size == sizes[1] || merges[size - 1] == '\n';
        n_lines += size > 0 && merges[size - 1] == '\n';
        if (!boundary || (size > 0 && n_lines % 500 != 1 && size + 10 < sizes[1]))
            continue;
        char wanted[64];
        tokenizer *t;
        eval_error e = {""};
        const bool loaded = tokenizer_load_memory(&t, "v", vocab, sizes[0], "merges.txt", merges, size, &e);
        cr_assert_eq(loaded, size == sizes[1], "%zu bytes of %zu", size, sizes[1]);
        if (loaded) {
            tokenizer_free(t);
            continue;
        }
        snprintf(wanted, sizeof wanted, "merges.txt: %zu merges found", n_lines > 0 ? n_lines - 1 : 0);
        assert_mentions(e, wanted);
    }
    cr_assert_eq(n_lines, 3840);
}

Test(tokenizer, missing_files_are_named)
{
    char dir[64];
    tokenizer *t;
    eval_error e;
    make_dir(dir);
    cr_assert_not(tokenizer_load(&t, dir, &e));
    assert_mentions(e, ": neither tokenizer.json nor vocab.json");
    write_text(dir, "vocab.json", "{}");
    cr_assert_not(tokenizer_load(&t, dir, &e));
    assert_mentions(e, "/merges.txt: cannot open");
    write_text(dir, "merges.txt", "");
    cr_assert_not(tokenizer_load(&t, dir, &e));
    assert_mentions(e, "/vocab.json: has 0 tokens");
    remove_dir(dir);
}
