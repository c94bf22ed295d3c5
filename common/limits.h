/*
 * limits.h - the bounds of the system, in one place.
 *
 * What is a setting stands in the settings table; what stands here is fixed by the formats and
 * protocols.
 */
#ifndef PARAMD_COMMON_LIMITS_H
#define PARAMD_COMMON_LIMITS_H

#define PARTITION_COUNT 4096u /* of keys and dense blocks; partition = mixed key >> 52 */
#define PARTITION_SHIFT 52

#define NAME_MAX_BYTES     128u /* job, table, feature, parameter names, without final 0 */
#define TABLE_MAX          256u
#define COMPONENT_MAX      4u    /* components of one row */
#define DENSE_MAX          1024u /* dense parameters */
#define LAYER_MAX          256u
#define FEATURE_MAX        4096u
#define RANK_MAX           1024u
#define SHARD_MAX          1024u
#define ROW_DIM_MAX        4096u /* floats of one row, all components, no optimizer state */
#define SLOT_MAX           2u    /* optimizer state arrays a parameter */
#define PIPELINE_DEPTH_MAX 64u
#define DENSE_BLOCK_VALUES 16384u     /* floats of a dense block (grows if > 4096 blocks) */
#define MESSAGE_MAX_BYTES  (1u << 30) /* one RPC message */
#define WIRE_BLOCK_MAX     65536u     /* block descriptors in one message */
#define COLUMN_MAX         32768u     /* of a data set */
#define RECORD_MAX_BYTES   (1u << 24) /* one input record */

#endif
