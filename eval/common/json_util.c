/* Parses JSON with jansson and checks types and ranges of fields. */
#include "eval/common/json_util.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

json_t *json_parse_object(const char *file, const void *data, size_t size, size_t offset, eval_error *e)
{
    json_error_t where;
    json_t *root = json_loadb(data, size, JSON_REJECT_DUPLICATES, &where);
    if (!root) {
        size_t position = offset + (where.position > 0 ? (size_t)where.position : 0);
        (void)eval_fail(e, "%s: byte %zu (line %d): bad JSON: %s", file, position, where.line, where.text);
        return NULL;
    }
    if (!json_is_object(root)) {
        (void)eval_fail(e, "%s: byte %zu: expected a JSON object", file, offset);
        json_decref(root);
        return NULL;
    }
    return root;
}

bool json_to_size(const json_t *number, size_t max, size_t *value)
{
    if (!json_is_integer(number) || json_integer_value(number) < 0)
        return false;
    uintmax_t wide = (uintmax_t)json_integer_value(number);
    if (wide > max)
        return false;
    *value = (size_t)wide;
    return true;
}

bool json_wrong_value(const json_t *value, const char *file, const char *key, const char *wanted,
                      eval_error *e)
{
    if (!value)
        return eval_fail(e, "%s: %s is missing, %s", file, key, wanted);
    char *found = json_dumps(value, JSON_ENCODE_ANY);
    (void)eval_fail(e, "%s: %s is %.100s, %s", file, key, found ? found : "?", wanted);
    free(found);
    return false;
}

bool json_optional_size(const json_t *object, const char *file, const char *key, size_t min, size_t max,
                        size_t *value, eval_error *e)
{
    const json_t *field = json_object_get(object, key);
    if (!field || json_is_null(field))
        return true;
    size_t number;
    if (!json_to_size(field, max, &number) || number < min) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "expected an integer from %zu to %zu", min, max);
        return json_wrong_value(field, file, key, wanted, e);
    }
    *value = number;
    return true;
}

bool json_required_size(const json_t *object, const char *file, const char *key, size_t min, size_t max,
                        size_t *value, eval_error *e)
{
    const json_t *field = json_object_get(object, key);
    if (!field || json_is_null(field))
        return eval_fail(e, "%s: field %s is missing, expected an integer from %zu to %zu", file, key, min,
                         max);
    return json_optional_size(object, file, key, min, max, value, e);
}

bool json_optional_bool(const json_t *object, const char *file, const char *key, bool *value, eval_error *e)
{
    const json_t *field = json_object_get(object, key);
    if (!field || json_is_null(field))
        return true;
    if (!json_is_boolean(field))
        return json_wrong_value(field, file, key, "not true or false", e);
    *value = json_is_true(field);
    return true;
}

bool json_optional_string(const json_t *object, const char *file, const char *key, const char **value,
                          eval_error *e)
{
    const json_t *field = json_object_get(object, key);
    if (!field || json_is_null(field))
        return true;
    if (!json_is_string(field))
        return json_wrong_value(field, file, key, "not a string", e);
    *value = json_string_value(field);
    return true;
}
