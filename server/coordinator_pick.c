#include <string.h>

#include "common/json.h"
#include "common/mem.h"
#include "common/plant.h"
#include "server/coordinator_internal.h"

/*
 * Which checkpoint is restored: the newest that is committed and verifies. What is found refused is
 * excluded with its reason and the next one tried; only absence and failed verification refuse,
 * outages wait.
 */

#define RETRY_MS 2000u

static bool is_passing(enum err code)
{
    return code == ERR_UNAVAILABLE || code == ERR_TIMEOUT || code == ERR_IO;
}

static void ask_list(struct coordinator *c, struct job_run *j)
{
    struct coordinator_action *a = act(c, ACTION_LIST, j);
    a->uri = must_strdup(j->storage_uri);
    j->action_id = a->id;
}

static void ask_manifest(struct coordinator *c, struct job_run *j)
{
    const struct candidate *k = &j->candidates[j->picked];
    char *name = checkpoint_name(k->generation, k->step);
    struct coordinator_action *a = act(c, ACTION_READ_MANIFEST, j);
    a->uri = must_format("%s/%s", j->storage_uri, name);
    mem_free(name);
    j->action_id = a->id;
}

static void fail_refused(struct coordinator *c, struct job_run *j, uint64_t now)
{
    struct str reasons = {0};
    for (size_t i = 0; i < j->candidate_count; i++) {
        const struct candidate *k = &j->candidates[i];
        if (k->committed && k->refused != NULL)
            str_append_format(&reasons, "%s%llu-%llu: %s", reasons.size > 0 ? "; " : "",
                              (unsigned long long)k->generation, (unsigned long long)k->step,
                              k->refused);
    }
    job_fail(c, j, now, "no checkpoint of %s can be used (%s)%s", j->storage_uri, reasons.data,
             j->eval_mode ? "" : "; starting anew needs --fresh");
    str_deinit(&reasons);
}

static void choose(struct coordinator *c, struct job_run *j, uint64_t now)
{
    size_t committed = 0;
    for (j->picked = 0; j->picked < j->candidate_count; j->picked++) {
        const struct candidate *k = &j->candidates[j->picked];
        committed += k->committed;
        if (k->committed && k->refused == NULL && !(PLANT(restores_second) && committed < 2))
            break;
    }
    if (j->picked < j->candidate_count) {
        j->pick = PICK_READ;
        ask_manifest(c, j);
    } else if (committed > 0 && j->taken && !j->eval_mode && !j->listed_again) {
        /* One that was deposed and does not know it may have made newer ones and removed these. */
        j->listed_again = true;
        job_recover(c, j, false, now, "no checkpoint can be used of those that were listed");
    } else if (committed > 0) {
        fail_refused(c, j, now);
    } else if (!j->resume_auto && !j->taken && j->candidate_count == 0) {
        job_fail(c, j, now, "there is no checkpoint to resume from in %s; run without --resume",
                 j->storage_uri);
    } else {
        job_note(c, j, COORDINATOR_INFO, "no checkpoint in %s yet: begins with the initial state",
                 j->storage_uri);
        j->pick = PICK_DONE;
    }
}

void pick_ask(struct coordinator *c, struct job_run *j, uint64_t now)
{
    switch (j->pick) {
    case PICK_LIST:
        ask_list(c, j);
        break;
    case PICK_CHOOSE:
        choose(c, j, now);
        break;
    case PICK_READ:
        ask_manifest(c, j);
        break;
    case PICK_DONE:
        break;
    }
}

/* ---- the listing ---- */

struct record {
    uint64_t generation;
    char checkpoint[64]; /* "": none */
};

/* A record that does not parse is like none: the store is the truth. */
static struct record parse_record(const char *text)
{
    struct record r = {0};
    struct json *o;
    if (text == NULL || json_parse("registry record", text, strlen(text), &o) != ERR_NONE)
        return r;
    const char *name;
    if (json_get_u64(o, "generation", &r.generation) != ERR_NONE)
        r.generation = 0;
    if (json_get_text(o, "checkpoint", &name) == ERR_NONE && strlen(name) < sizeof r.checkpoint)
        memcpy(r.checkpoint, name, strlen(name) + 1);
    json_destroy(o);
    return r;
}

