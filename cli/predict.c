/*
 * predict.c - `paramctl predict`: predictions of a checkpoint, as JSON lines on stdout.
 *
 * Each line has the columns of data.id, then "prediction": a probability (logistic), a number
 * (squared) or a class with "probabilities" (softmax); of several outputs an object. Input: files
 * of the job's format, or JSON lines on stdin, an object of columns each.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/checkpoint_find.h"
#include "cli/cli.h"
#include "cli/model_store.h"
#include "common/mem.h"
#include "common/storage.h"
#include "worker/dataset.h"

#define BATCH          1024u
#define LINE_MAX_BYTES (1u << 20)

struct predict {
    struct model_store store;
    struct dataindex *index;
    struct dataset *dataset;
    struct network *network;
    struct predict_source *source;
    float *logits, *prediction;
    char cache[64];
};

/* `<uri>/<job>` of `<uri>/<job>/<generation>-<step>`: where the data index lies. */
static char *parent_of(const char *directory)
{
    char *copy = must_strdup(directory);
    char *slash = strrchr(copy, '/');

    if (slash)
        *slash = 0;
    else
        strcpy(copy, ".");
    return copy;
}

static enum err open_model(struct predict *p, const char *checkpoint, const struct job *job)
{
    enum err err = model_store_open(checkpoint, job, &p->store);

    if (err)
        return err;
    char *parent = parent_of(p->store.directory);
    err = dataset_index_load(parent, p->store.manifest->index_checksum, &p->index);
    mem_free(parent);
    strcpy(p->cache, "/tmp/paramd-predict-XXXXXX");
    if (!err && !mkdtemp(p->cache))
        err = err_set(ERR_IO, "cannot make a directory in /tmp");
    struct dataset_options options = {.job = p->store.job,
                                      .features = p->store.features,
                                      .index = p->index,
                                      .cache_directory = p->cache,
                                      .threads = 1};
    if (!err)
        err = dataset_open(&options, &p->dataset);
    struct network_options network = {.model = p->store.model,
                                      .compute = compute_cpu(),
                                      .max_examples = BATCH,
                                      .seed = p->store.job->seed};
    if (!err)
        err = network_create(&network, &p->network);
    p->logits = mem_alloc_array(BATCH * p->store.model->output_width, sizeof *p->logits);
    p->prediction = mem_alloc_array(p->store.model->output_width, sizeof *p->prediction);
    return err || (p->logits && p->prediction) ? err : ERR_MEMORY;
}

static void close_model(struct predict *p)
{
    if (p->source)
        predict_close(p->source);
    network_destroy(p->network);
    dataset_close(p->dataset);
    dataindex_destroy(p->index);
    mem_free(p->logits);
    mem_free(p->prediction);
    model_store_close(&p->store);
    if (*p->cache && storage_remove_tree(p->cache) != ERR_NONE)
        fprintf(stderr, "warning: %s\n", err_text());
}

static void print_prediction(struct predict *p, uint32_t example)
{
    const struct model *m = p->store.model;
    const struct job *job = p->store.job;
    struct json *line = json_object();

    for (size_t i = 0; i < job->data.id.count; i++) {
        const char *id = predict_id(p->source, example, (uint32_t)i);
        json_set_text(line, job->data.id.items[i], id ? id : "");
    }
    network_predict(m, p->logits + (size_t)example * m->output_width, p->prediction);
    if (m->loss == LOSS_SOFTMAX) {
        struct json *all = json_array();
        uint32_t best = 0;
        for (uint32_t i = 0; i < m->output_width; i++) {
            json_push(all, json_number(p->prediction[i]));
            if (p->prediction[i] > p->prediction[best])
                best = i;
        }
        json_set_int(line, "prediction", best);
        json_set(line, "probabilities", all);
    } else if (m->output_count > 1) {
        struct json *all = json_object();
        for (uint32_t i = 0; i < m->output_count; i++)
            json_set_number(all, m->outputs[i].name, p->prediction[i]);
        json_set(line, "prediction", all);
    } else {
        json_set_number(line, "prediction", p->prediction[0]);
    }
    print_json(line, false);
    json_destroy(line);
}

static enum err predict_batch(struct predict *p, const struct batch *b)
{
    struct network_values values;
    enum err err = model_store_values(&p->store, b, &values);

