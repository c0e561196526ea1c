/*
 * Whether a thread of this process is blocked.
 */
#ifndef BLOCKED_H
#define BLOCKED_H

#include <stdio.h>
#include <string.h>
#include <sys/types.h>

/* Also true of a thread that has ended. */
static inline int sleeps(pid_t tid) {
	char path[80], text[400] = "";
	snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
	FILE *file = fopen(path, "r");
	if (!file) return 1;
	if (!fgets(text, sizeof text, file)) text[0] = 0;
	fclose(file);
	char *state = strrchr(text, ')');
	return state && state[2] == 'S';
}

#endif
