// VFIO with its type1 back end: container, group, device file, map and unmap.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iotest.h"

#define BAR_SIZE 0x100000

void do_container(const struct line *line)
{
	struct handle *opened = new_container(word(line, 1));

	opened->fd = open("/dev/vfio/vfio", O_RDWR);
	say("  container fd %s\n", result(opened->fd));
	say_what_the_kernel_said();
}

void do_extensions(const struct line *line)
{
	static const struct {
		int number;
		const char *name;
	} extensions[] = {
		{1, "TYPE1"},	{3, "TYPE1v2"},	  {4, "DMA_CC"},	{6, "NESTING"},
		{8, "NOIOMMU"}, {9, "UNMAP_ALL"}, {10, "UPDATE_VADDR"},
	};
	int fd = container(word(line, 1))->fd;

	for (size_t i = 0; i < sizeof(extensions) / sizeof(extensions[0]); i++)
		say("  ext %s=%d\n", extensions[i].name,
		    ioctl(fd, VFIO_CHECK_EXTENSION, extensions[i].number));
}

void do_group(const struct line *line)
{
	struct handle *opened = new_group(word(line, 1));
	char path[160], target[256];
	int length;

	device_path(path, sizeof(path), device(word(line, 2)), "iommu_group");
	length = readlink(path, target, sizeof(target) - 1);
	opened->group = -1;
	if (length > 0) {
		target[length] = 0;
		opened->group = atoi(strrchr(target, '/') + 1);
	}
	snprintf(path, sizeof(path), "/dev/vfio/%d", opened->group);
	opened->fd = open(path, O_RDWR);
	say("  open %s -> %s\n", path, result(opened->fd));
	say_what_the_kernel_said();
}

void do_group_status(const struct line *line)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};
	int returned = ioctl(group(word(line, 1))->fd, VFIO_GROUP_GET_STATUS, &status);

	say("  group status rc=%s flags=0x%x viable=%d container_set=%d\n", result(returned),
	    status.flags, !!(status.flags & VFIO_GROUP_FLAGS_VIABLE),
	    !!(status.flags & VFIO_GROUP_FLAGS_CONTAINER_SET));
	say_what_the_kernel_said();
}

void do_set_container(const struct line *line)
{
	int fd = group(word(line, 1))->fd;
	int returned = ioctl(fd, VFIO_GROUP_SET_CONTAINER, &container(word(line, 2))->fd);

	say("  SET_CONTAINER -> %s\n", result(returned));
	say_what_the_kernel_said();
}

void do_unset_container(const struct line *line)
{
	int returned = ioctl(group(word(line, 1))->fd, VFIO_GROUP_UNSET_CONTAINER);

	say("  UNSET_CONTAINER -> %s\n", result(returned));
	say_what_the_kernel_said();
}

void do_set_iommu(const struct line *line)
{
	int returned = ioctl(container(word(line, 1))->fd, VFIO_SET_IOMMU, number(line, 2));

	say("  SET_IOMMU(%s) -> %s\n", word(line, 2), result(returned));
	say_what_the_kernel_said();
}

static void say_capability(const struct vfio_info_cap_header *header)
{
	say("  cap id=%d ver=%d", header->id, header->version);
	if (header->id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
		const struct vfio_iommu_type1_info_cap_iova_range *ranges = (const void *)header;

		for (unsigned i = 0; i < ranges->nr_iovas; i++)
			say(" [0x%llx-0x%llx]", (unsigned long long)ranges->iova_ranges[i].start,
			    (unsigned long long)ranges->iova_ranges[i].end);
	}
	if (header->id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL) {
		const struct vfio_iommu_type1_info_dma_avail *left = (const void *)header;

		say(" dma_avail=%u", left->avail);
	}
	say("\n");
}

void do_info(const struct line *line)
{
	union {
		struct vfio_iommu_type1_info info;
		char room[PAGE];
	} answer = {.info = {.argsz = sizeof(answer)}};
	int returned = ioctl(container(word(line, 1))->fd, VFIO_IOMMU_GET_INFO, &answer.info);
	uint32_t offset = 0;

	say("INFO rc=%s flags=0x%x pgsizes=0x%llx\n", result(returned), answer.info.flags,
	    (unsigned long long)answer.info.iova_pgsizes);
	if (!returned && answer.info.flags & VFIO_IOMMU_INFO_CAPS)
		offset = answer.info.cap_offset;
	while (offset) {
		const struct vfio_info_cap_header *header = (const void *)(answer.room + offset);

		say_capability(header);
		offset = header->next;
	}
}

