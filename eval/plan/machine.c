/* The table of machines, and machines from files (machine.h). */
#include "eval/plan/machine.h"

#include "eval/common/input_file.h"
#include "eval/common/json_util.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* From the vendors' data sheets: memory, bandwidth, and the rate of matrix products of half or bfloat16 that
 * add up in float32, without sparsity (where a sheet has the rate with it alone, half of that). Nobody
 * reaches these. */
static const plan_machine table[] = {
    {"a100-40gb", 40e9, 1555e9, 312e12}, /* NVIDIA A100 data sheet, SXM */
    {"a100-80gb", 80e9, 2039e9, 312e12}, /* the same */
    {"h100-sxm", 80e9, 3350e9, 989e12},  /* NVIDIA H100 data sheet: 1,979 TFLOPS with sparsity */
    {"h200", 141e9, 4800e9, 989e12},     /* NVIDIA H200 data sheet, SXM: likewise */
    {"l4", 24e9, 300e9, 121e12},         /* NVIDIA L4 data sheet: 242 with sparsity */
    {"l40s", 48e9, 864e9, 362e12},       /* NVIDIA L40S data sheet */
    {"mi300x", 192e9, 5300e9, 1307e12},  /* AMD Instinct MI300X data sheet */
    {"rtx-3090", 24e9, 936e9, 71e12},    /* NVIDIA Ampere GA102 whitepaper */
    {"rtx-4090", 24e9, 1008e9, 165e12},  /* NVIDIA Ada whitepaper */
};

const plan_machine *plan_machine_at(size_t i)
{
    return i < sizeof table / sizeof table[0] ? &table[i] : NULL;
}

void plan_machine_names(char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; plan_machine_at(i) && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i > 0 ? ", " : "", table[i].name);
}

static bool required_number(const json_t *root, const char *file, const char *key, double *value,
                            eval_error *e)
{
    const json_t *field = json_object_get(root, key);
    if (!field)
        return eval_fail(e, "%s: field %s is missing, expected a number above 0", file, key);
    *value = json_is_number(field) ? json_number_value(field) : 0.0;
    if (!(*value > 0.0 && *value <= 1e21))
        return json_wrong_value(field, file, key, "expected a number above 0 and up to 1e21", e);
    return true;
}

static bool known_fields(const json_t *root, const char *file, eval_error *e)
{
    static const char *const known[] = {"name", "memory_bytes", "bandwidth_bytes_per_s", "flops_per_s"};
    /* jansson asks for an object that is not const, though it only reads */
    for (void *at = json_object_iter((json_t *)(uintptr_t)root); at;
         at = json_object_iter_next((json_t *)(uintptr_t)root, at)) {
        const char *key = json_object_iter_key(at);
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            found = found || strcmp(key, known[i]) == 0;
        if (!found)
            return eval_fail(e,
                             "%s: field %.100s is unknown, expected name, memory_bytes, "
                             "bandwidth_bytes_per_s and flops_per_s",
                             file, key);
    }
    return true;
}

static bool parse(plan_machine *m, const char *file, const json_t *root, eval_error *e)
{
    const char *name = NULL;
    if (!known_fields(root, file, e) || !json_optional_string(root, file, "name", &name, e) ||
        !required_number(root, file, "memory_bytes", &m->memory, e) ||
        !required_number(root, file, "bandwidth_bytes_per_s", &m->bandwidth, e) ||
        !required_number(root, file, "flops_per_s", &m->flops, e))
        return false;
    if (name && (name[0] == '\0' || strlen(name) >= sizeof m->name))
        return eval_fail(e, "%s: name has %zu bytes, expected 1 to %zu", file, strlen(name),
                         sizeof m->name - 1);
    snprintf(m->name, sizeof m->name, "%s", name ? name : "a machine without a name");
    for (char *c = m->name; *c; c++) /* it goes to terminals */
        *c = (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c;
    return true;
}

bool plan_machine_find(plan_machine *m, const char *name, eval_error *e)
{
    struct stat info;
    for (size_t i = 0; plan_machine_at(i); i++) {
        if (strcmp(table[i].name, name) == 0) {
            *m = table[i];
            return true;
        }
    }
    if (stat(name, &info) != 0 && !strchr(name, '/') && !strchr(name, '.')) {
        char names[256];
        plan_machine_names(names, sizeof names);
        return eval_fail(e, "machine '%.100s': no file, not 'this', and none of %s", name, names);
    }
    input_file file;
    if (!input_file_read(&file, NULL, name, e))
        return false;
    json_t *root = json_parse_object(file.path, file.data, file.size, 0, e);
    const bool good = root && parse(m, file.path, root, e);
    json_decref(root);
    input_file_free(&file);
    return good;
}
