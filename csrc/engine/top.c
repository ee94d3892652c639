#include "engine/top.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/alloc.h"

/* "top" and the number of the layout. */
#define MAGIC (UINT64_C(0x0000000000706f74) | (uint64_t)RL_TOP_LAYOUT << 32)

#define NS_PER_S INT64_C(1000000000)
#define LOCK_BROKEN_NS UINT64_C(1000000000)
#define READ_TRIES 1000
#define COUNT_FORGOTTEN 0x1p-10

/* ---- life ---------------------------------------------------------------------------- */

/* Set the secret unless another process has. Zero is never one. */
static bool top_set_secret(rl_top *top)
{
    uint64_t made[2];
    if (atomic_load(&top->k0) != 0 && atomic_load(&top->k1) != 0) {
        return true;
    }
    if (getentropy(made, sizeof made) != 0) {
        return false;
    }
    uint64_t none = 0;
    atomic_compare_exchange_strong(&top->k0, &none, made[0] | 1);
    none = 0;
    atomic_compare_exchange_strong(&top->k1, &none, made[1] | 1);
    return true;
}

rl_top *rl_top_new(void)
{
    rl_top *top = rl_alloc_zeroed(sizeof *top);
    if (top != NULL && !top_set_secret(top)) {
        rl_free(top);
        return NULL;
    }
    return top;
}

void rl_top_free(rl_top *top)
{
    rl_free(top);
}

rl_file_status rl_top_open(const char *path, rl_top **out)
{
    void *mapping;
    rl_file_status status = rl_file_map(path, MAGIC, sizeof(rl_top), &mapping);
    if (status == RL_FILE_OK && !top_set_secret(mapping)) {
        rl_file_unmap(mapping, sizeof(rl_top));
        mapping = NULL;
        status = RL_FILE_ESYSTEM;
    }
    *out = mapping;
    return status;
}

void rl_top_close(rl_top *top)
{
    rl_file_unmap(top, sizeof *top);
}

/* ---- the lock of a set --------------------------------------------------------------- */

static bool set_lock(rl_top_set *set, int64_t now_ns)
{
    uint64_t taken = (uint64_t)now_ns | 1;
    uint64_t held = 0;
    if (atomic_compare_exchange_strong_explicit(&set->lock, &held, taken, memory_order_acquire,
                                                memory_order_relaxed)) {
        return true;
    }
    /* A time in the future is garbage, or a holder that has read the clock just now. */
    uint64_t age_ns = taken - held;
    return age_ns > LOCK_BROKEN_NS && age_ns < UINT64_MAX - LOCK_BROKEN_NS &&
           atomic_compare_exchange_strong_explicit(&set->lock, &held, taken, memory_order_acquire,
                                                   memory_order_relaxed);
}

static void set_unlock(rl_top_set *set)
{
    atomic_store_explicit(&set->lock, 0, memory_order_release);
}

/* ---- counting ------------------------------------------------------------------------ */

/* The content of a file may be anything: a count that is no count is none. */
static bool is_count(double count)
{
    return count >= 0 && count <= 0x1p80;
}

static void slot_fade(rl_top_slot *slot, double factor)
{
    slot->count *= factor;
    slot->error *= factor;
    if (!is_count(slot->count) || !is_count(slot->error) || slot->count < COUNT_FORGOTTEN) {
        *slot = (rl_top_slot){0};
    }
}

/* Let the counts of a set fade up to now. */
static void set_fade(rl_top_set *set, int64_t now_ns)
{
    uint64_t tick = (uint64_t)(now_ns / NS_PER_S);
    if (tick == set->tick) {
        return;
    }
    double passed_s = tick > set->tick ? (double)(tick - set->tick) : 0;
    double factor = exp2(-passed_s / RL_TOP_HALF_LIFE_S);
    for (size_t i = 0; i < RL_TOP_WAYS; i++) {
        slot_fade(&set->slots[i], factor);
    }
    set->tick = tick;
}

/* Return the length of an address without its last part, or of the first two groups of IPv6; 0 if
 * the key is no address. */
static size_t masked_address(const char *key, size_t len)
{
    size_t kept = 0;
    unsigned colons = 0;
    for (size_t i = 0; i < len; i++) {
        char c = key[i];
        bool is_hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        if (c == ':' ? ++colons <= 2 : c == '.' && colons == 0) {
            kept = i + 1;
        } else if (c != ':' && c != '.' && !is_hex) {
            return 0;
        }
    }
    return kept;
}

