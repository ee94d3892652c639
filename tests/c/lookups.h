/* lookups.h -- look-ups of names run in detached threads. A leak check would report the memory of
 * one that is still there when the process ends. */
#ifndef LOOKUPS_H
#define LOOKUPS_H

#include <dirent.h>
#include <unistd.h>

/* Return the number of threads of this process: 0 where there is no /proc. */
static inline int threads_now(void)
{
    int n = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (tasks != NULL) {
        for (const struct dirent *task; (task = readdir(tasks)) != NULL;) {
            n += task->d_name[0] != '.';
        }
        closedir(tasks);
    }
    return n;
}

/* Wait until there are no more threads than before the look-ups. */
static inline void wait_for_lookups(int threads_before)
{
    while (threads_now() > threads_before) {
        usleep(1000);
    }
}

#endif
