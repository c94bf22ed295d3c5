#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/json.h"
#include "common/mem.h"
#include "tests/support/cluster_model.h"
#include "tests/support/cluster_model_internal.h"

/* ---- the store and the registry ---- */

const struct model_stored *model_find(const struct model *m, uint64_t generation, uint64_t step)
{
    for (uint32_t i = 0; i < m->stored_count; i++)
        if (m->stored[i].generation == generation && m->stored[i].step == step)
            return &m->stored[i];
    return NULL;
}

static void answer_list(struct model *m, const struct coordinator_action *a,
                        struct coordinator_result *r)
{
    struct coordinator_listing *list = must_alloc((m->stored_count + 1) * sizeof *list);
    size_t prefix = strlen(a->uri), n = 0;
    /* Newest first: they were stored in order of time, and generations only grow. */
    for (uint32_t i = m->stored_count; i-- > 0;) {
        const struct model_stored *s = &m->stored[i];
        if (strncmp(s->uri, a->uri, prefix) == 0 && s->uri[prefix] == '/')
            list[n++] = (struct coordinator_listing){s->generation, s->step, s->committed, NULL};
    }
    r->listing = list;
    r->listing_count = n;
    for (uint32_t i = 0; i < m->record_count; i++)
        if (strcmp(m->record[i][0], a->job) == 0)
            r->record = m->record[i][1];
    coordinator_result(m->c, r, m->now);
    mem_free(list);
}

static struct checkpoint_manifest *copy_manifest(const struct checkpoint_manifest *from)
{
    struct str text = {0};
    struct checkpoint_manifest *copy;
    checkpoint_manifest_write(from, &text);
    assert_int_equal(checkpoint_manifest_parse("model", text.data, text.size, &copy), ERR_NONE);
    str_deinit(&text);
    return copy;
}

static void answer_manifest(struct model *m, const struct coordinator_action *a,
                            struct coordinator_result *r)
{
    r->code = ERR_NOT_FOUND;
    r->text = "there is no manifest";
    bool gone = m->manifests_gone > 0;
    m->manifests_gone -= gone;
    for (uint32_t i = 0; i < m->stored_count && !gone; i++) {
        const struct model_stored *s = &m->stored[i];
        if (strcmp(s->uri, a->uri) != 0)
            continue;
        r->code = s->broken != NULL ? ERR_CORRUPT : ERR_NONE;
        r->text = s->broken != NULL ? s->broken : "";
        r->manifest = s->broken != NULL ? NULL : copy_manifest(s->manifest);
        r->sha256 = "123";
    }
    coordinator_result(m->c, r, m->now);
}

static void answer_publish(struct model *m, const struct coordinator_action *a,
                           struct coordinator_result *r)
{
    assert_true(m->stored_count < MODEL_STORED);
    for (uint32_t i = 1; i < a->manifest->file_count; i++)
        assert_true(strcmp(a->manifest->files[i - 1].name, a->manifest->files[i].name) <= 0);
    struct model_stored *s = &m->stored[m->stored_count++];
    *s = (struct model_stored){.generation = a->manifest->generation,
                               .step = a->manifest->step,
                               .committed = true,
                               .manifest = copy_manifest(a->manifest)};
    assert_true(strlen(a->uri) < sizeof s->uri);
    memcpy(s->uri, a->uri, strlen(a->uri) + 1);
    r->sha256 = "123";
    coordinator_result(m->c, r, m->now);
}

static void answer_record(struct model *m, const struct coordinator_action *a,
                          struct coordinator_result *r)
{
    uint32_t i = 0;
    while (i < m->record_count && strcmp(m->record[i][0], a->job) != 0)
        i++;
    if (i == m->record_count) {
        m->record_count++;
        m->record[i][0] = must_strdup(a->job);
    }
    mem_free(m->record[i][1]);
    m->record[i][1] = must_strdup(a->text);
    if (a->history != NULL) {
        assert_true(m->past_count < 64);
        m->past[m->past_count++] = must_strdup(a->history);
    }
    struct json *o;
    assert_int_equal(json_parse("record", a->text, strlen(a->text), &o), ERR_NONE);
    m->job_recorded = m->record[i][0];
    assert_int_equal(json_get_u64(o, "verdict_step", &m->verdict_recorded), ERR_NONE);
    assert_int_equal(json_get_u64(o, "generation", &m->generation_recorded), ERR_NONE);
    json_destroy(o);
    coordinator_result(m->c, r, m->now);
}

