/* engine/calendar.h -- days, weeks, months and years of a calendar, in a time zone.
 *
 * A window of a calendar begins at a midnight: weeks on Monday, months on the 1st, years on
 * 1 January. Which second that is depends on the zone's offset from UTC, so days on which a
 * clock changes have 23 or 25 hours:
 *
 *     day of 1970 in local time      20393          20394            20395
 *                          ──|──────────────|────────────────|──────────────|──>
 *                            00:00       00:00   25 hours  00:00         00:00
 *
 * A zone is a table of those days from which on midnight has another offset. It is made by
 * python/rate_limiter/checks/time_zones.py and only read here. */
#ifndef RL_ENGINE_CALENDAR_H
#define RL_ENGINE_CALENDAR_H

#include <stddef.h>

#include "engine/bucket.h"

typedef enum rl_unit {
    RL_NO_UNIT,
    RL_DAY,
    RL_WEEK,
    RL_MONTH,
    RL_YEAR,
} rl_unit;

typedef struct rl_zone_change {
    int64_t day;      /* since 1970-01-01, in local time */
    int64_t offset_s; /* from this midnight on local time is so much ahead of UTC */
} rl_zone_change;

typedef struct rl_zone {
    int64_t n;                /* at least 1 */
    rl_zone_change changes[]; /* by day; the first one also counts before it */
} rl_zone;

/* A window, in seconds since 1970: from start_s to before end_s. */
typedef struct rl_calendar_window {
    int64_t start_s;
    int64_t end_s;
} rl_calendar_window;

#define RL_ZONE_DAY_MAX 1000000 /* of either sign: 2,700 years */
#define RL_ZONE_OFFSET_MAX 172800

/* Return true if `size` bytes at `zone` are one, and its changes are in order and within the two
 * limits above. */
bool rl_zone_is_valid(const rl_zone *zone, size_t size);

/* Return true if both zones have the same changes. */
bool rl_zone_equals(const rl_zone *one, const rl_zone *other);

/* Return the window of a unit (not RL_NO_UNIT) that holds a second. */
rl_calendar_window rl_calendar_span(const rl_zone *zone, rl_unit unit, int64_t wall_s);

#endif
