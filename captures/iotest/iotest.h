// iotest: run a script of VFIO, iommufd and sysfs steps on QEMU's edu device, and print after each
// step what it returned, what the kernel traced and logged, and which bytes of a DMA reached
// memory.
//
//   say.c      how a line is printed; the kernel's trace and log; sysfs files
//   names.c    the script's names: buffers, devices, groups, containers
//   edu.c      DMA and its verdict: w, r, wphys, preload, msi
//   pci.c      drivers, the command register, groups and their type
//   vfio.c     containers, groups and device files of VFIO type1
//   iommufd.c  the same through iommufd and device cdevs
//   main.c     the list of verbs, and the loop over the script
#ifndef IOTEST_H
#define IOTEST_H

#include <stddef.h>
#include <stdint.h>

#define MOST 16	 // of each kind of name in one script
#define PAGE 4096
#define NAME 32

struct buffer {
	char name[NAME];
	uint8_t *bytes;
	size_t length;
};

struct device {
	char name[NAME];
	char bdf[32];
	volatile uint8_t *sysfs_bar;  // mapped by the verb bar; works without any driver
	volatile uint8_t *vfio_bar;   // mapped through the VFIO device; used first while it is open
	int fd;			      // VFIO device file, or -1
	uint32_t iommufd_id;
	int loaded;  // its buffer holds a pattern of this seed
	int seed;
};

struct handle {	 // a VFIO group or container
	char name[NAME];
	int fd;
	int group;
};

// One line of the script, cut into words. A missing word ends the run with a message.
struct line {
	int number;
	int count;
	char *words[24];
	const char *text;
};

const char *word(const struct line *line, int index);
const char *word_or(const struct line *line, int index, const char *otherwise);
uint64_t number(const struct line *line, int index);

// names.c
struct buffer *new_buffer(const char *name, size_t length);
struct buffer *buffer(const char *name);
struct device *new_device(const char *name, const char *bdf);
struct device *device(const char *name);
struct handle *new_group(const char *name);
struct handle *group(const char *name);
struct handle *new_container(const char *name);
struct handle *container(const char *name);
void forget(struct handle *handle);

// say.c
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
__attribute__((noreturn)) void stop(const char *format, ...);
const char *result(int returned);  // OK(n), or the name and number of errno
void open_kernel_voices(void);
void say_what_the_kernel_said(void);
int write_file(const char *path, const char *text);
void read_file(const char *path, char *text, size_t room);
void device_path(char *path, size_t room, const struct device *device, const char *file);
void wait_ms(int milliseconds);

// One function for each verb; main.c lists them.
typedef void verb(const struct line *);
verb do_write, do_write_physical, do_read, do_readback, do_preload, do_preload_physical, do_msi;
verb do_forget_pattern, do_buffer;
verb do_device, do_bar, do_command, do_show_command, do_bind, do_unbind, do_probe, do_group_type;
verb do_groups, do_remove, do_rescan, do_insert_module, do_write_file, do_show_file;
verb do_container, do_extensions, do_group, do_group_status, do_set_container, do_unset_container;
verb do_set_iommu, do_info, do_get_device, do_close_device, do_close_group, do_close_container;
verb do_map, do_unmap;
verb do_iommufd, do_cdev, do_iommufd_bind, do_ioas, do_hwpt, do_iommufd_destroy, do_iommufd_attach;
verb do_iommufd_detach, do_iommufd_map, do_iommufd_unmap, do_close_iommufd;

uint64_t physical(const void *address);	 // 0 if the page is not present or not ours to know

#endif
