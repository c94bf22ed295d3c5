/*
 * config.c - `paramctl config check|show -f FILE`, and the pages and default files made from the
 * settings table. `show --expand` prints a model's preset as the layers that it stands for.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "common/mem.h"
#include "common/model.h"
#include "common/storage.h"

struct config {
    const char *file;
    struct option_list sets, vars, words;
    bool daemon, expand;
};

static enum err read_daemon(const struct config *c, struct daemon_settings **out)
{
    char *text = NULL;
    size_t size = 0;
    enum err err = storage_read_all(c->file, 1u << 20, &text, &size);

    if (!err)
        err = daemon_settings_parse(c->file, text, size, c->sets.items, out);
    mem_free(text);
    return err;
}

static int check_or_show(const struct config *c, bool is_show)
{
    struct daemon_settings *settings = NULL;
    struct job *job = NULL;
    struct str text = {0};
    enum err err =
        c->daemon ? read_daemon(c, &settings) : load_job(c->file, &c->sets, &c->vars, &job);

    if (err)
        return fail(err);
    if (is_show && c->daemon)
        daemon_settings_write(settings, &text);
    else if (is_show && c->expand)
        err = model_expand(job, &text);
    else if (is_show)
        job_write(job, &text);
    else if (job)
        str_append_format(&text, "%s: job '%s' is well formed, hash %s\n", c->file, job->name,
                          job->hash);
    else
        str_append_format(&text, "%s is well formed\n", c->file);
    if (!err)
        fputs(text.data ? text.data : "", stdout);
    str_deinit(&text);
    daemon_settings_destroy(settings);
    job_destroy(job);
    return err ? fail(err) : EXIT_DONE;
}

static int print_documents(const char *verb, const char *what)
{
    struct str text = {0};

    if (strcmp(verb, "docs") == 0 && strcmp(what, "job") == 0)
        settings_document_job(&text);
    else if (strcmp(verb, "docs") == 0 && strcmp(what, "daemon") == 0)
        settings_document_daemon(&text);
    else
        return usage("config", "'%s %s': there is `docs job` and `docs daemon`", verb, what);
    fputs(text.data, stdout);
    str_deinit(&text);
    return EXIT_DONE;
}

int command_config(int argc, char **argv)
{
    struct config c = {0};
    int code = EXIT_USAGE;
    const struct option options[] = {{"file", 'f', OPTION_TEXT, &c.file},
                                     {"set", 0, OPTION_LIST, &c.sets},
                                     {"var", 0, OPTION_LIST, &c.vars},
                                     {"daemon", 0, OPTION_FLAG, &c.daemon},
                                     {"expand", 0, OPTION_FLAG, &c.expand}};

    if (!options_parse("config", argc, argv, options, 5, &c.words))
        goto out;
    const char *verb = c.words.count ? c.words.items[0] : "";
    bool is_show = strcmp(verb, "show") == 0;
    if (strcmp(verb, "docs") == 0 && c.words.count == 2)
        code = print_documents(verb, c.words.items[1]);
    else if (!is_show && strcmp(verb, "check") != 0)
        usage("config", "'%s' is not a verb; there are 'check', 'show' and 'docs'", verb);
    else if (c.words.count > 1)
        usage("config", "'%s' is one word too many", c.words.items[1]);
    else if (!c.file)
        usage("config", "-f FILE is missing");
    else
        code = check_or_show(&c, is_show);
out:
    option_list_free(&c.sets);
    option_list_free(&c.vars);
    option_list_free(&c.words);
    return code;
}
