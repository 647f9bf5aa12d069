/* Three threads that wait in a function, each with a value of its own in memory and in a vector register. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

volatile int touched = 1;
volatile int untouched = 77;
char *heap;
static volatile int marked_threads;

/* Spins, so that the register still holds the value when the thread is stopped. */
__attribute__((noinline)) void wait_here(long number)
{
    volatile double half = number * 0.5;
    double marked = half + 1000.0;
    __asm__ volatile("movapd %1, %%xmm9\n lock incl %0\n1: pause\n jmp 1b"
                     : "+m"(marked_threads) : "x"(marked) : "xmm9");
}

static void *worker(void *number)
{
    wait_here((long)number);
    return 0;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    (void)argc;
    syscall(SYS_close_range, 3, ~0U, 0);
    heap = strdup("on the heap");
    touched = 4343;
    for (long number = 1; number <= 3; number++)
        pthread_create(&thread, 0, worker, (void *)number);
    while (marked_threads != 3)
        sched_yield();
    int ready = open(argv[1], O_WRONLY);
    write(ready, "r", 1);
    close(ready);
    for (;;)
        pause();
}
