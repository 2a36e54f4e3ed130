/*
 * Plain schemes as text: parse, check, print; scheme_layers.c joins them. The grammar is at kvq_scheme_create
 * in kvq.h; what stands behind k= and v= is read and printed by the codecs.
 */
#include "lib/internal.h"
#include "lib/scheme.h"

#include <string.h>

enum {
    DEFAULT_RESIDUAL = 128,
    DEFAULT_GROUP = 32,
    MAX_RESIDUAL = 1 << 30,
    MAX_SINKS = 1 << 20,
    ANY_DIM = 128, /* for what a side says that does not depend on D */
};

/* ---- Checking ---- */

const char *kvq_scheme_side(const kvq_scheme *scheme, kvq_role role, size_t dim, kvq_side *out)
{
    const kvq_common common = {.half_arith = scheme->arith == KVQ_ARITH_KIVI_F16,
                               .heavy_hitters = scheme->heavy_hitters};
    return kvq_side_init(out, &scheme->side[role], &common, role, dim);
}

/* What only both sides together with the residual tell; NULL if nothing. */
static const char *scheme_problem(const kvq_scheme *scheme)
{
    uint32_t kept = 0;
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        kvq_side side;
        const char *problem = kvq_scheme_side(scheme, role, ANY_DIM, &side);
        if (problem != NULL)
            return problem;
        kept += side.heavy_hitters;
        if (side.tokens_per_run == 1)
            continue;
        if (scheme->residual % side.tokens_per_run != 0)
            return side.has_groups ? "residual must be a multiple of the group of a side on the channel axis"
                                   : "residual must be a multiple of 128 where a side packs whole pages";
        if (scheme->residual == 0 && scheme->residual_mode == KVQ_RESIDUAL_KIVI)
            return "kivi mode needs a residual of at least what a side packs together";
    }
    return kept == 0 && scheme->heavy_hitters > 0 ? "hh= needs a codec that keeps heavy hitters" : NULL;
}

/* ---- Parsing ---- */

static bool parse_side(kvq_text *t, kvq_role role, kvq_spec *spec)
{
    const char *start = t->at, *rest;
    *spec = (kvq_spec){.codec = kvq_codec_for_text(start, &rest)};
    if (spec->codec == NULL)
        return kvq_text_fail(
            t, start,
            "a codec is expected here: f32, f16, a number of bits, tier, rot, or the name of a "
            "rival or of a plug-in that is loaded");
    t->at = rest;
    return spec->codec->parse(spec->codec, t, role, spec->parameter);
}

/* One of two words. */
static bool parse_choice(kvq_text *t, const char *zero, const char *one, const char *problem, unsigned *out)
{
    if (kvq_text_accept_word(t, zero))
        *out = 0;
    else if (kvq_text_accept_word(t, one))
        *out = 1;
    else
        return kvq_text_fail(t, t->at, problem);
    return true;
}

static bool parse_dtype(kvq_text *t, kvq_dtype *out)
{
    static const char *const names[] = {[KVQ_F32] = "f32", [KVQ_F16] = "f16", [KVQ_I8] = "i8"};
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        if (kvq_text_accept_word(t, names[i])) {
            *out = (kvq_dtype)i;
            return true;
        }
    return kvq_text_fail(t, t->at, "f32, f16 or i8 is expected here");
}

/* DTYPE ["/" DTYPE] */
static bool parse_dtypes(kvq_text *t, kvq_dtype dtype[KVQ_N_ROLES])
{
    if (!parse_dtype(t, &dtype[KVQ_KEYS]))
        return false;
    dtype[KVQ_VALUES] = dtype[KVQ_KEYS];
    return !kvq_text_accept(t, "/") || parse_dtype(t, &dtype[KVQ_VALUES]);
}

enum {
    HAS_K = 1,
    HAS_V = 2,
    HAS_R = 4,
    HAS_MODE = 8,
    HAS_RTYPE = 16,
    HAS_S = 32,
    HAS_ARITH = 64,
    HAS_HH = 128
};

