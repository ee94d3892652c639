/* watch.c -- what the event loop watches for a RedisLoop: descriptors, and one timer.
 *
 * A change is noted before the event loop is called, because that call may close the RedisLoop,
 * which undoes what is noted. */
#include "python/redis/loop.h"

/* ---- descriptors ------------------------------------------------------------------------- */

static int watch_call_loop(const loop_object *self, const char *method, int fd, bool with_callback)
{
    PyObject *result = with_callback
                           ? PyObject_CallMethod(self->loop, method, "iOi", fd, self->on_ready, fd)
                           : PyObject_CallMethod(self->loop, method, "i", fd);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

static int watch_change(const loop_object *self, int fd, unsigned before, unsigned after)
{
    static const struct {
        unsigned want;
        const char *add, *remove;
    } ways[] = {{RL_WANT_READ, "add_reader", "remove_reader"},
                {RL_WANT_WRITE, "add_writer", "remove_writer"}};
    for (int i = 0; i < 2; i++) {
        unsigned was = before & ways[i].want, is = after & ways[i].want;
        if (was == is ||
            watch_call_loop(self, is ? ways[i].add : ways[i].remove, fd, is != 0) == 0) {
            continue;
        }
        /* The core has closed the descriptor by now. A selector that watched it for reading and
         * writing raises OSError, and removes it all the same. */
        if (is != 0 || !PyErr_ExceptionMatches(PyExc_OSError)) {
            return -1;
        }
        PyErr_Clear();
    }
    return 0;
}

/* Make a change that is noted. If the RedisLoop was closed while something was added, the close
 * did not undo that, so it is undone here. */
static void watch_set(const loop_object *self, int fd, unsigned before, unsigned after,
                      loop_failure *failure)
{
    if (watch_change(self, fd, before, after) < 0) {
        loop_failure_add(failure, self->loop);
    }
    if (self->topology == NULL && after != 0 && watch_change(self, fd, after, 0) < 0) {
        PyErr_Clear();
    }
}

/* Find the entry of the same descriptor, not of a later one with the same number. NULL: none. */
static rl_want *watch_find(rl_want *wants, size_t n, const rl_want *same)
{
    for (size_t i = 0; i < n; i++) {
        if (wants[i].fd == same->fd && wants[i].serial == same->serial) {
            return &wants[i];
        }
    }
    return NULL;
}

static void watch_remove_unwanted(loop_object *self, size_t n_wanted, loop_failure *failure)
{
    for (size_t i = 0; i < self->n_watched;) {
        rl_want each = self->watched[i];
        if (watch_find(self->wanted, n_wanted, &each) != NULL) {
            i++;
            continue;
        }
        self->watched[i] = self->watched[--self->n_watched];
        watch_set(self, each.fd, each.wants, 0, failure);
    }
}

/* Nothing unwanted is watched any more, so there is room. */
static void watch_add_wanted(loop_object *self, size_t n_wanted, loop_failure *failure)
{
    for (size_t i = 0; i < n_wanted && self->topology != NULL; i++) {
        rl_want each = self->wanted[i];
        rl_want *found = watch_find(self->watched, self->n_watched, &each);
        unsigned before = found != NULL ? found->wants : 0;
        *(found != NULL ? found : &self->watched[self->n_watched++]) = each;
        watch_set(self, each.fd, before, each.wants, failure);
    }
}

static bool is_all_watched(const loop_object *self, size_t n_wanted)
{
    return n_wanted == self->n_watched &&
           memcmp(self->wanted, self->watched, n_wanted * sizeof(rl_want)) == 0;
}

void loop_watch(loop_object *self, loop_failure *failure)
{
    if (self->watching) {
        return; /* called by the event loop in the loop below, which checks again */
    }
    self->watching = true;
    while (self->topology != NULL) {
        size_t n = rl_topology_wants(self->topology, self->wanted);
        if (is_all_watched(self, n)) {
            break;
        }
        watch_remove_unwanted(self, n, failure);
        watch_add_wanted(self, n, failure);
        if (self->topology != NULL) {
            /* the same entries, in the order that is_all_watched() compares */
            memcpy(self->watched, self->wanted, n * sizeof(rl_want));
        }
    }
    self->watching = false;
}

void loop_unwatch(loop_object *self)
{
    while (self->n_watched > 0) {
        rl_want each = self->watched[--self->n_watched];
        if (watch_change(self, each.fd, each.wants, 0) < 0) {
            PyErr_Clear(); /* the event loop is closed, and watches nothing any more */
        }
    }
}

/* ---- the timer ------------------------------------------------------------------------------ */

/* Cancel a timer. Steals it; leaves no exception set. */
static void timer_cancel(PyObject *timer)
{
    PyObject *result = PyObject_CallMethod(timer, "cancel", NULL);
    if (result == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(result);
    Py_DECREF(timer);
}

void loop_cancel_timer(loop_object *self)
{
    PyObject *timer = self->timer;
    self->timer = NULL;
    if (timer != NULL) {
        timer_cancel(timer);
    }
}

void loop_set_timer(loop_object *self, loop_failure *failure)
{
    if (self->topology == NULL) {
        return;
    }
    int64_t deadline_ns = rl_topology_deadline_ns(self->topology);
    if (deadline_ns == INT64_MAX || (self->timer != NULL && self->timer_ns <= deadline_ns)) {
        return;
    }
    loop_cancel_timer(self);
    int64_t left_ns = deadline_ns - rl_now_ns();
    PyObject *timer = PyObject_CallFunction(
        self->call_later, "dO", left_ns > 0 ? (double)left_ns / 1e9 : 0.0, self->on_timer);
    if (timer == NULL) {
        loop_failure_add(failure, self->loop);
    } else if (self->topology == NULL || self->timer != NULL) {
        timer_cancel(timer); /* call_later closed this, or set the timer again */
    } else {
        self->timer = timer;
        self->timer_ns = deadline_ns;
    }
}
