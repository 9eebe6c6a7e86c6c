/* Preloaded into a daemon: its clocks are ahead of the machine's by what the file named by CLOCKS_AHEAD says, which may
 * change at any time: three native int64 of seconds, by which the time of day is ahead, the machine is older, and of
 * which it has slept: CLOCK_MONOTONIC stands still meanwhile. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;

/* Before main: later, the daemon's system call filter allows no file to be opened. */
__attribute__((constructor)) static void map_file(void)
{
	int file = open(getenv("CLOCKS_AHEAD"), O_RDONLY | O_CLOEXEC);
	void *mapped = mmap(NULL, 3 * sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);

	if (mapped == MAP_FAILED)
		abort();
	close(file);
	ahead = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = syscall(SYS_clock_gettime, clock, now);

	if (result == 0 && ahead && clock == CLOCK_REALTIME)
		now->tv_sec += ahead[0];
	if (result == 0 && ahead && clock == CLOCK_BOOTTIME)
		now->tv_sec += ahead[1] + ahead[2];
	if (result == 0 && ahead && clock == CLOCK_MONOTONIC)
		now->tv_sec += ahead[1];
	return result;
}