static bool parse_item(kvq_text *t, kvq_scheme *out, unsigned *seen)
{
    const char *start = t->at;
    unsigned choice = 0, item;
    bool ok;
    if (kvq_text_accept(t, "k=")) {
        item = HAS_K;
        ok = parse_side(t, KVQ_KEYS, &out->side[KVQ_KEYS]);
    } else if (kvq_text_accept(t, "v=")) {
        item = HAS_V;
        ok = parse_side(t, KVQ_VALUES, &out->side[KVQ_VALUES]);
    } else if (kvq_text_accept(t, "r=")) {
        item = HAS_R;
        ok = kvq_text_number(t, MAX_RESIDUAL, &out->residual);
    } else if (kvq_text_accept(t, "s=")) {
        item = HAS_S;
        ok = kvq_text_number(t, MAX_SINKS, &out->sinks);
    } else if (kvq_text_accept(t, "hh=")) {
        item = HAS_HH;
        ok = kvq_text_number(t, KVQ_HEAVY_HITTERS_MAX, &out->heavy_hitters);
    } else if (kvq_text_accept(t, "mode=")) {
        item = HAS_MODE;
        ok = parse_choice(t, "kivi", "sliding", "kivi or sliding is expected here", &choice);
        out->residual_mode = (kvq_residual_mode)choice;
    } else if (kvq_text_accept(t, "rtype=")) {
        item = HAS_RTYPE;
        ok = parse_dtypes(t, out->residual_dtype);
    } else if (kvq_text_accept(t, "arith=")) {
        item = HAS_ARITH;
        ok = parse_choice(t, "f32", "kivi-f16", "f32 or kivi-f16 is expected here", &choice);
        out->arith = (kvq_arith)choice;
    } else {
        return kvq_text_fail(
            t, start,
            "k=, v=, r=, mode=, rtype=, s=, hh= or arith= is expected here, or a preset at the start");
    }
    if (ok && (*seen & item) != 0)
        return kvq_text_fail(t, start, "this is given twice");
    *seen |= item;
    return ok;
}

static bool parse_items(kvq_text *t, kvq_scheme *out, unsigned *seen)
{
    do {
        if (!parse_item(t, out, seen))
            return false;
    } while (kvq_text_accept(t, ","));
    return kvq_text_ends(t) || kvq_text_fail(t, t->at, "a comma or the end is expected here");
}

static const kvq_scheme no_preset = {.residual = DEFAULT_RESIDUAL};

/* ---- Presets: names for texts ---- */

#define RESIDUAL                   ",s=4,mode=sliding,rtype=f16/i8"
#define KVQ(keys, values, hitters) "k=tier:" keys ",v=rot:" values ",hh=" hitters RESIDUAL
#define RIVAL(name, codec)                                                                                   \
    {                                                                                                        \
        name, "k=" codec ",v=" codec RESIDUAL                                                                \
    }

/* A name that begins another comes after it. Rivals have the residual and the sinks of the kvq schemes, so
 * that codecs are compared and nothing else. */
static const struct {
    const char *name, *text;
} named_presets[] = {
    {"fp32", "k=f32,v=f32,r=0,mode=sliding"},
    {"fp16", "k=f16,v=f16,r=0,mode=sliding"},
    {"kvq4", KVQ("4", "4", "2")},
    {"kvq3", KVQ("3.5", "3", "2")},
    {"kvq2.5", KVQ("3", "2", "4")},
    {"kvq2-fb", KVQ("2:fb", "2", "2")},
    {"kvq2", KVQ("2", "2", "2")},
    {"kvq1.5", KVQ("1.5", "1.5", "2")},
    RIVAL("q8_0", "q8_0"),
    RIVAL("q4_0", "q4_0"),
    RIVAL("q4_1", "q4_1"),
    RIVAL("turbo1", "turbo:1"),
    RIVAL("turbo2-nc", "turbo:2:nc"),
    RIVAL("turbo2", "turbo:2"),
    RIVAL("turbo3-nc", "turbo:3:nc"),
    RIVAL("turbo3", "turbo:3"),
    RIVAL("turbo4-nc", "turbo:4:nc"),
    RIVAL("turbo4", "turbo:4"),
    RIVAL("kvarn2", "kvarn:2"),
    RIVAL("kvarn4", "kvarn:4"),
    RIVAL("quarot2", "quarot:2"),
    RIVAL("quarot4", "quarot:4"),
    RIVAL("nuq2-qn", "nuq:2:qn"),
    RIVAL("nuq2", "nuq:2"),
};
enum { N_NAMED = sizeof named_presets / sizeof named_presets[0] };

