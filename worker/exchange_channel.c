#include "worker/exchange_internal.h"

#include <string.h>

#include "common/log.h"
#include "common/mem.h"

static const char *choose(const struct exchange_options *o, const struct exchange_shard *s)
{
    if (o->host_id != NULL && s->host_id != NULL && o->host_id[0] != '\0' &&
        strcmp(o->host_id, s->host_id) == 0) {
        for (uint32_t i = 0; i < s->address_count; i++) {
            if (rpc_unix_listens(s->addresses[i]))
                return s->addresses[i];
        }
    }
    return s->addresses[0];
}

static enum err channel_to(struct exchange *x, const char *address, struct rpc_channel **out)
{
    for (uint32_t i = 0; i < x->channel_count; i++) {
        if (strcmp(rpc_channel_address(x->channels[i]), address) == 0) {
            *out = x->channels[i];
            return ERR_NONE;
        }
    }
    struct rpc_channel_options options = {.message_max_bytes = x->options.message_max_bytes};
    enum err e = rpc_channel_open(address, &options, &x->channels[x->channel_count]);
    if (e != ERR_NONE)
        return e;
    log_debug("exchange", "channel opened address='%s'", address);
    *out = x->channels[x->channel_count++];
    return ERR_NONE;
}

enum err exchange_connect(struct exchange *x)
{
    const struct exchange_options *o = &x->options;
    x->channels = must_alloc(o->shard_count * sizeof *x->channels);
    x->shards = must_alloc(o->shard_count * sizeof *x->shards);
    for (uint32_t i = 0; i < o->shard_count; i++) {
        const struct exchange_shard *s = &o->shards[i];
        if (s->address_count == 0)
            return err_set(ERR_INPUT, "shard %u has no address", i);
        x->shards[i].first_partition = s->first_partition;
        x->shards[i].end_partition = s->end_partition;
        enum err e = channel_to(x, choose(o, s), &x->shards[i].channel);
        if (e != ERR_NONE)
            return err_prefix(e, "shard %u", i);
    }
    return ERR_NONE;
}
