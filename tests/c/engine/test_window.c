/* test_window.c -- single windows and windows in a table, against counting one by one. */
#include "at.h"
#include "check.h"
#include "engine/table.h"

#define NS_PER_S INT64_C(1000000000)
#define MAX_HITS 4000

static const rl_secret SECRET = {3, 4};
static const int64_t NOON_NS = 1732190400 * NS_PER_S; /* 2024-11-21, 12:00 */

static rl_limit window_of(bool sliding, double count, int64_t window_s)
{
    rl_limit limit = {0};
    CHECK_EQUAL(rl_window_init(&limit, sliding, count, window_s), RL_OK);
    return limit;
}

static void test_arguments(void)
{
    rl_limit limit;
    const double no_counts[] = {-1, 0.5, 2.5, RL_WINDOW_COUNT_MAX + 1, 1e300, 0.0 / 0.0};
    for (size_t i = 0; i < sizeof no_counts / sizeof *no_counts; i++) {
        CHECK_EQUAL(rl_window_init(&limit, i % 2, no_counts[i], 60), RL_ECAPACITY);
    }
    CHECK_EQUAL(rl_window_init(&limit, true, 1, 0), RL_ERATE);
    CHECK_EQUAL(rl_window_init(&limit, true, 1, -60), RL_ERATE);
    CHECK_EQUAL(rl_window_init(&limit, true, 1, INT64_C(1000000001)), RL_ERATE);
    limit = window_of(false, RL_WINDOW_COUNT_MAX, RL_WINDOW_S_MAX);
    CHECK_EQUAL(limit.cap, 2000000000);
    CHECK_EQUAL(rl_limit_cost(&limit, 0.25), 1); /* no parts of a request */
}

/* ---- one window, request by request ---------------------------------------------- */

typedef struct history {
    int64_t hits_ns[MAX_HITS];
    int n;
} history;

static int64_t count_in(const history *history, int64_t number, int64_t window_ns)
{
    int64_t count = 0;
    for (int i = 0; i < history->n; i++) {
        count += history->hits_ns[i] / window_ns == number;
    }
    return count;
}

static int64_t exactly_after(const history *history, int64_t edge_ns)
{
    int64_t after = 0;
    for (int i = 0; i < history->n; i++) {
        after += history->hits_ns[i] > edge_ns;
    }
    return after;
}

/* Count the hits of one window that are taken to be after an edge: evenly spaced from the first
 * to the last, to the nanosecond before. */
static int64_t spaced_after(const history *history, int64_t number, int64_t window_ns,
                            int64_t edge_ns)
{
    int64_t n = count_in(history, number, window_ns);
    int64_t after = 0;
    int first = 0;
    while (n > 0 && history->hits_ns[first] / window_ns != number) {
        first++;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t first_ns = history->hits_ns[first];
        int64_t length_ns = history->hits_ns[first + n - 1] - first_ns;
        __extension__ __int128 passed = (__int128)length_ns * i;
        int64_t at_ns = first_ns + (n == 1 ? 0 : (int64_t)(passed / (n - 1)));
        after += at_ns > edge_ns;
    }
    return after;
}

/* The method of the documentation, hit by hit. */
static bool expected(const rl_limit *limit, const history *history, int64_t now_ns)
{
    int64_t number = now_ns / limit->window_ns;
    if (limit->kind == RL_SLIDING_WINDOW && limit->cap <= RL_RUN_TIMES_MAX) {
        return exactly_after(history, now_ns - limit->window_ns) < (int64_t)limit->cap;
    }
    int64_t used = count_in(history, number, limit->window_ns);
    if (limit->kind == RL_SLIDING_WINDOW) {
        used += spaced_after(history, number - 1, limit->window_ns, now_ns - limit->window_ns);
    }
    return used < (int64_t)limit->cap;
}

/* In any stretch t, at most count * (1 + t / window); a fixed window has no such bound. */
static void check_bound(const rl_limit *limit, const history *history)
{
    for (int i = 0; i < history->n; i++) {
        for (int j = i; j < history->n; j++) {
            double t = (double)(history->hits_ns[j] - history->hits_ns[i]);
            double most = limit->capacity * (1 + t / (double)limit->window_ns);
            CHECK((double)(j - i + 1) <= most + 1e-9);
        }
    }
}