/* BITS ["-g" GROUP], after "kivi": both sides are BITS "/" GROUP */
static bool parse_kivi(kvq_text *t, kvq_scheme *out)
{
    char text[KVQ_SIDE_TEXT_MAX];
    kvq_printer p = {.text = text, .size = sizeof text};
    const char *bits_at = t->at, *group_at = t->at;
    uint32_t bits, group = DEFAULT_GROUP;
    if (!kvq_text_number(t, 99, &bits))
        return false;
    kvq_put_number(&p, "", bits);
    size_t n_bits = p.n;
    if (kvq_text_accept(t, "-g")) {
        group_at = t->at;
        if (!kvq_text_number(t, 9999, &group))
            return false;
    }
    kvq_put_number(&p, "/", group);
    *out = no_preset;
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        kvq_text side = {.at = text};
        if (!parse_side(&side, role, &out->side[role]))
            return kvq_text_fail(t, side.problem_at <= text + n_bits ? bits_at : group_at, side.problem);
    }
    return true;
}

/* True if there was a preset and it was right; t->problem tells a wrong one from none. */
static bool parse_preset(kvq_text *t, kvq_scheme *out)
{
    for (size_t i = 0; i < N_NAMED; i++) {
        if (!kvq_text_accept_word(t, named_presets[i].name))
            continue;
        kvq_text own = {.at = named_presets[i].text};
        unsigned seen = 0;
        *out = no_preset;
        return parse_items(&own, out, &seen) || kvq_text_fail(t, t->at, own.problem);
    }
    return kvq_text_accept(t, "kivi") && parse_kivi(t, out);
}

static bool parse_scheme(kvq_text *t, kvq_scheme *out)
{
    unsigned seen = 0;
    *out = no_preset;
    bool preset = parse_preset(t, out);
    if (t->problem != NULL)
        return false;
    if (preset && kvq_text_ends(t))
        return true;
    if (preset && !kvq_text_accept(t, ","))
        return kvq_text_fail(t, t->at, "a comma or the end is expected here");
    if (!parse_items(t, out, &seen))
        return false;
    if (!preset && (seen & (HAS_K | HAS_V)) != (HAS_K | HAS_V))
        return kvq_text_fail(t, t->at, "k= and v= are both needed without a preset");
    return true;
}

/* Behind the first `name` of a text [start, end); NULL if there is none. */
static const char *behind(const char *name, const char *start, const char *end)
{
    const size_t n = strlen(name);
    for (const char *at = start; (size_t)(end - at) >= n; at++)
        if (memcmp(at, name, n) == 0)
            return at + n;
    return NULL;
}

/* The place in [start, end) that a problem of both sides together is about: the residual, as a rule. */
static const char *problem_place(const char *problem, const char *start, const char *end)
{
    const char *r = behind("r=", start, end), *mode = behind("mode=", start, end);
    if (strncmp(problem, "hh=", 3) == 0) { /* which may come from a preset */
        const char *hh = behind("hh=", start, end);
        return hh != NULL ? hh : start;
    }
    return r != NULL ? r : mode != NULL ? mode : start;
}

bool kvq_scheme_read(kvq_text *t, kvq_scheme *out)
{
    const char *start = t->at;
    kvq_scheme scheme;
    if (!parse_scheme(t, &scheme))
        return false;
    const char *problem = scheme_problem(&scheme);
    if (problem != NULL)
        return kvq_text_fail(t, problem_place(problem, start, t->at), problem);
    char explicit_text[KVQ_SCHEME_TEXT_MAX]; /* what a saved cache must hold */
    if (!kvq_scheme_print(&scheme, false, scheme.text) || !kvq_scheme_print(&scheme, true, explicit_text))
        return kvq_text_fail(t, start,
                             "the scheme is too long: with all its items it must fit 127 characters");
    *out = scheme;
    return true;
}

kvq_status kvq_scheme_parse(const char *text, kvq_scheme *out, kvq_error *err)
{
    kvq_text t = {.at = text};
    kvq_scheme scheme;
    if (!kvq_scheme_read(&t, &scheme) ||
        (*t.at != '\0' && !kvq_text_fail(&t, t.at, "a comma or the end is expected here")))
        return kvq_fail(err, KVQ_ERR_SCHEME, t.problem, (uint64_t)(t.problem_at - text));
    *out = scheme;
    return KVQ_OK;
}

/* ---- Printing ---- */

static bool sides_equal(const kvq_scheme *a, const kvq_scheme *b)
{
    for (size_t role = 0; role < KVQ_N_ROLES; role++)
        if (a->side[role].codec != b->side[role].codec ||
            memcmp(a->side[role].parameter, b->side[role].parameter, sizeof a->side[role].parameter) != 0)
            return false;
    return true;
}