    if (!err)
        err = network_infer(p->network, b, &values, p->logits);
    for (uint32_t i = 0; !err && i < b->example_count; i++)
        print_prediction(p, i);
    if (!err && ferror(stdout)) /* no use to go on */
        err = err_set(ERR_IO, "cannot write the predictions to stdout: is the disk full?");
    return err;
}

static enum err predict_files(struct predict *p, const struct option_list *files)
{
    struct text_list paths = {(char **)files->items, files->count};
    struct batch *b = NULL;
    enum err err = predict_open_files(p->dataset, &paths, BATCH, &p->source);

    while (!err && (err = predict_next(p->source, &b)) == ERR_NONE && b) {
        err = predict_batch(p, b);
        batch_release(b);
    }
    return err;
}

/* The next line without its end, at most LINE_MAX_BYTES; *length_out is 0 for an empty one.
 * *is_end: there is none. */
static enum err read_line(char *line, size_t *length_out, bool *is_end)
{
    size_t length = 0;
    int byte;
    while ((byte = getc_unlocked(stdin)) != EOF && byte != '\n') {
        if (length == LINE_MAX_BYTES)
            return err_set(ERR_INPUT, "the line is too long; the bound is %u bytes",
                           LINE_MAX_BYTES);
        line[length++] = (char)byte;
    }
    if (byte == EOF && ferror(stdin))
        return err_set_errno(ERR_IO, errno, "cannot be read");
    if (length && line[length - 1] == '\r')
        length--;
    *is_end = byte == EOF && length == 0;
    *length_out = length;
    return ERR_NONE;
}

/* Somebody who pipes a file of the job's format into stdin is told what to do instead. */
static void explain(enum err err, const char *line, uint64_t number)
{
    char *why = must_strdup(err_text());

    err_set(
        err, "stdin:%llu: %s%s", (unsigned long long)number, why,
        err == ERR_INPUT && *line != '{' && *line != '['
            ? "; stdin takes JSON lines such as {\"column\": value}, a file of the job's format "
              "is named on the command line"
            : "");
    mem_free(why);
}

/* A line at a time, so that a program on the other end of a pipe gets its answer at once. */
static enum err predict_stdin(struct predict *p)
{
    char *line = must_alloc(LINE_MAX_BYTES);
    uint64_t number = 0;
    bool is_end = false;
    enum err err = predict_open_json(p->dataset, &p->source);

    while (!err) {
        struct batch *b = NULL;
        size_t length = 0;
        number++;
        err = read_line(line, &length, &is_end);
        if (!err && is_end)
            break;
        if (!err && length == 0)
            continue;
        if (!err)
            err = predict_parse_json(p->source, (const char *const *)&line, &length, 1, &b);
        if (!err)
            err = predict_batch(p, b);
        batch_release(b);
        if (err)
            explain(err, line, number);
    }
    mem_free(line);
    return err;
}

int command_predict(int argc, char **argv)
{
    struct option_list sets = {0}, vars = {0}, files = {0};
    const char *file = NULL, *checkpoint = NULL;
    struct predict p = {0};
    struct job *job = NULL;
    int code = EXIT_USAGE;
    const struct option options[] = {
        {"file", 'f', OPTION_TEXT, &file},
        {"checkpoint", 0, OPTION_TEXT, &checkpoint},
        {"set", 0, OPTION_LIST, &sets},
        {"var", 0, OPTION_LIST, &vars},
    };

    if (!options_parse("predict", argc, argv, options, 4, &files))
        goto out;
    if (!checkpoint) {
        usage("predict", "--checkpoint URI is missing");
        goto out;
    }
    enum err err = ERR_NONE;
    if (file)
        err = load_job(file, &sets, &vars, &job);
    else if (sets.count || vars.count)
        err = checkpoint_find_job(checkpoint, &sets, &vars, &job);
    if (!err)
        err = open_model(&p, checkpoint, job);
    if (!err)
        err = files.count ? predict_files(&p, &files) : predict_stdin(&p);
    code = err ? fail(err) : EXIT_DONE;
    close_model(&p);
out:
    job_destroy(job);
    option_list_free(&sets);
    option_list_free(&vars);
    option_list_free(&files);
    return code;
}