static void test_one_by_one(bool sliding, double count, int64_t window_s)
{
    rl_limit limit = window_of(sliding, count, window_s);
    rl_table *table = rl_table_new(&limit, 1, 100, SECRET);
    rl_key key = rl_table_key(table, "k", 1);
    static history history;
    history.n = 0;
    uint64_t random = 8;
    uint64_t one = 1;
    int64_t now_ns = NOON_NS - 3 * NS_PER_S;
    for (int n = 0; n < 3000 && history.n < 900; n++) {
        rl_decision decision;
        rl_decision peeked;
        bool allowed = false;
        rl_table_peek(table, key, &one, at(now_ns), &peeked, NULL);
        CHECK_EQUAL(rl_table_take(table, key, &one, at(now_ns), &allowed, &decision, NULL), RL_OK);
        CHECK_EQUAL(allowed, expected(&limit, &history, now_ns));
        CHECK_EQUAL(peeked.allowed, allowed);
        if (allowed) {
            history.hits_ns[history.n++] = now_ns;
        } else {
            int64_t wait_ns = decision.retry_after_ns;
            CHECK(!expected(&limit, &history, now_ns + wait_ns - 1));
            CHECK(expected(&limit, &history, now_ns + wait_ns));
            CHECK_EQUAL(peeked.retry_after_ns, wait_ns);
        }
        rl_table_peek(table, key, &one, at(now_ns + decision.reset_after_ns), &peeked, NULL);
        CHECK(peeked.remaining == count);
        CHECK_EQUAL((now_ns + decision.reset_after_ns) % limit.window_ns, 0);
        uint64_t dice = next_random(&random) % 100;
        now_ns += dice < 50   ? 0
                  : dice < 70 ? (int64_t)(next_random(&random) % (uint64_t)limit.window_ns)
                  : dice < 97 ? (int64_t)(next_random(&random) % (uint64_t)limit.window_ns) / 20
                              : decision.retry_after_ns;
        if (dice == 99) {
            now_ns += 2 * limit.window_ns;
        }
    }
    CHECK(history.n > 100);
    if (sliding) {
        check_bound(&limit, &history);
    }
    rl_table_free(table);
}

/* ---- edges ------------------------------------------------------------------------- */

static void test_fixed_window_edges(void)
{
    rl_limit limit = window_of(false, 3, 60);
    rl_table *table = rl_table_new(&limit, 1, 100, SECRET);
    rl_key key = rl_table_key(table, "k", 1);
    uint64_t one = 1;
    bool allowed;
    rl_decision decision;
    for (int i = 0; i < 4; i++) { /* the last nanosecond of a minute */
        rl_table_take(table, key, &one, at(NOON_NS - 1), &allowed, &decision, NULL);
        CHECK_EQUAL(allowed, i < 3);
        CHECK_EQUAL(decision.reset_after_ns, 1);
        CHECK_EQUAL(decision.retry_after_ns, i < 3 ? 0 : 1);
    }
    for (int i = 0; i < 4; i++) { /* the first of the next */
        rl_table_take(table, key, &one, at(NOON_NS), &allowed, &decision, NULL);
        CHECK_EQUAL(allowed, i < 3);
        CHECK_EQUAL(decision.reset_after_ns, 60 * NS_PER_S);
    }
    rl_table_peek(table, key, (uint64_t[]){RL_COST_NEVER}, at(NOON_NS), &decision, NULL);
    CHECK_EQUAL(decision.retry_after_ns, RL_NEVER);
    rl_table_free(table);
}

