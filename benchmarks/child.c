/* Appends "INDEX PID NANOSECONDS\n" to a file, as early as it can, and sleeps until it is killed. */

#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (argc != 3)
        return 2;
    int file = open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file < 0)
        return 1;
    char line[96];
    int length = snprintf(line, sizeof line, "%s %d %lld\n", argv[1], (int)getpid(),
                          now.tv_sec * 1000000000LL + now.tv_nsec);
    if (write(file, line, length) != length)
        return 1;
    close(file);
    for (;;)
        pause();
}
