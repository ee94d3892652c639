#include "engine/top.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "engine/alloc.h"

/* "top" and the number of the layout; of the secret, "secret". */
#define MAGIC (UINT64_C(0x0000000000706f74) | (uint64_t)RL_TOP_LAYOUT << 32)
#define SECRET_MAGIC UINT64_C(0x0000746572636573)

#define NS_PER_S INT64_C(1000000000)
#define LOCK_BROKEN_NS UINT64_C(1000000000)
#define LOCK_TRIES 100 /* to record: about as long as some other decisions take */
#define READ_TRIES 1000
#define CLOCKS_DIFFER_S 60 /* at most, between processes of a host */
#define COUNT_FORGOTTEN 0x1p-10

/* ---- life ---------------------------------------------------------------------------- */

typedef struct top_secret_file {
    _Atomic uint64_t magic;
    _Atomic uint64_t k0, k1; /* 0: not made yet */
} top_secret_file;

rl_file_status rl_top_read_secret(const char *path, rl_secret *out)
{
    uint64_t made[2];
    void *mapping;
    rl_file_status status = rl_file_map(path, SECRET_MAGIC, sizeof(top_secret_file), &mapping);
    if (status != RL_FILE_OK) {
        return status;
    }
    top_secret_file *file = mapping;
    if (getentropy(made, sizeof made) != 0) {
        status = RL_FILE_ESYSTEM;
    } else {
        uint64_t none = 0;
        atomic_compare_exchange_strong(&file->k0, &none, made[0] | 1);
        none = 0;
        atomic_compare_exchange_strong(&file->k1, &none, made[1] | 1);
        *out = (rl_secret){atomic_load(&file->k0), atomic_load(&file->k1)};
    }
    rl_file_unmap(mapping, sizeof(top_secret_file));
    return status;
}

rl_file_status rl_top_open(rl_top *top, const char *path, unsigned clients, rl_secret secret,
                           rl_top_writer write)
{
    void *file;
    uint32_t n_sets = (clients * RL_TOP_SETS_MAX + RL_TOP_CLIENTS_MAX - 1) / RL_TOP_CLIENTS_MAX;
    size_t bytes = sizeof(rl_top_file) + 2 * n_sets * sizeof(rl_top_set);
    rl_file_status status = RL_FILE_OK;
    if (path != NULL) {
        status = rl_file_map(path, MAGIC, bytes, &file);
    } else if ((file = rl_alloc_zeroed(bytes)) == NULL) {
        errno = ENOMEM;
        status = RL_FILE_ESYSTEM;
    }
    memset(top, 0, sizeof *top);
    top->secret = secret;
    top->file = file;
    top->bytes = bytes;
    top->n_sets = n_sets;
    top->is_mapped = path != NULL;
    top->write = write;
    return status;
}

void rl_top_close(rl_top *top)
{
    if (top->is_mapped) {
        rl_file_unmap(top->file, top->bytes);
    } else {
        rl_free(top->file);
    }
    top->file = NULL;
}

/* ---- texts ----------------------------------------------------------------------------- */

size_t rl_top_write_plain(const char *key, size_t len, char *out)
{
    size_t kept = len;
    if (len > RL_TOP_TEXT) {
        kept = RL_TOP_TEXT;
        while (kept > RL_TOP_TEXT - 3 && ((unsigned char)key[kept] & 0xc0) == 0x80) {
            kept--;
        }
    }
    memcpy(out, key, kept);
    return kept;
}

