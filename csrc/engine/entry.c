#include "engine/entry.h"

#include <math.h>

static size_t words_of(const rl_limit *limit)
{
    switch (limit->kind) {
    case RL_FIXED_WINDOW:
        return RL_WINDOW_WORDS;
    case RL_SLIDING_WINDOW:
        return rl_sliding_words(limit);
    default:
        return 1;
    }
}

void rl_limit_set_init(rl_limit_set *set, const rl_limit *limits, size_t n)
{
    *set = (rl_limit_set){.n = n, .horizon_ns = RL_NEVER};
    for (size_t i = 0; i < n; i++) {
        set->limits[i] = limits[i];
        set->most[i] = rl_limit_most(&limits[i]);
        set->first_word[i] = (uint8_t)set->n_words;
        set->n_words += words_of(&limits[i]);
        set->counts_denied |= limits[i].counts_denied;
        set->has_windows |= rl_is_window(&limits[i]);
        if (limits[i].horizon_ns < set->horizon_ns) {
            set->horizon_ns = limits[i].horizon_ns;
        }
    }
}

/* ---- limits that come with a request --------------------------------------------- */

static bool is_timed(const rl_limit_set *set)
{
    for (size_t i = 0; i < set->n; i++) {
        if (rl_is_window(&set->limits[i])) {
            return false;
        }
    }
    return true;
}

/* Return the seconds that an empty bucket takes to fill, with 40 significant bits: 7 a minute and
 * 1000 a minute take equally long, whatever the rounding of their rates. */
static double fill_s(const rl_limit *limit)
{
    int exponent;
    double seconds = limit->refill_rate > 0 ? limit->capacity / limit->refill_rate : 0;
    double mantissa = frexp(seconds, &exponent);
    return ldexp(round(ldexp(mantissa, 40)), exponent - 40);
}

/* Return how many limits take longer to fill, of equal ones those before. */
static size_t place_of(const rl_limit_set *set, size_t i)
{
    size_t place = 0;
    double mine = fill_s(&set->limits[i]);
    for (size_t j = 0; j < set->n; j++) {
        double other = fill_s(&set->limits[j]);
        place += other > mine || (!(other < mine) && j < i);
    }
    return place;
}

void rl_limit_set_init_given(rl_limit_set *set, const rl_limit *limits, size_t n)
{
    rl_limit_set_init(set, limits, n);
    for (size_t i = 0; i < n && is_timed(set); i++) {
        set->first_word[i] = (uint8_t)place_of(set, i);
    }
}

/* A limit of the same kind as another, for which only that counts. */
static rl_limit limit_of_kind(const rl_limit *like)
{
    rl_limit limit = *like;
    if (!rl_is_window(like)) {
        rl_limit_init_timed(&limit, 1, 1);
        return limit;
    }
    limit.capacity = 1;
    limit.cap = 1;
    limit.refill_rate = 1e9 / (double)like->window_ns;
    limit.counts_denied = false;
    return limit;
}

void rl_limit_set_init_any(rl_limit_set *set, const rl_limit_set *given)
{
    rl_limit kinds[RL_LIMITS_MAX];
    size_t n = is_timed(given) ? RL_TIMED_LIMITS_MAX : given->n;
    for (size_t i = 0; i < n; i++) {
        kinds[i] = limit_of_kind(&given->limits[i < given->n ? i : 0]);
    }
    rl_limit_set_init(set, kinds, n);
}

bool rl_limit_set_fits(const rl_limit_set *any, const rl_limit_set *given)
{
    if (is_timed(given)) {
        return is_timed(any);
    }
    bool fits = any->n == given->n;
    for (size_t i = 0; fits && i < any->n; i++) {
        const rl_limit *one = &any->limits[i], *other = &given->limits[i];
        fits = one->kind == other->kind && (!rl_is_window(one) || rl_window_is_alike(one, other));
    }
    return fits;
}

/* ---- decisions ------------------------------------------------------------------- */

RL_APART static rl_decision entry_describe_window(const rl_moment *moment, const rl_found *found,
                                                  size_t i, uint64_t cost, bool allowed)
{
    const rl_limit *limit = &moment->set->limits[i];
    const rl_any_window *window = &found->windows[i];
    int64_t wall_ns = moment->now.wall_ns;
    return limit->kind == RL_SLIDING_WINDOW
               ? rl_sliding_decision(limit, &window->sliding, wall_ns, cost, allowed)
               : rl_window_decision(limit, window->fixed, wall_ns, cost, allowed);
}

rl_decision rl_entry_describe_one(const rl_moment *moment, const rl_found *found, size_t i,
                                  uint64_t cost, bool allowed)
{
    const rl_limit *limit = &moment->set->limits[i];
    if (rl_is_window(limit)) {
        return entry_describe_window(moment, found, i, cost, allowed);
    }
    rl_tap tap = rl_limit_tap(limit, moment->now.steady_ns);
    return rl_limit_decision(limit, tap, found->deficits[i], cost, allowed);
}

