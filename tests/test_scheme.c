/*
 * Schemes as text: what parses, what it means, how it prints, and where errors point.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "lib/scheme.h"
#include "tests/support.h"

static bool same_fields(const kvq_scheme *a, const kvq_scheme *b)
{
    for (size_t i = 0; i < KVQ_N_ROLES; i++)
        if (a->side[i].codec != b->side[i].codec || a->residual_dtype[i] != b->residual_dtype[i] ||
            memcmp(a->side[i].parameter, b->side[i].parameter, sizeof a->side[i].parameter) != 0)
            return false;
    return a->arith == b->arith && a->heavy_hitters == b->heavy_hitters && a->residual == b->residual &&
           a->residual_mode == b->residual_mode && a->sinks == b->sinks && strcmp(a->text, b->text) == 0;
}

static void expect_text(const char *text, const char *canonical)
{
    kvq_scheme *scheme, *again;
    kvq_error err;
    cr_assert_eq(kvq_scheme_create(&scheme, text, &err), KVQ_OK, "%s: %s", text, err.message);
    const char *printed = kvq_scheme_text(scheme);
    cr_assert_str_eq(printed, canonical, "%s printed as %s, expected %s", text, printed, canonical);
    cr_assert_eq(kvq_scheme_create(&again, printed, NULL), KVQ_OK);
    cr_assert(same_fields(scheme, again), "%s does not survive printing", text);
    kvq_scheme_free(again);
    char explicit_text[KVQ_SCHEME_TEXT_MAX]; /* what snapshots hold */
    cr_assert(kvq_scheme_print(scheme, true, explicit_text));
    cr_assert_eq(strncmp(explicit_text, "k=", 2), 0);
    cr_assert_eq(kvq_scheme_create(&again, explicit_text, NULL), KVQ_OK, "%s", explicit_text);
    cr_assert(same_fields(scheme, again), "%s is not %s", explicit_text, text);
    kvq_scheme_free(again);
    kvq_scheme_free(scheme);
}

Test(scheme, prints_in_canonical_form)
{
    expect_text("kivi2", "kivi2");
    expect_text("kivi2-g64", "kivi2-g64");
    expect_text("kivi8-g32", "kivi8");
    expect_text("k=2@channel/32,v=2@token/32,r=128", "kivi2");
    expect_text("k=2,v=2", "kivi2");
    expect_text("v=4@token/full,k=4@token/full", "k=4@token/full,v=4@token/full");
    expect_text("kivi4,r=64,mode=sliding,s=4", "kivi4,r=64,mode=sliding,s=4");
    expect_text("kivi2,rtype=f16,arith=kivi-f16", "kivi2,rtype=f16,arith=kivi-f16");
    expect_text("kivi2,rtype=i8", "kivi2,rtype=i8");
    expect_text("rtype=f16/i8,k=2,v=2", "kivi2,rtype=f16/i8");
    expect_text("fp32,rtype=f32/f16", "fp32,rtype=f32/f16");
    expect_text("kivi2,rtype=f16/f16", "kivi2,rtype=f16");
    expect_text("kivi2,rtype=f32/f32", "kivi2");
    expect_text("kivi2,hh=0", "kivi2");
    expect_text("fp32", "fp32");
    expect_text("fp16", "fp16");
    expect_text("k=f16,v=f16,r=0,mode=sliding", "fp16");
    expect_text("k=f32,v=2,r=32", "k=f32,v=2@token/32,r=32");
    expect_text("fp32,r=128,mode=kivi", "k=f32,v=f32"); /* the shorter form */
    expect_text("fp32,r=64,mode=kivi", "k=f32,v=f32,r=64");
    expect_text("fp32,r=64", "fp32,r=64");
    expect_text("kvq2", "kvq2");
    expect_text("kvq2,s=0,r=256", "kvq2,r=256,s=0");
    expect_text("k=tier:2,v=rot:2,hh=2,s=4,mode=sliding,rtype=f16/i8", "kvq2");
    expect_text("k=tier:2:fb,v=rot:2", "k=tier:2:fb,v=rot:2");
    expect_text("kvq2,k=tier:3", "kvq2.5,hh=2");
    expect_text("kvq2-fb,hh=0", "kvq2-fb,hh=0");
    expect_text("kvq2,k=tier:2:fb", "kvq2-fb");
    expect_text("kvq2,hh=4,k=tier:3", "kvq2.5");
    expect_text("k=q8_0,v=q8_0", "k=q8_0,v=q8_0");
    expect_text("k=q8_0,v=q8_0,rtype=f16/i8,s=4,mode=sliding", "q8_0");
    expect_text("turbo2-nc,k=turbo:2", "k=turbo:2,v=turbo:2:nc,mode=sliding,rtype=f16/i8,s=4");
    expect_text("turbo2-nc,v=turbo:2,k=turbo:2", "turbo2");
    expect_text("kivi2,k=4", "k=4@channel/32,v=2@token/32");
    expect_text("k=3@channel/128,v=6@token/16", "k=3@channel/128,v=6@token/16");
    static const char longest[] =
        "k=8@channel/128,v=8@channel/128,r=1073741824,mode=sliding,rtype=f16/f32,s=1048576,"
        "arith=kivi-f16";
    _Static_assert(sizeof longest + 16 < KVQ_SCHEME_TEXT_MAX, "room for what the grammar allows");
    expect_text(longest, longest);
}

