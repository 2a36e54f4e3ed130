/*
 * Schemes as text: what parses, what it means, how it prints, and where errors point.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/support.h"

static void expect_text(const char *text, const char *canonical)
{
    kvq_scheme scheme, again;
    char printed[KVQ_SCHEME_TEXT_MAX];
    kvq_error err;
    cr_assert_eq(kvq_scheme_parse(text, &scheme, &err), KVQ_OK, "%s: %s", text, err.message);
    cr_assert_eq(kvq_scheme_print(&scheme, printed, sizeof printed), KVQ_OK);
    cr_assert_str_eq(printed, canonical, "%s printed as %s, expected %s", text, printed, canonical);
    cr_assert_eq(kvq_scheme_parse(printed, &again, NULL), KVQ_OK);
    cr_assert_eq(memcmp(&scheme, &again, sizeof scheme), 0, "%s does not survive printing", text);
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
    expect_text("fp32", "fp32");
    expect_text("fp16", "fp16");
    expect_text("k=f16,v=f16,r=0,mode=sliding", "fp16");
    expect_text("k=f32,v=2,r=32", "k=f32,v=2@token/32,r=32");
    expect_text("fp32,r=128,mode=kivi", "fp32,r=128,mode=kivi");
    expect_text("kivi2,k=4", "k=4@channel/32,v=2@token/32");
    expect_text("k=3@channel/128,v=6@token/16", "k=3@channel/128,v=6@token/16");
}

Test(scheme, preset_means_what_the_header_says)
{
    kvq_scheme s = scheme_of("kivi2");
    cr_assert(s.k.codec == KVQ_CODEC_AFFINE && s.k.bits == 2 && s.k.axis == KVQ_AXIS_CHANNEL &&
              s.k.group == 32);
    cr_assert(s.v.codec == KVQ_CODEC_AFFINE && s.v.bits == 2 && s.v.axis == KVQ_AXIS_TOKEN &&
              s.v.group == 32);
    cr_assert(s.residual == 128 && s.residual_mode == KVQ_RESIDUAL_KIVI && s.residual_dtype == KVQ_F32);
    cr_assert(s.sinks == 0 && s.arith == KVQ_ARITH_F32);
    kvq_config config;
    kvq_config_init(&config);
    cr_assert_eq(memcmp(&config.scheme, &s, sizeof s), 0, "the default scheme is kivi2");
}

static void expect_error(const char *text, size_t offset, const char *message_part)
{
    kvq_scheme scheme, untouched;
    kvq_error err = {KVQ_OK, NULL, 0};
    memset(&scheme, 0x5a, sizeof scheme);
    untouched = scheme;
    cr_assert_eq(kvq_scheme_parse(text, &scheme, &err), KVQ_ERR_SCHEME, "%s was taken", text);
    cr_assert_eq(err.status, KVQ_ERR_SCHEME);
    cr_assert_eq(err.offset, offset, "%s: error at %d, expected at %zu (%s)", text, (int)err.offset, offset,
                 err.message);
    cr_assert_not_null(strstr(err.message, message_part), "%s: message is: %s", text, err.message);
    cr_assert_eq(memcmp(&scheme, &untouched, sizeof scheme), 0, "%s: out was written", text);
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
    expect_error("kivi2,r=0", 8, "at least one group");
    expect_error("kivi2,r=99999999999999999999", 8, "too large");
    expect_error("kivi2,mode=kivis", 11, "kivi or sliding");
    expect_error("kivi2,rtype=f64", 12, "f32 or f16");
    expect_error("kivi2,arith=f16", 12, "f32 or kivi-f16");
    expect_error("kivi2,s=-1", 8, "number");
    expect_error("fp32x", 0, "expected here");
    expect_error(" kivi2", 0, "expected here");
}

Test(scheme, rejects_fields_that_make_no_scheme)
{
    kvq_scheme good = scheme_of("kivi2"), s;
    kvq_error err;
    char text[KVQ_SCHEME_TEXT_MAX];
#define EXPECT_BAD(change, word)                                                                             \
    s = good;                                                                                                \
    s.change;                                                                                                \
    cr_assert_eq(kvq_scheme_check(&s, &err), KVQ_ERR_SCHEME, #change);                                       \
    cr_assert_not_null(strstr(err.message, word), "%s", err.message);                                        \
    cr_assert_eq(kvq_scheme_print(&s, text, sizeof text), KVQ_ERR_SCHEME)
    EXPECT_BAD(k.bits = 7, "bits");
    EXPECT_BAD(v.group = 33, "group");
    EXPECT_BAD(k.group = KVQ_GROUP_FULL, "token axis");
    EXPECT_BAD(k.codec = (kvq_codec_id)9, "codec");
    EXPECT_BAD(k.axis = (kvq_axis)2, "axis");
    EXPECT_BAD(arith = (kvq_arith)2, "arithmetic");
    EXPECT_BAD(residual = 33, "multiple");
    EXPECT_BAD(residual = UINT32_MAX, "residual");
    EXPECT_BAD(residual_mode = (kvq_residual_mode)2, "mode");
    EXPECT_BAD(residual_dtype = (kvq_dtype)2, "dtype");
    EXPECT_BAD(sinks = UINT32_MAX, "sinks");
    cr_assert_eq(kvq_scheme_check(NULL, NULL), KVQ_ERR_SCHEME);
    cr_assert_eq(kvq_scheme_parse(NULL, &s, NULL), KVQ_ERR_ARG);
    cr_assert_eq(kvq_scheme_print(&good, text, 5), KVQ_ERR_ARG, "five bytes do not hold kivi2 and its NUL");
    cr_assert_eq(kvq_scheme_print(&good, text, 6), KVQ_OK);
}

Test(scheme, bits_per_element_count_metadata)
{
    kvq_scheme s = scheme_of("kivi2");
    cr_assert_float_eq(kvq_side_bits_per_element(&s.k, 64), 3.0, 1e-12);
    cr_assert_float_eq(kvq_side_bits_per_element(&s.v, 128), 3.0, 1e-12);
    s = scheme_of("kivi4-g64");
    cr_assert_float_eq(kvq_side_bits_per_element(&s.k, 64), 4.5, 1e-12);
    s = scheme_of("k=f32,v=8@token/full");
    cr_assert_float_eq(kvq_side_bits_per_element(&s.k, 100), 32.0, 1e-12);
    cr_assert_float_eq(kvq_side_bits_per_element(&s.v, 128), 8.25, 1e-12);
    cr_assert_eq(kvq_side_bits_per_element(&s.v, 0), 0.0);
}
