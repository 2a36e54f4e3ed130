/*
 * Schemes as text: check, parse, print. The grammar is at kvq_scheme_create in kvq.h.
 */
#include "lib/internal.h"
#include "lib/scheme.h"

#include <stdio.h>
#include <string.h>

enum { DEFAULT_RESIDUAL = 128, DEFAULT_GROUP = 32, MAX_RESIDUAL = 1 << 30, MAX_SINKS = 1 << 20 };

/* ---- Checking ---- */

static bool bits_are_valid(uint32_t bits)
{
    return (bits >= 1 && bits <= 6) || bits == 8;
}

static bool group_is_valid(uint32_t group)
{
    return group == 16 || group == 32 || group == 64 || group == 128 || group == KVQ_GROUP_FULL;
}

static const char *side_problem(const kvq_side_scheme *side)
{
    if ((unsigned)side->codec >= kvq_n_codecs)
        return "unknown codec";
    if (side->codec != KVQ_CODEC_AFFINE)
        return NULL;
    if (!bits_are_valid(side->bits))
        return "bits must be 1, 2, 3, 4, 5, 6 or 8";
    if (side->axis != KVQ_AXIS_CHANNEL && side->axis != KVQ_AXIS_TOKEN)
        return "unknown axis";
    if (!group_is_valid(side->group))
        return "group must be 16, 32, 64, 128 or full";
    if (side->group == KVQ_GROUP_FULL && side->axis != KVQ_AXIS_TOKEN)
        return "a full group needs the token axis";
    return NULL;
}

static bool groups_run_along_tokens(const kvq_side_scheme *side)
{
    return side->codec == KVQ_CODEC_AFFINE && side->axis == KVQ_AXIS_CHANNEL;
}

static const char *residual_problem(const kvq_scheme *scheme)
{
    const kvq_side_scheme *sides[] = {&scheme->k, &scheme->v};
    if (scheme->residual > MAX_RESIDUAL)
        return "residual must be at most 1073741824";
    for (size_t i = 0; i < 2; i++) {
        if (!groups_run_along_tokens(sides[i]))
            continue;
        if (scheme->residual % sides[i]->group != 0)
            return "residual must be a multiple of the group of a side on the channel axis";
        if (scheme->residual == 0 && scheme->residual_mode == KVQ_RESIDUAL_KIVI)
            return "kivi mode needs a residual of at least one group on the channel axis";
    }
    return NULL;
}

const char *kvq_scheme_problem(const kvq_scheme *scheme)
{
    const char *problem = side_problem(&scheme->k);
    if (problem == NULL)
        problem = side_problem(&scheme->v);
    if (problem != NULL)
        return problem;
    if (scheme->arith != KVQ_ARITH_F32 && scheme->arith != KVQ_ARITH_KIVI_F16)
        return "unknown arithmetic";
    if (scheme->residual_mode != KVQ_RESIDUAL_KIVI && scheme->residual_mode != KVQ_RESIDUAL_SLIDING)
        return "unknown residual mode";
    if (scheme->residual_dtype != KVQ_F32 && scheme->residual_dtype != KVQ_F16)
        return "unknown residual dtype";
    if (scheme->sinks > MAX_SINKS)
        return "sinks must be at most 1048576";
    return residual_problem(scheme);
}

/* ---- Parsing ---- */

/* The rest of the text, and the first problem met. */
typedef struct parser {
    const char *text, *at;
    const char *problem;
    const char *problem_at;
} parser;

static bool fail_at(parser *p, const char *at, const char *problem)
{
    if (p->problem == NULL) {
        p->problem = problem;
        p->problem_at = at;
    }
    return false;
}

/* Take `word` if the text goes on with it. */
static bool accept(parser *p, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(p->at, word, n) != 0)
        return false;
    p->at += n;
    return true;
}

/* The same, but only if what follows ends a word. */
static bool accept_word(parser *p, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(p->at, word, n) != 0 || (p->at[n] != '\0' && strchr(",@/-", p->at[n]) == NULL))
        return false;
    p->at += n;
    return true;
}

