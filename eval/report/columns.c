/* The list of columns (columns.h): for each figure where it comes from, and its row. */
#include "eval/report/columns.h"

#include <math.h>
#include <string.h>

const column_part_info column_parts[N_PARTS] = {
    [PART_SCHEME] = {.title = "The scheme"},
    [PART_BYTES] = {.title = "Bytes of the cache", .object = "bytes"},
    [PART_MEMORY] = {.title = "Memory"},
    [PART_LOCAL] = {.title = "Local errors", .object = "local"},
    [PART_PROPAGATED] = {.title = "Propagated errors", .object = "propagated", .needs_trained = true},
    [PART_RUN] = {.title = "The run"},
};

/* ---- kinds of values ---- */

static column_value text(const char *x)
{
    return (column_value){.text = x, .real = (double)NAN};
}

static column_value whole(uint64_t x)
{
    return (column_value){.is_whole = true, .whole = x, .real = (double)x};
}

static column_value none_if_0(uint64_t x)
{
    return x > 0 ? whole(x) : (column_value){.missing = true, .is_whole = true, .real = (double)NAN};
}

/* An infinite figure is one that nothing can be promised of. */
static column_value real(double x)
{
    return isfinite(x) ? (column_value){.real = x} : (column_value){.missing = true, .real = (double)NAN};
}

/* There is none where attention was not run. */
static column_value of_attention(const evaluate_run *run, column_value value)
{
    value.missing = value.missing || run->kv_only;
    value.real = value.missing ? (double)NAN : value.real;
    return value;
}

/* There is none where layers differ in their scheme: what the library says of those is about the base. */
static column_value of_scheme(const evaluate_run *run, column_value value)
{
    const bool differs = kvq_scheme_min_layers(run->scheme) > 0;
    return differs ? (column_value){.missing = true, .real = (double)NAN} : value;
}

/* ---- what a scheme says of itself ---- */

static kvq_side_info keys(const evaluate_run *run)
{
    kvq_side_info info = {.codec = ""};
    return kvq_scheme_keys(run->scheme, &info) == KVQ_OK ? info : (kvq_side_info){.codec = ""};
}

static kvq_side_info values(const evaluate_run *run)
{
    kvq_side_info info = {.codec = ""};
    return kvq_scheme_values(run->scheme, &info) == KVQ_OK ? info : (kvq_side_info){.codec = ""};
}

static uint64_t group_of(const evaluate_run *run, size_t head_dim)
{
    const kvq_side_info sides[] = {keys(run), values(run)};
    for (size_t i = 0; i < 2; i++)
        if (strcmp(sides[i].codec, "affine") == 0)
            return sides[i].group == KVQ_GROUP_FULL ? head_dim : sides[i].group;
    return 0;
}

static const char *mode_of(const evaluate_run *run)
{
    return kvq_scheme_residual_mode(run->scheme) == KVQ_RESIDUAL_KIVI ? "kivi" : "sliding";
}

static const char *dtypes_of(const evaluate_run *run)
{
    static const char *const names[][3] = {[KVQ_F32] = {"f32", "f32/f16", "f32/i8"},
                                           [KVQ_F16] = {"f16/f32", "f16", "f16/i8"},
                                           [KVQ_I8] = {"i8/f32", "i8/f16", "i8"}};
    return names[keys(run).residual_dtype][values(run).residual_dtype];
}

/* ---- where the figures come from ---- */

#define RUN(name, value)                                                                                     \
    static column_value run_##name(const evaluation *ev, const evaluate_run *run)                            \
    {                                                                                                        \
        (void)ev, (void)run;                                                                                 \
        return value;                                                                                        \
    }
#define HEAD(name, value)                                                                                    \
    static column_value head_##name(const evaluate_run *run, const evaluate_head *head)                      \
    {                                                                                                        \
        (void)run;                                                                                           \
        return value;                                                                                        \
    }