/* Describe limit i of a request that was allowed or denied by all limits together. */
static inline rl_decision entry_describe_any(const rl_moment *moment, const rl_found *found,
                                             size_t i, uint64_t cost, bool allowed)
{
    bool passed = allowed || rl_bucket_allows(&moment->set->limits[i], found->deficits[i], cost);
    return rl_entry_describe_one(moment, found, i, cost, passed);
}

void rl_entry_describe(const rl_moment *moment, const rl_found *found, const uint64_t *costs,
                       bool allowed, rl_decision *out)
{
    *out = entry_describe_any(moment, found, 0, costs[0], allowed);
    for (size_t i = 1; i < moment->set->n; i++) {
        rl_decision one = entry_describe_any(moment, found, i, costs[i], allowed);
        if (rl_decision_tells_more(&one, out)) {
            *out = one;
        }
    }
}

/* ---- windows -------------------------------------------------------------------- */

/* Sets *is_ahead if the state was counted before the clock was set back. */
static rl_window fixed_at(const rl_moment *moment, size_t i, const uint64_t *words, bool *is_ahead)
{
    const rl_limit *limit = &moment->set->limits[i];
    rl_window kept = {0};
    if (words != NULL) {
        kept = rl_window_load(words + moment->set->first_word[i]);
    }
    *is_ahead |= rl_window_is_ahead(limit, kept, moment->now.wall_ns);
    return rl_window_at(limit, kept, moment->now.wall_ns);
}

static rl_sliding sliding_at(const rl_moment *moment, size_t i, const uint64_t *words,
                             bool *is_ahead)
{
    const rl_limit *limit = &moment->set->limits[i];
    rl_sliding kept = {.current = {.n_lumps = 0}};
    if (words != NULL) {
        kept = rl_sliding_load(limit, words + moment->set->first_word[i]);
    }
    *is_ahead |= rl_sliding_is_ahead(&kept, moment->now.wall_ns);
    return rl_sliding_at(limit, &kept, moment->now.wall_ns);
}

static void entry_read_window(const rl_moment *moment, size_t i, const uint64_t *words,
                              rl_found *found)
{
    const rl_limit *limit = &moment->set->limits[i];
    rl_any_window *window = &found->windows[i];
    if (limit->kind == RL_SLIDING_WINDOW) {
        window->sliding = sliding_at(moment, i, words, &found->is_ahead);
        found->deficits[i] = rl_sliding_used(limit, &window->sliding, moment->now.wall_ns);
    } else {
        window->fixed = fixed_at(moment, i, words, &found->is_ahead);
        found->deficits[i] = window->fixed.count;
    }
}

static void entry_write_window(const rl_moment *moment, size_t i, const rl_found *found,
                               uint64_t *words)
{
    uint64_t *first = words + moment->set->first_word[i];
    if (moment->set->limits[i].kind == RL_SLIDING_WINDOW) {
        rl_sliding_store(&found->windows[i].sliding, first);
    } else {
        rl_window_store(found->windows[i].fixed, first);
    }
}

static void found_take_window(const rl_moment *moment, size_t i, rl_found *found, uint64_t cost)
{
    rl_any_window *window = &found->windows[i];
    if (moment->set->limits[i].kind == RL_SLIDING_WINDOW) {
        rl_sliding_add(&window->sliding, moment->now.wall_ns, cost);
    } else {
        window->fixed = rl_window_add(window->fixed, cost);
    }
}

static void found_refund_window(const rl_moment *moment, size_t i, rl_found *found, uint64_t cost)
{
    const rl_limit *limit = &moment->set->limits[i];
    rl_any_window *window = &found->windows[i];
    if (limit->kind == RL_SLIDING_WINDOW) {
        rl_sliding_subtract(limit, &window->sliding, moment->now.wall_ns, cost);
    } else {
        window->fixed = rl_window_subtract(window->fixed, cost);
    }
}

void rl_found_take_denied(const rl_moment *moment, rl_found *found, const uint64_t *costs)
{
    uint64_t counted[RL_LIMITS_MAX] = {0};
    int64_t wall_ns = moment->now.wall_ns;
    for (size_t i = 0; i < moment->set->n; i++) {
        const rl_limit *limit = &moment->set->limits[i];
        uint64_t most = rl_limit_most(limit);
        if (limit->counts_denied) {
            counted[i] = costs[i] < most ? costs[i] : most;
        }
        if (limit->kind == RL_SLIDING_WINDOW && counted[i] > most - found->deficits[i]) {
            uint64_t excess = counted[i] - (most - found->deficits[i]);
            rl_sliding_drop(limit, &found->windows[i].sliding, wall_ns, excess);
            found->deficits[i] -= excess;
        }
    }
    rl_found_take(moment, found, counted);
}

