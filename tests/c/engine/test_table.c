/* test_table.c -- the table against a naive model, and its size under load. */
#include "at.h"
#include "check.h"
#include "engine/table.h"

#define NS_PER_S INT64_C(1000000000)

static const rl_secret SECRET = {123, 456};

static rl_limit limit_of(double capacity, double refill_rate)
{
    rl_limit limit = {0};
    CHECK_EQUAL(rl_limit_init(&limit, capacity, refill_rate), RL_OK);
    return limit;
}

static rl_key number_key(const rl_table *table, uint64_t number)
{
    return rl_table_key(table, &number, sizeof number);
}

/* ---- the model: every key keeps its words ------------------------------------ */

#define MODEL_KEYS 400

typedef struct model {
    rl_limit limits[RL_TABLE_LIMITS_MAX];
    size_t n_limits;
    uint64_t words[MODEL_KEYS][RL_TABLE_LIMITS_MAX];
} model;

static void model_fill(model *model, size_t key, int64_t now_ns)
{
    for (size_t i = 0; i < model->n_limits; i++) {
        model->words[key][i] = rl_limit_tap(&model->limits[i], now_ns).units;
    }
}

static bool model_take(model *model, size_t key, const uint64_t *costs, int64_t now_ns)
{
    for (size_t i = 0; i < model->n_limits; i++) {
        rl_tap tap = rl_limit_tap(&model->limits[i], now_ns);
        uint64_t deficit = rl_bucket_deficit(model->words[key][i], tap.units);
        if (!rl_bucket_allows(&model->limits[i], deficit, costs[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < model->n_limits; i++) {
        rl_tap tap = rl_limit_tap(&model->limits[i], now_ns);
        uint64_t deficit = rl_bucket_deficit(model->words[key][i], tap.units);
        model->words[key][i] = tap.units + deficit + costs[i];
    }
    return true;
}

static void model_refund(model *model, size_t key, const uint64_t *costs, int64_t now_ns)
{
    for (size_t i = 0; i < model->n_limits; i++) {
        uint64_t units = rl_limit_tap(&model->limits[i], now_ns).units;
        uint64_t deficit = rl_bucket_deficit(model->words[key][i], units);
        model->words[key][i] = units + (costs[i] < deficit ? deficit - costs[i] : 0);
    }
}

/* Return true if some limit of the model is in the state of the decision. */
static bool model_agrees(const model *model, size_t key, const rl_decision *decision,
                         const uint64_t *costs, int64_t now_ns)
{
    for (size_t i = 0; i < model->n_limits; i++) {
        rl_tap tap = rl_limit_tap(&model->limits[i], now_ns);
        uint64_t deficit = rl_bucket_deficit(model->words[key][i], tap.units);
        rl_decision own =
            rl_limit_decision(&model->limits[i], tap, deficit, costs[i], decision->allowed);
        if (own.limit == decision->limit && own.remaining == decision->remaining &&
            own.retry_after_ns == decision->retry_after_ns &&
            own.reset_after_ns == decision->reset_after_ns) {
            return true;
        }
    }
    return false;
}

static void step(model *model, rl_table *table, uint64_t *random, int64_t now_ns)
{
    size_t number = next_random(random) % MODEL_KEYS;
    rl_key key = number_key(table, number);
    double tokens = (double)(next_random(random) % 9) / 2;
    uint64_t costs[RL_TABLE_LIMITS_MAX];
    for (size_t i = 0; i < model->n_limits; i++) {
        costs[i] = rl_limit_cost(&model->limits[i], tokens);
    }
    rl_decision decision;
    rl_decision peeked;
    bool allowed = false;
    switch (next_random(random) % 16) {
    case 0:
        rl_table_reset(table, key);
        model_fill(model, number, now_ns);
        break;
    case 1:
        rl_table_refund(table, key, costs, at(now_ns));
        model_refund(model, number, costs, now_ns);
        break;
    default:
        rl_table_peek(table, key, costs, at(now_ns), &peeked, NULL);
        CHECK_EQUAL(rl_table_take(table, key, costs, at(now_ns), &allowed, &decision, NULL), RL_OK);
        CHECK_EQUAL(allowed, model_take(model, number, costs, now_ns));
        CHECK_EQUAL(allowed, decision.allowed);
        CHECK_EQUAL(peeked.allowed, allowed);
        CHECK_EQUAL(peeked.retry_after_ns, decision.retry_after_ns);
        CHECK(model_agrees(model, number, &decision, costs, now_ns));
    }
}

static uint64_t model_active(const model *model, int64_t now_ns)
{
    uint64_t active = 0;
    for (size_t key = 0; key < MODEL_KEYS; key++) {
        bool full = true;
        for (size_t i = 0; i < model->n_limits; i++) {
            uint64_t units = rl_limit_tap(&model->limits[i], now_ns).units;
            full = full && rl_bucket_deficit(model->words[key][i], units) == 0;
        }
        active += !full;
    }
    return active;
}

static void test_against_model(const rl_limit *limits, size_t n_limits, size_t max_keys)
{
    static model model;
    model.n_limits = n_limits;
    memcpy(model.limits, limits, n_limits * sizeof *limits);
    rl_table *table = rl_table_new(limits, n_limits, max_keys, SECRET);
    uint64_t random = 5;
    int64_t now_ns = 77 * NS_PER_S;
    for (size_t key = 0; key < MODEL_KEYS; key++) {
        model_fill(&model, key, now_ns);
    }
    for (int n = 0; n < 60000; n++) {
        step(&model, table, &random, now_ns);
        now_ns += (int64_t)(next_random(&random) % 20000000);
        if (next_random(&random) % 5000 == 0) {
            now_ns += 60 * NS_PER_S;
        }
        if (next_random(&random) % 1000 == 0) {
            rl_table_stats stats = rl_table_sweep(table, at(now_ns));
            CHECK_EQUAL(stats.keys, model_active(&model, now_ns));
            CHECK_EQUAL(stats.evicted_active, 0);
        }
    }
    rl_table_free(table);
}

/* ---- size -------------------------------------------------------------------- */

static void test_grows_with_the_keys_and_shrinks_again(void)
{
    rl_limit limit = limit_of(10, 1);
    uint64_t cost = rl_limit_cost(&limit, 1);
    rl_table *table = rl_table_new(&limit, 1, 100000, SECRET);
    rl_table_stats empty = rl_table_sweep(table, at(0));
    bool allowed;
    for (uint64_t i = 0; i < 100000; i++) {
        CHECK_EQUAL(rl_table_take(table, number_key(table, i), &cost, at(0), &allowed, NULL, NULL),
                    RL_OK);
        CHECK(allowed);
    }
    rl_table_stats full = rl_table_sweep(table, at(0));
    CHECK_EQUAL(full.keys, 100000);
    CHECK_EQUAL(full.inserted, 100000);
    CHECK_EQUAL(full.evicted_active, 0);
    CHECK(full.bytes < 100000 * 28);
    for (uint64_t i = 0; i < 100000; i++) {
        rl_decision decision;
        rl_table_peek(table, number_key(table, i), &cost, at(0), &decision, NULL);
        CHECK(decision.remaining == 9); /* no key was lost */
    }
    for (uint64_t i = 0; i < 50; i++) { /* a few stay, the others fill up */
        rl_table_take(table, number_key(table, i), &cost, at(NS_PER_S / 2), &allowed, NULL, NULL);
    }
    rl_table_stats few = rl_table_sweep(table, at(NS_PER_S));
    CHECK_EQUAL(few.keys, 50);
    CHECK(few.bytes < full.bytes / 8);
    rl_table_stats none = rl_table_sweep(table, at(20 * NS_PER_S));
    CHECK_EQUAL(none.keys, 0);
    CHECK_EQUAL(none.bytes, empty.bytes);
    rl_table_free(table);
}

/* The parts of a sweep add up to a whole one, and counting alone frees nothing. */
static void test_sweeps_in_parts(void)
{
    rl_limit limit = limit_of(10, 1);
    uint64_t cost = rl_limit_cost(&limit, 1);
    rl_table *table = rl_table_new(&limit, 1, 100000, SECRET);
    bool allowed;
    for (uint64_t i = 0; i < 50000; i++) { /* full after 1 s, or 1.5 s */
        int64_t now_ns = i < 30000 ? 0 : NS_PER_S / 2;
        rl_table_take(table, number_key(table, i), &cost, at(now_ns), &allowed, NULL, NULL);
    }
    rl_time later = at(5 * NS_PER_S / 4);
    CHECK_EQUAL(rl_table_count(table).keys, 50000);
    rl_table_stats total = {0};
    size_t next = 0;
    int parts = 1;
    while (rl_table_sweep_part(table, later, 5000, &next, &total)) {
        parts++;
    }
    CHECK(parts > 5);
    CHECK_EQUAL(total.keys, 20000);
    CHECK_EQUAL(total.inserted, 50000);
    rl_table_stats whole = rl_table_sweep(table, later);
    rl_table_stats counted = rl_table_count(table);
    CHECK_EQUAL(memcmp(&total, &whole, sizeof total), 0);
    CHECK_EQUAL(memcmp(&counted, &whole, sizeof total), 0);
    rl_table_free(table);
}

/* Inserts alone keep a table small, without a call of rl_table_sweep. */
static void test_inserts_reuse_what_is_full(void)
{
    rl_limit limit = limit_of(1, 1);
    uint64_t cost = rl_limit_cost(&limit, 1);
    rl_table *table = rl_table_new(&limit, 1, 1000000, SECRET);
    bool allowed;
    for (uint64_t i = 0; i < 300000; i++) { /* a thousand keys a second, each once */
        rl_table_take(table, number_key(table, i), &cost, at((int64_t)i * 1000000), &allowed, NULL,
                      NULL);
        CHECK(allowed);
    }
    rl_table_stats stats = rl_table_sweep(table, at(INT64_C(299999) * 1000000));
    CHECK(stats.keys <= 1001);
    CHECK(stats.bytes < 400000);
    CHECK_EQUAL(stats.evicted_active, 0);
    rl_table_free(table);
}

/* Debts only move from key to key, so at one moment no more than the capacity of
 * all slots can be spent, by however many keys. */
static void test_flood_mints_nothing(size_t max_keys, size_t n_limits)
{
    rl_limit limits[2] = {limit_of(10, 1), limit_of(15, 0.1)};
    uint64_t costs[2] = {rl_limit_cost(&limits[0], 1), rl_limit_cost(&limits[1], 1)};
    rl_table *table = rl_table_new(limits, n_limits, max_keys, SECRET);
    uint64_t random = 9;
    uint64_t admitted = 0;
    bool allowed;
    int64_t now_ns = 1000 * NS_PER_S;
    for (int i = 0; i < 200000; i++) {
        rl_table_take(table, number_key(table, next_random(&random)), costs, at(now_ns), &allowed,
                      NULL, NULL);
        admitted += allowed;
    }
    rl_table_stats stats = rl_table_sweep(table, at(now_ns));
    CHECK(stats.slots >= max_keys && stats.slots <= max_keys * 2 + 64);
    CHECK_EQUAL(stats.keys, stats.slots);
    CHECK(stats.evicted_active > 0);
    CHECK(admitted <= stats.slots * 10);
    CHECK(admitted > stats.slots * 9);
    CHECK_EQUAL(stats.allowed, admitted);
    CHECK_EQUAL(stats.denied, 200000 - admitted);

    /* A second later each slot has one token back, and no more. */
    uint64_t later = 0;
    for (int i = 0; i < 100000; i++) {
        rl_table_take(table, number_key(table, next_random(&random)), costs, at(now_ns + NS_PER_S),
                      &allowed, NULL, NULL);
        later += allowed;
    }
    CHECK(later <= stats.slots);
    rl_table_free(table);
}

/* The evicted entry is the one closest to full, and its debt stays. */
static void test_newcomer_inherits_the_least_debt(void)
{
    rl_limit limit = limit_of(10, 0);
    rl_table *table = rl_table_new(&limit, 1, 1, SECRET);
    bool allowed;
    uint64_t number = 0;
    while (rl_table_sweep(table, at(0)).evicted_active == 0) {
        uint64_t cost = rl_limit_cost(&limit, number == 3 ? 2 : 5);
        rl_table_take(table, number_key(table, number++), &cost, at(0), &allowed, NULL, NULL);
        CHECK(allowed && number < 100);
    }
    uint64_t one = rl_limit_cost(&limit, 1);
    rl_decision decision;
    rl_table_peek(table, number_key(table, 3), &one, at(0), &decision, NULL);
    bool gone = decision.remaining == 10;
    rl_table_peek(table, number_key(table, number - 1), &one, at(0), &decision, NULL);
    CHECK(gone ? decision.remaining == 3 : decision.remaining == 0);
    rl_table_free(table);
}

/* ---- edges ------------------------------------------------------------------- */

static void test_denied_newcomer_leaves_no_trace(void)
{
    rl_limit limit = limit_of(5, 1);
    uint64_t costs[] = {RL_COST_NEVER, 0};
    rl_table *table = rl_table_new(&limit, 1, 100, SECRET);
    rl_decision decision;
    bool allowed = true;
    CHECK_EQUAL(
        rl_table_take(table, number_key(table, 1), &costs[0], at(0), &allowed, &decision, NULL),
        RL_OK);
    CHECK(!allowed && decision.remaining == 5);
    CHECK_EQUAL(decision.retry_after_ns, RL_NEVER);
    CHECK_EQUAL(rl_table_sweep(table, at(0)).inserted, 0);
    rl_table_refund(table, number_key(table, 1), &costs[0], at(0));
    rl_table_reset(table, number_key(table, 1));
    CHECK_EQUAL(rl_table_sweep(table, at(0)).keys, 0);
    CHECK_EQUAL(rl_table_sweep(table, at(0)).slots, 0);
    rl_table_free(table);
}

static void test_reset_of_all(void)
{
    rl_limit limit = limit_of(2, 0);
    uint64_t cost = rl_limit_cost(&limit, 2);
    rl_table *table = rl_table_new(&limit, 1, 10000, SECRET);
    bool allowed;
    for (size_t i = 0; i < 3000; i++) {
        CHECK_EQUAL(rl_table_take(table, number_key(table, i), &cost, at(0), &allowed, NULL, NULL),
                    RL_OK);
    }
    size_t next = 0;
    while (rl_table_reset_part(table, &next)) {}
    CHECK_EQUAL(rl_table_count(table).keys, 0);
    CHECK_EQUAL(rl_table_count(table).slots, 0);
    CHECK_EQUAL(rl_table_count(table).allowed, 3000);
    for (size_t i = 0; i < 3000; i++) {
        CHECK_EQUAL(rl_table_take(table, number_key(table, i), &cost, at(0), &allowed, NULL, NULL),
                    RL_OK);
        CHECK(allowed);
    }
    rl_table_free(table);
}

static void test_zero_tag(void)
{
    rl_limit limit = limit_of(2, 0);
    uint64_t cost = rl_limit_cost(&limit, 1);
    rl_table *table = rl_table_new(&limit, 1, 100, SECRET);
    bool allowed;
    for (int i = 0; i < 3; i++) {
        rl_table_take(table, (rl_key){0}, &cost, at(0), &allowed, NULL, NULL);
        CHECK_EQUAL(allowed, i < 2);
    }
    CHECK_EQUAL(rl_table_sweep(table, at(0)).keys, 1);
    rl_table_free(table);
}

/* A fast limit wraps V within months. An entry that was idle for longer is full, and
 * an entry that is not full never looks full. */
static void test_idle_beyond_the_wrap(void)
{
    const int64_t day_ns = 86400 * NS_PER_S;
    rl_limit limits[2] = {limit_of(1e6, 1e9), limit_of(100, 1e-7)};
    uint64_t costs[2] = {limits[0].cap, rl_limit_cost(&limits[1], 1)};
    for (int64_t days = 1; days < 2000; days += 7) {
        rl_table *table = rl_table_new(limits, 1, 100, SECRET);
        bool allowed;
        rl_decision decision;
        int64_t now_ns = 3 * day_ns;
        rl_table_take(table, number_key(table, 1), costs, at(now_ns), &allowed, NULL, NULL);
        rl_table_take(table, number_key(table, 1), costs, at(now_ns), &allowed, NULL, NULL);
        CHECK(!allowed);
        now_ns += days * day_ns;
        rl_table_peek(table, number_key(table, 1), costs, at(now_ns), &decision, NULL);
        CHECK(decision.allowed && decision.remaining == 1e6);
        rl_table_free(table);
    }
    /* Two limits: the slow one still has a deficit when the fast one has wrapped. */
    rl_table *table = rl_table_new(limits, 2, 100, SECRET);
    bool allowed;
    rl_decision decision;
    for (int i = 0; i < 100; i++) {
        rl_table_take(table, number_key(table, 1), (uint64_t[2]){0, costs[1]}, at(0), &allowed,
                      NULL, NULL);
        CHECK(allowed);
    }
    rl_table_peek(table, number_key(table, 1), costs, at(100 * day_ns), &decision,
                  NULL); /* long unvisited */
    CHECK(!decision.allowed);
    for (int64_t days = 101; days < 200; days += 5) { /* visited now and then */
        rl_table_peek(table, number_key(table, 1), costs, at(days * day_ns), &decision, NULL);
        CHECK_EQUAL(decision.allowed, days * day_ns >= NS_PER_S * 10000000);
    }
    rl_table_free(table);
}

/* A word that was just full at the last sweep, and is seen next after any time. */
static void test_idle_around_the_wrap(void)
{
    rl_limit limits[2] = {limit_of(1, 1), limit_of(1000, 1e-6)};
    uint64_t costs[2] = {rl_limit_cost(&limits[0], 1), rl_limit_cost(&limits[1], 1000)};
    int64_t swept_ns =
        NS_PER_S * 13 / 10; /* the first bucket is full since 0.3 s, the second has a deficit */
    /* the time in which V of the first moves by 2^63, where signs change */
    int64_t half_ns = 4 * limits[0].horizon_ns;
    for (int64_t eighths = 1; eighths <= 40; eighths++) {
        for (int64_t off_ns = -2 * NS_PER_S; off_ns <= 2 * NS_PER_S; off_ns += NS_PER_S / 10) {
            rl_table *table = rl_table_new(limits, 2, 100, SECRET);
            bool allowed = false;
            rl_decision decision;
            CHECK_EQUAL(
                rl_table_take(table, number_key(table, 1), costs, at(0), &allowed, NULL, NULL),
                RL_OK);
            CHECK(allowed);
            rl_table_sweep(table, at(swept_ns));
            int64_t now_ns = swept_ns + half_ns / 8 * eighths + off_ns;
            rl_table_peek(table, number_key(table, 1), (uint64_t[2]){costs[0], 0}, at(now_ns),
                          &decision, NULL);
            CHECK(decision.allowed);
            rl_table_free(table);
        }
    }
}

/* The opposite case: a large bucket that was emptied just before a horizon had passed still has a
 * deficit between two horizons and three after the sweep. */
static void test_owes_around_the_horizon(void)
{
    rl_limit limit = limit_of(1023.9, 0x1p-12); /* nearly 2^62 units: two horizons to fill */
    uint64_t all = rl_limit_cost(&limit, 1023.9);
    int64_t horizon_ns = limit.horizon_ns;
    CHECK(limit.cap > UINT64_C(0x3ff) << 52);
    for (int64_t eighths = 8; eighths <= 32; eighths++) {
        rl_table *table = rl_table_new(&limit, 1, 100, SECRET);
        bool allowed = false;
        rl_decision decision;
        rl_table_sweep(table, at(0));
        int64_t written_ns = horizon_ns - NS_PER_S;
        rl_table_take(table, number_key(table, 1), &all, at(written_ns), &allowed, NULL, NULL);
        CHECK(allowed);
        int64_t now_ns = horizon_ns / 8 * eighths;
        rl_table_peek(table, number_key(table, 1), &all, at(now_ns), &decision, NULL);
        double refilled = (double)(now_ns - written_ns) / 1e9 / 4096;
        double expected = refilled < 1023.9 ? refilled : 1023.9;
        CHECK(decision.remaining <= expected + 1e-6 && decision.remaining >= expected - 1e-6);
        rl_table_free(table);
    }
}

int main(void)
{
    rl_limit limits[3] = {limit_of(4, 2), limit_of(10, 0.5), limit_of(3.5, 20)};
    test_against_model(limits, 1, 1000000);
    test_against_model(limits, 1, MODEL_KEYS * 2);
    test_against_model(limits, 3, MODEL_KEYS * 2);
    test_grows_with_the_keys_and_shrinks_again();
    test_sweeps_in_parts();
    test_inserts_reuse_what_is_full();
    test_flood_mints_nothing(1000, 1);
    test_flood_mints_nothing(1000, 2);
    test_flood_mints_nothing(1, 1);
    test_newcomer_inherits_the_least_debt();
    test_denied_newcomer_leaves_no_trace();
    test_reset_of_all();
    test_zero_tag();
    test_idle_beyond_the_wrap();
    test_idle_around_the_wrap();
    test_owes_around_the_horizon();
    CHECK_EQUAL(seam_live_blocks(), 0);
    return report("test_table");
}
