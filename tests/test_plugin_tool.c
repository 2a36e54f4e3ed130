/* kvq-eval --plugin: the example is built as users build it and measured; what is no plug-in gets one
 * line. */
#define _XOPEN_SOURCE 700

#include "tests/tool.h"

TestSuite(plugin_tool, .init = enter, .fini = leave);

#define FOUR "--plugin " KVQ_PLUGIN_DIR "/plugin_four.so "

Test(plugin_tool, the_example_is_measured)
{
    cr_assert_eq(run("$E " FOUR "--scheme k=four,v=four --windows 1 --tokens 300 --quiet"), 0, "%s", err);
    cr_assert(strstr(out, "\nk=four,v=four ") && err[0] == '\0', "%s", out);
    cr_assert_eq(
        run("$E " FOUR "--scheme k=four:90,v=four,r=0,mode=sliding --windows 1 --tokens 300 --json -"), 0,
        "%s", err);
    json_t *root = load_json(out), *r = json_array_get(json_object_get(root, "runs"), 1);
    const json_t *local = json_object_get(r, "local");
    cr_assert_str_eq(json_string_value(json_object_get(r, "scheme")), "k=four:90,v=four,r=0,mode=sliding");
    cr_assert_eq(json_number_value(json_object_get(r, "bits_packed")), 4.5, "32 and 64 times 4 bits, D = 64");
    const double error = json_number_value(json_object_get(local, "v_rel_l2_packed"));
    cr_assert(error > 0.05 && error < 0.2, "a step of 1 / 7: %g", error);
    cr_assert(json_is_null(json_object_get(local, "bound_max")), "it promises nothing");
    json_decref(root);
}

Test(plugin_tool, several_may_be_loaded)
{
    cr_assert_eq(
        run("cp " KVQ_PLUGIN_DIR "/plugin_good.so . && $E " FOUR
            "--plugin ./plugin_good.so --scheme k=four,v=copy --scheme k=copy,v=copy,r=0,mode=sliding "
            "--windows 1 --tokens 300 --csv -"),
        0, "%s", err);
    cr_assert(strstr(out, "\n\"k=four,v=copy\",") && strstr(out, "\n\"k=copy,v=copy,r=0,mode=sliding\","),
              "%s", out);
    cr_assert_eq(run("$E " FOUR "--scheme k=copy,v=2"), 1);
    cr_assert(strstr(err, "a codec is expected here") && strstr(err, "\n    k=copy,v=2\n      ^\n"), "%s",
              err);
    cr_assert_eq(run("$E " FOUR "--scheme k=four:0,v=four"), 1);
    cr_assert(strstr(err, "does not take these parameters"), "%s", err);
}

Test(plugin_tool, a_bad_one_gets_one_line)
{
    static const struct {
        const char *arguments, *wanted[2];
    } cases[] = {
        {"--plugin ./nowhere.so", {"./nowhere.so", "No such file"}},
        {"--plugin ./text.so", {"./text.so", "file too short"}},
        {"--plugin ./long.so", {"./long.so", "invalid ELF header"}},
        {"--plugin .", {": ", ""}},
        {"--plugin $P/plugin_no_symbol.so", {"plugin_no_symbol.so", "exports no kvq_codec_plugin_get"}},
        {"--plugin $P/plugin_null.so", {"plugin_null.so", "returned NULL"}},
        {"--plugin $P/plugin_taken.so", {"plugin_taken.so", "'q4_0' cannot be registered"}},
        {"--plugin $P/plugin_no_name.so", {"plugin_no_name.so", "'no name' cannot be registered"}},
        {"--plugin $P/plugin_incomplete.so", {"plugin_incomplete.so", "'copy' cannot be registered"}},
        {"--plugin $P/plugin_no_size.so", {"plugin_no_size.so", "cannot be registered"}},
        {"--plugin $P/plugin_four.so --plugin $P/plugin_four.so",
         {"plugin_four.so", "'four' cannot be registered: its struct is incomplete, or its name is taken"}},
    };
    write_text("text.so", "no object\n", 10);
    static char many[5000];
    memset(many, 'x', sizeof many);
    write_text("long.so", many, sizeof many);
    const size_t before = n_files();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("P=" KVQ_PLUGIN_DIR "; $E %s --json report.json", cases[i].arguments), 1, "%s",
                     cases[i].arguments);
        cr_expect(n_lines(err) == 1 && strncmp(err, "kvq-eval: --plugin: ", 20) == 0 && out[0] == '\0',
                  "%s: %s%s", cases[i].arguments, err, out);
        for (size_t j = 0; j < 2; j++)
            cr_expect(strstr(err, cases[i].wanted[j]), "'%s' is not in: %s", cases[i].wanted[j], err);
        cr_expect_eq(n_files(), before);
    }
    cr_assert_eq(run("$E --plugin="), 2);
    cr_assert(strstr(err, "--plugin: the name is empty"), "%s", err);
    cr_assert_eq(run("$E $(printf -- '--plugin x%%.0s ' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17)"), 2);
    cr_assert(strstr(err, "--plugin: at most 16"), "%s", err);
}