Test(scheme, preset_means_what_the_header_says)
{
    const kvq_scheme *s = scheme_of("kivi2");
    kvq_side_info k, v;
    cr_assert_eq(kvq_scheme_keys(s, &k), KVQ_OK);
    cr_assert_eq(kvq_scheme_values(s, &v), KVQ_OK);
    cr_assert_str_eq(k.codec, "affine");
    cr_assert(k.bits == 2 && k.axis == KVQ_AXIS_CHANNEL && k.group == 32 && k.arith == KVQ_ARITH_F32);
    cr_assert_str_eq(v.codec, "affine");
    cr_assert(v.bits == 2 && v.axis == KVQ_AXIS_TOKEN && v.group == 32 && v.arith == KVQ_ARITH_F32);
    cr_assert(kvq_scheme_residual(s) == 128 && kvq_scheme_sinks(s) == 0);
    cr_assert_eq(kvq_scheme_residual_mode(s), KVQ_RESIDUAL_KIVI);
    cr_assert_eq(kvq_scheme_residual_dtype(s), KVQ_F32);
    kvq_config config;
    kvq_config_init(&config);
    cr_assert_str_eq(config.scheme_text, "kivi2", "the default scheme");
}

Test(scheme, accessors_tell_what_the_text_says)
{
    const kvq_scheme *s = scheme_of("k=f16,v=5@channel/64,r=192,mode=sliding,rtype=f16,s=7,arith=kivi-f16");
    kvq_side_info k, v;
    cr_assert_eq(kvq_scheme_keys(s, &k), KVQ_OK);
    cr_assert_eq(kvq_scheme_values(s, &v), KVQ_OK);
    cr_assert_str_eq(k.codec, "f16");
    cr_assert(k.bits == 16 && k.group == 0 && k.struct_size == sizeof k);
    cr_assert(v.bits == 5 && v.axis == KVQ_AXIS_CHANNEL && v.group == 64 && v.arith == KVQ_ARITH_KIVI_F16);
    cr_assert(kvq_scheme_residual(s) == 192 && kvq_scheme_sinks(s) == 7);
    cr_assert_eq(kvq_scheme_residual_mode(s), KVQ_RESIDUAL_SLIDING);
    cr_assert_eq(kvq_scheme_residual_dtype(s), KVQ_F16);
    cr_assert(k.residual_dtype == KVQ_F16 && v.residual_dtype == KVQ_F16 && k.heavy_hitters == 0 &&
              !k.uses_evidence && !v.uses_evidence);
    const kvq_scheme *apart = scheme_of("kivi2,rtype=f16/i8");
    cr_assert_eq(kvq_scheme_keys(apart, &k), KVQ_OK);
    cr_assert_eq(kvq_scheme_values(apart, &v), KVQ_OK);
    cr_assert(k.residual_dtype == KVQ_F16 && v.residual_dtype == KVQ_I8);
    cr_assert_eq(kvq_scheme_residual_dtype(apart), KVQ_F16, "the keys'");
    cr_assert_eq(kvq_scheme_keys(NULL, &k), KVQ_ERR_ARG);
    cr_assert_eq(kvq_scheme_values(s, NULL), KVQ_ERR_ARG);
    cr_assert_null(kvq_scheme_text(NULL));
    kvq_scheme_free(NULL);
}