static bool parse_number(parser *p, uint32_t limit, uint32_t *out)
{
    *out = 0;
    const char *start = p->at;
    uint64_t value = 0;
    while (*p->at >= '0' && *p->at <= '9' && value <= limit)
        value = value * 10 + (uint64_t)(*p->at++ - '0');
    if (p->at == start)
        return fail_at(p, start, "a number is expected here");
    if (value > limit)
        return fail_at(p, start, "the number is too large");
    *out = (uint32_t)value;
    return true;
}

static bool parse_bits(parser *p, uint32_t *bits)
{
    const char *start = p->at;
    if (!parse_number(p, 99, bits))
        return false;
    return bits_are_valid(*bits) || fail_at(p, start, "bits must be 1, 2, 3, 4, 5, 6 or 8");
}

static bool parse_group(parser *p, uint32_t *group, bool may_be_full)
{
    const char *start = p->at;
    if (may_be_full && accept_word(p, "full")) {
        *group = KVQ_GROUP_FULL;
        return true;
    }
    if (!parse_number(p, 9999, group))
        return false;
    if (*group == KVQ_GROUP_FULL || !group_is_valid(*group))
        return fail_at(p, start, "group must be 16, 32, 64, 128 or full");
    return true;
}

static bool parse_side(parser *p, kvq_axis usual_axis, kvq_side_scheme *side)
{
    *side = (kvq_side_scheme){.codec = KVQ_CODEC_AFFINE, .axis = usual_axis, .group = DEFAULT_GROUP};
    bool f16 = accept_word(p, "f16");
    if (f16 || accept_word(p, "f32")) {
        *side = (kvq_side_scheme){.codec = f16 ? KVQ_CODEC_F16 : KVQ_CODEC_F32};
        return true;
    }
    if (*p->at < '0' || *p->at > '9')
        return fail_at(p, p->at, "f32, f16 or a number of bits is expected here");
    if (!parse_bits(p, &side->bits))
        return false;
    if (accept(p, "@")) {
        if (accept_word(p, "channel"))
            side->axis = KVQ_AXIS_CHANNEL;
        else if (accept_word(p, "token"))
            side->axis = KVQ_AXIS_TOKEN;
        else
            return fail_at(p, p->at, "channel or token is expected here");
    }
    if (accept(p, "/")) {
        const char *start = p->at;
        if (!parse_group(p, &side->group, true))
            return false;
        if (side->group == KVQ_GROUP_FULL && side->axis == KVQ_AXIS_CHANNEL)
            return fail_at(p, start, "a full group needs the token axis");
    }
    return true;
}

static kvq_scheme kivi_preset(uint32_t bits, uint32_t group)
{
    return (kvq_scheme){
        .k = {.codec = KVQ_CODEC_AFFINE, .bits = bits, .axis = KVQ_AXIS_CHANNEL, .group = group},
        .v = {.codec = KVQ_CODEC_AFFINE, .bits = bits, .axis = KVQ_AXIS_TOKEN, .group = group},
        .residual = DEFAULT_RESIDUAL,
    };
}

static kvq_scheme plain_preset(kvq_codec_id codec)
{
    return (kvq_scheme){.k = {.codec = codec}, .v = {.codec = codec}, .residual_mode = KVQ_RESIDUAL_SLIDING};
}

/* True if there was a preset and it was right; p->problem tells a wrong one from none. */
static bool parse_preset(parser *p, kvq_scheme *out)
{
    if (accept_word(p, "fp32")) {
        *out = plain_preset(KVQ_CODEC_F32);
        return true;
    }
    if (accept_word(p, "fp16")) {
        *out = plain_preset(KVQ_CODEC_F16);
        return true;
    }
    if (!accept(p, "kivi"))
        return false;
    uint32_t bits, group = DEFAULT_GROUP;
    if (!parse_bits(p, &bits) || (accept(p, "-g") && !parse_group(p, &group, false)))
        return false;
    *out = kivi_preset(bits, group);
    return true;
}

