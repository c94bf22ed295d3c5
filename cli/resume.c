#include "cli/resume.h"

#include <stdio.h>

#include "common/mem.h"
#include "common/storage.h"
#include "server/snapshot.h"

/* Of the newest checkpoint that is good; 0: there is none, or it cannot be read. */
static uint32_t ranks_before(const struct job *job, char **name_out)
{
    char *uri = storage_join(job->checkpoint.uri, job->name);
    struct checkpoint_listing *l = NULL;
    struct checkpoint_manifest *m = NULL;
    size_t count = 0;
    uint32_t ranks = 0;

    if (checkpoint_list(uri, &l, &count) != ERR_NONE)
        count = 0;
    for (size_t i = 0; i < count && !ranks; i++) {
        if (l[i].refused != ERR_NONE ||
            checkpoint_read_manifest(l[i].directory, &m, NULL) != ERR_NONE)
            continue;
        ranks = m->rank_count;
        if (ranks)
            *name_out = must_strdup(l[i].directory);
        checkpoint_manifest_destroy(m);
    }
    checkpoint_listing_free(l, count);
    mem_free(uri);
    return ranks;
}

enum err resume_keep_ranks(const char *file, const struct option_list *sets,
                           const struct option_list *vars, struct job **job)
{
    char *checkpoint = NULL;
    struct job *again = NULL;
    enum err err = ERR_NONE;

    if (!(*job)->train.ranks_by_default)
        return ERR_NONE;
    uint32_t ranks = ranks_before(*job, &checkpoint);
    if (ranks && ranks < (*job)->resources.workers) {
        err = err_set(ERR_REFUSED,
                      "resources.workers is %u, and %s was made with train.ranks %u, which stays: "
                      "give %u workers or fewer, or start anew with --fresh",
                      (*job)->resources.workers, checkpoint, ranks, ranks);
    } else if (ranks && ranks != (*job)->train.ranks) {
        char *set = must_format("train.ranks=%u", ranks);
        struct option_list all = {must_alloc((sets->count + 2) * sizeof *all.items), sets->count};
        for (size_t i = 0; i < sets->count; i++)
            all.items[i] = sets->items[i];
        all.items[all.count++] = set;
        err = load_job(file, &all, vars, &again);
        option_list_free(&all);
        mem_free(set);
    }
    if (again) {
        fprintf(stderr, "train.ranks stays %u, as in %s\n", ranks, checkpoint);
        job_destroy(*job);
        *job = again;
    }
    mem_free(checkpoint);
    return err;
}
