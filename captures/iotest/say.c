// How a line is printed, and the two voices of the kernel that are printed with it: trace events
// and log messages, each read without waiting and shown under the step that caused them.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "iotest.h"

static int log_fd = -1, trace_fd = -1;

void say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	fflush(stdout);
}

void stop(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	printf("ERR ");
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	exit(2);
}

const char *result(int returned)
{
	static char texts[4][80];  // so that one call of say() can show more than one
	static int next;
	char *text = texts[next++ & 3];

	if (returned >= 0)
		snprintf(text, sizeof(texts[0]), "OK(%d)", returned);
	else
		snprintf(text, sizeof(texts[0]), "%s(%d)", strerrorname_np(errno), errno);
	return text;
}

void open_kernel_voices(void)
{
	char old[65536];

	log_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	if (log_fd >= 0)
		lseek(log_fd, 0, SEEK_END);
	trace_fd = open("/sys/kernel/tracing/trace_pipe", O_RDONLY | O_NONBLOCK);
	if (trace_fd < 0)
		trace_fd = open("/sys/kernel/debug/tracing/trace_pipe", O_RDONLY | O_NONBLOCK);
	while (trace_fd >= 0 && read(trace_fd, old, sizeof(old)) > 0)
		;
}

static void say_traces(void)
{
	char text[65536];
	int have = 0, got;

	if (trace_fd < 0)
		return;
	while ((got = read(trace_fd, text + have, sizeof(text) - 1 - have)) > 0) {
		have += got;
		if (have >= (int)sizeof(text) - PAGE)
			break;
	}
	text[have] = 0;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		// "task-pid [cpu] flags time: event: …"; the first part differs from run to run
		char *event = strstr(line, ": ");

		if (*line == '#')
			continue;
		event = event ? event + 2 : line;
		say("  | trace %s\n", event + strspn(event, " "));
	}
}

static void say_log(void)
{
	char record[8192];

	if (log_fd < 0)
		return;
	for (;;) {
		int got = read(log_fd, record, sizeof(record) - 1);
		char *message, *end;

		if (got < 0 && errno == EPIPE)	// the ring moved on under us
			continue;
		if (got <= 0)
			return;
		record[got] = 0;
		message = strchr(record, ';');
		if (!message)
			continue;
		end = strchr(message, '\n');
		if (end)
			*end = 0;
		say("  | kmsg %s\n", message + 1);
	}
}

void say_what_the_kernel_said(void)
{
	say_traces();
	say_log();
}

int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), wrote, error;

	if (fd < 0)
		return -1;
	wrote = write(fd, text, strlen(text));
	error = errno;
	close(fd);
	errno = error;
	return wrote < 0 ? -1 : 0;
}

// The file's text without its last newline, or <ERRNO> if it cannot be read.
void read_file(const char *path, char *text, size_t room)
{
	int fd = open(path, O_RDONLY);
	int got = fd < 0 ? -1 : read(fd, text, room - 1);

	if (got < 0)
		snprintf(text, room, "<%s>", strerrorname_np(errno));
	else
		text[got] = 0;
	while (got > 0 && (text[got - 1] == '\n' || text[got - 1] == ' '))
		text[--got] = 0;
	if (fd >= 0)
		close(fd);
}

void device_path(char *path, size_t room, const struct device *device, const char *file)
{
	snprintf(path, room, "/sys/bus/pci/devices/%s/%s", device->bdf, file);
}

void wait_ms(int milliseconds)
{
	struct timespec time = {milliseconds / 1000, (milliseconds % 1000) * 1000000L};

	nanosleep(&time, NULL);
}