/* clang-format off */ /* so that each is one line */
RUN(scheme, text(run->text))
RUN(k_bits, of_scheme(run, whole(keys(run).bits)))
RUN(v_bits, of_scheme(run, whole(values(run).bits)))
RUN(group, of_scheme(run, whole(group_of(run, ev->head_dim))))
RUN(residual, of_scheme(run, whole(kvq_scheme_residual(run->scheme))))
RUN(residual_mode, of_scheme(run, text(mode_of(run))))
RUN(residual_dtype, of_scheme(run, text(dtypes_of(run))))
RUN(sinks, of_scheme(run, whole(kvq_scheme_sinks(run->scheme))))
RUN(payload, whole(run->usage.payload))
RUN(metadata, whole(run->usage.metadata))
RUN(residual_bytes, whole(run->usage.residual))
RUN(sinks_bytes, whole(run->usage.sinks))
RUN(slack, whole(run->usage.slack))
RUN(bookkeeping, whole(run->usage.bookkeeping))
RUN(evidence, whole(run->usage.evidence))
RUN(total, whole(run->usage.total))
RUN(fp16_bytes, whole(run->fp16_bytes))
RUN(fp32_bytes, whole(run->fp32_bytes))
RUN(bits_packed, real(run->bits_packed))
RUN(bits_here, real(run->bits_here))
RUN(ratio_vs_fp16, real(run->ratio_vs_fp16))
RUN(ratio_vs_fp32, real(run->ratio_vs_fp32))
RUN(pays_from, none_if_0(run->pays_from))
RUN(k_rel_l2, real(run->k_rel_l2))
HEAD(k_rel_l2, real(metric_l2_value(&head->k)))
RUN(v_rel_l2, real(run->v_rel_l2))
HEAD(v_rel_l2, real(metric_l2_value(&head->v)))
RUN(k_rel_l2_packed, real(run->k_rel_l2_packed))
HEAD(k_rel_l2_packed, real(evaluate_packed_error(run, &head->k_packed)))
RUN(v_rel_l2_packed, real(run->v_rel_l2_packed))
HEAD(v_rel_l2_packed, real(evaluate_packed_error(run, &head->v_packed)))
RUN(attn_rel_l2, real(run->attn_rel_l2))
RUN(attn_rel_l2_se, of_attention(run, real(run->estimates[FIGURE_ATTN_ERROR].se)))
HEAD(attn_rel_l2, of_attention(run, real(metric_l2_value(&head->attn))))
RUN(attn_max_abs, real(run->attn_max_abs))
HEAD(attn_max_abs, of_attention(run, real((double)head->attn_max_abs)))
RUN(attn_worst_rel_l2, real(run->attn_worst_rel_l2))
RUN(attn_worst_layer, of_attention(run, whole(run->attn_worst_layer)))
RUN(attn_worst_head, of_attention(run, whole(run->attn_worst_head)))
RUN(attn_prob_kl, real(run->attn_prob_kl))
RUN(attn_prob_kl_se, of_attention(run, real(run->estimates[FIGURE_ATTN_KL].se)))
HEAD(attn_prob_kl, of_attention(run, real(evaluate_head_prob_kl(head))))
RUN(bound_max, real(run->bound_max))
RUN(bound_looseness, real(run->bound_looseness))
RUN(kld_mean, real(run->kld_mean))
RUN(kld_mean_se, real(run->estimates[FIGURE_KL].se))
RUN(kld_p99, real(run->kld_p99))
RUN(kld_max, real(run->kld_max))
RUN(top1, real(run->top1))
RUN(top1_se, real(run->estimates[FIGURE_TOP1].se))
RUN(ppl, real(run->ppl))
RUN(ppl_se, real(run->estimates[FIGURE_PPL].se))
RUN(ppl_fp32, real(run->ppl_fp32))
RUN(ppl_increase, real(evaluate_ppl_increase(run)))
RUN(ppl_increase_se, real(run->estimates[FIGURE_PPL_CHANGE].se))
RUN(seconds, real(run->seconds))
RUN(partial, whole(evaluation_is_partial(ev)))
/* clang-format on */

/* ---- the list ---- */