/* Name of preset i; of kivi's, every width with every group. False past the last. */
static bool preset_name(size_t i, char name[KVQ_SIDE_TEXT_MAX])
{
    static const uint32_t bits[] = {8, 6, 5, 4, 3, 2, 1}, groups[] = {DEFAULT_GROUP, 16, 64, 128};
    enum { N_BITS = sizeof bits / sizeof bits[0], N_GROUPS = sizeof groups / sizeof groups[0] };
    kvq_printer p = {.text = name, .size = KVQ_SIDE_TEXT_MAX};
    if (i < N_NAMED) {
        kvq_put(&p, named_presets[i].name);
        return true;
    }
    i -= N_NAMED;
    if (i >= N_BITS * N_GROUPS)
        return false;
    kvq_put_number(&p, "kivi", bits[i % N_BITS]);
    if (i >= N_BITS)
        kvq_put_number(&p, "-g", groups[i / N_BITS]);
    return true;
}

/* Find the preset that has these sides; *base is what it says. */
static bool find_preset(const kvq_scheme *scheme, kvq_scheme *base, char name[KVQ_SIDE_TEXT_MAX])
{
    for (size_t i = 0; preset_name(i, name); i++) {
        kvq_text t = {.at = name};
        if (parse_preset(&t, base) && sides_equal(base, scheme))
            return true;
    }
    return false;
}

static void put_dtypes(kvq_printer *p, const kvq_dtype dtype[KVQ_N_ROLES])
{
    static const char *const names[] = {[KVQ_F32] = "f32", [KVQ_F16] = "f16", [KVQ_I8] = "i8"};
    kvq_put(p, ",rtype=");
    kvq_put(p, names[dtype[KVQ_KEYS]]);
    if (dtype[KVQ_VALUES] == dtype[KVQ_KEYS])
        return;
    kvq_put(p, "/");
    kvq_put(p, names[dtype[KVQ_VALUES]]);
}

/* What differs from `base`, whose sides stand there already. */
static void put_items(kvq_printer *p, const kvq_scheme *scheme, const kvq_scheme *base, bool all)
{
    if (all || scheme->residual != base->residual)
        kvq_put_number(p, ",r=", scheme->residual);
    if (all || scheme->residual_mode != base->residual_mode)
        kvq_put(p, scheme->residual_mode == KVQ_RESIDUAL_KIVI ? ",mode=kivi" : ",mode=sliding");
    if (all || memcmp(scheme->residual_dtype, base->residual_dtype, sizeof base->residual_dtype) != 0)
        put_dtypes(p, scheme->residual_dtype);
    if (all || scheme->sinks != base->sinks)
        kvq_put_number(p, ",s=", scheme->sinks);
    if (all || scheme->arith != base->arith)
        kvq_put(p, scheme->arith == KVQ_ARITH_F32 ? ",arith=f32" : ",arith=kivi-f16");
    if (scheme->heavy_hitters != base->heavy_hitters) /* all or not: older files do not have it */
        kvq_put_number(p, ",hh=", scheme->heavy_hitters);
}

/* Without a preset. */
static void put_plain(kvq_printer *p, const kvq_scheme *scheme, bool all)
{
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        const kvq_spec *spec = &scheme->side[role];
        kvq_put(p, role == KVQ_KEYS ? "k=" : ",v=");
        spec->codec->print(spec->codec, p, role, spec->parameter);
    }
    put_items(p, scheme, &no_preset, all);
}

bool kvq_scheme_print(const kvq_scheme *scheme, bool explicit_form, char *text)
{
    kvq_printer plain = {.text = text, .size = KVQ_SCHEME_TEXT_MAX};
    char name[KVQ_SIDE_TEXT_MAX], short_text[KVQ_SCHEME_TEXT_MAX] = "";
    kvq_printer preset = {.text = short_text, .size = sizeof short_text};
    kvq_scheme base;
    put_plain(&plain, scheme, explicit_form);
    if (explicit_form || !find_preset(scheme, &base, name))
        return plain.n < plain.size;
    kvq_put(&preset, name);
    put_items(&preset, scheme, &base, false);
    const bool shorter = preset.n <= plain.n && preset.n < preset.size;
    if (shorter)
        memcpy(text, short_text, preset.n + 1);
    return shorter || plain.n < plain.size;
}
