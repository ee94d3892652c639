/* python/check_steps.h -- the steps of a check: what check.c and check_limits.c share.
 *
 * A step returns CHECK_GO_ON when it is done; check_run() calls it again if it returned CHECK_AWAIT. */
#ifndef RL_PYTHON_CHECK_STEPS_H
#define RL_PYTHON_CHECK_STEPS_H

#include "python/path.h"

/* The step is done, and the next one begins. */
#define CHECK_GO_ON ((check_status)(CHECK_AWAIT + 1))

/* ---- check.c --------------------------------------------------------------------------------------- */

/* The request of a check. */
request check_request(const check *check);

/* The rule that limits the request now, or the next one; NULL: all were tried. */
const policy_rule *check_rule(check *check);

/* Take the value just returned (stolen; NULL with an exception set). NULL: stop with *status. */
PyObject *check_take_value(check *check, PyObject *returned, check_status *status);

/* Take the value that was awaited; NULL: none was. */
PyObject *check_take_awaited(check *check);

/* ---- check_limits.c -------------------------------------------------------------------------------- */

/* Ask the rule for the limits of this request. */
check_status check_read_limits(check *check);

/* Ask the rule for its cost. */
check_status check_read_cost(check *check);

/* Take the cost from the limits of the rule, and record its verdict. */
check_status check_decide(check *check);

#endif
