/* The report of a benchmark as JSON, schema kvq-eval-bench/2 (report.h). */
#include "eval/bench/report.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

/* JSON has no infinity and no NaN; null says that there is no number. Whole numbers stay whole. */
static json_t *number(double x)
{
    if (!isfinite(x))
        return json_null();
    return fabs(x) < 0x1p53 && !(floor(x) < x) ? json_integer((json_int_t)x) : json_real(x);
}

static json_t *lines_json(const char lines[][BENCH_LINE_SIZE], size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_string(lines[i]));
    return list;
}

static json_t *machine_json(const bench_machine *m)
{
    json_t *o = json_object();
    json_object_set_new(o, "features", json_string(m->features));
    json_object_set_new(o, "cores", json_integer(m->n_cores));
    json_object_set_new(o, "l1d_bytes", number((double)m->l1d));
    json_object_set_new(o, "l2_bytes", number((double)m->l2));
    json_object_set_new(o, "l3_bytes", number((double)m->l3));
    json_object_set_new(o, "memory_bytes", number((double)m->memory));
    json_object_set_new(o, "huge_pages", json_string(m->huge_pages));
    json_object_set_new(o, "openblas_kernels", json_string(m->blas));
    json_object_set_new(o, "openblas_coretype",
                        m->blas_forced[0] ? json_string(m->blas_forced) : json_null());
    return o;
}

static json_t *table_json(const bench_table *t)
{
    json_t *list = json_array(), *row = NULL;
    for (size_t at = 0; at < t->n; at++) {
        const size_t i = at % t->n_columns;
        if (i == 0) {
            row = json_object();
            json_array_append_new(list, row);
        }
        const bench_value *v = &t->values[at];
        json_object_set_new(row, t->columns[i].key,
                            t->columns[i].decimals == BENCH_TEXT ? json_string(v->text) : number(v->number));
    }
    return list;
}

bool bench_report_json(FILE *f, const bench_report *r, eval_error *e)
{
    json_t *root = json_object();
    json_object_set_new(root, "schema", json_string("kvq-eval-bench/2"));
    json_object_set_new(root, "version", json_string(kvq_version()));
    json_object_set_new(root, "mode", json_string(r->mode));
    json_object_set_new(root, "quick", json_boolean(r->quick));
    json_object_set_new(root, "seed", number((double)r->seed));
    json_object_set_new(root, "machine", machine_json(&r->machine));
    json_object_set_new(root, "headline_sentences", lines_json(r->headline, r->n_headline));
    for (size_t i = 0; i < r->n_tables; i++)
        json_object_set_new(root, r->tables[i].key, table_json(&r->tables[i]));
    json_object_set_new(root, "left_out", table_json(&r->left_out));
    json_object_set_new(root, "notes", lines_json(r->notes, r->n_notes));
    char *dump = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (!dump)
        return eval_fail(e, "out of memory for the JSON report");
    fputs(dump, f);
    fputc('\n', f);
    free(dump);
    return true;
}
