/*
 * checkpoints.c - `paramctl checkpoints ls|show|verify|digest|gc URI`.
 *
 * URI is a job's directory (`runs/demo/demo`), the one above it while that has one job's only, or
 * one checkpoint's (`runs/demo/demo/1-470`); show, verify and digest take the newest good one of a
 * directory.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/checkpoint_find.h"
#include "cli/cli.h"
#include "cli/store_settings.h"
#include "common/mem.h"
#include "server/checkpoint_clean.h"
#include "server/snapshot.h"

static int list(const char *uri, bool is_json)
{
    struct checkpoint_listing *l = NULL;
    size_t count = 0;
    struct json *array = json_array();
    enum err err = checkpoint_list(uri, &l, &count);

    for (size_t i = 0; !err && i < count; i++) {
        const char *state = l[i].refused == ERR_NONE ? "good"
                            : l[i].committed         ? "refused"
                                                     : "uncommitted";
        struct json *row = json_object();
        json_set_text(row, "checkpoint", l[i].directory);
        json_set_int(row, "generation", (int64_t)l[i].generation);
        json_set_int(row, "step", (int64_t)l[i].step);
        json_set_text(row, "state", state);
        json_set_int(row, "bytes", (int64_t)l[i].bytes);
        if (l[i].why)
            json_set_text(row, "why", l[i].why);
        json_push(array, row);
        if (!is_json)
            printf("%-11s %12" PRIu64 " bytes  %s%s%s\n", state, l[i].bytes, l[i].directory,
                   l[i].why ? "  " : "", l[i].why ? l[i].why : "");
    }
    if (!err && is_json)
        print_json(array, false);
    if (!err && !count)
        fprintf(stderr, "no checkpoints in %s\n", uri);
    json_destroy(array);
    checkpoint_listing_free(l, count);
    return err ? fail(err) : count ? EXIT_DONE : EXIT_NOT_FOUND;
}

static struct json *describe(const char *directory, const struct checkpoint_manifest *m,
                             const char *sha)
{
    struct json *j = json_object(), *files = json_array();
    uint64_t bytes = 0, rows = 0;

    json_set_text(j, "checkpoint", directory);
    json_set_text(j, "job", m->job);
    json_set_int(j, "generation", (int64_t)m->generation);
    json_set_int(j, "step", (int64_t)m->step);
    json_set_text(j, "job_hash", m->job_hash);
    json_set_text(j, "index_checksum", m->index_checksum);
    json_set_text(j, "manifest_sha256", sha);
    for (uint32_t i = 0; i < m->file_count; i++) {
        struct json *file = json_object();
        json_set_text(file, "name", m->files[i].name);
        json_set_int(file, "bytes", (int64_t)m->files[i].size);
        json_set_int(file, "rows", (int64_t)m->files[i].rows);
        json_push(files, file);
        bytes += m->files[i].size;
        if (strncmp(m->files[i].name, "table", 5) == 0)
            rows += m->files[i].rows;
    }
    json_set_int(j, "bytes", (int64_t)bytes);
    json_set_int(j, "rows", (int64_t)rows);
    json_set(j, "files", files);
    json_set_int(j, "ranks", m->rank_count);
    return j;
}

static int show(const char *directory, bool is_json)
{
    struct checkpoint_manifest *m = NULL;
    char sha[SHA256_HEX_SIZE];
    enum err err = checkpoint_read_manifest(directory, &m, sha);

    if (err)
        return fail(err);
    struct json *j = describe(directory, m, sha);
    print_json(j, !is_json);
    if (!is_json)
        printf("# the job\n%s", m->job_yaml);
    json_destroy(j);
    checkpoint_manifest_destroy(m);
    return EXIT_DONE;
}

static int verify(const char *directory)
{
    enum err err = checkpoint_verify(directory);

    if (err)
        return fail(err);
    printf("%s: every byte verifies\n", directory);
    return EXIT_DONE;
}

static int digest(const char *directory, bool is_json)
{
    char hex[SHA256_HEX_SIZE];
    enum err err = checkpoint_digest(directory, hex);

    if (err)
        return fail(err);
    if (is_json) {
        struct json *j = json_object();
        json_set_text(j, "checkpoint", directory);
        json_set_text(j, "digest", hex);
        print_json(j, false);
        json_destroy(j);
    } else {
        printf("%s\n", hex);
    }
    return EXIT_DONE;
}

static int clean(const char *uri, int64_t keep, int64_t hours)
{
    struct checkpoint_cleaned left = {0};
    uint32_t removed = 0;
    enum err err =
        checkpoint_retain(uri, (uint32_t)(keep > UINT32_MAX ? UINT32_MAX : keep), NULL, &removed);

    if (!err)
        err = checkpoint_clean(uri, (uint64_t)hours * 3600000, &left);
    if (err)
        return fail(err);
    printf("removed %u\n", removed);
    if (left.directories || left.files || left.writes)
        printf("of dead attempts: %u directories, %u files, %u unfinished writes\n",
               left.directories, left.files, left.writes);
    return EXIT_DONE;
}

int command_checkpoints(int argc, char **argv)
{
    static const char *const verbs[] = {"ls", "show", "verify", "digest", "gc", NULL};
    struct option_list words = {0}, sets = {0};
    const char *output = NULL;
    int64_t keep = 3, hours = 24;
    bool is_json = false;
    char *directory = NULL;
    int code = EXIT_USAGE;
    const struct option options[] = {{"keep", 0, OPTION_NUMBER, &keep},
                                     {"older-than-hours", 0, OPTION_NUMBER, &hours},
                                     {"output", 'o', OPTION_TEXT, &output},
                                     {"set", 0, OPTION_LIST, &sets}};

    if (!options_parse("checkpoints", argc, argv, options, 4, &words) ||
        !parse_output("checkpoints", output, &is_json, &code))
        goto out;
    const char *other = store_settings_find_other(&sets);
    if (other) {
        usage("checkpoints", "--set '%s': only settings of stores have a meaning here", other);
        goto out;
    }
    if (words.count != 2) {
        usage("checkpoints", "a verb and a URI are wanted");
        goto out;
    }
    const char *verb = words.items[0], *uri = words.items[1];
    if (strcmp(verb, "gc") == 0 && !keep) {
        usage("checkpoints", "--keep: '0' would remove the model; give 1 or more");
    } else if (strcmp(verb, "ls") == 0 || strcmp(verb, "gc") == 0) {
        enum err err = checkpoint_find_directory(uri, &directory);
        code = err              ? fail(err)
               : verb[0] == 'l' ? list(directory, is_json)
                                : clean(directory, keep, hours < 100000000 ? hours : 100000000);
    } else if (strcmp(verb, "show") == 0 || strcmp(verb, "verify") == 0 ||
               strcmp(verb, "digest") == 0) {
        enum err err = checkpoint_find(uri, &directory);
        code = err              ? fail(err)
               : verb[0] == 's' ? show(directory, is_json)
               : verb[0] == 'v' ? verify(directory)
                                : digest(directory, is_json);
    } else {
        const char *near = str_nearest(verb, verbs);
        usage("checkpoints", "'%s' is not a verb%s%s%s", verb, near ? "; did you mean '" : "",
              near ? near : "", near ? "'?" : "");
    }
out:
    mem_free(directory);
    option_list_free(&sets);
    option_list_free(&words);
    return code;
}
