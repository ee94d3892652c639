#include "engine/calendar.h"

#include <string.h>

#define DAY_S INT64_C(86400)

/* ---- zones --------------------------------------------------------------------------- */

bool rl_zone_is_valid(const rl_zone *zone, size_t size)
{
    if (size < sizeof *zone || zone->n < 1 ||
        (uint64_t)zone->n != (size - sizeof *zone) / sizeof zone->changes[0] ||
        (size - sizeof *zone) % sizeof zone->changes[0] != 0) {
        return false;
    }
    for (int64_t i = 0; i < zone->n; i++) {
        const rl_zone_change *change = &zone->changes[i];
        if (change->day < -RL_ZONE_DAY_MAX || change->day > RL_ZONE_DAY_MAX ||
            change->offset_s < -RL_ZONE_OFFSET_MAX || change->offset_s > RL_ZONE_OFFSET_MAX ||
            (i > 0 && change->day <= change[-1].day)) {
            return false;
        }
    }
    return true;
}

bool rl_zone_equals(const rl_zone *one, const rl_zone *other)
{
    return one->n == other->n &&
           memcmp(one->changes, other->changes, (size_t)one->n * sizeof one->changes[0]) == 0;
}

static int64_t zone_offset_s(const rl_zone *zone, int64_t day)
{
    int64_t low = 0;
    int64_t high = zone->n; /* the change that counts is in [low, high) */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (zone->changes[middle].day <= day) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return zone->changes[low].offset_s;
}

/* Return the second at which a day begins. */
static int64_t zone_midnight_s(const rl_zone *zone, int64_t day)
{
    return day * DAY_S - zone_offset_s(zone, day);
}

/* Return the last day that has begun. */
static int64_t zone_day(const rl_zone *zone, int64_t wall_s)
{
    /* The offset may change within a day, and a day that a zone skips begins with the next one. */
    int64_t day = (wall_s + zone_offset_s(zone, wall_s / DAY_S)) / DAY_S + 2;
    while (zone_midnight_s(zone, day) > wall_s) {
        day--;
    }
    return day;
}

/* ---- dates --------------------------------------------------------------------------- */

/* Days and dates: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms". A year begins in
 * March there, so months are counted from March 0000. */
#define DAYS_BEFORE_1970 719468
#define DAYS_PER_ERA 146097 /* of 400 years */

static int64_t month_of_day(int64_t day)
{
    int64_t from_start = day + DAYS_BEFORE_1970;
    int64_t era = from_start / DAYS_PER_ERA;
    int64_t of_era = from_start % DAYS_PER_ERA;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    return (era * 400 + year) * 12 + (5 * of_year + 2) / 153;
}

static int64_t first_day_of_month(int64_t month)
{
    int64_t year = month / 12;
    int64_t of_era = year % 400;
    int64_t of_year = (153 * (month % 12) + 2) / 5;
    return year / 400 * DAYS_PER_ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year -
           DAYS_BEFORE_1970;
}

/* ---- windows ------------------------------------------------------------------------- */

static rl_calendar_window days(const rl_zone *zone, int64_t first, int64_t next)
{
    return (rl_calendar_window){zone_midnight_s(zone, first), zone_midnight_s(zone, next)};
}

rl_calendar_window rl_calendar_span(const rl_zone *zone, rl_unit unit, int64_t wall_s)
{
    int64_t day = zone_day(zone, wall_s);
    int64_t month;
    int64_t monday;
    switch (unit) {
    case RL_WEEK:
        monday = day - (day + 7 + 3) % 7; /* 1970 began on a Thursday, or the day before */
        return days(zone, monday, monday + 7);
    case RL_MONTH:
        month = month_of_day(day);
        return days(zone, first_day_of_month(month), first_day_of_month(month + 1));
    case RL_YEAR:
        month = month_of_day(day);
        month -= (month + 2) % 12; /* back to January */
        return days(zone, first_day_of_month(month), first_day_of_month(month + 12));
    default:
        return days(zone, day, day + 1);
    }
}
