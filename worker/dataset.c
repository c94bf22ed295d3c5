#include "worker/dataset.h"

#include <string.h>

#include "common/mem.h"
#include "worker/dataset_internal.h"
#include "worker/scan.h"

/* By name: a file that changed would silently change the order of everything behind it. */
static enum err check_files(const struct job *j, const struct dataindex *d)
{
    for (uint32_t i = 0; i < d->file_count; i++) {
        const struct dataindex_file *f = &d->files[i];
        uint64_t size;
        char mark[sizeof f->mark];
        enum err e = scan_mark(&j->data, f->uri, &size, mark);
        if (e == ERR_NOT_FOUND)
            return err_set(ERR_REFUSED, "%s: the data index has this file, and it is gone", f->uri);
        if (e != ERR_NONE)
            return e;
        if (size != f->size || strcmp(mark, f->mark) != 0)
            return err_set(
                ERR_REFUSED,
                "%s: the file is not the one that was indexed (size %llu then, %llu now; mark "
                "%s then, %s now)",
                f->uri, (unsigned long long)f->size, (unsigned long long)size, f->mark, mark);
    }
    return ERR_NONE;
}

enum err dataset_open(const struct dataset_options *o, struct dataset **out)
{
    enum err e = check_files(o->job, o->index);
    if (e != ERR_NONE)
        return e;
    struct dataset *d = must_alloc(sizeof *d);
    d->o = *o;
    d->train_counts = must_alloc(o->index->block_count * sizeof *d->train_counts);
    for (uint32_t b = 0; b < o->index->block_count; b++)
        d->train_counts[b] = o->index->blocks[b].train_count;
    struct blockcache_options c = {.job = o->job,
                                   .spec = o->features,
                                   .index = o->index,
                                   .directory = o->cache_directory,
                                   .limit_bytes = o->cache_limit_bytes,
                                   .threads = o->threads};
    e = blockcache_open(&c, &d->cache);
    if (e != ERR_NONE) {
        dataset_close(d);
        return e;
    }
    *out = d;
    return ERR_NONE;
}

void dataset_close(struct dataset *d)
{
    if (d == NULL)
        return;
    blockcache_close(d->cache);
    mem_free(d->train_counts);
    mem_free(d);
}
