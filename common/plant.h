/*
 * plant.h - places where the simulator plants a bug, to see that it finds it.
 *
 * PLANT(name) is 0 in every program but the simulator, where it is true while that bug is planted
 * (`build/tests/sim --plant name`). A bug is a row here and an `if` where the rule is kept; each
 * bracket of PROTOCOL.md is one.
 */
#ifndef PARAMD_COMMON_PLANT_H
#define PARAMD_COMMON_PLANT_H

#define PLANT_LIST(X)                                                                              \
    X(none, "nothing is planted")                                                                  \
    X(term_not_fenced, "the registry takes writes of a deposed leader")                            \
    X(old_term_followed, "a member follows orders of an earlier leader")

#ifdef SIMULATION
enum plant {
#define PLANT_NAME(name, text) PLANT_##name,
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
