/* What the measuring programs share: the clock, latencies, and how to give up. */

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SECOND 1000000000LL         /* times are in nanoseconds */

typedef struct {
    int64_t *values;
    size_t count, size;
} Times;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    va_end(arguments);
    exit(1);
}

static void *grow(void *array, size_t bytes)
{
    void *grown = realloc(array, bytes);
    if (!grown)
        fail("out of memory");
    return grown;
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static void add_time(Times *times, int64_t value)
{
    if (times->count == times->size) {
        times->size = times->size ? 2 * times->size : 1 << 16;
        times->values = grow(times->values, times->size * sizeof *times->values);
    }
    times->values[times->count++] = value;
}

static int by_size(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void sort_times(Times *times)
{
    if (times->count)
        qsort(times->values, times->count, sizeof *times->values, by_size);
}

/* Of times that are sorted. */
static double percentile_us(const Times *times, double share)
{
    return times->count ? times->values[(size_t)(share * (times->count - 1))] / 1e3 : 0;
}

static void print_figures(Times *times, double seconds)
{
    sort_times(times);
    printf("\"replies\": %zu, \"seconds\": %.3f, \"per_second\": %.1f, \"p50_us\": %.1f, \"p90_us\": %.1f, "
           "\"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f",
           times->count, seconds, times->count / seconds, percentile_us(times, 0.5), percentile_us(times, 0.9),
           percentile_us(times, 0.99), percentile_us(times, 0.999), percentile_us(times, 1));
}