static void *map_first_region(int fd, struct vfio_region_info *region, int *returned)
{
	*returned = ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, region);
	return mmap(NULL, region->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, region->offset);
}

static void enable_bus_master(int fd)
{
	struct vfio_region_info config = {.argsz = sizeof(config),
					  .index = VFIO_PCI_CONFIG_REGION_INDEX};
	uint16_t command = 0;

	ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &config);
	(void)!pread(fd, &command, sizeof(command), config.offset + 4);
	command |= 6;
	(void)!pwrite(fd, &command, sizeof(command), config.offset + 4);
}

void do_get_device(const struct line *line)
{
	struct device *opened = device(word(line, 2));
	struct vfio_region_info region = {.argsz = sizeof(region), .index = 0};
	int returned;
	void *memory;

	opened->fd = ioctl(group(word(line, 1))->fd, VFIO_GROUP_GET_DEVICE_FD, opened->bdf);
	say("  GET_DEVICE_FD -> %s\n", result(opened->fd));
	if (opened->fd >= 0) {
		enable_bus_master(opened->fd);
		memory = map_first_region(opened->fd, &region, &returned);
		say("  region0 rc=%s size=0x%llx mmap=%s\n", result(returned),
		    (unsigned long long)region.size, memory == MAP_FAILED ? result(-1) : "OK");
		opened->vfio_bar = memory == MAP_FAILED ? NULL : memory;
		if (opened->vfio_bar)
			say("  edu id=0x%x\n", *(volatile uint32_t *)opened->vfio_bar);
	}
	say_what_the_kernel_said();
}

void do_close_device(const struct line *line)
{
	struct device *closed = device(word(line, 1));

	if (closed->vfio_bar)
		munmap((void *)closed->vfio_bar, BAR_SIZE);
	closed->vfio_bar = NULL;
	if (closed->fd >= 0)
		say("  close dev %s\n", result(close(closed->fd)));
	closed->fd = -1;
	say_what_the_kernel_said();
}

void do_close_group(const struct line *line)
{
	struct handle *closed = group(word(line, 1));

	say("  close group %s\n", result(close(closed->fd)));
	forget(closed);
	say_what_the_kernel_said();
}

void do_close_container(const struct line *line)
{
	struct handle *closed = container(word(line, 1));

	say("  close container %s\n", result(close(closed->fd)));
	forget(closed);
	say_what_the_kernel_said();
}

void do_map(const struct line *line)
{
	const char *access = word(line, 4);
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.vaddr = (uintptr_t)buffer(word(line, 5))->bytes + number(line, 6),
		.iova = number(line, 2),
		.size = number(line, 3),
	};
	int returned;

	if (strchr(access, 'r'))
		map.flags |= VFIO_DMA_MAP_FLAG_READ;
	if (strchr(access, 'w'))
		map.flags |= VFIO_DMA_MAP_FLAG_WRITE;
	returned = ioctl(container(word(line, 1))->fd, VFIO_IOMMU_MAP_DMA, &map);
	say("MAP step=%d iova=0x%llx len=0x%llx prot=%s -> %s\n", line->number,
	    (unsigned long long)map.iova, (unsigned long long)map.size, access, result(returned));
	say_what_the_kernel_said();
}

void do_unmap(const struct line *line)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = number(line, 2),
		.size = number(line, 3),
	};
	int returned;

	if (!strcmp(word_or(line, 4, ""), "all"))
		unmap.flags = VFIO_DMA_UNMAP_FLAG_ALL;
	returned = ioctl(container(word(line, 1))->fd, VFIO_IOMMU_UNMAP_DMA, &unmap);
	say("UNMAP step=%d iova=%s len=%s -> %s unmapped=0x%llx\n", line->number, word(line, 2),
	    word(line, 3), result(returned), (unsigned long long)unmap.size);
	say_what_the_kernel_said();
}
