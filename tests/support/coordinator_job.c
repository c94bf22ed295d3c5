#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "tests/support/coordinator_job.h"

Paramd__Control__StatusReply *status_of(struct model *m, const char *job, const char *state)
{
    assert_true(model_until(m, job, state, TURNS));
    return model_status(m, job);
}

void done_with(Paramd__Control__StatusReply *s)
{
    paramd__control__status_reply__free_unpacked(s, NULL);
}

void assert_contains(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("'%s' does not contain '%s'", text, part);
}