/* All that have a name of their own, and KIVI's with the usual groups. */
Test(scheme, presets_are_listed_and_canonical)
{
    static const char *const names[] = {
        "fp32",    "fp16",      "kivi8",     "kivi6",  "kivi5",     "kivi4",     "kivi3",
        "kivi2",   "kivi1",     "kvq4",      "kvq3",   "kivi4-g64", "kivi2-g64", "kvq2.5",
        "kvq2",    "kvq1.5",    "kvq2-fb",   "q8_0",   "q4_0",      "q4_1",      "turbo1",
        "turbo2",  "turbo2-nc", "turbo3",    "turbo4", "kvarn2",    "turbo3-nc", "kvarn4",
        "quarot2", "quarot4",   "turbo4-nc", "nuq2",   "nuq2-qn"};
    enum { N = sizeof names / sizeof names[0] };
    size_t n = 0, n_found = 0;
    double widest = 32;
    for (const char *text; (text = kvq_scheme_preset(n)) != NULL; n++) {
        expect_text(text, text);
        double bits = kvq_scheme_bits_per_element(scheme_of(text), 64);
        cr_assert(bits > 0 && bits <= widest, "%s: the widest come first", text);
        widest = bits;
        for (size_t i = 0; i < N; i++)
            n_found += strcmp(text, names[i]) == 0;
    }
    cr_assert_eq(n, N);
    cr_assert_eq(n_found, N, "one is missing or twice there");
}

/* No two names for one thing, of which only one could be canonical. */
Test(scheme, every_preset_is_another_scheme)
{
    for (size_t i = 0; kvq_scheme_preset(i) != NULL; i++)
        for (size_t j = 0; kvq_scheme_preset(j) != NULL; j++) {
            const kvq_scheme *a = scheme_of(kvq_scheme_preset(i)), *b = scheme_of(kvq_scheme_preset(j));
            cr_assert_eq(same_fields(a, b), i == j, "%s is %s", kvq_scheme_text(a), kvq_scheme_text(b));
        }
}

static void expect_error(const char *text, size_t offset, const char *message_part)
{
    kvq_scheme *scheme = NULL;
    kvq_error err = {KVQ_OK, NULL, 0};
    cr_assert_eq(kvq_scheme_create(&scheme, text, &err), KVQ_ERR_SCHEME, "%s was taken", text);
    cr_assert_eq(err.status, KVQ_ERR_SCHEME);
    cr_assert_eq(err.offset, offset, "%s: error at %d, expected at %zu (%s)", text, (int)err.offset, offset,
                 err.message);
    cr_assert_not_null(strstr(err.message, message_part), "%s: message is: %s", text, err.message);
    cr_assert_null(scheme, "%s: out was written", text);
}

Test(scheme, errors_point_at_the_character)
{
    expect_error("", 0, "expected here");
    expect_error("kivi", 4, "number");
    expect_error("kivi7", 4, "bits");
    expect_error("kivi2-g", 7, "number");
    expect_error("kivi2-g48", 7, "group");
    expect_error("kivi2;r=1", 5, "comma");
    expect_error("kivi2,", 6, "expected here");
    expect_error("kivi2,x=1", 6, "expected here");
    expect_error("k=2@row,v=2", 4, "channel or token");
    expect_error("k=2@channelx,v=2", 4, "channel or token");
    expect_error("k=2@channel/full,v=2", 12, "token axis");
    expect_error("k=0,v=2", 2, "bits");
    expect_error("k=2", 3, "both");
    expect_error("k=2,v=2,k=4", 8, "twice");
    expect_error("kivi2,r=100", 8, "multiple");
    expect_error("kivi2,r=0", 8, "a residual of at least what a side packs together");
    expect_error("kivi2,r=99999999999999999999", 8, "too large");
    expect_error("kivi2,mode=kivis", 11, "kivi or sliding");
    expect_error("kivi2,rtype=f64", 12, "f32, f16 or i8");
    expect_error("kivi2,arith=f16", 12, "f32 or kivi-f16");
    expect_error("kivi2,s=-1", 8, "number");
    expect_error("fp32x", 0, "expected here");
    expect_error(" kivi2", 0, "expected here");
}