static void answer_load(struct model *m, struct coordinator_result *r)
{
    const char *records[64];
    for (uint32_t i = 0; i < m->record_count; i++)
        records[i] = m->record[i][1];
    r->records = records;
    r->record_count = m->record_count;
    r->history = (const char *const *)m->past;
    r->history_count = m->past_count;
    coordinator_result(m->c, r, m->now);
}

static void keep_log(struct model *m, struct coordinator_action *a)
{
    if (m->log_count == MODEL_LOG)
        return;
    m->log[m->log_count++] = a->text;
    a->text = NULL;
}

void model_do_actions(struct model *m)
{
    struct coordinator_action *a;
    while ((a = coordinator_next_action(m->c)) != NULL) {
        struct coordinator_result r = {.id = a->id, .text = ""};
        if (m->registry_away && (a->kind == ACTION_RECORD || a->kind == ACTION_LOAD)) {
            r.code = ERR_UNAVAILABLE;
            r.text = "the registry is away";
            coordinator_result(m->c, &r, m->now);
        } else if (m->store_away && (a->kind == ACTION_LIST || a->kind == ACTION_PUBLISH)) {
            r.code = ERR_UNAVAILABLE;
            r.text = "the store is away";
            coordinator_result(m->c, &r, m->now);
        } else if (a->kind == ACTION_LOAD) {
            answer_load(m, &r);
        } else if (a->kind == ACTION_LIST) {
            answer_list(m, a, &r);
        } else if (a->kind == ACTION_READ_MANIFEST) {
            answer_manifest(m, a, &r);
        } else if (a->kind == ACTION_PUBLISH) {
            answer_publish(m, a, &r);
        } else if (a->kind == ACTION_RECORD) {
            answer_record(m, a, &r);
        } else if (a->kind == ACTION_LOG) {
            keep_log(m, a);
        } else {
            m->retained++;
        }
        coordinator_action_destroy(a);
    }
}

bool model_logged(const struct model *m, const char *part)
{
    for (uint32_t i = 0; i < m->log_count; i++)
        if (strstr(m->log[i], part) != NULL)
            return true;
    return false;
}

/* ---- paramctl ---- */

void model_submit(struct model *m, const char *yaml, const char *flags)
{
    Paramd__Control__SubmitRequest r = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    r.job_yaml = (char *)yaml;
    r.mode = (char *)"train";
    r.resume = strstr(flags, "resume") != NULL;
    r.fresh = strstr(flags, "fresh") != NULL;
    r.resume_auto = strstr(flags, "auto") != NULL;
    r.shutdown_at_end = strstr(flags, "shutdown") != NULL;
    const char *job;
    assert_int_equal(coordinator_submit(m->c, &r, m->now, &job), ERR_NONE);
    model_do_actions(m);
}

void model_submit_eval(struct model *m, const char *yaml, const char *checkpoint)
{
    Paramd__Control__SubmitRequest r = PARAMD__CONTROL__SUBMIT_REQUEST__INIT;
    r.job_yaml = (char *)yaml;
    r.mode = (char *)"eval";
    r.checkpoint = (char *)checkpoint;
    const char *job;
    assert_int_equal(coordinator_submit(m->c, &r, m->now, &job), ERR_NONE);
    model_do_actions(m);
}

Paramd__Control__StatusReply *model_status(struct model *m, const char *job)
{
    struct str packed = {0};
    coordinator_status(m->c, job, m->now, &packed);
    Paramd__Control__StatusReply *s =
        paramd__control__status_reply__unpack(NULL, packed.size, (const uint8_t *)packed.data);
    str_deinit(&packed);
    assert_non_null(s);
    return s;
}

bool model_until(struct model *m, const char *job, const char *state, uint32_t turns)
{
    char last[32] = "", why[600] = "";
    for (uint32_t i = 0; i <= turns; i++) {
        Paramd__Control__StatusReply *s = model_status(m, job);
        bool there = strcmp(s->state, state) == 0;
        memcpy(last, s->state, strlen(s->state) + 1);
        size_t size = strlen(s->why) < sizeof why ? strlen(s->why) : sizeof why - 1;
        memcpy(why, s->why, size);
        why[size] = '\0';
        paramd__control__status_reply__free_unpacked(s, NULL);
        if (there)
            return true;
        model_turn(m);
    }
    print_message("job '%s' is %s, not %s: %s\n", job, last, state, why);
    return false;
}
