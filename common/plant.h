/*
 * plant.h - places where the simulator plants a bug, to see that it finds it.
 *
 * PLANT(name) is 0 in every program but the simulator, where it is true while that bug is planted
 * (`build/tests/sim --plant name`). A bug is a row here and an `if` where the rule is kept; each
 * bracket of PROTOCOL.md is one, marked with [].
 */
#ifndef PARAMD_COMMON_PLANT_H
#define PARAMD_COMMON_PLANT_H

/* Name, the rule that it breaks (section of the protocol), what it does instead. */
#define PLANT_LIST(X)                                                                              \
    X(none, "", "nothing is planted")                                                              \
    X(drain_pulls_one, "2 []", "a drain point pulls for one batch, nobody for 1 ... d")            \
    X(checkpoint_anywhere, "2 []", "checkpoint now is taken at the next step, drain point or not") \
    X(drain_no_barrier, "2", "a rank goes on past a drain point before all have reached it")       \
    X(duplicate_by_applied, "3 []", "a push between received and applied counts as new")           \
    X(duplicate_applied, "3", "in ssp and asp a push that comes twice is applied twice")           \
    X(kept_until_pushed, "3 []", "a shard forgets a batch's values once it has its push")          \
    X(acked_by_one, "3 []", "acked counts what one shard has answered, not all")                   \
    X(lease_ignored, "3 []", "a shard takes pushes of a worker that was replaced")                 \
    X(lease_kept, "3 []", "a rank's next worker gets the lease of the last one")                   \
    X(half_a_step, "3 []", "only the first shard hears that a step is skipped")                    \
    X(push_unchecked, "3 []", "a push is not checked before it is taken")                          \
    X(busy_for_all, "3 []", "over budget, the one push that all wait for is refused as well")      \
    X(ranks_in_turn, "3 []", "a worker finishes one of its ranks before it begins the next")       \
    X(rank_order_ignored, "3", "contributions are not added in the order of ranks")                \
    X(weight_of_last, "4", "a step is divided by the last rank's weight, not by the sum")          \
    X(staleness_ignored, "3", "in ssp nobody waits for the slowest rank")                          \
    X(answers_fresh, "3", "a question asked again is answered with values of now")                 \
    X(pull_creates, "3", "a pull of an absent key creates its row")                                \
    X(generation_ignored, "6", "a shard takes requests of another generation")                     \
    X(cursor_off_by_one, "3", "a rank that moved goes on one batch too late")                      \
    X(body_never_again, "3", "a shard that lacks a push is not sent its body again")               \
    X(stop_ignored, "6", "a rank trains on after the verdict to stop")                             \
    X(bad_record_moves, "6 []", "a worker that failed for its input is replaced by another")       \
    X(generation_again, "7", "a recovery keeps the generation of what was lost")                   \
    X(form_before_record, "6", "members are formed before the generation is recorded")             \
    X(move_before_record, "6", "ranks move before their leases are recorded")                      \
    X(verdict_before_record, "6", "a verdict is given before it is recorded")                      \
    X(verdict_forgotten, "6", "a new leader does not know the last verdict")                       \
    X(end_over_successor, "6", "a job begins before the end of the one before it is recorded")     \
    X(answers_unasked, "6", "what a server said before it knew the question counts as its answer") \
    X(old_term_followed, "6", "a member follows orders of an earlier leader")                      \
    X(term_not_fenced, "6", "the registry takes writes of a deposed leader")                       \
    X(pause_ignored, "6", "shards go on while the registry is away")                               \
    X(share_counted_twice, "6", "a share of an evaluation is counted again")                       \
    X(share_of_another_step, "6", "an evaluation takes shares that were made at another step")     \
    X(manifest_early, "7", "the manifest is published when one shard is durable")                  \
    X(close_unchecked, "7", "a file whose closing failed counts as durable")                       \
    X(evaluation_after_commit, "7", "a manifest does not wait for the evaluation of its step")     \
    X(evaluations_forgotten, "7", "a restored job does not know its evaluations")                  \
    X(own_commit_refused, "7", "a commit whose reply was lost is taken for somebody else's")       \
    X(rows_not_frozen, "7", "rows that change while a snapshot streams are not copied")            \
    X(slots_missing, "7", "optimizer state is not restored")                                       \
    X(reports_missing, "7", "the reports of ranks are not restored")                               \
    X(checksum_skipped, "7", "a block is restored whatever its checksum")                          \
    X(refused_again, "7", "a checkpoint that one shard refused is picked again")                   \
    X(restores_second, "7", "the newest checkpoint but one is restored")                           \
    X(empty_listing, "7 []", "a listing without the recorded checkpoint counts as a new job")      \
    X(record_behind_retention, "7", "a recorded checkpoint that retention removed fails the job")  \
    X(retention_eager, "7", "retention keeps one too few")                                         \
    X(best_unprotected, "7", "retention removes the best checkpoint of early stopping")            \
    X(armed_in_the_past, "7", "a shard that is past a drain point says that it is armed")          \
    X(disarm_ignored, "7", "a snapshot that was given up stays armed")

#ifdef SIMULATION
enum plant {
#define PLANT_NAME(name, rule, text) PLANT_##name,
    PLANT_LIST(PLANT_NAME)
#undef PLANT_NAME
        PLANT_COUNT
};
extern enum plant plant_now;
#define PLANT(name) (__builtin_expect(plant_now == PLANT_##name, 0))
#else
#define PLANT(name) 0
#endif

#endif
