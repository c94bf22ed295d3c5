/*
 * member_internal.h - what member.c and member_call.c share.
 */
#ifndef PARAMD_COMMON_MEMBER_INTERNAL_H
#define PARAMD_COMMON_MEMBER_INTERNAL_H

/* What a member's entry in the registry holds; freed with mem_free(). */
char *member_record(const struct member_options *o);
/* The address to dial of a record that member_leader_record() made; NULL when it is not one.
 * mem_free(). */
char *member_record_address(const char *record);

#endif