const column columns[] = {
    {.name = "scheme",
     .part = PART_SCHEME,
     .unit = UNIT_TEXT,
     .title = "|scheme",
     .of_run = run_scheme,
     .doc = "The scheme's shortest text."},
    {.name = "k_bits",
     .part = PART_SCHEME,
     .unit = UNIT_COUNT,
     .title = "K bits",
     .of_run = run_k_bits,
     .doc = "Bits of a stored key: 1 to 8, 16 for half, 32 for float; 0 where there is no one width. "
            "Missing, like all to sinks below, where the scheme differs by layer."},
    {.name = "v_bits",
     .part = PART_SCHEME,
     .unit = UNIT_COUNT,
     .title = "V bits",
     .of_run = run_v_bits,
     .doc = "Bits of a stored value; 0 likewise."},
    {.name = "group",
     .part = PART_SCHEME,
     .unit = UNIT_COUNT,
     .title = "group",
     .of_run = run_group,
     .doc = "Numbers that share a scale and a minimum: the keys' group, or the values' if only they "
            "have groups; 0 without groups."},
    {.name = "residual",
     .part = PART_SCHEME,
     .unit = UNIT_COUNT,
     .title = "residual",
     .of_run = run_residual,
     .doc = "R, the newest tokens that are not packed."},
    {.name = "residual_mode",
     .part = PART_SCHEME,
     .unit = UNIT_TEXT,
     .title = "residual mode",
     .of_run = run_residual_mode,
     .doc = "In which order tokens leave the residual: kivi or sliding."},
    {.name = "residual_dtype",
     .part = PART_SCHEME,
     .unit = UNIT_TEXT,
     .title = "residual dtype",
     .of_run = run_residual_dtype,
     .doc = "How the residual and the sinks are stored: f32, f16 or i8; two of them where keys and values "
            "differ."},
    {.name = "sinks",
     .part = PART_SCHEME,
     .unit = UNIT_COUNT,
     .title = "sinks",
     .of_run = run_sinks,
     .doc = "S, the first tokens, which are never packed."},

    {.name = "payload",
     .part = PART_BYTES,
     .unit = UNIT_BYTES,
     .title = "payload",
     .of_run = run_payload,
     .doc = "Packed codes; for f16 and f32 the numbers themselves."},
    {.name = "metadata",
     .part = PART_BYTES,
     .unit = UNIT_BYTES,
     .title = "metadata",
     .of_run = run_metadata,
     .doc = "All else of packed tokens: scales, minimums, orders, heavy hitters, padding."},
    {.name = "residual",
     .csv_name = "residual_bytes",
     .part = PART_BYTES,
     .unit = UNIT_BYTES,
     .title = "residual",
     .of_run = run_residual_bytes,
     .doc = "The newest tokens, as residual_dtype says."},
    {.name = "sinks",
     .csv_name = "sinks_bytes",
     .part = PART_BYTES,
     .unit = UNIT_BYTES,
     .title = "sinks",
     .of_run = run_sinks_bytes,
     .doc = "The first tokens, likewise."},
    {.name = "slack",
     .part = PART_BYTES,
     .unit = UNIT_BYTES,
     .title = "slack",
     .of_run = run_slack,
     .doc = "Room taken for tokens that holds none yet: open pages, half-filled blocks."},
    {.name = "bookkeeping",
     .part = PART_BYTES,
     .unit = UNIT_BYTES,
     .title = "bookkeeping",
     .of_run = run_bookkeeping,
     .doc = "Structs, page tables, checksums, scratch."},
    {.name = "evidence",
     .part = PART_BYTES,
     .unit = UNIT_BYTES,
     .title = "evidence",
     .of_run = run_evidence,
     .doc = "What the cache has for what it learns from the queries; 0 for schemes that learn nothing."},
    {.name = "total",
     .part = PART_BYTES,
     .unit = UNIT_BYTES,
     .title = "cache|bytes",
     .rank = 3,
     .width = 10,
     .of_run = run_total,
     .doc = "Everything the cache got from its allocator: the sum of the above."},

    {.name = "fp16_bytes",
     .part = PART_MEMORY,
     .unit = UNIT_BYTES,
     .title = "fp16 bytes",
     .of_run = run_fp16_bytes,
     .doc = "Plain arrays of the same keys and values, 2 bytes a number."},
    {.name = "fp32_bytes",
     .part = PART_MEMORY,
     .unit = UNIT_BYTES,
     .title = "fp32 bytes",
     .of_run = run_fp32_bytes,
     .doc = "The same at 4 bytes a number."},
    {.name = "bits_packed",
     .part = PART_MEMORY,
     .unit = UNIT_BITS,
     .title = "bits|packed",
     .rank = 9,
     .width = 7,
     .of_run = run_bits_packed,
     .doc = "Bits a packed number costs: payload and metadata by packed keys and values. Missing if "
            "nothing is packed."},
    {.name = "bits_here",
     .part = PART_MEMORY,
     .unit = UNIT_BITS,
     .title = "bits|here",
     .rank = 6,
     .width = 7,
     .of_run = run_bits_here,
     .doc = "Bits a number costs at this length: all bytes of the cache, residual, slack and "
            "bookkeeping too, by all keys and values held. It comes down to bits_packed as the "
            "context grows."},
    {.name = "ratio_vs_fp16",
     .part = PART_MEMORY,
     .unit = UNIT_RATIO,
     .title = "vs|fp16",
     .rank = 1,
     .width = 7,
     .of_run = run_ratio_vs_fp16,
     .doc = "fp16_bytes by the cache's bytes. Below 1 the cache is the larger one."},
    {.name = "ratio_vs_fp32",
     .part = PART_MEMORY,
     .unit = UNIT_RATIO,
     .title = "vs|fp32",
     .rank = 12,
     .width = 7,
     .of_run = run_ratio_vs_fp32,
     .doc = "fp32_bytes by the cache's bytes."},
    {.name = "pays_from",
     .part = PART_MEMORY,
     .unit = UNIT_COUNT,
     .title = "pays from",
     .of_run = run_pays_from,
     .doc = "The fewest tokens from which on the cache stays smaller than plain fp16 arrays, found "
            "with a cache of this shape that grows token by token. Looked for up to the model's "
            "context; of contexts over 4,096 tokens, up to the window's length or 4,096. Missing if "
            "there are none."},

    {.name = "k_rel_l2",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "K|error",
     .rank = 14,
     .width = 8,
     .of_run = run_k_rel_l2,
     .of_head = head_k_rel_l2,
     .doc = "With x the keys appended and y what is read back, sqrt(sum (x - y)^2 / sum x^2) over "
            "all tokens of a window at its end. Residual and sinks are in it with the error of their "
            "stored type, 0 for f32, so it falls where they are a larger share."},
    {.name = "v_rel_l2",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "V|error",
     .rank = 15,
     .width = 8,
     .of_run = run_v_rel_l2,
     .of_head = head_v_rel_l2,
     .doc = "The same of the values."},
    {.name = "k_rel_l2_packed",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "K err.|packed",
     .rank = 17,
     .width = 8,
     .of_run = run_k_rel_l2_packed,
     .of_head = head_k_rel_l2_packed,
     .doc =
         "The same of the packed keys alone. Tools that quantize every token report another figure, that of "
         "the scheme with r=0,mode=sliding. Missing if nothing is packed."},
    {.name = "v_rel_l2_packed",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "V err.|packed",
     .rank = 18,
     .width = 8,
     .of_run = run_v_rel_l2_packed,
     .of_head = head_v_rel_l2_packed,
     .doc = "The same of the packed values alone."},
    {.name = "attn_rel_l2",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "attn.|error",
     .rank = 8,
     .width = 8,
     .of_run = run_attn_rel_l2,
     .of_head = head_attn_rel_l2,
     .doc = "The same of attention's output over all counted steps, pooled: one figure for all "
            "layers and heads together, in which heads with large outputs count most. Steps at which "
            "nothing is packed yet are in it."},
    {.name = "attn_rel_l2_se",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "attn. err.|s.e.",
     .of_run = run_attn_rel_l2_se,
     .doc = "Standard error of attn_rel_l2, by drawing windows or blocks of tokens again (UNCERTAINTY). "
            "Missing where there are fewer than two of them."},
    {.name = "attn_max_abs",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "attention max abs",
     .of_run = run_attn_max_abs,
     .of_head = head_attn_max_abs,
     .doc = "The largest absolute difference of one number of attention's output."},
    {.name = "attn_worst_rel_l2",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "worst head",
     .of_run = run_attn_worst_rel_l2,
     .doc = "attn_rel_l2 of the head where it is the largest."},
    {.name = "attn_worst_layer",
     .part = PART_LOCAL,
     .unit = UNIT_COUNT,
     .title = "worst layer",
     .of_run = run_attn_worst_layer,
     .doc = "The layer of that head, from 0."},
    {.name = "attn_worst_head",
     .part = PART_LOCAL,
     .unit = UNIT_COUNT,
     .title = "worst head of the layer",
     .of_run = run_attn_worst_head,
     .doc = "That head, from 0."},
    {.name = "attn_prob_kl",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "attn.|KL",
     .rank = 16,
     .width = 8,
     .of_run = run_attn_prob_kl,
     .of_head = head_attn_prob_kl,
     .doc = "KL divergence in nats from the fp32 attention probabilities to the scheme's, averaged "
            "over steps, layers and query heads. A probability of the scheme that underflowed to "
            "less than 1e-38 counts as 1e-38."},
    {.name = "attn_prob_kl_se",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "attn. KL|s.e.",
     .of_run = run_attn_prob_kl_se,
     .doc = "That of attn_prob_kl."},
    {.name = "bound_max",
     .part = PART_LOCAL,
     .unit = UNIT_ERROR,
     .title = "largest bound",
     .of_run = run_bound_max,
     .doc = "The library can promise for each query head at each step how far the attention's output "
            "may be from the exact one; this is the largest promise. Missing where nothing can be "
            "promised, and with --bound off."},
    {.name = "bound_looseness",
     .part = PART_LOCAL,
     .unit = UNIT_RATIO,
     .title = "bound looseness",
     .of_run = run_bound_looseness,
     .doc = "The geometric mean of promise / difference seen. Missing where no difference was seen."},

    {.name = "kld_mean",
     .part = PART_PROPAGATED,
     .unit = UNIT_ERROR,
     .title = "token KL|mean",
     .rank = 2,
     .width = 9,
     .of_run = run_kld_mean,
     .doc = "KL divergence in nats from fp32's distribution of the next token to the scheme's, "
            "averaged over counted steps."},
    {.name = "kld_mean_se",
     .part = PART_PROPAGATED,
     .unit = UNIT_ERROR,
     .title = "KL|s.e.",
     .rank = 7,
     .width = 8,
     .of_run = run_kld_mean_se,
     .doc = "Standard error of kld_mean."},
    {.name = "kld_p99",
     .part = PART_PROPAGATED,
     .unit = UNIT_ERROR,
     .title = "token KL|p99",
     .rank = 13,
     .width = 9,
     .of_run = run_kld_p99,
     .doc = "Its 99th percentile (nearest rank)."},
    {.name = "kld_max",
     .part = PART_PROPAGATED,
     .unit = UNIT_ERROR,
     .title = "token KL max",
     .of_run = run_kld_max,
     .doc = "Its maximum."},
    {.name = "top1",
     .part = PART_PROPAGATED,
     .unit = UNIT_SHARE,
     .title = "top-1|same",
     .rank = 5,
     .width = 8,
     .of_run = run_top1,
     .doc = "Share of the counted steps at which both find the same token most likely."},
    {.name = "top1_se",
     .part = PART_PROPAGATED,
     .unit = UNIT_SHARE,
     .title = "top-1|s.e.",
     .of_run = run_top1_se,
     .doc = "Standard error of top1."},
    {.name = "ppl",
     .part = PART_PROPAGATED,
     .unit = UNIT_PERPLEXITY,
     .title = "|perplexity",
     .rank = 10,
     .width = 11,
     .of_run = run_ppl,
     .doc = "exp of the mean negative log-likelihood of the text's real next token, over the counted "
            "steps but the last one of each window."},
    {.name = "ppl_se",
     .part = PART_PROPAGATED,
     .unit = UNIT_PERPLEXITY,
     .title = "ppl s.e.",
     .of_run = run_ppl_se,
     .doc = "Standard error of ppl. The text decides most of it, not the scheme."},
    {.name = "ppl_fp32",
     .part = PART_PROPAGATED,
     .unit = UNIT_PERPLEXITY,
     .title = "fp32 perplexity",
     .of_run = run_ppl_fp32,
     .doc = "The same of fp32."},
    {.name = "ppl_increase",
     .part = PART_PROPAGATED,
     .unit = UNIT_CHANGE,
     .title = "|change",
     .rank = 4,
     .width = 9,
     .of_run = run_ppl_increase,
     .doc = "How far ppl is above ppl_fp32, in percent. A fall below is chance."},
    {.name = "ppl_increase_se",
     .part = PART_PROPAGATED,
     .unit = UNIT_POINTS,
     .title = "change|s.e.",
     .rank = 11,
     .width = 8,
     .of_run = run_ppl_increase_se,
     .doc = "Standard error of ppl_increase, in percent; paired, because both perplexities are of the same "
            "tokens."},

    {.name = "seconds",
     .part = PART_RUN,
     .unit = UNIT_SECONDS,
     .title = "seconds",
     .of_run = run_seconds,
     .doc = "The scheme's own work, without the fp32 pass; for the reference row, the fp32 pass. "
            "Summed over windows, which run side by side where there are threads for it."},
    {.name = "partial",
     .part = PART_RUN,
     .unit = UNIT_COUNT,
     .title = "partial",
     .of_run = run_partial,
     .doc = "1 if the work was interrupted, and these are figures of the windows that were done; else 0."},
};
const size_t n_columns = sizeof columns / sizeof columns[0];

bool column_applies(const column *c, const evaluation *ev)
{
    return ev->has_quality || !column_parts[c->part].needs_trained;
}

const char *column_csv_name(const column *c)
{
    return c->csv_name ? c->csv_name : c->name;
}
