/* What the measuring programs share: the clock, latencies, and how to give up. */

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SECOND 1000000000LL         /* times are in nanoseconds */

static int64_t *latencies;          /* of what counts */
static size_t counted, latencies_size;

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

static void add_latency(int64_t latency)
{
    if (counted == latencies_size) {
        latencies_size = latencies_size ? 2 * latencies_size : 1 << 16;
        latencies = grow(latencies, latencies_size * sizeof *latencies);
    }
    latencies[counted++] = latency;
}

static int by_size(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static double percentile_us(double share)
{
    return counted ? latencies[(size_t)(share * (counted - 1))] / 1e3 : 0;
}

static void print_figures(double seconds)
{
    qsort(latencies, counted, sizeof *latencies, by_size);
    printf("\"replies\": %zu, \"seconds\": %.3f, \"per_second\": %.1f, \"p50_us\": %.1f, \"p90_us\": %.1f, "
           "\"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f",
           counted, seconds, counted / seconds, percentile_us(0.5), percentile_us(0.9), percentile_us(0.99),
           percentile_us(0.999), percentile_us(1));
}