/* What each item takes, and what both sides must agree on with the residual. */
Test(scheme, values_out_of_range_make_no_scheme)
{
    kvq_scheme *made;
    expect_error("k=7,v=2", 2, "bits must be 1, 2, 3, 4, 5, 6 or 8");
    expect_error("k=2,v=9", 6, "bits must be");
    expect_error("k=2,v=100", 6, "the number is too large");
    expect_error("k=2,v=2@token/33", 14, "group must be 16, 32, 64, 128 or full");
    expect_error("k=2@channel/0,v=2", 12, "group must be");
    expect_error("kivi2,k=2@channel/full", 18, "a full group needs the token axis");
    expect_error("k=nothing,v=2", 2, "a codec is expected here");
    expect_error("k=f64,v=2", 2, "a codec is expected here");
    expect_error("k=affine,v=2", 2, "a codec is expected here");
    expect_error("k=f32:2,v=2", 6, "takes no parameters");
    expect_error("k=f16:,v=2", 6, "takes no parameters");
    expect_error("k=2,v=f16/32", 9, "comma");
    expect_error("kivi2,arith=2", 12, "f32 or kivi-f16 is expected here");
    expect_error("kivi2,rtype=i4", 12, "f32, f16 or i8 is expected here");
    expect_error("kivi2,rtype=i8/", 15, "f32, f16 or i8 is expected here");
    expect_error("kivi2,rtype=i8/f16/f16", 18, "comma");
    expect_error("kivi2,r=33", 8, "residual must be a multiple of the group of a side on the channel axis");
    expect_error("k=2@token,v=2@channel/64,r=96", 27, "residual must be a multiple of the group");
    expect_error("kivi2,mode=sliding,r=33", 21, "residual must be a multiple of the group");
    expect_error("kivi2,r=1073741825", 8, "the number is too large");
    expect_error("kivi2,s=1048577", 8, "the number is too large");
    expect_error("kivi2,hh=9", 9, "the number is too large");
    expect_error("kivi2,hh=1,r=64", 9, "hh= needs a codec that keeps heavy hitters");
    expect_error("kivi2,hh=", 9, "a number is expected here");
    expect_error("kvq", 0, "expected here");
    expect_error("kvq2-", 4, "a comma or the end is expected here");
    expect_error("kvq2.0", 0, "expected here");
    expect_error("turbo2-ncx", 6, "a comma or the end is expected here");
    expect_error("turbo5", 0, "expected here");
    expect_error("kvq2,r=64", 7, "residual must be a multiple of 128 where a side packs whole pages");
    expect_error("kvq2,r=0,mode=kivi", 7, "kivi mode needs a residual");
    expect_error("kvq2,k=rot:2", 11, "rot is for values");
    expect_error("kvq2,v=rot:2.5", 11, "bits must be 1.5, 2, 3 or 4");
    expect_error("kvq2,v=rot:5", 11, "the number is too large");
    cr_assert_eq(kvq_scheme_create(&made, NULL, NULL), KVQ_ERR_ARG);
    cr_assert_eq(kvq_scheme_create(NULL, "kivi2", NULL), KVQ_ERR_ARG);
}

Test(scheme, bits_per_element_count_metadata)
{
    static const struct {
        const char *text;
        size_t dim;
        double bits;
    } cases[] = {{"kivi2", 64, 3.0},
                 {"kivi2", 128, 3.0},
                 {"kivi4-g64", 64, 4.5},
                 {"k=f32,v=8@token/full", 128, 20.125},
                 {"kivi2", 24, 4.0} /* D is padded to 32 */,
                 {"k=nuq:2,v=f32", 1024, 0.0} /* not for nuq */,
                 {"kivi2", 0, 0.0},
                 {"kivi2", 1025, 0.0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_float_eq(kvq_scheme_bits_per_element(scheme_of(cases[i].text), cases[i].dim), cases[i].bits,
                           1e-12, "%s, D = %zu", cases[i].text, cases[i].dim);
    cr_assert_eq(kvq_scheme_bits_per_element(NULL, 64), 0.0);
}