/* One of two words. */
static bool parse_choice(parser *p, const char *zero, const char *one, const char *problem, unsigned *out)
{
    if (accept_word(p, zero))
        *out = 0;
    else if (accept_word(p, one))
        *out = 1;
    else
        return fail_at(p, p->at, problem);
    return true;
}

enum { HAS_K = 1, HAS_V = 2, HAS_R = 4, HAS_MODE = 8, HAS_RTYPE = 16, HAS_S = 32, HAS_ARITH = 64 };

static bool parse_item(parser *p, kvq_scheme *out, unsigned *seen)
{
    const char *start = p->at;
    unsigned choice = 0, item;
    bool ok;
    if (accept(p, "k=")) {
        item = HAS_K;
        ok = parse_side(p, KVQ_AXIS_CHANNEL, &out->k);
    } else if (accept(p, "v=")) {
        item = HAS_V;
        ok = parse_side(p, KVQ_AXIS_TOKEN, &out->v);
    } else if (accept(p, "r=")) {
        item = HAS_R;
        ok = parse_number(p, MAX_RESIDUAL, &out->residual);
    } else if (accept(p, "s=")) {
        item = HAS_S;
        ok = parse_number(p, MAX_SINKS, &out->sinks);
    } else if (accept(p, "mode=")) {
        item = HAS_MODE;
        ok = parse_choice(p, "kivi", "sliding", "kivi or sliding is expected here", &choice);
        out->residual_mode = (kvq_residual_mode)choice;
    } else if (accept(p, "rtype=")) {
        item = HAS_RTYPE;
        ok = parse_choice(p, "f32", "f16", "f32 or f16 is expected here", &choice);
        out->residual_dtype = (kvq_dtype)choice;
    } else if (accept(p, "arith=")) {
        item = HAS_ARITH;
        ok = parse_choice(p, "f32", "kivi-f16", "f32 or kivi-f16 is expected here", &choice);
        out->arith = (kvq_arith)choice;
    } else {
        return fail_at(p, start,
                       "k=, v=, r=, mode=, rtype=, s= or arith= is expected here, or a preset at the start");
    }
    if (ok && (*seen & item) != 0)
        return fail_at(p, start, "this is given twice");
    *seen |= item;
    return ok;
}

static bool parse_scheme(parser *p, kvq_scheme *out)
{
    unsigned seen = 0;
    *out = (kvq_scheme){.residual = DEFAULT_RESIDUAL};
    bool preset = parse_preset(p, out);
    if (p->problem != NULL)
        return false;
    bool more = !preset || accept(p, ",");
    while (more) {
        if (!parse_item(p, out, &seen))
            return false;
        more = accept(p, ",");
    }
    if (*p->at != '\0')
        return fail_at(p, p->at, "a comma or the end is expected here");
    if (!preset && (seen & (HAS_K | HAS_V)) != (HAS_K | HAS_V))
        return fail_at(p, p->at, "k= and v= are both needed without a preset");
    return true;
}

/* ---- Printing ---- */

typedef struct printer {
    char *text;
    size_t size, n;
} printer;

static void put(printer *p, const char *word)
{
    size_t n = strlen(word);
    if (p->n + n < p->size)
        memcpy(p->text + p->n, word, n + 1);
    p->n += n;
}

static void put_number(printer *p, const char *before, uint32_t number)
{
    char digits[16];
    (void)snprintf(digits, sizeof digits, "%lu", (unsigned long)number);
    put(p, before);
    put(p, digits);
}

static void put_side(printer *p, const char *name, const kvq_side_scheme *side)
{
    put(p, name);
    if (side->codec != KVQ_CODEC_AFFINE) {
        put(p, side->codec == KVQ_CODEC_F16 ? "f16" : "f32");
        return;
    }
    put_number(p, "", side->bits);
    put(p, side->axis == KVQ_AXIS_CHANNEL ? "@channel" : "@token");
    if (side->group == KVQ_GROUP_FULL)
        put(p, "/full");
    else
        put_number(p, "/", side->group);
}

