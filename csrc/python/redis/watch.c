/* watch.c -- what the event loop watches for a RedisLoop: descriptors, and one timer.
 *
 * A change is noted before the event loop is called, because that call may close the RedisLoop,
 * which takes back what is noted. */
#include "python/redis/loop.h"

/* ---- descriptors ------------------------------------------------------------------------- */

static int call_loop(const loop_object *self, const char *method, int fd, bool with_callback)
{
    PyObject *result = with_callback
                           ? PyObject_CallMethod(self->loop, method, "iOi", fd, self->on_ready, fd)
                           : PyObject_CallMethod(self->loop, method, "i", fd);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

static int change(const loop_object *self, int fd, unsigned before, unsigned after)
{
    static const struct {
        unsigned want;
        const char *add, *remove;
    } ways[] = {{RL_WANT_READ, "add_reader", "remove_reader"},
                {RL_WANT_WRITE, "add_writer", "remove_writer"}};
    for (int i = 0; i < 2; i++) {
        unsigned was = before & ways[i].want, is = after & ways[i].want;
        if (was == is || call_loop(self, is ? ways[i].add : ways[i].remove, fd, is != 0) == 0) {
            continue;
        }
        /* The core has closed it by now. A selector that was watching for two things complains,
         * and forgets it all the same. */
        if (is != 0 || !PyErr_ExceptionMatches(PyExc_OSError)) {
            return -1;
        }
        PyErr_Clear();
    }
    return 0;
}

/* Make a change that is noted. A loop that was closed while something was added has not taken
 * that back. */
static void set_watched(const loop_object *self, int fd, unsigned before, unsigned after,
                        loop_failure *failure)
{
    if (change(self, fd, before, after) < 0) {
        loop_failed(failure, self->loop);
    }
    if (self->topology == NULL && after != 0 && change(self, fd, after, 0) < 0) {
        PyErr_Clear();
    }
}

/* The one of the same descriptor: not of another one that has got its number. NULL: none. */
static rl_want *find(rl_want *wants, size_t n, const rl_want *same)
{
    for (size_t i = 0; i < n; i++) {
        if (wants[i].fd == same->fd && wants[i].serial == same->serial) {
            return &wants[i];
        }
    }
    return NULL;
}

static void remove_unwanted(loop_object *self, size_t n_wanted, loop_failure *failure)
{
    for (size_t i = 0; i < self->n_watched;) {
        rl_want each = self->watched[i];
        if (find(self->wanted, n_wanted, &each) != NULL) {
            i++;
            continue;
        }
        self->watched[i] = self->watched[--self->n_watched];
        set_watched(self, each.fd, each.wants, 0, failure);
    }
}

/* Only what is wanted is watched by now, so there is room. */
static void add_wanted(loop_object *self, size_t n_wanted, loop_failure *failure)
{
    for (size_t i = 0; i < n_wanted && self->topology != NULL; i++) {
        rl_want each = self->wanted[i];
        rl_want *known = find(self->watched, self->n_watched, &each);
        unsigned before = known != NULL ? known->wants : 0;
        *(known != NULL ? known : &self->watched[self->n_watched++]) = each;
        set_watched(self, each.fd, before, each.wants, failure);
    }
}

static bool is_watched(const loop_object *self, size_t n_wanted)
{
    return n_wanted == self->n_watched &&
           memcmp(self->wanted, self->watched, n_wanted * sizeof(rl_want)) == 0;
}

void loop_watch(loop_object *self, loop_failure *failure)
{
    if (self->watching) {
        return; /* called by the event loop, which was called below: that looks again */
    }
    self->watching = true;
    while (self->topology != NULL) {
        size_t n = rl_topology_wants(self->topology, self->wanted);
        if (is_watched(self, n)) {
            break;
        }
        remove_unwanted(self, n, failure);
        add_wanted(self, n, failure);
        if (self->topology != NULL) { /* the same ones, in the order of the next comparison */
            memcpy(self->watched, self->wanted, n * sizeof(rl_want));
        }
    }
    self->watching = false;
}

void loop_unwatch(loop_object *self)
{
    while (self->n_watched > 0) {
        rl_want each = self->watched[--self->n_watched];
        if (change(self, each.fd, each.wants, 0) < 0) {
            PyErr_Clear(); /* the event loop is closed, and watches nothing any more */
        }
    }
}

/* ---- the timer ------------------------------------------------------------------------------ */

/* Steals the timer. */
static void cancel(PyObject *timer)
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
        cancel(timer);
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
        loop_failed(failure, self->loop);
    } else if (self->topology == NULL || self->timer != NULL) {
        cancel(timer); /* closed, or set again, by what was called here */
    } else {
        self->timer = timer;
        self->timer_ns = deadline_ns;
    }
}