/* A wall clock that is set back frees nothing, and blocks no client until it has caught up. */
static void test_wall_clock_set_back(bool sliding)
{
    rl_limit limit = window_of(sliding, 3, 60);
    rl_table *table = rl_table_new(&limit, 1, 100, SECRET);
    rl_key key = rl_table_key(table, "k", 1);
    uint64_t costs[] = {1};
    bool allowed;
    rl_decision decision;
    const int64_t hour_ns = 3600 * NS_PER_S;
    for (int i = 0; i < 2; i++) {
        rl_table_take(table, key, costs, at(NOON_NS), &allowed, NULL, NULL);
    }
    rl_time before = {NOON_NS + 1, NOON_NS - hour_ns};
    rl_table_take(table, key, costs, before, &allowed, &decision, NULL);
    CHECK(allowed && decision.remaining == 0);
    rl_table_take(table, key, costs, before, &allowed, &decision, NULL);
    CHECK(!allowed && decision.retry_after_ns <= 120 * NS_PER_S);
    before.wall_ns += 120 * NS_PER_S;
    rl_table_take(table, key, costs, before, &allowed, &decision, NULL);
    CHECK(allowed && decision.remaining == 2);
    rl_table_free(table);
}

/* A clock that is set back while a client has used its limit locks the client out for one window,
 * however often it tries. */
static void test_full_when_set_back(bool sliding, int64_t by_s)
{
    rl_limit limit = window_of(sliding, 3, 60);
    rl_table *table = rl_table_new(&limit, 1, 100, SECRET);
    rl_key key = rl_table_key(table, "k", 1);
    uint64_t costs[] = {1};
    bool allowed = true;
    rl_decision decision;
    int64_t wall_ns = NOON_NS + 50 * NS_PER_S;
    for (int i = 0; i < 3; i++) {
        rl_table_take(table, key, costs, at(wall_ns), &allowed, NULL, NULL);
        CHECK(allowed);
    }
    int64_t back_ns = wall_ns - by_s * NS_PER_S;
    int64_t ends_ns =
        sliding ? back_ns + limit.window_ns : back_ns + limit.window_ns - back_ns % limit.window_ns;
    for (wall_ns = back_ns; wall_ns < ends_ns; wall_ns += NS_PER_S) {
        rl_table_take(table, key, costs, at(wall_ns), &allowed, &decision, NULL);
        CHECK(!allowed && decision.retry_after_ns == ends_ns - wall_ns);
    }
    rl_table_take(table, key, costs, at(ends_ns), &allowed, &decision, NULL);
    CHECK(allowed && decision.remaining == 2);
    rl_table_free(table);
}

static void test_what_has_ended_is_freed(void)
{
    rl_limit limits[2] = {window_of(false, 5, 10), window_of(true, 5, 10)};
    uint64_t costs[] = {1, 1};
    bool allowed;
    for (size_t n = 1; n <= 2; n++) {
        rl_table *table = rl_table_new(limits, n, 100000, SECRET);
        for (uint64_t i = 0; i < 1000; i++) {
            rl_table_take(table, rl_table_key(table, &i, sizeof i), costs,
                          at(NOON_NS + 3 * NS_PER_S), &allowed, NULL, NULL);
        }
        CHECK_EQUAL(rl_table_sweep(table, at(NOON_NS + 9 * NS_PER_S)).keys, 1000);
        CHECK_EQUAL(rl_table_sweep(table, at(NOON_NS + 12 * NS_PER_S)).keys, n == 1 ? 0 : 1000);
        CHECK_EQUAL(rl_table_sweep(table, at(NOON_NS + 13 * NS_PER_S)).keys, 0);
        rl_table_free(table);
    }
}

static void test_refund(void)
{
    rl_limit limit = window_of(true, 10, 60);
    rl_table *table = rl_table_new(&limit, 1, 100, SECRET);
    rl_key key = rl_table_key(table, "k", 1);
    bool allowed;
    rl_decision decision;
    rl_table_take(table, key, (uint64_t[]){6}, at(NOON_NS + 59 * NS_PER_S), &allowed, NULL, NULL);
    int64_t next_ns = NOON_NS + 60 * NS_PER_S;
    rl_table_take(table, key, (uint64_t[]){1}, at(next_ns), &allowed, &decision, NULL);
    CHECK(decision.remaining == 3);
    rl_table_refund(table, key, (uint64_t[]){4}, at(next_ns)); /* one of now, three of before */
    rl_table_peek(table, key, (uint64_t[]){0}, at(next_ns), &decision, NULL);
    CHECK(decision.remaining == 7);
    rl_table_refund(table, key, (uint64_t[]){99}, at(next_ns));
    CHECK_EQUAL(rl_table_sweep(table, at(next_ns)).keys, 0);
    rl_table_free(table);
}

