/* The table of commands: --help, the manual, the shell's completion and the messages say what it says, no
 * less and no more. */
#define _XOPEN_SOURCE 700

#include "eval/cli/commands.h"
#include "tests/tool.h"

TestSuite(commands, .init = enter, .fini = leave);

static bool is_end(const struct argp_option *o)
{
    return !o->name && !o->key && !o->doc && !o->group;
}

/* Do the n names hold this one? */
static bool has(char names[][64], size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

Test(commands, help_version_and_info)
{
    cr_assert_eq(run("$E --help"), 0);
    cr_assert(strstr(out, "--residual-mode") && err[0] == '\0');
    for (size_t i = 1; commands_at(i); i++)
        cr_expect(strstr(out, commands_at(i)->doc), "--help says nothing of %s: %s", commands_at(i)->name,
                  out);
    cr_assert_eq(run("$E bench --version && $E --version"), 0);
    cr_assert_eq(strncmp(out, "kvq-eval ", 9), 0);
    cr_assert_eq(n_lines(out), 2);
    cr_assert_eq(run("KVQ_ISA=portable $E info --threads 1"), 0);
    cr_assert(strstr(out, "portable") && strstr(out, "OpenBLAS"));
    cr_assert(strstr(out, "threads          1\n"), "%s", out);
    cr_assert_eq(run("KVQ_ISA=abacus $E info"), 1);
    cr_assert(strstr(err, "KVQ_ISA=abacus: no instruction set"), "%s", err);
}

Test(commands, help_tells_of_every_option)
{
    for (size_t i = 0; commands_at(i); i++) {
        const command *c = commands_at(i);
        cr_assert_eq(run("$E %s --help", c->name), 0);
        for (const struct argp_option *o = c->options; !is_end(o); o++) {
            char wanted[80];
            snprintf(wanted, sizeof wanted, " --%s", o->name ? o->name : "help");
            cr_expect(strstr(out, wanted), "%s --help says nothing of%s", c->name, wanted);
        }
    }
}

Test(commands, usage_has_the_words_that_a_command_takes)
{
    static const char *const lines[] = {"compare [OPTION...] A B [RESULTS...]\n",
                                        "merge [OPTION...] FILE...\n", "report [OPTION...] RESULTS...\n",
                                        "completion [OPTION...] SHELL\n", "sweep [OPTION...]\n"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "Usage: kvq-eval %s", lines[i]);
        cr_assert_eq(run("$E %.*s --help", (int)strcspn(lines[i], " "), lines[i]), 0);
        cr_expect_eq(strncmp(out, wanted, strlen(wanted)), 0, "%s: %s", lines[i], out);
    }
}

/* The options of which a part of the manual has an item: .It Fl -one , Fl -two */
static size_t options_of_manual(const char *part, const char *end, char names[][64], size_t most)
{
    size_t n = 0;
    for (const char *line = part; line < end; line = strchr(line, '\n') + 1) {
        if (strncmp(line, ".It Fl -", 8) != 0)
            continue;
        const char *stop = strchr(line, '\n');
        for (const char *at = line; (at = strstr(at, "Fl -")) && at < stop;) {
            at += 4;
            cr_assert_lt(n, most);
            snprintf(names[n], 64, "%.*s", (int)strspn(at, "abcdefghijklmnopqrstuvwxyz-"), at);
            n += !has(names, n, names[n]);
        }
    }
    return n;
}

Test(commands, the_manual_has_every_command_and_option_and_no_others)
{
    static char manual[1 << 17], names[128][64];
    FILE *f = fopen(KVQ_SOURCE_DIR "/eval/kvq-eval.1", "r");
    cr_assert_not_null(f);
    manual[fread(manual, 1, sizeof manual - 1, f)] = '\0';
    fclose(f);
    /* Each command's options stand in a section of its own; those without a command in DESCRIPTION. */
    static const char *const sections[][2] = {
        {"\n.Sh DESCRIPTION", "\n.Sh BENCH"}, {"\n.Sh BENCH", "\n.Sh SWEEP"},
        {"\n.Sh SWEEP", "\n.Sh COMPARE"},     {"\n.Sh COMPARE", "\n.Sh TUNE"},
        {"\n.Sh TUNE", "\n.Sh MERGE"},        {"\n.Sh MERGE", "\n.Sh DUMP"},
        {"\n.Sh DUMP", "\n.Sh PLAN"},         {"\n.Sh PLAN", "\n.Sh REPORT"},
        {"\n.Sh REPORT", "\n.Sh TOKENIZE"},   {"\n.Sh TOKENIZE", "\n.Sh INFO"},
        {"\n.Sh INFO", "\n.Sh COMPLETION"},   {"\n.Sh COMPLETION", "\n.Sh METRICS"}};
    size_t i = 0;
    for (; commands_at(i); i++) {
        const command *c = commands_at(i);
        cr_assert_lt(i, sizeof sections / sizeof sections[0], "which section is about %s?", c->name);
        const char *part = strstr(manual, sections[i][0]), *end = strstr(manual, sections[i][1]);
        cr_assert(part && end && part < end, "%s", sections[i][0]);
        const size_t n = options_of_manual(part + 1, end, names, 128);
        size_t n_known = 0;
        for (const struct argp_option *o = c->options; !is_end(o); o++) {
            cr_expect(!o->name || has(names, n, o->name), "the manual lacks %s --%s", c->name, o->name);
            n_known += o->name != NULL;
        }
        static const char *const standard[] = {"help", "usage", "version"};
        for (size_t j = 0; i == 0 && j < 3; j++)
            cr_expect(has(names, n, standard[j]), "the manual lacks --%s", standard[j]);
        cr_expect_eq(n, n_known + (i == 0 ? 3 : 0), "%s has %zu options, the manual %zu", c->name, n_known,
                     n);
        char synopsis[64];
        snprintf(synopsis, sizeof synopsis, ".Nm\n.Cm %s\n", c->name);
        const char *found = i == 0 ? manual : strstr(manual, synopsis);
        cr_expect(found && found < strstr(manual, "\n.Sh DESCRIPTION"), "the synopsis lacks %s", c->name);
    }
    size_t n_commands = 0; /* of the synopsis */
    for (const char *at = manual; (at = strstr(at, ".Nm\n.Cm ")) && at < strstr(manual, "\n.Sh DESCRIPTION");
         at++)
        n_commands++;
    cr_expect_eq(n_commands, i - 1, "the synopsis has %zu commands", n_commands);
}

