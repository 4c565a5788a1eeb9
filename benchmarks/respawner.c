/* The least that a supervisor can do, and so the physical limit: N children, each in a session of
 * its own, each started again at once when it ends. No log, no state, no policy, no end: whoever
 * kills it ends its children too. */

#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static pid_t start(char *program, int index, char *output)
{
    char text[16];
    pid_t pid;
    posix_spawnattr_t attributes;
    char *arguments[] = {program, text, output, NULL};
    snprintf(text, sizeof text, "%d", index);
    posix_spawnattr_init(&attributes);
#ifdef POSIX_SPAWN_SETSID
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
#endif
    int error = posix_spawn(&pid, program, NULL, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    return error ? -1 : pid;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int count = atoi(argv[1]);
    pid_t *children = calloc(count, sizeof *children);
    for (int i = 0; i < count; i++)
        children[i] = start(argv[2], i, argv[3]);
    for (;;) {
        pid_t gone = waitpid(-1, NULL, 0);
        if (gone < 0)
            return 1;
        for (int i = 0; i < count; i++)
            if (children[i] == gone)
                children[i] = start(argv[2], i, argv[3]);
    }
}
