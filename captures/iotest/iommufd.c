// iommufd and VFIO device cdevs. The structures and numbers are spelled out (include/uapi/linux/
// iommufd.h and vfio.h of v6.12), because the headers this is compiled with may be older.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "iotest.h"

#define IOMMUFD(number) _IO(';', 0x80 + (number))
#define DESTROY IOMMUFD(0)
#define IOAS_ALLOC IOMMUFD(1)
#define IOAS_MAP IOMMUFD(5)
#define IOAS_UNMAP IOMMUFD(6)
#define HWPT_ALLOC IOMMUFD(9)
#define DEVICE_BIND _IO(';', 118)
#define DEVICE_ATTACH _IO(';', 119)
#define DEVICE_DETACH _IO(';', 120)

enum { FIXED_IOVA = 1, WRITEABLE = 2, READABLE = 4 };

struct destroy {
	uint32_t size, id;
};
struct ioas_alloc {
	uint32_t size, flags, out_id;
};
struct ioas_map {
	uint32_t size, flags, ioas, reserved;
	uint64_t user, length, iova;
};
struct ioas_unmap {
	uint32_t size, ioas;
	uint64_t iova, length;
};
struct hwpt_alloc {
	uint32_t size, flags, device, parent, out_id, reserved, data_type, data_length;
	uint64_t data;
};
struct device_bind {
	uint32_t argsz, flags;
	int32_t fd;
	uint32_t out_device;
};
struct device_attach {
	uint32_t argsz, flags, pt;
};
struct device_detach {
	uint32_t argsz, flags;
};

static int iommufd = -1;
static struct {
	char name[32];
	uint32_t id;
} objects[MOST];
static int object_count;

static void name_object(const char *name, uint32_t id)
{
	if (object_count == MOST)
		stop("more than %d iommufd objects: %s", MOST, name);
	snprintf(objects[object_count].name, sizeof(objects[0].name), "%s", name);
	objects[object_count++].id = id;
}

// An object's number by its name in the script; a number stands for itself.
static uint32_t object(const char *name)
{
	for (int i = 0; i < object_count; i++)
		if (!strcmp(objects[i].name, name))
			return objects[i].id;
	return strtoul(name, NULL, 0);
}

void do_iommufd(const struct line *line)
{
	(void)line;
	iommufd = open("/dev/iommu", O_RDWR);
	say("  open /dev/iommu -> %s\n", result(iommufd));
	say_what_the_kernel_said();
}

void do_close_iommufd(const struct line *line)
{
	(void)line;
	say("  close iommufd %s\n", result(close(iommufd)));
	say_what_the_kernel_said();
}

void do_cdev(const struct line *line)
{
	struct device *opened = device(word(line, 1));
	char path[160], name[64] = "";
	struct dirent *entry;
	DIR *folder;

	device_path(path, sizeof(path), opened, "vfio-dev");
	folder = opendir(path);
	while (folder && (entry = readdir(folder)))
		if (entry->d_name[0] == 'v')
			snprintf(name, sizeof(name), "%.63s", entry->d_name);
	if (folder)
		closedir(folder);
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", name);
	opened->fd = open(path, O_RDWR);
	say("  open %s -> %s\n", path, result(opened->fd));
	say_what_the_kernel_said();
}

void do_iommufd_bind(const struct line *line)
{
	struct device *bound = device(word(line, 1));
	struct device_bind bind = {.argsz = sizeof(bind), .fd = iommufd};
	int returned = ioctl(bound->fd, DEVICE_BIND, &bind);

	bound->iommufd_id = bind.out_device;
	say("  BIND_IOMMUFD -> %s devid=%u\n", result(returned), bind.out_device);
	say_what_the_kernel_said();
}

void do_ioas(const struct line *line)
{
	struct ioas_alloc alloc = {.size = sizeof(alloc)};
	int returned = ioctl(iommufd, IOAS_ALLOC, &alloc);

	say("  IOAS_ALLOC -> %s id=%u\n", result(returned), alloc.out_id);
	name_object(word(line, 1), alloc.out_id);
	say_what_the_kernel_said();
}

void do_hwpt(const struct line *line)
{
	struct hwpt_alloc alloc = {
		.size = 40,  // up to and with data: what every release since 6.7 takes
		.device = device(word(line, 2))->iommufd_id,
		.parent = object(word(line, 3)),
	};
	int returned = ioctl(iommufd, HWPT_ALLOC, &alloc);

	say("  HWPT_ALLOC(dev=%s, pt=%s) -> %s id=%u\n", word(line, 2), word(line, 3),
	    result(returned), alloc.out_id);
	name_object(word(line, 1), alloc.out_id);
	say_what_the_kernel_said();
}

void do_iommufd_destroy(const struct line *line)
{
	struct destroy destroy = {sizeof(destroy), object(word(line, 1))};
	int returned = ioctl(iommufd, DESTROY, &destroy);

	say("  DESTROY %s -> %s\n", word(line, 1), result(returned));
	say_what_the_kernel_said();
}

void do_iommufd_attach(const struct line *line)
{
	struct device_attach attach = {.argsz = sizeof(attach), .pt = object(word(line, 2))};
	int returned = ioctl(device(word(line, 1))->fd, DEVICE_ATTACH, &attach);

	say("  ATTACH_IOMMUFD_PT(%s) -> %s pt=%u\n", word(line, 2), result(returned), attach.pt);
	say_what_the_kernel_said();
}

void do_iommufd_detach(const struct line *line)
{
	struct device_detach detach = {.argsz = sizeof(detach)};
	int returned = ioctl(device(word(line, 1))->fd, DEVICE_DETACH, &detach);

	say("  DETACH_IOMMUFD_PT -> %s\n", result(returned));
	say_what_the_kernel_said();
}

void do_iommufd_map(const struct line *line)
{
	const char *access = word(line, 4);
	struct ioas_map map = {
		.size = sizeof(map),
		.flags = FIXED_IOVA,
		.ioas = object(word(line, 1)),
		.user = (uintptr_t)buffer(word(line, 5))->bytes + number(line, 6),
		.length = number(line, 3),
		.iova = number(line, 2),
	};
	int returned;

	if (strchr(access, 'w'))
		map.flags |= WRITEABLE;
	if (strchr(access, 'r'))
		map.flags |= READABLE;
	returned = ioctl(iommufd, IOAS_MAP, &map);
	say("MAP step=%d ioas=%s iova=%s len=%s prot=%s -> %s\n", line->number, word(line, 1),
	    word(line, 2), word(line, 3), access, result(returned));
	say_what_the_kernel_said();
}

void do_iommufd_unmap(const struct line *line)
{
	struct ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas = object(word(line, 1)),
		.iova = number(line, 2),
		.length = number(line, 3),
	};
	int returned = ioctl(iommufd, IOAS_UNMAP, &unmap);

	say("UNMAP step=%d ioas=%s iova=%s len=%s -> %s unmapped=0x%llx\n", line->number,
	    word(line, 1), word(line, 2), word(line, 3), result(returned),
	    (unsigned long long)unmap.length);
	say_what_the_kernel_said();
}
