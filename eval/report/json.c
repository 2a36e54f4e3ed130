/* The report as JSON, schema kvq-eval/1, whose runs are made from the list of columns (report.h). */
#include "eval/report/columns.h"
#include "eval/report/estimate.h"
#include "eval/report/greedy.h"
#include "eval/report/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static json_t *whole(uint64_t x)
{
    return json_integer((json_int_t)x);
}

static json_t *shape_window(const evaluation *ev)
{
    return ev->attn_window > 0 ? whole(ev->attn_window) : json_null();
}

static json_t *shape_json(const char *name, const model_shape *shape, const char *weights,
                          const evaluation *ev)
{
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(name));
    json_object_set_new(o, "architecture", json_string(shape->architecture));
    json_object_set_new(o, "weights", json_string(weights));
    json_object_set_new(o, "n_layer", whole(shape->n_layer));
    json_object_set_new(o, "n_head", whole(shape->n_head));
    json_object_set_new(o, "n_kv_head", whole(shape->n_kv_head));
    json_object_set_new(o, "attn_window", shape_window(ev));
    json_object_set_new(o, "n_layer_windowed", whole(ev->n_layer_windowed));
    json_object_set_new(o, "head_dim", whole(shape->head_dim));
    json_object_set_new(o, "n_ctx", whole(shape->n_ctx));
    return o;
}

static json_t *model_json(const report_context *c, const evaluation *ev)
{
    char checksum[17];
    snprintf(checksum, sizeof checksum, "%016" PRIx64, c->model_checksum);
    json_t *o = shape_json(c->model_name, &c->model->shape, c->model->weights, ev);
    json_object_set_new(o, "n_params", whole(c->model->n_params));
    json_object_set_new(o, "checksum", json_string(checksum));
    json_object_set_new(o, "head", json_string(c->model->head));
    return o;
}

/* A model of which only this is known: the shape; what has no meaning is null, weights are the type of the
 * recorded numbers. */
static json_t *recorded_model_json(const report_context *c, const evaluation *ev)
{
    json_t *o = shape_json(c->model_name, recording_shape(c->recording), recording_type(c->recording), ev);
    json_object_set_new(o, "n_params", json_null());
    json_object_set_new(o, "checksum", json_null());
    json_object_set_new(o, "head", json_null());
    return o;
}

static json_t *recording_json(const recording *r)
{
    const char *from = recording_model(r);
    json_t *o = json_object();
    json_object_set_new(o, "model", from[0] != '\0' ? json_string(from) : json_null());
    json_object_set_new(o, "n_sequences", whole(recording_n_sequences(r)));
    json_object_set_new(o, "queries", json_boolean(recording_has_queries(r)));
    json_object_set_new(o, "scale", json_real((double)recording_scale(r)));
    return o;
}

static json_t *value_json(const column_value *value)
{
    if (value->missing)
        return json_null();
    return value->text       ? json_string(value->text)
           : value->is_whole ? whole(value->whole)
                             : json_real(value->real);
}

static json_t *per_layer_json(const evaluation *ev, const evaluate_run *run)
{
    json_t *list = json_array();
    for (size_t i = 0; i < ev->n_layer * ev->n_head; i++) {
        json_t *o = json_object();
        json_object_set_new(o, "layer", whole(i / ev->n_head));
        json_object_set_new(o, "head", whole(i % ev->n_head));
        for (size_t c = 0; c < n_columns; c++) {
            if (!columns[c].of_head)
                continue;
            const column_value value = columns[c].of_head(run, &run->heads[i]);
            json_object_set_new(o, columns[c].name, value_json(&value));
        }
        json_array_append_new(list, o);
    }
    return list;
}

/* The object that a column of this part belongs into: the run, or one inside it, made when it is needed. */
static json_t *object_of(json_t *run, const column_part_info *part)
{
    if (!part->object)
        return run;
    json_t *o = json_object_get(run, part->object);
    if (!o) {
        o = json_object();
        json_object_set_new(run, part->object, o);
    }
    return o;
}

/* How the figures' uncertainty was found. */
static json_t *uncertainty_json(const evaluation *ev)
{
    json_t *o = json_object();
    json_object_set_new(o, "drawn", json_string(statistics_unit(ev->n_windows)));
    json_object_set_new(o, "replicates", json_integer(STATISTICS_REPLICATES));
    json_object_set_new(o, "seed", whole(STATISTICS_SEED));
    return o;
}