static bool is_listed(const struct job_run *j, const char *name)
{
    uint64_t generation, step;
    if (checkpoint_name_parse(name, &generation, &step) != ERR_NONE)
        return true;
    for (size_t i = 0; i < j->candidate_count; i++)
        if (j->candidates[i].generation == generation && j->candidates[i].step == step)
            return true;
    return false;
}

/* A good one that came after it: then retention removed it, and only the record is behind. */
static bool has_newer(const struct job_run *j, const char *name)
{
    uint64_t generation, step;
    if (checkpoint_name_parse(name, &generation, &step) != ERR_NONE)
        return false;
    for (size_t i = 0; i < j->candidate_count; i++) {
        const struct candidate *k = &j->candidates[i];
        bool newer = k->generation > generation || (k->generation == generation && k->step > step);
        if (newer && k->committed && k->refused == NULL && !PLANT(record_behind_retention))
            return true;
    }
    return false;
}

static bool is_missing(const struct job_run *j, const char *name)
{
    return name[0] != '\0' && !is_listed(j, name) && !has_newer(j, name);
}

static void keep_listing(struct job_run *j, const struct coordinator_result *r)
{
    j->candidates = must_alloc((r->listing_count + 1) * sizeof *j->candidates);
    for (size_t i = 0; i < r->listing_count; i++) {
        const struct coordinator_listing *l = &r->listing[i];
        /* A job that was to begin anew goes on from what it made itself. */
        if (j->fresh && l->generation < j->first_generation)
            continue;
        j->candidates[j->candidate_count++] = (struct candidate){
            .generation = l->generation,
            .step = l->step,
            .committed = l->committed,
            .refused = l->refused != NULL ? must_strdup(l->refused) : NULL,
        };
    }
}

static void refuse_existing(struct coordinator *c, struct job_run *j, uint64_t now)
{
    for (size_t i = 0; i < j->candidate_count; i++) {
        const struct candidate *k = &j->candidates[i];
        if (!k->committed)
            continue;
        job_fail(
            c, j, now,
            "%s has checkpoints already, the newest is %llu-%llu: continue with --resume, or start "
            "anew with --fresh",
            j->storage_uri, (unsigned long long)k->generation, (unsigned long long)k->step);
        return;
    }
    j->pick = PICK_DONE;
}

/* What was committed and is not used any more must not go unseen. */
static void warn_refused(struct coordinator *c, struct job_run *j)
{
    for (size_t i = 0; i < j->candidate_count; i++) {
        const struct candidate *k = &j->candidates[i];
        if (k->committed && k->refused != NULL)
            job_warn(c, j, "checkpoint %llu-%llu is refused: %s", (unsigned long long)k->generation,
                     (unsigned long long)k->step, k->refused);
    }
}

static void take_listing(struct coordinator *c, struct job_run *j,
                         const struct coordinator_result *r, uint64_t now)
{
    struct record record = parse_record(r->record);
    uint64_t largest = record.generation > j->generation ? record.generation : j->generation;
    for (size_t i = 0; i < r->listing_count; i++)
        if (r->listing[i].generation > largest)
            largest = r->listing[i].generation;
    j->generation = PLANT(generation_again) && largest > 0 ? largest : largest + 1;
    if (j->first_generation == 0)
        j->first_generation = j->generation;
    if (j->eval_mode) {
        j->picked = 0;
        j->pick = PICK_READ;
        ask_manifest(c, j);
        return;
    }
    keep_listing(j, r);
    mem_free(j->recorded);
    j->recorded = record.checkpoint[0] != '\0' && !j->fresh ? must_strdup(record.checkpoint) : NULL;
    j->picked = j->candidate_count;
    /* The record may lack what this leader has made itself. */
    const char *missing = is_missing(j, record.checkpoint) ? record.checkpoint : NULL;
    if (missing == NULL && j->newest_name != NULL && is_missing(j, j->newest_name))
        missing = j->newest_name;
    if (j->fresh && !j->taken) {
        j->pick = PICK_DONE;
    } else if (missing != NULL && !PLANT(empty_listing)) {
        job_fail(
            c, j, now,
            "%s names checkpoint %s of job '%s', but %s does not list it: look at its path and "
            "credentials; starting anew needs --fresh",
            missing == record.checkpoint ? "the registry" : "the coordinator", missing, j->name,
            j->storage_uri);
    } else if (j->resume || j->taken) {
        warn_refused(c, j);
        j->pick = PICK_CHOOSE;
        choose(c, j, now);
    } else {
        refuse_existing(c, j, now);
    }
}

