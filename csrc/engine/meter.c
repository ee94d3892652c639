#include "engine/meter.h"

#include <stddef.h>

/* "meter", the number of the layout and the number of bounds. */
#define MAGIC (UINT64_C(0x726574656d000000) | RL_METER_LAYOUT << 8 | RL_METER_BOUNDS)

#define US INT64_C(1000)
#define MS INT64_C(1000000)

const int64_t rl_meter_bounds_ns[RL_METER_BOUNDS] = {
    500,    1 * US,  10 * US, 100 * US, 250 * US, 500 * US, 1 * MS,    2500 * US,
    5 * MS, 10 * MS, 25 * MS, 50 * MS,  100 * MS, 250 * MS, 1000 * MS,
};

typedef struct meter_file {
    _Atomic uint64_t magic; /* 0 before it has been opened */
    rl_meter meter;
} meter_file;

rl_file_status rl_meter_open(const char *path, rl_meter **out)
{
    void *mapping;
    rl_file_status status = rl_file_map(path, MAGIC, sizeof(meter_file), &mapping);
    *out = status == RL_FILE_OK ? &((meter_file *)mapping)->meter : NULL;
    return status;
}

void rl_meter_close(rl_meter *meter)
{
    if (meter != NULL) {
        rl_file_unmap((char *)meter - offsetof(meter_file, meter), sizeof(meter_file));
    }
}
