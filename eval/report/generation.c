/* What schemes have written as JSON (generation.h). */
#include "eval/report/generation.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* NULL without memory. */
static json_t *text_json(const tokenizer *t, const int32_t *ids, size_t n_ids)
{
    if (!t)
        return json_null();
    char *text = NULL;
    size_t n = 0;
    eval_error ignored;
    if (!tokenizer_decode(t, ids, n_ids, &text, &n, &ignored))
        return json_null();          /* an id beyond the tokenizer's: the model's vocabulary may be padded */
    char *valid = malloc(3 * n + 1); /* each byte may become the three of U+FFFD */
    size_t used = 0;
    for (size_t at = 0; valid && at < n; at++) {
        const size_t good = utf8_valid_prefix(text + at, n - at);
        memcpy(valid + used, text + at, good);
        used += good;
        at += good;
        if (at < n) {
            memcpy(valid + used, "\xef\xbf\xbd", 3);
            used += 3;
        }
    }
    json_t *value = valid ? json_stringn(valid, used) : NULL;
    free(valid);
    free(text);
    return value;
}

static json_t *ids_json(const int32_t *ids, size_t n_ids)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n_ids; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static json_t *run_json(const generation_report *r, const generation_run *run)
{
    json_t *o = json_object();
    json_object_set_new(o, "scheme", json_string(run->scheme));
    json_object_set_new(o, "ids", ids_json(run->ids, run->n_ids));
    json_object_set_new(o, "text", text_json(r->tokenizer, run->ids, run->n_ids));
    const bool differs = !run->is_reference && run->n_same < run->n_ids;
    json_object_set_new(o, "first_difference", differs ? json_integer((json_int_t)run->n_same) : json_null());
    json_object_set_new(o, "tokens_per_second",
                        run->tokens_per_second > 0.0 ? json_real(run->tokens_per_second) : json_null());
    json_object_set_new(o, "packed", json_boolean(run->packed));
    return o;
}

bool report_generation_json(FILE *f, const generation_report *r, eval_error *e)
{
    json_t *model = json_object(), *prompt = json_object(), *runs = json_array(), *root = json_object();
    json_object_set_new(model, "name", json_string(r->model_name));
    json_object_set_new(prompt, "name", json_string(r->text_name));
    json_object_set_new(prompt, "ids", ids_json(r->prompt, r->n_prompt));
    json_object_set_new(prompt, "text", text_json(r->tokenizer, r->prompt, r->n_prompt));
    for (size_t i = 0; i < r->n_runs; i++)
        json_array_append_new(runs, run_json(r, &r->runs[i]));
    json_object_set_new(root, "schema", json_string("kvq-eval-generate/1"));
    json_object_set_new(root, "version", json_string(kvq_version()));
    json_object_set_new(root, "isa", json_string(r->isa));
    json_object_set_new(root, "precision", json_string(r->precision));
    json_object_set_new(root, "threads", json_integer(r->threads));
    json_object_set_new(root, "seed", json_integer((json_int_t)r->seed));
    json_object_set_new(root, "model", model);
    json_object_set_new(root, "prompt", prompt);
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
