/* The report as CSV, and the header of NumPy arrays (report.h). */
#include "eval/report/report.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* A scheme's text holds commas: always quoted. It holds no quotes. */
static void print_scheme(FILE *f, const evaluate_run *run)
{
    const kvq_scheme *s = run->scheme;
    fprintf(f, "\"%s\",%" PRIu32 ",%" PRIu32 ",%zu,%s,%s,%zu", run->text, report_keys(s).bits,
            report_values(s).bits, kvq_scheme_residual(s),
            kvq_scheme_residual_mode(s) == KVQ_RESIDUAL_KIVI ? "kivi" : "sliding",
            kvq_scheme_residual_dtype(s) == KVQ_F32 ? "f32" : "f16", kvq_scheme_sinks(s));
}

static void print_numbers(FILE *f, const double *x, size_t n, bool known)
{
    for (size_t i = 0; i < n; i++)
        if (known && isfinite(x[i]))
            fprintf(f, ",%.9g", x[i]);
        else
            fputc(',', f);
}

void report_csv(FILE *f, const evaluation *ev)
{
    fputs(
        "scheme,k_bits,v_bits,residual,residual_mode,residual_dtype,sinks,payload,metadata,residual_bytes,"
        "sinks_bytes,slack,bookkeeping,total,fp32_bytes,fp16_bytes,bits_per_element,ratio_vs_fp32,ratio_vs_"
        "fp16,"
        "k_rel_l2,v_rel_l2,attn_rel_l2,attn_max_abs,attn_prob_kl,bound_max,bound_looseness,kld_mean,kld_p99,"
        "kld_max,top1,ppl,ppl_fp32,seconds,partial\n",
        f);
    for (size_t i = 0; i < ev->n_runs; i++) {
        const evaluate_run *r = &ev->runs[i];
        const kvq_usage *u = &r->usage;
        const uint64_t bytes[] = {u->payload,     u->metadata, u->residual,   u->sinks,     u->slack,
                                  u->bookkeeping, u->total,    r->fp32_bytes, r->fp16_bytes};
        const double local[] = {r->bits_per_element, r->ratio_vs_fp32,  r->ratio_vs_fp16, r->k_rel_l2,
                                r->v_rel_l2,         r->attn_rel_l2,    r->attn_max_abs,  r->attn_prob_kl,
                                r->bound_max,        r->bound_looseness};
        const double propagated[] = {r->kld_mean, r->kld_p99, r->kld_max, r->top1, r->ppl, r->ppl_fp32};
        print_scheme(f, r);
        for (size_t j = 0; j < sizeof bytes / sizeof bytes[0]; j++)
            fprintf(f, ",%" PRIu64, bytes[j]);
        print_numbers(f, local, sizeof local / sizeof local[0], true);
        print_numbers(f, propagated, sizeof propagated / sizeof propagated[0], ev->has_quality);
        fprintf(f, ",%.3f,%d\n", r->seconds, evaluation_is_partial(ev) ? 1 : 0);
    }
}

void report_npy_header(FILE *f, size_t rows, size_t columns)
{
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    char text[160];
    const int used =
        snprintf(text, sizeof text, "{'descr': '%cf4', 'fortran_order': False, 'shape': (%zu, %zu), }",
                 first == 1 ? '<' : '>', rows, columns);
    /* Magic (6 bytes), version (2), length (2), text: together a multiple of 64, padded with spaces before
     * '\n'. */
    const size_t length = ((size_t)used + 1 + 10 + 63) / 64 * 64 - 10;
    const unsigned char magic[] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(length & 0xff), (unsigned char)(length >> 8)};
    fwrite(magic, 1, sizeof magic, f);
    fprintf(f, "%-*s\n", (int)length - 1, text);
}