/* What a window alone says. */
static json_t *window_json(const evaluation *ev, const cell *c)
{
    static const struct {
        const char *name;
        figure figure;
        bool needs_quality;
    } shown[] = {{"attn_rel_l2", FIGURE_ATTN_ERROR, false},
                 {"attn_prob_kl", FIGURE_ATTN_KL, false},
                 {"kld_mean", FIGURE_KL, true},
                 {"top1", FIGURE_TOP1, true},
                 {"ppl", FIGURE_PPL, true},
                 {"ppl_increase", FIGURE_PPL_CHANGE, true}};
    json_t *o = json_object();
    json_object_set_new(o, "window", whole(c->window));
    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) {
        const double x = statistics_estimate(shown[i].figure, &c, 1, STATISTICS_SEED).value;
        if (ev->has_quality || !shown[i].needs_quality)
            json_object_set_new(o, shown[i].name, real_json(x));
    }
    return o;
}

static json_t *windows_json(const evaluation *ev, const evaluate_run *run)
{
    json_t *list = json_array();
    for (size_t i = 0; run->cells && i < ev->n_windows; i++)
        json_array_append_new(list, window_json(ev, &run->cells[i]));
    return list;
}

static json_t *run_json(const report_context *context, const evaluation *ev, size_t index)
{
    const evaluate_run *run = &ev->runs[index];
    json_t *o = json_object();
    for (size_t c = 0; c < n_columns; c++) {
        if (!column_applies(&columns[c], ev))
            continue;
        const column_value value = columns[c].of_run(ev, run);
        json_object_set_new(object_of(o, &column_parts[columns[c].part]), columns[c].name,
                            value_json(&value));
    }
    if (context->greedy)
        json_object_set_new(o, "greedy", greedy_json(context->greedy, index));
    json_object_set_new(o, "per_window", windows_json(ev, run));
    json_object_set_new(o, "per_layer", per_layer_json(ev, run));
    return o;
}

bool report_json(FILE *f, const report_context *c, const evaluation *ev, eval_error *e)
{
    json_t *text = json_object();
    json_object_set_new(text, "name", c->text_name[0] != '\0' ? json_string(c->text_name) : json_null());
    json_object_set_new(text, "n_tokens", whole(ev->n_windows * ev->n_tokens));
    json_object_set_new(text, "n_windows", whole(ev->n_windows));
    json_object_set_new(text, "n_windows_asked", whole(ev->n_windows_asked));
    json_object_set_new(text, "bos_id", c->bos_id >= 0 ? json_integer(c->bos_id) : json_null());
    json_t *runs = json_array();
    for (size_t i = 0; i < ev->n_runs; i++)
        json_array_append_new(runs, run_json(c, ev, i));
    json_t *root = json_object();
    json_object_set_new(root, "schema", json_string("kvq-eval/1"));
    json_object_set_new(root, "version", json_string(kvq_version()));
    json_object_set_new(root, "isa", json_string(c->isa));
    json_object_set_new(root, "precision", json_string(c->precision));
    json_object_set_new(root, "append_only", json_boolean(c->append_only));
    json_object_set_new(root, "bound_every", ev->bound_every ? whole(ev->bound_every) : json_null());
    json_object_set_new(root, "threads", json_integer(c->threads));
    json_object_set_new(root, "seed", whole(c->seed));
    json_object_set_new(root, "uncertainty", uncertainty_json(ev));
    const bool all_greedy = !c->greedy || c->greedy->n_windows == c->greedy->n_windows_asked;
    json_object_set_new(root, "partial", json_boolean(evaluation_is_partial(ev) || !all_greedy));
    json_object_set_new(root, "model", c->recording ? recorded_model_json(c, ev) : model_json(c, ev));
    if (c->recording)
        json_object_set_new(root, "recording", recording_json(c->recording));
    json_object_set_new(root, "text", text);
    json_object_set_new(root, "runs", runs);
    char *dump = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (!dump)
        return eval_fail(e, "out of memory for the JSON report");
    fputs(dump, f);
    fputc('\n', f);
    free(dump);
    return true;
}
