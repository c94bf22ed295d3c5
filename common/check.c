#include "common/check.h"

#include <stdlib.h>

#include "common/log.h"

void check_failed(const char *file, int line, const char *function, const char *condition)
{
    log_error("check", "does not hold condition=\"%s\" function=%s file=%s:%d", condition, function,
              file, line);
    abort();
}