static bool entry_is_full_window(const rl_moment *moment, size_t i, const uint64_t *words)
{
    const rl_limit *limit = &moment->set->limits[i];
    bool is_ahead = false;
    if (limit->kind == RL_SLIDING_WINDOW) {
        rl_sliding sliding = sliding_at(moment, i, words, &is_ahead);
        return rl_sliding_used(limit, &sliding, moment->now.wall_ns) == 0;
    }
    return fixed_at(moment, i, words, &is_ahead).count == 0;
}

/* ---- sets with windows --------------------------------------------------------- */

void rl_entry_read_mixed(const rl_moment *moment, const uint64_t *words, rl_found *found)
{
    found->is_ahead = false;
    for (size_t i = 0; i < moment->set->n; i++) {
        if (rl_is_window(&moment->set->limits[i])) {
            entry_read_window(moment, i, words, found);
        } else {
            rl_entry_read_bucket(moment, i, words, found);
        }
    }
}

void rl_entry_write_mixed(const rl_moment *moment, const rl_found *found, uint64_t *words)
{
    for (size_t i = 0; i < moment->set->n; i++) {
        if (rl_is_window(&moment->set->limits[i])) {
            entry_write_window(moment, i, found, words);
        } else {
            rl_entry_write_bucket(moment, i, found, words);
        }
    }
}

void rl_found_take_mixed(const rl_moment *moment, rl_found *found, const uint64_t *costs)
{
    for (size_t i = 0; i < moment->set->n; i++) {
        uint64_t taken = rl_found_take_one(moment, i, found, costs[i]);
        if (rl_is_window(&moment->set->limits[i])) {
            found_take_window(moment, i, found, taken);
        }
    }
}

void rl_found_refund_mixed(const rl_moment *moment, rl_found *found, const uint64_t *costs)
{
    for (size_t i = 0; i < moment->set->n; i++) {
        rl_found_refund_one(i, found, costs[i]);
        if (rl_is_window(&moment->set->limits[i])) {
            found_refund_window(moment, i, found, costs[i]);
        }
    }
}

bool rl_entry_is_full_mixed(const rl_moment *moment, const uint64_t *words)
{
    bool is_full = true;
    for (size_t i = 0; is_full && i < moment->set->n; i++) {
        is_full = rl_is_window(&moment->set->limits[i]) ? entry_is_full_window(moment, i, words)
                                                        : rl_entry_is_full_bucket(moment, i, words);
    }
    return is_full;
}

/* ---- converting to another set -------------------------------------------------- */

static uint64_t converted_deficit(const rl_limit *from, int64_t steady_ns, uint64_t deficit,
                                  const rl_limit *to)
{
    int64_t wait_ns = rl_limit_wait_ns(from, rl_limit_tap(from, steady_ns), deficit);
    uint64_t most = rl_limit_most(to);
    double expected; /* units; only shows whether the exact count is in range */
    if (wait_ns == RL_NEVER || to->mult == 0) {
        expected = ceil((double)deficit * from->unit / to->unit);
        return expected < (double)most ? (uint64_t)expected : most;
    }
    expected = (double)wait_ns * to->refill_rate / 1e9 / to->unit;
    if (expected >= (double)most) {
        return most;
    }
    int64_t full_ns = wait_ns < RL_NEVER - steady_ns ? steady_ns + wait_ns : RL_NEVER;
    uint64_t exact = rl_limit_units(to, full_ns) - rl_limit_units(to, steady_ns);
    return exact < most ? exact : most;
}

static void convert_window(const rl_limit *from, const uint64_t *words, const rl_limit *to,
                           uint64_t *out)
{
    if (!rl_window_is_alike(from, to)) {
        memset(out, 0, words_of(to) * sizeof *out);
    } else if (to->kind == RL_SLIDING_WINDOW) {
        rl_sliding kept = rl_sliding_load(from, words);
        rl_sliding fitted = rl_sliding_fit(to, &kept);
        rl_sliding_store(&fitted, out);
    } else {
        rl_window_store(rl_window_load(words), out);
    }
}

void rl_entry_convert(const rl_moment *from, const uint64_t *words, const rl_moment *to,
                      uint64_t *out)
{
    for (size_t i = 0; i < from->set->n; i++) {
        const rl_limit *before = &from->set->limits[i];
        const rl_limit *after = &to->set->limits[i];
        const uint64_t *given = words + from->set->first_word[i];
        uint64_t *made = out + to->set->first_word[i];
        if (!rl_is_window(before)) {
            uint64_t deficit = rl_bucket_deficit(*given, from->units[i]);
            *made = to->units[i] + converted_deficit(before, from->now.steady_ns, deficit, after);
        } else {
            convert_window(before, given, after, made);
        }
    }
}
