/*
 * cluster_model_internal.h - between cluster_model.c (members) and cluster_store.c (store,
 * registry, paramctl).
 */
#ifndef TESTS_SUPPORT_CLUSTER_MODEL_INTERNAL_H
#define TESTS_SUPPORT_CLUSTER_MODEL_INTERNAL_H

struct model;

void model_do_actions(struct model *m);

#endif