/* ---- charges: missing tokens become a debt ---------------------------------------- */

static void test_charge(void)
{
    rl_limit limits[3] = {{0}, window_of(false, 10, 60), window_of(true, 10, 60)};
    CHECK_EQUAL(rl_limit_init(&limits[0], 10, 1), RL_OK);
    for (size_t kind = 0; kind < 3; kind++) {
        rl_limit *limit = &limits[kind];
        rl_table *table = rl_table_new(limit, 1, 100, SECRET);
        rl_key key = rl_table_key(table, "k", 1);
        uint64_t one = rl_limit_cost(limit, 1);
        uint64_t charge = rl_limit_charge(limit, 15);
        rl_decision decision;
        CHECK_EQUAL(rl_table_charge(table, key, &charge, at(NOON_NS), &decision), RL_OK);
        CHECK(decision.allowed && decision.remaining == 0);
        rl_table_peek(table, key, &one, at(NOON_NS), &decision, NULL);
        CHECK(!decision.allowed);
        const int64_t paid_s[] = {6, 60, 60};
        CHECK_EQUAL(decision.retry_after_ns, paid_s[kind] * NS_PER_S);
        /* No debt is above one capacity, for any charge. */
        charge = rl_limit_charge(limit, 1e18);
        for (int i = 0; i < 3; i++) {
            CHECK_EQUAL(rl_table_charge(table, key, &charge, at(NOON_NS), &decision), RL_OK);
        }
        rl_table_peek(table, key, &one, at(NOON_NS), &decision, NULL);
        const int64_t most_s[] = {11, 60, 60};
        CHECK_EQUAL(decision.retry_after_ns, most_s[kind] * NS_PER_S);
        CHECK_EQUAL(rl_table_sweep(table, at(NOON_NS)).allowed, 0); /* no decision */
        seam_fail(0, 1000);
        CHECK_EQUAL(rl_table_charge(table, key, &charge, at(NOON_NS), &decision), RL_OK);
        seam_fail(0, 0);
        rl_table_free(table);
        table = rl_table_new(limit, 1, 100, SECRET);
        seam_fail(0, 1000);
        CHECK_EQUAL(rl_table_charge(table, key, &charge, at(NOON_NS), &decision), RL_ENOMEM);
        seam_fail(0, 0);
        rl_table_free(table);
    }
}

/* ---- other limits for the same keys --------------------------------------------------- */

static rl_decision peek(rl_table *table, uint64_t number, const uint64_t *costs, int64_t now_ns,
                        rl_decision *each)
{
    rl_decision decision;
    rl_key key = rl_table_key(table, &number, sizeof number);
    rl_table_peek(table, key, costs, at(now_ns), &decision, each);
    return decision;
}