static bool sides_equal(const kvq_side_scheme *a, const kvq_side_scheme *b)
{
    if (a->codec != KVQ_CODEC_AFFINE || b->codec != KVQ_CODEC_AFFINE)
        return a->codec == b->codec;
    return a->bits == b->bits && a->axis == b->axis && a->group == b->group;
}

/* Print the two sides, as a preset where one fits; *base gets what a reader of it then assumes. */
static void put_shortest_sides(printer *p, const kvq_scheme *s, kvq_scheme *base)
{
    *base = kivi_preset(s->k.bits, s->k.group);
    if (s->k.codec == KVQ_CODEC_AFFINE && s->k.group != KVQ_GROUP_FULL && sides_equal(&s->k, &base->k) &&
        sides_equal(&s->v, &base->v)) {
        put_number(p, "kivi", s->k.bits);
        if (s->k.group != DEFAULT_GROUP)
            put_number(p, "-g", s->k.group);
        return;
    }
    if (s->k.codec != KVQ_CODEC_AFFINE && s->k.codec == s->v.codec) {
        *base = plain_preset(s->k.codec);
        put(p, s->k.codec == KVQ_CODEC_F16 ? "fp16" : "fp32");
        return;
    }
    *base = (kvq_scheme){.residual = DEFAULT_RESIDUAL};
    put_side(p, "k=", &s->k);
    put_side(p, ",v=", &s->v);
}

bool kvq_scheme_print(const kvq_scheme *scheme, bool explicit_form, char *text)
{
    if (kvq_scheme_problem(scheme) != NULL)
        return false;
    printer p = {.text = text, .size = KVQ_SCHEME_TEXT_MAX};
    kvq_scheme base;
    if (explicit_form) {
        put_side(&p, "k=", &scheme->k);
        put_side(&p, ",v=", &scheme->v);
    } else {
        put_shortest_sides(&p, scheme, &base);
    }
    if (explicit_form || scheme->residual != base.residual)
        put_number(&p, ",r=", scheme->residual);
    if (explicit_form || scheme->residual_mode != base.residual_mode)
        put(&p, scheme->residual_mode == KVQ_RESIDUAL_KIVI ? ",mode=kivi" : ",mode=sliding");
    if (explicit_form || scheme->residual_dtype != base.residual_dtype)
        put(&p, scheme->residual_dtype == KVQ_F16 ? ",rtype=f16" : ",rtype=f32");
    if (explicit_form || scheme->sinks != base.sinks)
        put_number(&p, ",s=", scheme->sinks);
    if (explicit_form || scheme->arith != base.arith)
        put(&p, scheme->arith == KVQ_ARITH_F32 ? ",arith=f32" : ",arith=kivi-f16");
    return p.n < p.size;
}

/* ---- The whole ---- */

kvq_status kvq_scheme_parse(const char *text, kvq_scheme *out, kvq_error *err)
{
    parser p = {.text = text, .at = text};
    kvq_scheme scheme;
    if (!parse_scheme(&p, &scheme))
        return kvq_fail(err, KVQ_ERR_SCHEME, p.problem, (uint64_t)(p.problem_at - text));
    const char *problem = kvq_scheme_problem(&scheme);
    if (problem != NULL) { /* the only ones left concern the residual */
        const char *r = strstr(text, "r="), *mode = strstr(text, "mode=");
        const char *at = r != NULL ? r + 2 : mode != NULL ? mode + 5 : text;
        return kvq_fail(err, KVQ_ERR_SCHEME, problem, (uint64_t)(at - text));
    }
    if (!kvq_scheme_print(&scheme, false, scheme.text))
        return kvq_fail(err, KVQ_ERR_SCHEME, "the canonical form is too long", 0);
    *out = scheme;
    return KVQ_OK;
}
