/*
 * Which stores there are. A file of its own, as the simulator has another table.
 */
#include "common/storage_internal.h"

const struct storage_backend *const storage_backends[] = {
    &storage_file_backend,
    &storage_hdfs_backend,
    &storage_s3_backend,
};
const size_t storage_backend_count = sizeof storage_backends / sizeof *storage_backends;