static void test_renew(void)
{
    rl_limit before[3] = {{0}, window_of(false, 10, 60), window_of(true, 10, 60)};
    rl_limit after[3] = {{0}, window_of(false, 20, 60), window_of(true, 20, 30)};
    CHECK_EQUAL(rl_limit_init(&before[0], 20, 2), RL_OK);
    CHECK_EQUAL(rl_limit_init(&after[0], 100, 8), RL_OK);
    uint64_t costs[3] = {rl_limit_cost(&before[0], 5), 5, 5};
    uint64_t none[3] = {0, 0, 0};
    bool allowed;
    rl_table *table = rl_table_new(before, 3, 1000, SECRET);
    for (uint64_t i = 0; i < 500; i++) {
        rl_table_take(table, rl_table_key(table, &i, sizeof i), costs, at(NOON_NS), &allowed, NULL,
                      NULL);
        CHECK(allowed);
    }
    unsigned long calls = 0;
    rl_table *renewed = NULL;
    for (unsigned long fail = 0; renewed == NULL; fail++) { /* each allocation fails once */
        seam_fail(fail, 1);
        renewed = rl_table_renew(table, after, at(NOON_NS + NS_PER_S));
        calls = fail;
    }
    seam_fail(0, 0);
    CHECK(calls > 1);
    for (uint64_t i = 0; i < 500; i++) {
        rl_decision each[3];
        peek(renewed, i, none, NOON_NS + NS_PER_S, each);
        /* 3 of 20 lacking at 2 a second is 1.5 s, in which 12 come at 8 a second */
        CHECK(each[0].remaining == 88 && each[0].limit == 100);
        CHECK_EQUAL(each[0].reset_after_ns, NS_PER_S * 3 / 2);
        CHECK(each[1].remaining == 15); /* as many as before were counted */
        CHECK(each[2].remaining == 20); /* another window: starts empty */
    }
    CHECK_EQUAL(rl_table_sweep(renewed, at(NOON_NS)).allowed, 500);
    rl_table_free(table); /* the new one does not depend on it */
    peek(renewed, 1, none, NOON_NS, NULL);
    rl_table_free(renewed);
}

/* Where one of the two buckets is never refilled, the tokens are kept; no debt is above one
 * capacity. */
static void test_renew_extremes(void)
{
    const double limits[][2] = {{10, 0}, {10, 1}, {1e6, 1e9}, {4e15, 1e-3}, {1, 1e-9}, {100, 0}};
    const size_t n = sizeof limits / sizeof *limits;
    for (size_t i = 0; i < n * n; i++) {
        rl_limit before, after;
        CHECK_EQUAL(rl_limit_init(&before, limits[i / n][0], limits[i / n][1]), RL_OK);
        CHECK_EQUAL(rl_limit_init(&after, limits[i % n][0], limits[i % n][1]), RL_OK);
        rl_table *table = rl_table_new(&before, 1, 10, SECRET);
        rl_key key = rl_table_key(table, "k", 1);
        bool allowed;
        rl_decision old_one, new_one;
        uint64_t half = rl_limit_cost(&before, before.capacity / 2);
        uint64_t none = 0;
        rl_table_take(table, key, &half, at(NOON_NS), &allowed, &old_one, NULL);
        CHECK(allowed);
        rl_table *renewed = rl_table_renew(table, &after, at(NOON_NS));
        rl_table_peek(renewed, key, &none, at(NOON_NS), &new_one, NULL);
        if (old_one.reset_after_ns != RL_NEVER && after.refill_rate > 0) {
            double most_s = 2 * after.capacity / after.refill_rate;
            double expected_s = (double)old_one.reset_after_ns / 1e9;
            expected_s = expected_s < most_s ? expected_s : most_s;
            double returned_s = (double)new_one.reset_after_ns / 1e9;
            double unit_s = after.unit / after.refill_rate;
            CHECK(returned_s <= expected_s * (1 + 1e-9) + 2e-9);
            CHECK(returned_s >= expected_s * (1 - 1e-9) - unit_s - 2e-9);
        } else {
            double left = after.capacity - before.capacity / 2;
            CHECK(new_one.remaining == (left > 0 ? left : 0));
        }
        rl_table_free(renewed);
        rl_table_free(table);
    }
}

int main(void)
{
    test_arguments();
    for (int sliding = 0; sliding < 2; sliding++) {
        test_one_by_one(sliding, 1, 1);
        test_one_by_one(sliding, 20, 60);
        test_one_by_one(sliding, 7, 13);
        test_one_by_one(sliding, 9, 13);
        test_one_by_one(sliding, 100, 86400);
        test_wall_clock_set_back(sliding);
        test_full_when_set_back(sliding, 40);
        test_full_when_set_back(sliding, 60);
        test_full_when_set_back(sliding, 86400);
    }
    test_fixed_window_edges();
    test_what_has_ended_is_freed();
    test_refund();
    test_charge();
    test_renew();
    test_renew_extremes();
    CHECK_EQUAL(seam_live_blocks(), 0);
    return report("test_window");
}