/* ---- the manifest ---- */

static void refuse_picked(struct coordinator *c, struct job_run *j, const char *why, uint64_t now)
{
    struct candidate *k = &j->candidates[j->picked];
    job_warn(c, j, "checkpoint %llu-%llu is refused: %s", (unsigned long long)k->generation,
             (unsigned long long)k->step, why);
    k->refused = must_strdup(why);
    j->pick = PICK_CHOOSE;
    choose(c, j, now);
}

static enum err check_job(struct job_run *j, const struct checkpoint_manifest *m)
{
    struct job *before;
    struct job_source source = {
        .what = "the checkpoint's job", .text = m->job_yaml, .size = strlen(m->job_yaml)};
    enum err e = job_parse(&source, &before);
    if (e != ERR_NONE)
        return e;
    e = j->eval_mode ? job_same_model(before, j->job) : job_resumable(before, j->job);
    job_destroy(before);
    return e;
}

static void take_manifest(struct coordinator *c, struct job_run *j,
                          const struct coordinator_result *r, uint64_t now)
{
    const struct candidate *k = &j->candidates[j->picked];
    if (r->manifest->generation != k->generation || r->manifest->step != k->step) {
        checkpoint_manifest_destroy(r->manifest);
        refuse_picked(c, j, "its manifest is of another checkpoint", now);
        return;
    }
    j->manifest = r->manifest;
    size_t size = strlen(r->sha256);
    memcpy(j->manifest_sha, r->sha256, size < SHA256_HEX_SIZE ? size : SHA256_HEX_SIZE - 1);
    if (check_job(j, j->manifest) != ERR_NONE) {
        job_fail(c, j, now, "checkpoint %llu-%llu cannot be %s with this job: %s%s",
                 (unsigned long long)k->generation, (unsigned long long)k->step,
                 j->eval_mode ? "evaluated" : "resumed", err_text(),
                 j->eval_mode ? "" : ", or start anew with --fresh");
        return;
    }
    mem_free(j->newest_name);
    j->newest_name = checkpoint_name(k->generation, k->step);
    j->pick = PICK_DONE;
}

void pick_result(struct coordinator *c, struct job_run *j, const struct coordinator_result *r,
                 uint64_t now)
{
    j->action_id = 0;
    if (is_passing(r->code)) {
        job_warn(c, j, "waits for the storage: %s", r->text);
        job_set_why(j, "waits for the storage: %s", r->text);
        j->retry_ms = now + RETRY_MS;
        checkpoint_manifest_destroy(r->manifest);
    } else if (j->pick == PICK_LIST) {
        if (r->code == ERR_NONE || r->code == ERR_NOT_FOUND || j->eval_mode)
            take_listing(c, j, r, now);
        else
            job_fail(c, j, now, "cannot list the checkpoints of %s: %s", j->storage_uri, r->text);
        checkpoint_manifest_destroy(r->manifest);
    } else if (r->code != ERR_NONE) {
        checkpoint_manifest_destroy(r->manifest);
        refuse_picked(c, j, r->text, now);
    } else {
        take_manifest(c, j, r, now);
    }
}