/* Return the length of what masking leaves. Never a part of a character. */
static size_t masked_length(const char *key, size_t len)
{
    size_t kept = len <= RL_TOP_TEXT ? masked_address(key, len) : 0;
    if (kept == 0) {
        kept = len / 3 < 8 ? len / 3 : 8;
    }
    while (kept > 0 && kept < len && ((unsigned char)key[kept] & 0xc0) == 0x80) {
        kept--;
    }
    return kept;
}

static void slot_set_text(rl_top_slot *slot, const char *key, size_t len, rl_top_form form)
{
    size_t kept = form == RL_TOP_HASHED ? 0 : form == RL_TOP_MASKED ? masked_length(key, len) : len;
    if (kept > RL_TOP_TEXT) {
        kept = RL_TOP_TEXT;
        while (kept > 0 && ((unsigned char)key[kept] & 0xc0) == 0x80) {
            kept--;
        }
    }
    memset(slot->text, 0, sizeof slot->text);
    memcpy(slot->text, key, kept);
    slot->length = (uint8_t)(kept < len ? kept | 0x80 : kept);
}

static rl_top_slot *set_find(rl_top_set *set, uint64_t tag)
{
    for (size_t i = 0; i < RL_TOP_WAYS; i++) {
        if (set->slots[i].tag == tag) {
            return &set->slots[i];
        }
    }
    return NULL;
}

static rl_top_slot *set_lowest(rl_top_set *set)
{
    rl_top_slot *lowest = &set->slots[0];
    for (size_t i = 1; i < RL_TOP_WAYS; i++) {
        if (set->slots[i].count < lowest->count) {
            lowest = &set->slots[i];
        }
    }
    return lowest;
}

/* Return the tag of a key. Half of the hash does: two clients meet with probability 2^-64. */
static uint64_t top_tag(const rl_top *top, const void *key, size_t len)
{
    rl_secret secret = {atomic_load_explicit(&top->k0, memory_order_relaxed),
                        atomic_load_explicit(&top->k1, memory_order_relaxed)};
    uint64_t tag = rl_hash(secret, key, len).lo;
    return tag != 0 ? tag : 1;
}

void rl_top_record(rl_top *top, bool allowed, const void *key, size_t len, uint64_t n,
                   int64_t now_ns, rl_top_form form)
{
    uint64_t tag = top_tag(top, key, len);
    rl_top_set *set = &top->sets[allowed][((tag >> 32) * RL_TOP_SETS) >> 32];
    if (!set_lock(set, now_ns)) {
        atomic_fetch_add_explicit(&top->missed, n, memory_order_relaxed);
        return;
    }
    set_fade(set, now_ns);
    rl_top_slot *slot = set_find(set, tag);
    if (slot == NULL) {
        slot = set_lowest(set);
        slot->tag = tag;
        slot->error = is_count(slot->count) ? slot->count : 0;
        slot->count = slot->error;
        slot_set_text(slot, key, len, form);
    }
    slot->count += (double)n;
    set_unlock(set);
}

/* ---- reading ------------------------------------------------------------------------- */

static int compare_counts(const void *one, const void *other)
{
    double a = ((const rl_top_client *)one)->count;
    double b = ((const rl_top_client *)other)->count;
    return (a < b) - (a > b);
}

static size_t set_read(rl_top_set *set, rl_top_client *out)
{
    size_t n = 0;
    for (size_t i = 0; i < RL_TOP_WAYS; i++) {
        const rl_top_slot *slot = &set->slots[i];
        if (slot->tag == 0 || !is_count(slot->count) || slot->count < COUNT_FORGOTTEN) {
            continue;
        }
        size_t length = slot->length & 0x7f;
        out[n] = (rl_top_client){
            .tag = slot->tag,
            .count = slot->count,
            .error = is_count(slot->error) && slot->error < slot->count ? slot->error : 0,
            .length = length < RL_TOP_TEXT ? length : RL_TOP_TEXT,
            .is_cut = (slot->length & 0x80) != 0,
        };
        memcpy(out[n].text, slot->text, RL_TOP_TEXT);
        n++;
    }
    return n;
}

size_t rl_top_read(rl_top *top, bool allowed, int64_t now_ns, rl_top_client out[RL_TOP_SLOTS])
{
    size_t n = 0;
    for (size_t i = 0; i < RL_TOP_SETS; i++) {
        rl_top_set *set = &top->sets[allowed][i];
        bool locked = false;
        for (int tries = 0; !locked && tries < READ_TRIES; tries++) {
            locked = set_lock(set, now_ns);
        }
        if (locked) {
            set_fade(set, now_ns);
            n += set_read(set, out + n);
            set_unlock(set);
        }
    }
    qsort(out, n, sizeof *out, compare_counts);
    return n;
}
