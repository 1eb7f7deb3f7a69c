// The script's names for buffers, devices, VFIO groups and containers. Each of these structures
// begins with its name; an empty name is a free place.
#include <stdio.h>
#include <string.h>

#include "iotest.h"

static struct buffer buffers[MOST];
static struct device devices[MOST];
static struct handle groups[MOST], containers[MOST];

static void *find(void *table, size_t size, const char *name)
{
	for (int i = 0; i < MOST; i++) {
		char *each = (char *)table + i * size;

		if (*each && !strcmp(each, name))
			return each;
	}
	return NULL;
}

static void *find_or_stop(void *table, size_t size, const char *kind, const char *name)
{
	void *found = find(table, size, name);

	if (!found)
		stop("no %s %s", kind, name);
	return found;
}

static void *add(void *table, size_t size, const char *name)
{
	for (int i = 0; i < MOST; i++) {
		char *each = (char *)table + i * size;

		if (*each)
			continue;
		memset(each, 0, size);
		snprintf(each, NAME, "%s", name);
		return each;
	}
	stop("more than %d names of one kind: %s", MOST, name);
}

struct buffer *new_buffer(const char *name, size_t length)
{
	struct buffer *buffer = add(buffers, sizeof(*buffer), name);

	buffer->length = length;
	return buffer;
}

struct buffer *buffer(const char *name)
{
	return find_or_stop(buffers, sizeof(buffers[0]), "buf", name);
}

struct device *new_device(const char *name, const char *bdf)
{
	struct device *device = add(devices, sizeof(*device), name);

	device->fd = -1;
	snprintf(device->bdf, sizeof(device->bdf), "%s", bdf);
	return device;
}

struct device *device(const char *name)
{
	return find_or_stop(devices, sizeof(devices[0]), "dev", name);
}

// A group or container that is opened again under its name keeps its place.
static struct handle *renewed(struct handle *table, const char *name)
{
	struct handle *handle = find(table, sizeof(*table), name);

	return handle ? handle : add(table, sizeof(*table), name);
}

struct handle *new_group(const char *name)
{
	return renewed(groups, name);
}

struct handle *group(const char *name)
{
	return find_or_stop(groups, sizeof(groups[0]), "group", name);
}

struct handle *new_container(const char *name)
{
	return renewed(containers, name);
}

struct handle *container(const char *name)
{
	return find_or_stop(containers, sizeof(containers[0]), "container", name);
}

void forget(struct handle *handle)
{
	handle->name[0] = 0;
}
