/* A wall clock that a file moves, for every process that preloads this library; see fault_settings.py.
 *
 * The file named by WALL_CLOCK_FILE holds the seconds that the clock is ahead, as a 64-bit integer in the machine's byte
 * order. Clocks that do not jump (CLOCK_MONOTONIC and its kin) are left alone. Waits until a time of the wall clock get
 * the system's time for it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* No monotonic clock is there yet, every wall clock is beyond it. */
#define FIRST_WALL_S 1000000000

static volatile const int64_t *ahead_s;

__attribute__((constructor)) static void open_clock(void) {
    const char *path = getenv("WALL_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED)
        ahead_s = page;
    close(file);
}

static int64_t get_ahead_s(void) { return ahead_s ? *ahead_s : 0; }

static struct timespec to_system(const struct timespec *until) {
    struct timespec system = *until;
    if (system.tv_sec > FIRST_WALL_S)
        system.tv_sec -= get_ahead_s();
    return system;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += get_ahead_s();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real)
        real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    struct timespec system = to_system(until);
    return real(condition, mutex, &system);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static int (*real)(sem_t *, const struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec system = to_system(until);
    return real(semaphore, &system);
}
