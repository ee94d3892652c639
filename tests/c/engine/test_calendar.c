/* Calendar windows, windows that start first, limits of zero, and denied requests that count. */
#include "engine/calendar.h"

#include "at.h"
#include "check.h"
#include "engine/table.h"

#define DAY_S INT64_C(86400)
#define NS INT64_C(1000000000)

/* Clocks go forward on day 10 and back on day 20; day 30 is skipped. */
static const struct {
    int64_t n;
    rl_zone_change changes[4];
} zone_of_test = {4, {{-31, 3600}, {11, 7200}, {21, 3600}, {31, 3600 + 86400}}};

static const rl_zone *test_zone(void)
{
    return (const rl_zone *)(const void *)&zone_of_test;
}

static const struct {
    int64_t n;
    rl_zone_change changes[1];
} zone_utc = {1, {{0, 0}}};

static const rl_zone *utc(void)
{
    return (const rl_zone *)(const void *)&zone_utc;
}

static void test_zones_are_checked(void)
{
    CHECK(rl_zone_is_valid(test_zone(), sizeof zone_of_test));
    CHECK(!rl_zone_is_valid(test_zone(), sizeof zone_of_test - 1));
    CHECK(!rl_zone_is_valid(test_zone(), sizeof zone_of_test + 16));
    CHECK(!rl_zone_is_valid(test_zone(), 4));
    const int64_t bad[][5] = {
        {0, 0, 0, 0, 0},      {-1, 0, 0, 0, 0},      {2, 5, 0, 5, 0},
        {2, 5, 0, 4, 0},      {2, 0, 0, 1000001, 0}, {2, -1000001, 0, 1, 0},
        {2, 0, 0, 1, 172801}, {2, 0, -172801, 1, 0}, {INT64_MAX, 0, 0, 1, 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(!rl_zone_is_valid((const rl_zone *)(const void *)bad[i], sizeof bad[i]));
    }
    CHECK(rl_zone_equals(test_zone(), test_zone()));
    CHECK(!rl_zone_equals(test_zone(), utc()));
}

static void check_day(int64_t wall_s, int64_t start_s, int64_t length_s)
{
    rl_calendar_window day = rl_calendar_span(test_zone(), RL_DAY, wall_s);
    CHECK_EQUAL(day.start_s, start_s);
    CHECK_EQUAL(day.end_s, start_s + length_s);
}

static void test_days(void)
{
    check_day(0, -3600, DAY_S);
    check_day(10 * DAY_S - 3600, 10 * DAY_S - 3600, DAY_S - 3600); /* of 23 hours */
    check_day(11 * DAY_S - 7201, 10 * DAY_S - 3600, DAY_S - 3600);
    check_day(11 * DAY_S - 7200, 11 * DAY_S - 7200, DAY_S);
    check_day(21 * DAY_S - 3601, 20 * DAY_S - 7200, DAY_S + 3600); /* of 25 hours */
    check_day(30 * DAY_S - 3601, 29 * DAY_S - 3600, DAY_S);
    check_day(30 * DAY_S - 3600, 30 * DAY_S - 3600, DAY_S); /* day 31 */
}

/* Walk over 800 years day by day. */
static void test_months_and_years(void)
{
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int64_t day = 0;
    for (int year = 1970; year < 2770 && day * DAY_S < INT64_MAX / NS; year++) {
        bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        int64_t first = day;
        for (int month = 0; month < 12; month++) {
            int64_t length = lengths[month] + (month == 1 && leap);
            for (int64_t i = 0; i < length; i += length - 1) {
                int64_t wall_s = (day + i) * DAY_S + (i == 0 ? 0 : DAY_S - 1);
                rl_calendar_window span = rl_calendar_span(utc(), RL_MONTH, wall_s);
                CHECK_EQUAL(span.start_s, day * DAY_S);
                CHECK_EQUAL(span.end_s, (day + length) * DAY_S);
                span = rl_calendar_span(utc(), RL_YEAR, wall_s);
                CHECK_EQUAL(span.start_s, first * DAY_S);
                CHECK_EQUAL(span.end_s, (first + 365 + leap) * DAY_S);
                span = rl_calendar_span(utc(), RL_WEEK, wall_s);
                CHECK_EQUAL((span.start_s / DAY_S + 3) % 7, 0);
                CHECK_EQUAL(span.end_s, span.start_s + 7 * DAY_S);
                CHECK(span.start_s <= wall_s && wall_s < span.end_s);
            }
            day += length;
        }
    }
}

static void test_first_window_reads_any_words(void)
{
    rl_limit limit;
    CHECK_EQUAL(rl_window_init_first(&limit, 5, 60), RL_OK);
    const int64_t begins[] = {INT64_MIN, -1, 0, INT64_MAX, 1000 * NS};
    for (size_t i = 0; i < sizeof begins / sizeof begins[0]; i++) {
        rl_window kept = {begins[i], UINT64_MAX};
        rl_window present = rl_window_at(&limit, kept, 1000 * NS);
        CHECK(present.number <= 1000 * NS && present.number > 940 * NS);
        rl_decision decision = rl_window_decision(&limit, present, 1000 * NS, 1, false);
        CHECK(decision.reset_after_ns >= 0 && decision.reset_after_ns <= 60 * NS);
    }
    CHECK_EQUAL(rl_window_init_first(&limit, -1, 60), RL_ECAPACITY);
    CHECK_EQUAL(rl_window_init_calendar(&limit, 5, 0, RL_DAY, utc()), RL_ERATE);
}

/* Make a table of one limit that counts denied requests. */
static rl_table *denying_table(rl_limit limit)
{
    limit.counts_denied = true;
    return rl_table_new(&limit, 1, 100, (rl_secret){1, 2});
}

static void check_denied(rl_limit limit, uint64_t one)
{
    rl_table *table = denying_table(limit);
    rl_key key = rl_table_key(table, "k", 1);
    rl_time now = at(1000 * NS);
    bool allowed = true;
    rl_decision decision;
    const uint64_t never = RL_COST_NEVER;
    CHECK_EQUAL(rl_table_try(table, key, &never, now, &allowed, &decision, NULL), RL_OK);
    CHECK(!allowed);
    CHECK_EQUAL(rl_table_count(table).keys, 0);
    for (int i = 0; i < 3; i++) {
        CHECK_EQUAL(rl_table_take(table, key, &never, now, &allowed, &decision, NULL), RL_OK);
        CHECK(!allowed);
    }
    CHECK_EQUAL(rl_table_count(table).keys, 1);
    rl_table_refund(table, key, &limit.cap, now); /* the debt is one capacity */
    rl_table_peek(table, key, &one, now, &decision, NULL);
    CHECK(!decision.allowed);
    rl_table_refund(table, key, &one, now);
    rl_table_peek(table, key, &one, now, &decision, NULL);
    CHECK(decision.allowed);
    rl_table_free(table);
}

static void test_denied_requests_count(void)
{
    rl_limit limit;
    CHECK_EQUAL(rl_limit_init(&limit, 9, 0.001), RL_OK);
    check_denied(limit, rl_limit_cost(&limit, 1));
    CHECK_EQUAL(rl_window_init(&limit, false, 9, 3600), RL_OK);
    check_denied(limit, 1);
    CHECK_EQUAL(rl_window_init(&limit, true, 9, 3600), RL_OK);
    check_denied(limit, 1);
    CHECK_EQUAL(rl_window_init(&limit, true, 3, 3600), RL_OK);
    check_denied(limit, 1);
    CHECK_EQUAL(rl_window_init_first(&limit, 9, 3600), RL_OK);
    check_denied(limit, 1);
    CHECK_EQUAL(rl_window_init_calendar(&limit, 9, 86400, RL_DAY, test_zone()), RL_OK);
    check_denied(limit, 1);
}

static void test_a_denied_request_may_find_no_memory(void)
{
    rl_limit limit;
    CHECK_EQUAL(rl_limit_init(&limit, 9, 0.001), RL_OK);
    rl_table *table = denying_table(limit);
    rl_key key = rl_table_key(table, "k", 1);
    const uint64_t never = RL_COST_NEVER;
    bool allowed;
    seam_fail(0, 1);
    CHECK_EQUAL(rl_table_take(table, key, &never, at(NS), &allowed, NULL, NULL), RL_ENOMEM);
    seam_fail(0, 0);
    CHECK_EQUAL(rl_table_count(table).denied, 0);
    CHECK_EQUAL(rl_table_take(table, key, &never, at(NS), &allowed, NULL, NULL), RL_OK);
    CHECK(!allowed);
    CHECK_EQUAL(rl_table_count(table).keys, 1);
    rl_table_free(table);
}

static void test_zero_has_no_cost_that_passes(void)
{
    rl_limit limit;
    CHECK_EQUAL(rl_limit_init(&limit, 0, 1), RL_OK);
    CHECK_EQUAL(rl_limit_cost(&limit, 0), RL_COST_NEVER);
    CHECK_EQUAL(rl_limit_charge(&limit, 5), 0);
    CHECK_EQUAL(rl_window_init(&limit, false, 0, 60), RL_OK);
    CHECK_EQUAL(rl_limit_cost(&limit, 0), RL_COST_NEVER);
    CHECK_EQUAL(rl_window_init(&limit, true, 0, 60), RL_OK);
    CHECK_EQUAL(rl_limit_cost(&limit, 1), RL_COST_NEVER);
}

int main(void)
{
    test_zones_are_checked();
    test_days();
    test_months_and_years();
    test_first_window_reads_any_words();
    test_denied_requests_count();
    test_a_denied_request_may_find_no_memory();
    test_zero_has_no_cost_that_passes();
    CHECK_EQUAL(seam_live_blocks(), 0);
    return report("test_calendar");
}