Test(commands, what_does_not_exist_is_told_what_was_meant)
{
    static const struct {
        const char *arguments, *wanted;
    } cases[] = {
        {"bnech", "kvq-eval: there is no command 'bnech'; did you mean 'bench'?\n"},
        {"inof", "there is no command 'inof'; did you mean 'info'?\n"},
        {"word", "there is no command 'word'\n"},
        {"--bist 2", "kvq-eval: unrecognized option '--bist'; did you mean '--bits'?\n"},
        {"--text --bogus --promt=3", "unrecognized option '--promt'; did you mean '--prompt'?\n"},
        {"--windos 3", "unrecognized option '--windos'; did you mean '--windows'?\n"},
        {"--bogus", "unrecognized option '--bogus'\n"},
        {"bench --kernel --isa avx2 --quik",
         "kvq-eval bench: unrecognized option '--quik'; did you mean '--quick'?\n"},
        {"merge", "which files?"},
        {"swep", "there is no command 'swep'; did you mean 'sweep'?\n"},
        {"bench --bits 2", "kvq-eval bench: unrecognized option '--bits'\n"},
        {"--windows 1 info", "kvq-eval: only as the first word can stand the command 'info'\n"},
        {"--windows 1 word", "kvq-eval: nothing but options can stand here, not 'word'\n"},
        {"-- word", "kvq-eval: nothing but options can stand here, not 'word'\n"},
        {"info info", "kvq-eval info: nothing but options can stand here, not 'info'\n"},
        {"completion zsh", "kvq-eval completion: it takes no 'zsh'; did you mean 'bash'?\n"},
        {"completion", "for which shell?"},
        {"completion bash bash", "Too many arguments"},
        {"--resid 3", "ambiguous"}, /* argp's own word on beginnings */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("$E %s", cases[i].arguments), 2, "%s", cases[i].arguments);
        cr_expect(strstr(err, cases[i].wanted), "%s: %s", cases[i].arguments, err);
        cr_expect_str_empty(out);
    }
    cr_assert_eq(run("$E --wind 1 --tokens 16 --csv -"), 0, "a beginning of one option alone: %s", err);
}

/* ---- completion ---- */

/* What bash offers for the words, the last of which is being written: one a line, sorted. */
static void complete(const char *words)
{
    cr_assert_eq(
        run("\"$E\" completion bash >c.bash && bash -c '. ./c.bash; COMP_WORDS=(%s); "
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _kvq_eval; printf \"%%s\\n\" \"${COMPREPLY[@]}\" | sort'",
            words),
        0, "%s", err);
    cr_assert_str_empty(err);
}

Test(commands, bash_completes_what_there_is)
{
    cr_assert_eq(run("$E completion bash | bash -n && mkdir model && : >text.txt"), 0, "%s", err);
    static const struct {
        const char *words, *offers;
    } cases[] = {
        {"kvq-eval be", "bench\n"},
        {"kvq-eval --res", "--residual\n--residual-dtype\n--residual-mode\n"},
        {"kvq-eval --residual-mode \"\"", "kivi\nsliding\n"},
        {"kvq-eval --residual-mode = s", "sliding\n"},
        {"kvq-eval --precision =", "exact\nfast\n"},
        {"kvq-eval --k-bits 1", "1\n16\n"},
        {"kvq-eval --text te", "text.txt\n"},
        {"kvq-eval --model mo", "model\n"},
        {"kvq-eval --windows \"\"", "\n"},
        {"kvq-eval bench --k", "--kernels\n"},
        {"kvq-eval bench --bi", "\n"},
        {"kvq-eval bench --json te", "text.txt\n"},
        {"kvq-eval info --t", "--threads\n"},
        {"kvq-eval sweep --gr", "--grid\n--group\n"},
        {"kvq-eval sweep --precision f", "fast\n"},
        {"kvq-eval merge te", "text.txt\n"},
        {"kvq-eval merge text.txt --o", "--out\n"},
        {"kvq-eval completion b", "bash\n"},
        {"kvq-eval plan --weights q8", "q8_0\n"},
        {"kvq-eval bench be", "\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        complete(cases[i].words);
        cr_expect_str_eq(out, cases[i].offers, "%s: %s", cases[i].words, out);
    }
}

Test(commands, bash_completes_every_option)
{
    for (size_t i = 0; commands_at(i); i++) {
        const command *c = commands_at(i);
        char words[64];
        snprintf(words, sizeof words, "kvq-eval %s -", c->name);
        complete(words);
        size_t n = 3;
        for (const struct argp_option *o = c->options; !is_end(o); o++) {
            char wanted[80];
            snprintf(wanted, sizeof wanted, "--%s\n", o->name ? o->name : "help");
            cr_expect(strstr(out, wanted), "%s: %s is not in %s", words, wanted, out);
            n += o->name != NULL;
        }
        cr_expect_eq(n_lines(out), n, "%s: %s", words, out);
    }
}
