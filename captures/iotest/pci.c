// A PCI device seen through sysfs: its drivers, its command register, its IOMMU group.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "iotest.h"

#define BAR_SIZE 0x100000
#define PCI_COMMAND 4

void do_device(const struct line *line)
{
	new_device(word(line, 1), word(line, 2));
}

void do_bar(const struct line *line)
{
	struct device *edu = device(word(line, 1));
	char path[128];
	void *memory = MAP_FAILED;
	int fd;

	device_path(path, sizeof(path), edu, "resource0");
	fd = open(path, O_RDWR | O_SYNC);
	if (fd >= 0)
		memory = mmap(NULL, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	say("  bar mmap %s\n", memory == MAP_FAILED ? result(-1) : "OK");
	if (memory != MAP_FAILED)
		edu->sysfs_bar = memory;
	if (fd >= 0)
		close(fd);
	if (edu->sysfs_bar)
		say("  edu id=0x%x\n", *(volatile uint32_t *)edu->sysfs_bar);
	say_what_the_kernel_said();
}

static int command_register(const struct device *device, uint16_t *value, int write)
{
	char path[128];
	int fd, done;

	device_path(path, sizeof(path), device, "config");
	fd = open(path, write ? O_RDWR : O_RDONLY);
	if (fd < 0)
		return -1;
	done = write ? pwrite(fd, value, 2, PCI_COMMAND) : pread(fd, value, 2, PCI_COMMAND);
	close(fd);
	return done == 2 ? 0 : -1;
}

void do_command(const struct line *line)
{
	struct device *target = device(word(line, 1));
	uint16_t value = number(line, 2), now = 0;
	int returned = command_register(target, &value, 1);

	command_register(target, &now, 0);
	say("  PCI_COMMAND write=0x%x rc=%d now=0x%x\n", value, returned, now);
}

void do_show_command(const struct line *line)
{
	uint16_t now = 0;

	command_register(device(word(line, 1)), &now, 0);
	say("  PCI_COMMAND=0x%x (mem=%d master=%d)\n", now, !!(now & 2), !!(now & 4));
}

static void override_driver(const struct device *device, const char *driver)
{
	char path[160];

	device_path(path, sizeof(path), device, "driver_override");
	write_file(path, driver);
}

void do_bind(const struct line *line)
{
	struct device *target = device(word(line, 1));
	char path[160];

	override_driver(target, word(line, 2));
	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/bind", word(line, 2));
	say("  bind %s -> %s\n", word(line, 2), result(write_file(path, target->bdf)));
	wait_ms(50);
	say_what_the_kernel_said();
}

void do_unbind(const struct line *line)
{
	struct device *target = device(word(line, 1));
	char path[160];

	device_path(path, sizeof(path), target, "driver/unbind");
	say("  unbind %s\n", result(write_file(path, target->bdf)));
	wait_ms(20);
	say_what_the_kernel_said();
}

void do_probe(const struct line *line)
{
	struct device *target = device(word(line, 1));

	override_driver(target, word_or(line, 2, "\n"));
	say("  probe -> %s\n", result(write_file("/sys/bus/pci/drivers_probe", target->bdf)));
	wait_ms(50);
	say_what_the_kernel_said();
}

void do_group_type(const struct line *line)
{
	char path[160], type[64];
	int returned, error;

	device_path(path, sizeof(path), device(word(line, 1)), "iommu_group/type");
	read_file(path, type, sizeof(type));
	say("  group type=%s\n", type);
	if (line->count < 3)
		return;
	returned = write_file(path, word(line, 2));
	error = errno;
	read_file(path, type, sizeof(type));
	errno = error;
	say("  set type %s -> %s now=%s\n", word(line, 2), result(returned), type);
	say_what_the_kernel_said();
}

void do_remove(const struct line *line)
{
	char path[160];

	device_path(path, sizeof(path), device(word(line, 1)), "remove");
	say("  remove %s\n", result(write_file(path, "1")));
	wait_ms(50);
	say_what_the_kernel_said();
}

void do_rescan(const struct line *line)
{
	(void)line;
	say("  rescan %s\n", result(write_file("/sys/bus/pci/rescan", "1")));
	wait_ms(100);
	say_what_the_kernel_said();
}

void do_insert_module(const struct line *line)
{
	int fd = open(word(line, 1), O_RDONLY);
	int returned = syscall(SYS_finit_module, fd, "", 0);

	say("  insmod %s %s\n", word(line, 1), result(returned));
	if (fd >= 0)
		close(fd);
	wait_ms(200);
	say_what_the_kernel_said();
}

void do_write_file(const struct line *line)
{
	int returned = write_file(word(line, 1), word(line, 2));

	say("  write %s %s -> %s\n", word(line, 1), word(line, 2), result(returned));
	wait_ms(20);
	say_what_the_kernel_said();
}

void do_show_file(const struct line *line)
{
	char text[16384], *rest = text, *each;

	read_file(word(line, 1), text, sizeof(text));
	say("CAT %s\n", word(line, 1));
	while ((each = strsep(&rest, "\n")))
		say("  > %s\n", each);
}

static int not_hidden(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void say_member(const char *bdf)
{
	struct device named = {0};
	char path[256], target[256], vendor[32], id[32];
	const char *driver = "-";
	int length;

	snprintf(named.bdf, sizeof(named.bdf), "%.31s", bdf);
	device_path(path, sizeof(path), &named, "driver");
	length = readlink(path, target, sizeof(target) - 1);
	if (length > 0) {
		target[length] = 0;
		driver = strrchr(target, '/') + 1;
	}
	device_path(path, sizeof(path), &named, "vendor");
	read_file(path, vendor, sizeof(vendor));
	device_path(path, sizeof(path), &named, "device");
	read_file(path, id, sizeof(id));
	say("%s(%s:%s,drv=%s)", bdf, vendor + 2, id + 2, driver);
}

static void say_group(int number)
{
	char path[300], text[4096];
	struct dirent **members;
	int count;

	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%d/type", number);
	read_file(path, text, sizeof(text));
	say("GROUP %d type=%s devices=", number, text);
	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%d/devices", number);
	count = scandir(path, &members, not_hidden, alphasort);
	for (int i = 0; i < count; i++) {
		if (i)
			say(",");
		say_member(members[i]->d_name);
		free(members[i]);
	}
	if (count >= 0)
		free(members);
	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%d/reserved_regions", number);
	read_file(path, text, sizeof(text));
	for (char *newline; (newline = strchr(text, '\n'));)
		*newline = ';';
	say(" resv=%s\n", text);
}

void do_groups(const struct line *line)
{
	char path[300];
	struct stat status;
	struct dirent **devices;
	int count;

	(void)line;
	for (int number = 0; number < 128; number++) {
		snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%d", number);
		if (!stat(path, &status))
			say_group(number);
	}
	count = scandir("/sys/bus/pci/devices", &devices, not_hidden, alphasort);
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group",
			 devices[i]->d_name);
		if (lstat(path, &status))
			say("NOGROUP %s\n", devices[i]->d_name);
		free(devices[i]);
	}
	if (count >= 0)
		free(devices);
	say_what_the_kernel_said();
}