size_t rl_top_write_nothing(const char *key, size_t len, char *out)
{
    (void)key;
    (void)len;
    (void)out;
    return 0;
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

/* Wait for a holder that runs. */
static bool set_lock_soon(rl_top_set *set, int64_t now_ns)
{
    bool locked = set_lock(set, now_ns);
    for (int tries = 0; !locked && tries < LOCK_TRIES; tries++) {
        if (atomic_load_explicit(&set->lock, memory_order_relaxed) == 0) {
            locked = set_lock(set, now_ns);
        }
    }
    return locked;
}

/* Wait also for a holder that was preempted. */
static bool set_lock_to_read(rl_top_set *set, int64_t now_ns)
{
    bool locked = set_lock(set, now_ns);
    for (int tries = 0; !locked && tries < READ_TRIES; tries++) {
        sched_yield();
        locked = set_lock(set, now_ns);
    }
    return locked;
}

static void set_unlock(rl_top_set *set)
{
    atomic_store_explicit(&set->lock, 0, memory_order_release);
}

/* ---- fading ---------------------------------------------------------------------------- */

/* The content of a file may be anything: a count that is no count is none. */
static bool is_count(double count)
{
    return count >= 0 && count <= 0x1p80;
}

/* Return what is left of 1 after some seconds. */
static double faded(uint32_t passed_s)
{
    double factor = 1;
    double left = 0.98851402035289613; /* 2 ** (-1 / RL_TOP_HALF_LIFE_S), after a second */
    for (; passed_s > 0 && factor > 0; passed_s >>= 1) {
        if (passed_s & 1) {
            factor *= left;
        }
        left *= left;
    }
    return factor;
}

static void set_fade_by(rl_top_set *set, double factor)
{
    for (size_t i = 0; i < RL_TOP_WAYS; i++) {
        set->counts[i] *= factor;
        set->errors[i] *= factor;
        if (!is_count(set->counts[i]) || !is_count(set->errors[i]) ||
            set->counts[i] < COUNT_FORGOTTEN) {
            set->tags[i] = 0;
            set->counts[i] = set->errors[i] = 0;
        }
    }
}

/* Let the counts of a set fade up to now. A tick of later is that of another process, whose time
 * may be a little ahead, or one of before the host was restarted. */
static void set_fade(rl_top_set *set, int64_t now_ns)
{
    uint32_t tick = (uint32_t)(now_ns / NS_PER_S);
    if (tick > set->tick) {
        set_fade_by(set, faded(tick - set->tick));
    } else if (set->tick - tick > CLOCKS_DIFFER_S) {
        set_fade_by(set, 0);
    } else {
        return;
    }
    set->tick = tick;
}

/* ---- counting ------------------------------------------------------------------------ */

/* Return a number in the order of the counts, with the slot in its last three bits. */
static uint64_t count_order(const rl_top_set *set, size_t i)
{
    uint64_t bits;
    memcpy(&bits, &set->counts[i], sizeof bits);
    return (bits & ~UINT64_C(7)) | i;
}

/* Return the slot with the lowest count. It cannot be predicted which one that is, so this has no
 * branches. */
static size_t set_lowest(const rl_top_set *set)
{
    uint64_t lowest = count_order(set, 0);
    for (size_t i = 1; i < RL_TOP_WAYS; i++) {
        uint64_t other = count_order(set, i);
        lowest = other < lowest ? other : lowest;
    }
    return lowest & 7;
}

/* Let a client that is not in a set replace the one with the lowest count. */
static size_t set_replace(rl_top_set *set, uint64_t tag)
{
    size_t i = set_lowest(set);
    if (!is_count(set->counts[i])) {
        set->counts[i] = 0;
    }
    set->tags[i] = tag;
    set->errors[i] = set->counts[i];
    set->has_text &= ~(1u << i);
    return i;
}

static void set_write_text(rl_top_set *set, size_t i, const rl_top *top, const char *key,
                           size_t len)
{
    rl_top_text text = {0};
    size_t kept = top->write(key, len, text.bytes);
    text.length = (uint8_t)(kept < len ? kept | 0x80 : kept);
    set->texts[i] = text;
    set->has_text |= 1u << i;
}

static size_t set_find(const rl_top_set *set, uint64_t tag)
{
    size_t i = 0;
    while (i < RL_TOP_WAYS && set->tags[i] != tag) {
        i++;
    }
    return i;
}

/* Return the tag of a key: two clients meet with probability 2^-64. */
static uint64_t top_tag(const rl_top *top, const char *key, size_t len)
{
    uint64_t tag = rl_hash(top->secret, key, len).hash;
    return tag != 0 ? tag : 1;
}

static void top_set_alias(rl_top *top, uint64_t alias, uint64_t tag)
{
    rl_top_alias *place = &top->aliases[alias % RL_TOP_ALIASES];
    atomic_store_explicit(&place->mixed, alias ^ tag, memory_order_relaxed);
    atomic_store_explicit(&place->tag, tag, memory_order_relaxed);
}

/* Return the tag of an alias; 0: it is not known. */
static uint64_t top_tag_of_alias(rl_top *top, uint64_t alias)
{
    rl_top_alias *place = &top->aliases[alias % RL_TOP_ALIASES];
    uint64_t tag = atomic_load_explicit(&place->tag, memory_order_relaxed);
    uint64_t mixed = atomic_load_explicit(&place->mixed, memory_order_relaxed);
    return (mixed ^ tag) == alias ? tag : 0;
}

static rl_top_set *top_sets(const rl_top *top, bool allowed)
{
    return top->file->sets + (allowed ? top->n_sets : 0);
}

static rl_top_set *top_set(const rl_top *top, bool allowed, uint64_t tag)
{
    return top_sets(top, allowed) + ((tag >> 32) * top->n_sets >> 32);
}

/* Lock the set of a tag, and let it fade. NULL: it stays locked, and the decisions were missed. */
static rl_top_set *top_lock(rl_top *top, bool allowed, uint64_t tag, uint64_t n, int64_t now_ns)
{
    rl_top_set *set = top_set(top, allowed, tag);
    __builtin_prefetch(&set->tick, 1); /* locking waits for the memory of the lock alone */
    __builtin_prefetch(set->errors, 1);
    if (!set_lock_soon(set, now_ns)) {
        atomic_fetch_add_explicit(&top->file->missed, n, memory_order_relaxed);
        return NULL;
    }
    set_fade(set, now_ns);
    return set;
}

static void set_add(rl_top_set *set, size_t i, uint64_t n)
{
    set->counts[i] += (double)(int64_t)n; /* converted faster than an unsigned number */
}

static bool set_has_text(const rl_top_set *set, size_t i)
{
    return (set->has_text >> i & 1) != 0;
}

void rl_top_record(rl_top *top, bool allowed, const char *key, size_t len, uint64_t alias,
                   uint64_t n, int64_t now_ns)
{
    uint64_t tag = top_tag(top, key, len);
    rl_top_set *set = top_lock(top, allowed, tag, n, now_ns);
    if (set == NULL) {
        return;
    }
    size_t i = set_find(set, tag);
    bool is_known = i < RL_TOP_WAYS;
    if (!is_known) {
        i = set_replace(set, tag);
    }
    if (!set_has_text(set, i) && (is_known || set->counts[i] == 0)) {
        set_write_text(set, i, top, key, len);
    }
    set_add(set, i, n);
    set_unlock(set);
    if (is_known && alias != 0) {
        top_set_alias(top, alias, tag);
    }
}

bool rl_top_record_known(rl_top *top, bool allowed, uint64_t alias, uint64_t n, int64_t now_ns)
{
    uint64_t tag = top_tag_of_alias(top, alias);
    if (tag == 0) {
        return false;
    }
    rl_top_set *set = top_lock(top, allowed, tag, n, now_ns);
    if (set == NULL) {
        return true;
    }
    size_t i = set_find(set, tag);
    bool is_known = i < RL_TOP_WAYS && set_has_text(set, i);
    if (is_known) {
        set_add(set, i, n);
    }
    set_unlock(set);
    return is_known;
}

/* ---- reading ------------------------------------------------------------------------- */

static size_t set_read(const rl_top_set *set, rl_top_client *out)
{
    size_t n = 0;
    for (size_t i = 0; i < RL_TOP_WAYS; i++) {
        double count = set->counts[i];
        double error = set->errors[i];
        if (set->tags[i] == 0 || !set_has_text(set, i) || !is_count(count) ||
            count < COUNT_FORGOTTEN) {
            continue;
        }
        size_t length = set->texts[i].length & 0x7f;
        out[n] = (rl_top_client){
            .tag = set->tags[i],
            .count = count,
            .error = is_count(error) && error < count ? error : 0,
            .length = length < RL_TOP_TEXT ? length : RL_TOP_TEXT,
            .is_cut = (set->texts[i].length & 0x80) != 0,
        };
        memcpy(out[n].text, set->texts[i].bytes, RL_TOP_TEXT);
        n++;
    }
    return n;
}

size_t rl_top_read(rl_top *top, bool allowed, int64_t now_ns, rl_top_client out[RL_TOP_SLOTS_MAX])
{
    size_t n = 0;
    for (uint32_t i = 0; i < top->n_sets; i++) {
        rl_top_set *set = top_sets(top, allowed) + i;
        if (set_lock_to_read(set, now_ns)) {
            set_fade(set, now_ns);
            n += set_read(set, out + n);
            set_unlock(set);
        }
    }
    return n;
}
