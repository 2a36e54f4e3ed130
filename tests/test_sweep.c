/* Sweeps: lists of schemes, shards, lines appended, and kvq-eval sweep and merge as a user runs them.
 * tests/sweep_test.sh kills, resumes and shares out. */
#define _XOPEN_SOURCE 700

#include "eval/sweep/append.h"
#include "eval/sweep/grid.h"
#include "eval/sweep/shard.h"
#include "tests/tool.h"

#include <fcntl.h>

TestSuite(sweep, .init = enter, .fini = leave);

/* ---- lists ---- */

/* The list's texts with a semicolon between them. */
static void join_list(const scheme_list *list, char *text, size_t size)
{
    text[0] = '\0';
    for (size_t i = 0; i < list->n; i++) {
        const size_t used = strlen(text);
        snprintf(text + used, size - used, "%s%s", i > 0 ? ";" : "", kvq_scheme_text(list->schemes[i]));
    }
}

Test(sweep, grids_are_products_of_their_factors)
{
    static const struct {
        const char *grid, *schemes;
        size_t n_invalid, n_duplicates;
    } cases[] = {
        {"base=kvq2,kivi2 s=0,4", "kvq2,s=0;kvq2;kivi2;kivi2,s=4", 0, 0},
        {"s=0,4 base=kvq2,kivi2", "kvq2,s=0;kivi2;kvq2;kivi2,s=4", 0,
         0}, /* the last factor changes fastest */
        {"base=kivi4,r=64|k=4,v=2 s=,8",
         "kivi4,r=64;kivi4,r=64,s=8;k=4@channel/32,v=2@token/32;k=4@channel/32,v=2@token/32,s=8", 0, 0},
        {"k=4,tier:1.5,2 v=rot:2,3 mode=sliding",
         "k=4@channel/32,v=rot:2,mode=sliding;k=4@channel/32,v=rot:3,mode=sliding;"
         "k=tier:1.5,v=rot:2,mode=sliding;k=tier:1.5,v=rot:3,mode=sliding;kvq2,rtype=f32,s=0,hh=0;"
         "k=tier:2,v=rot:3,mode=sliding",
         0, 0},
        {"k=tier:3,4:fb", "kvq2.5,hh=2;k=tier:4:fb,v=rot:2,mode=sliding,rtype=f16/i8,s=4,hh=2", 0, 0},
        {" hh=0,2  rtype=f16/i8 ", "kvq2,hh=0;kvq2", 0, 0},
        {"base=kivi2,kvq2 hh=0,1", "kivi2;kvq2,hh=0;kvq2,hh=1", 1, 0},
        {"base=kivi2,kivi2 r=128,64", "kivi2;kivi2,r=64", 0, 2},
        {"base=k=2|k=3 v=4", "k=2@channel/32,v=4@token/32;k=3@channel/32,v=4@token/32", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        scheme_list list = {0};
        eval_error e = {""};
        char text[2048];
        cr_expect(scheme_list_add_grid(&list, cases[i].grid, &e), "%s: %s", cases[i].grid, e.text);
        join_list(&list, text, sizeof text);
        cr_expect_str_eq(text, cases[i].schemes, "%s: %s", cases[i].grid, text);
        cr_expect_eq(list.n_invalid, cases[i].n_invalid, "%s: %zu", cases[i].grid, list.n_invalid);
        cr_expect_eq(list.n_duplicates, cases[i].n_duplicates, "%s", cases[i].grid);
        scheme_list_free(&list);
    }
}

Test(sweep, a_grid_that_is_wrong_says_why)
{
    static const struct {
        const char *grid, *wanted;
    } cases[] = {
        {"", "expected families or KEY=VALUE"},
        {"  ", "expected families or KEY=VALUE"},
        {"family", "expected families or KEY=VALUE,VALUE,..., not 'family'"},
        {"=2", "not '=2'"},
        {"bits=2,3", "there is no factor 'bits'; there are base, k, v,"},
        {"s=0 s=4", "s= is given twice"},
        {"base=kivi2 hh=1,2", "none of the 2 combinations is a scheme; kivi2,hh=1: hh= needs a codec"},
        {"base=kivi7", "none of the 1 combinations is a scheme; kivi7: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        scheme_list list = {0};
        eval_error e = {""};
        cr_expect_not(scheme_list_add_grid(&list, cases[i].grid, &e), "%s", cases[i].grid);
        cr_expect(strstr(e.text, cases[i].wanted), "%s: %s", cases[i].grid, e.text);
        cr_expect_eq(list.n, 0);
        scheme_list_free(&list);
    }
    scheme_list list = {0};
    eval_error e = {""};
    char many[2000] = "base=kivi2 ", values[1000] = "1";
    for (int i = 2; i < 200; i++)
        snprintf(values + strlen(values), sizeof values - strlen(values), ",%d", i);
    snprintf(many + strlen(many), sizeof many - strlen(many), "s=%s r=%s hh=0,1", values, values);
    cr_assert_not(scheme_list_add_grid(&list, many, &e));
    cr_assert(strstr(e.text, "more than 65536 combinations"), "%s", e.text);
    scheme_list_free(&list);
}

Test(sweep, families_are_many_and_all_of_them_schemes)
{
    scheme_list list = {0};
    eval_error e = {""};
    cr_assert(scheme_list_add_grid(&list, "families", &e), "%s", e.text);
    cr_assert_geq(list.n, 60);
    cr_assert_eq(list.n_invalid, 0, "%s", list.first_invalid);
    size_t n_families = 0;
    const char *family = NULL, *last = "";
    for (size_t i = 0; grid_families(i, &family); i++) {
        n_families += strncmp(family, last, strcspn(family, ",")) != 0;
        last = family;
    }
    cr_assert_geq(n_families, 10);
    scheme_list_free(&list);
}

Test(sweep, a_file_of_schemes)
{
    scheme_list list = {0};
    eval_error e = {""};
    char path[128], text[512];
    snprintf(path, sizeof path, "%s/list", work);
    static const char good[] = "# two\n\nkivi2\r\n  kvq2,hh=4  \n#kivi3\nk=2,v=2\nkivi4";
    write_text("list", good, sizeof good - 1);
    cr_assert(scheme_list_add_file(&list, path, &e), "%s", e.text);
    join_list(&list, text, sizeof text);
    cr_assert_str_eq(text, "kivi2;kvq2,hh=4;kivi4");
    cr_assert_eq(list.n_duplicates, 1);
    write_text("list", "kivi2\nkivi9\n", 12);
    cr_assert_not(scheme_list_add_file(&list, path, &e));
    cr_assert(strstr(e.text, "list: line 2: scheme 'kivi9': ") && strstr(e.text, "at character 5"), "%s",
              e.text);
    /* A scheme may name many layers. */
    static char many[1 << 15];
    size_t used = (size_t)snprintf(many, sizeof many, "kivi2");
    for (int layer = 0; layer < 600; layer++)
        used += (size_t)snprintf(many + used, sizeof many - used, "+%d=kivi%d", layer, layer % 2 ? 4 : 8);
    write_text("list", many, used);
    cr_assert(scheme_list_add_file(&list, path, &e), "%s", e.text);
    cr_assert_eq(list.n, 4, "one more");
    write_text("list", "# none\n", 7);
    cr_assert_not(scheme_list_add_file(&list, path, &e));
    cr_assert(strstr(e.text, "no scheme in it"), "%s", e.text);
    scheme_list_free(&list);
}

/* ---- shards ---- */

static void clear_environment(void)
{
    static const char *const names[] = {"SLURM_ARRAY_TASK_ID",
                                        "SLURM_ARRAY_TASK_COUNT",
                                        "SLURM_ARRAY_TASK_MIN",
                                        "SLURM_ARRAY_TASK_STEP",
                                        "OMPI_COMM_WORLD_RANK",
                                        "OMPI_COMM_WORLD_SIZE",
                                        "PMI_RANK",
                                        "PMI_SIZE",
                                        "PMIX_RANK",
                                        "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
}

Test(sweep, shards_as_they_are_said)
{
    static const struct {
        const char *environment[4][2];
        size_t index, n; /* n 0: an error, which names source */
        const char *source;
    } cases[] = {
        {{{NULL}}, 0, 1, ""},
        {{{"SLURM_ARRAY_TASK_ID", "3"}, {"SLURM_ARRAY_TASK_COUNT", "4"}}, 3, 4, "SLURM_ARRAY_TASK_ID"},
        {{{"SLURM_ARRAY_TASK_ID", "9"},
          {"SLURM_ARRAY_TASK_COUNT", "3"},
          {"SLURM_ARRAY_TASK_MIN", "5"},
          {"SLURM_ARRAY_TASK_STEP", "2"}},
         2,
         3,
         "SLURM_ARRAY_TASK_ID"},
        {{{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"PMIX_RANK", "7"}},
         1,
         2,
         "OMPI_COMM_WORLD_RANK"},
        {{{"PMI_RANK", "0"}, {"PMI_SIZE", "5"}}, 0, 5, "PMI_RANK"},
        {{{"PMIX_RANK", "4"}, {"SLURM_STEP_NUM_TASKS", "5"}}, 4, 5, "PMIX_RANK"},
        {{{"SLURM_ARRAY_TASK_ID", "1"},
          {"SLURM_ARRAY_TASK_COUNT", "4"},
          {"PMI_RANK", "2"},
          {"PMI_SIZE", "3"}},
         5,
         12,
         "SLURM_ARRAY_TASK_ID and PMI_RANK"},
        {{{"SLURM_ARRAY_TASK_ID", "4"}, {"SLURM_ARRAY_TASK_COUNT", "4"}}, 0, 0, "SLURM_ARRAY_TASK_ID=4"},
        {{{"SLURM_ARRAY_TASK_ID", "1"}, {"SLURM_ARRAY_TASK_COUNT", "4"}, {"SLURM_ARRAY_TASK_MIN", "2"}},
         0,
         0,
         "SLURM_ARRAY_TASK_ID=1"},
        {{{"SLURM_ARRAY_TASK_ID", "1"}}, 0, 0, "SLURM_ARRAY_TASK_ID is set, but not SLURM_ARRAY_TASK_COUNT"},
        {{{"PMIX_RANK", "1"}}, 0, 0, "PMIX_RANK is set, but not SLURM_STEP_NUM_TASKS"},
        {{{"PMI_RANK", "x"}, {"PMI_SIZE", "5"}}, 0, 0, "PMI_RANK: expected a number, not 'x'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        shard s = {.n = 77};
        eval_error e = {""};
        clear_environment();
        for (size_t j = 0; j < 4 && cases[i].environment[j][0]; j++)
            setenv(cases[i].environment[j][0], cases[i].environment[j][1], 1);
        cr_expect_eq(shard_from_environment(&s, &e), cases[i].n > 0, "case %zu: %s", i, e.text);
        if (cases[i].n > 0) {
            cr_expect(s.index == cases[i].index && s.n == cases[i].n, "case %zu: %zu of %zu", i, s.index,
                      s.n);
            cr_expect_str_eq(s.source, cases[i].source, "case %zu", i);
        } else {
            cr_expect(strstr(e.text, cases[i].source) && s.n == 77, "case %zu: %s", i, e.text);
        }
    }
    clear_environment();
    shard s;
    eval_error e;
    cr_assert(shard_parse(&s, "2/3", &e) && s.index == 1 && s.n == 3);
    static const char *const wrong[] = {"",   "2",    "0/3",  "4/3",        "1/",
                                        "/3", "-1/3", "1/3x", "1/99999999", "1/0"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_expect(!shard_parse(&s, wrong[i], &e) && strstr(e.text, "I/N"), "%s", wrong[i]);
}

Test(sweep, parts_of_parts_take_every_cell_once)
{
    size_t taken[60] = {0};
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < 4; j++) {
            shard s = {.index = i, .n = 3};
            shard_divide(&s, j, 4);
            for (size_t k = 0; k < 60; k++)
                taken[k] += k % s.n == s.index;
        }
    for (size_t k = 0; k < 60; k++)
        cr_assert_eq(taken[k], 1, "cell %zu", k);
}

/* ---- appending ---- */

Test(sweep, lines_are_appended_and_half_a_line_is_ended_first)
{
    static const char *const lines[] = {"one\n", "two\n"};
    char path[128], text[64];
    eval_error e = {""};
    snprintf(path, sizeof path, "%s/a", work);
    const int fd = append_open(path, &e), other = append_open(path, &e);
    cr_assert(fd >= 0 && other >= 0, "%s", e.text);
    cr_assert(append_lines(fd, path, lines, 2, &e) && append_lines(other, path, lines, 1, &e), "%s", e.text);
    cr_assert_eq(write(other, "ha", 2), 2);
    cr_assert(append_lines(fd, path, lines, 1, &e) && append_lines(fd, path, lines + 1, 1, &e), "%s", e.text);
    read_file("a", text, sizeof text);
    cr_assert_str_eq(text, "one\ntwo\none\nha\none\ntwo\n");
    close(fd);
    close(other);
    cr_assert_lt(append_open(work, &e), 0);
    cr_assert_lt(append_open("/dev/null", &e), 0);
    cr_assert(strstr(e.text, "/dev/null: is no regular file"), "%s", e.text);
}

Test(sweep, a_full_disk_is_an_error)
{
    static const char *const lines[] = {"one\n"};
    eval_error e = {""};
    const int fd = open("/dev/full", O_RDWR);
    cr_assert_geq(fd, 0);
    cr_assert_not(append_lines(fd, "full", lines, 1, &e));
    cr_assert(strstr(e.text, "full: write failed: No space"), "%s", e.text);
    close(fd);
}

/* ---- the command ---- */

#define TINY "--tokens 48 --windows 2 --threads 2 "

Test(sweep, goes_on_where_a_smaller_sweep_ended)
{
    cr_assert_eq(run("$E sweep " TINY "--scheme kivi2,r=32 --out r.jsonl"), 0, "%s", err);
    cr_assert(strstr(err, "r.jsonl: 4 of 4 cells, 4 of them measured now"), "%s", err);
    cr_assert_eq(run("$E sweep " TINY "--grid 'base=kivi2,kivi4 r=32' --scheme fp32 --out r.jsonl"), 0, "%s",
                 err);
    cr_assert(strstr(err, "r.jsonl: 6 of 6 cells, 2 of them measured now"), "%s", err);
    cr_assert_eq(run("$E sweep --tokens 49 --windows 1 --scheme kivi2,r=32 --out r.jsonl"), 0, "%s", err);
    cr_assert(strstr(err, "2 of 2 cells, 2 of them measured now"), "another experiment: %s", err);
    cr_assert_eq(run("wc -l <r.jsonl"), 0);
    cr_assert_eq(atoi(out), 8);
}

/* What the file says of a scheme is what kvq-eval without a command says. */
Test(sweep, figures_are_those_of_an_evaluation)
{
    cr_assert_eq(run("$E sweep " TINY "--quiet --scheme kivi2,r=32 --out r.jsonl"), 0, "%s", err);
    cr_assert_str_empty(err);
    static char line[1 << 17];
    read_file("r.jsonl", line, sizeof line);
    double kl = 0.0;
    int n_steps = 0;
    for (char *at = strtok(line, "\n"); at; at = strtok(NULL, "\n")) {
        json_t *root = load_json(at), *cell = json_object_get(root, "cell"), *block;
        size_t i;
        json_array_foreach(json_object_get(cell, "blocks"), i, block)
        {
            if (strcmp(json_string_value(json_object_get(cell, "scheme")), "kivi2,r=32") != 0)
                continue;
            n_steps += (int)json_integer_value(json_array_get(block, 0));
            kl += json_real_value(json_array_get(block, 3));
        }
        json_decref(root);
    }
    cr_assert_eq(n_steps, 96);
    cr_assert_eq(run("$E " TINY "--quiet --threads 1 --bound off --scheme kivi2,r=32 --json -"), 0, "%s",
                 err);
    /* which has nine digits */
    json_t *report = load_json(out), *found = json_array_get(json_object_get(report, "runs"), 1);
    const double mean = json_number_value(json_object_get(json_object_get(found, "propagated"), "kld_mean"));
    cr_assert(mean > 0.0 && kl / 96.0 > mean * (1 - 1e-8) && kl / 96.0 < mean * (1 + 1e-8), "%g, %g",
              kl / 96.0, mean);
    json_decref(report);
}

Test(sweep, recordings_and_random_weights)
{
    cr_assert_eq(run("$E dump --quiet --tokens 40 --windows 2 --out kv.safetensors"), 0, "%s", err);
    cr_assert_eq(run("$E sweep --kv kv.safetensors --scheme kivi2,r=32 --out r.jsonl"), 0, "%s", err);
    cr_assert(strstr(err, "4 of 4 cells, 4 of them") && strstr(out, "attention"), "%s%s", err, out);
    /* Its second sequence is another one than its first. */
    cr_assert_eq(run("grep -o '\"heads\":[^x]*\"bins' r.jsonl | sort -u | wc -l"), 0);
    cr_assert_eq(atoi(out), 3, "fp32's of both windows are zeros, kivi's differ: %s", out);
    cr_assert_eq(run("$E sweep --model random:2,2,32,128,100 --tokens 40 --scheme kivi2,r=32 --out r.jsonl"),
                 0, "%s", err);
    cr_assert(strstr(err, "2 of 2 cells, 2 of them measured now"), "%s", err);
}

/* What changes figures is measured anew into the same file, and found the second time. */
Test(sweep, options_that_change_figures_are_other_cells)
{
    static const char *const options[] = {"",
                                          "--precision exact",
                                          "--append-only",
                                          "--prompt 8",
                                          "--tokens 41",
                                          "--model random:2,2,32,128,100",
                                          "--model random:2,2,32,128,100 --seed 2"};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        for (int again = 0; again < 2; again++) {
            cr_assert_eq(
                run("$E sweep --tokens 40 --windows 1 --scheme kivi2,r=32 --out r.jsonl %s", options[i]), 0,
                "%s", err);
            cr_expect(strstr(err, again ? "2 of 2 cells, 0 of them measured now"
                                        : "2 of 2 cells, 2 of them measured now"),
                      "%s: %s", options[i], err);
        }
    }
}

/* Marks, bits, divergences and their errors, as one reads them off. */
Test(sweep, the_table_has_the_front_and_the_errors_of_the_report)
{
    enum { N = 4 };
    static const char *const texts[N] = {"kivi2,r=32", "kivi4,r=32", "kivi8,r=32",
                                         "k=4@token/32,v=4@token/32,r=32"};
    static char command[1024];
    size_t used = 0;
    for (size_t i = 0; i < N; i++)
        used += (size_t)snprintf(command + used, sizeof command - used, " --scheme %s", texts[i]);
    cr_assert_eq(run("$E sweep --tokens 200 --windows 1 --quiet --out r.jsonl %s", command), 0, "%s", err);
    double bits[N], kl[N], se[N];
    bool front[N];
    for (size_t i = 0; i < N; i++) {
        char line_start[64];
        snprintf(line_start, sizeof line_start, " %s ", texts[i]);
        const char *at = strstr(out, line_start);
        cr_assert_not_null(at, "%s", out);
        front[i] = at[-1] == '*';
        cr_assert_eq(sscanf(at + strlen(line_start), "%lf %*s %*s %lf ± %lf", &bits[i], &kl[i], &se[i]), 3,
                     "%s", out);
    }
    for (size_t i = 0; i < N; i++) {
        bool beaten = false;
        for (size_t j = 0; j < N; j++)
            beaten = beaten || (bits[j] < bits[i] && kl[j] < kl[i]);
        cr_expect_eq(front[i], !beaten, "%s: %s", texts[i], out);
    }
    /* On one thread as well: with more, OpenBLAS rounds otherwise, and kivi8's divergence is little more than
     * that. */
    cr_assert_eq(run("$E --threads 1 --tokens 200 --windows 1 --quiet --bound off --json - %s", command), 0,
                 "%s", err);
    json_t *report = load_json(out);
    for (size_t i = 0; i < N; i++) {
        const json_t *part =
            json_object_get(json_array_get(json_object_get(report, "runs"), i + 1), "propagated");
        const double mean = json_number_value(json_object_get(part, "kld_mean"));
        const double error = json_number_value(json_object_get(part, "kld_mean_se"));
        cr_expect(mean > 0.0 && kl[i] / (1000.0 * mean) > 0.99 && kl[i] / (1000.0 * mean) < 1.01, "%g",
                  kl[i]);
        cr_expect(error > 0.0 && se[i] / (1000.0 * error) > 0.94 && se[i] / (1000.0 * error) < 1.06, "%g, %g",
                  se[i], 1000.0 * error);
    }
    json_decref(report);
}

Test(sweep, bad_input_gets_one_line_and_leaves_nothing)
{
    static const struct {
        const char *command;
        int status;
        const char *wanted;
    } cases[] = {
        {"$E sweep --scheme kivi9", 1, "--scheme: scheme 'kivi9': "},
        {"$E sweep --grid 'base=kivi9'", 1, "--grid: none of the 1 combinations is a scheme"},
        {"$E sweep --schemes none", 1, "none: "},
        {"$E sweep --shard 3/2", 1, "--shard: expected I/N"},
        {"$E sweep --scheme kivi2 --tokens 5000 --jobs 3", 1, "--tokens 5000: over the context"},
        {"$E sweep --scheme kivi2 --out none/r.jsonl", 1, "none/r.jsonl: cannot write"},
        {"KVQ_ISA=abacus $E sweep", 1, "KVQ_ISA=abacus: no instruction set"},
        {"$E merge none", 1, "none: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("%s", cases[i].command), cases[i].status, "%s: %s", cases[i].command, err);
        cr_expect(strstr(err, cases[i].wanted), "%s: %s", cases[i].command, err);
        cr_expect_eq(n_lines(err), 1, "%s: %s", cases[i].command, err);
        cr_expect_eq(n_files(), 0, "%s left a file", cases[i].command);
    }
    cr_assert_eq(run("$E sweep --text - --jobs 2"), 2);
    cr_assert_eq(run("$E sweep --kv a --model b"), 2);
    cr_assert_eq(run("$E sweep --out -"), 2);
    /* What is no regular file is refused at once: opening a pipe would wait for its other end. */
    cr_assert_eq(run("mkfifo pipe"), 0);
    static const char *const others[] = {"pipe", "/dev/full", "/dev/stdout | cat >&2"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        for (size_t tunes = 0; tunes < 2; tunes++) {
            const char *command = tunes ? "tune --bits 4 --windows 2 --tokens 48" : "sweep --scheme kivi2";
            (void)run("timeout -s KILL 30 $E %s --quiet --out %s", command, others[i]);
            cr_expect(strstr(err, ": is no regular file") && n_lines(err) == 1, "%s --out %s: %s", command,
                      others[i], err);
        }
    cr_assert_eq(
        run("echo '{\"schema\":\"other\"}' >r.jsonl; $E sweep --tokens 48 --scheme kivi2 --out r.jsonl"), 1);
    cr_assert(strstr(err, "r.jsonl: line 1: schema is \"other\""), "%s", err);
}

/* Nothing is appended to what is no file of results, nor is it replaced by what merge understands of it. */
Test(sweep, files_of_others_stay_as_they_are)
{
    cr_assert_eq(run("$E " SMALL "--json r.json && echo '{color: red}' >style && cp r.json kept && "
                     "printf '\\n{\"schema\":' >empty"),
                 0, "%s", err);
    static const char *const commands[] = {"sweep " TINY "--scheme kivi2,r=32 --out r.json",
                                           "tune --bits 4 " TINY "--out r.json",
                                           "sweep " TINY "--scheme kivi2,r=32 --out style",
                                           "merge r.json --out r.json",
                                           "compare kvq2 kivi2 r.json",
                                           "report r.json --html page.html"};
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        cr_expect_eq(run("$E %s", commands[i]), 1, "%s", commands[i]);
        cr_expect(strstr(err, ", line 1: is not a line of results"), "%s: %s", commands[i], err);
    }
    cr_assert_eq(run("cmp r.json kept && echo '{color: red}' | cmp - style && ! ls page.html"), 0, "%s%s",
                 out, err);
    /* No cell at all. */
    cr_assert_eq(run(": >none && $E merge none --out none"), 0, "%s", err);
    static const char *const none[] = {"compare kvq2 kivi2 none", "report none --html page.html",
                                       "report none empty --html page.html", "merge empty --out empty"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        cr_expect_eq(run("$E %s", none[i]), 1, "%s", none[i]);
        cr_expect(strstr(err, "line 1: is not a line of results") && n_lines(err) == 1, "%s: %s", none[i],
                  err);
    }
    cr_assert_eq(run("! ls page.html && wc -c <empty"), 0, "%s", out);
    cr_assert_eq(atoi(out), 11, "%s", out);
}

/* A last line may be cut short; a line between others that is no cell is left out, and everybody says so. */
Test(sweep, lines_left_out_are_told)
{
    cr_assert_eq(run("$E sweep " TINY "--scheme kivi2,r=32 --scheme kivi4,r=32 --out r.jsonl && "
                     "sed -i '2s/.*/{\"schema\":\"kvq-eval-cell/;3i junk' r.jsonl"),
                 0, "%s", err);
    static const char *const commands[] = {
        "merge r.jsonl --quiet", "compare kivi2,r=32 kivi4,r=32 r.jsonl", "report r.jsonl --html page.html",
        "sweep " TINY "--scheme kivi2,r=32 --scheme kivi4,r=32 --out r.jsonl"};
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        cr_expect_eq(run("$E %s", commands[i]), 0, "%s: %s", commands[i], err);
        cr_expect(strstr(err, "note: 2 lines are no cells and skipped; the first is r.jsonl, line 2\n"),
                  "%s: %s", commands[i], err);
    }
    cr_expect(strstr(err, "6 of 6 cells, 1 of them measured now"), "%s", err);
    cr_assert_eq(run("head -c -10 r.jsonl >cut && sed -i 2,3d cut && $E merge cut"), 0, "%s", err);
    cr_expect(!strstr(err, "note") && strstr(err, "0 repeated, 1 cut short"), "%s", err);
}

/* Heads of 1,000 dimensions are more than its codes of outliers can point to. */
Test(sweep, schemes_that_do_not_suit_the_model_are_left_out)
{
    cr_assert_eq(
        run("$E sweep --model random:1,2,1000,64,100 --tokens 40 --scheme kivi2,r=32 --scheme nuq2 --out "
            "r.jsonl"),
        0, "%s", err);
    cr_assert(strstr(err, "note: 1 scheme left out, which this model's caches cannot have: nuq2: "), "%s",
              err);
    cr_assert_eq(run("$E sweep --model random:1,2,1000,64,100 --tokens 40 --scheme nuq2 --out s.jsonl"), 1);
    cr_assert(strstr(err, "no scheme suits this model; nuq2: "), "%s", err);
}
