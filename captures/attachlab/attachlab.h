// SPDX-License-Identifier: GPL-2.0
// attachlab: call the IOMMU core's own API on a device, and report what the call returned and
// whether a DMA made by the device then reached memory.
//
//   main.c    parameters, the devices, which sequence runs
//   edu.c     back end: QEMU's edu device
//   rng.c     back end: a virtio-rng, where there is no edu (s390x)
//   dma.c     one DMA and its verdict
//   calls.c   each function of the core, called and reported
//   zpci.c    what s390's own structures hold
//   detach.c claim.c maps.c group.c   the sequences; a step's name is the same on every kernel
//
// One source for 5.10 to 7.x. Calls that are known to hit a kernel BUG are behind `danger`.
#ifndef ATTACHLAB_H
#define ATTACHLAB_H

#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/version.h>

#define SINCE(major, minor) (LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0))
#define LENGTH 64
#define UNTOUCHED 0xCC
#define RW (IOMMU_READ | IOMMU_WRITE)

#define say(format, ...) pr_info("attachlab " format "\n", ##__VA_ARGS__)

struct lab {
	struct pci_dev *pci;
	struct device *dev;
	struct iommu_group *group;
	void __iomem *bar;
	bool rng;  // a virtio-rng, not an edu
	void __iomem *common, *notify;
	u32 notify_multiplier;
	u8 *ring;
	u64 ring_iova;	// where the device is told that its ring is
};

extern struct lab labs[2];
extern int lab_count;
extern u8 *P, *Q, *S;  // three pages, called so in the transcript
extern struct iommu_domain *D0, *D1, *D2, *D3;
extern u64 old_api_iova, new_api_iova;	// shown by show_domain() once they are set

extern ulong T;	 // the IOVA under test: no RAM in a guest of 512 MB
extern ulong R;	 // where a domain maps the virtio ring
extern char *only;
extern int danger, refresh, use_api;

#define HOLE (T + 0x100000)

static inline int lab_number(const struct lab *lab)
{
	return lab - labs;
}

static inline u8 pattern(int i)
{
	return (u8)(i * 7 + 0x11) | 1;
}

// Of LENGTH bytes written by the device, how many are there? edu writes a pattern, rng zeros.
static inline int arrived(const struct lab *lab, const u8 *bytes)
{
	int i, count = 0;

	for (i = 0; i < LENGTH; i++)
		count += bytes[i] == (lab->rng ? 0 : pattern(i));
	return count;
}

enum direction { TO_DEVICE = 0, TO_MEMORY = 2 };
int edu_dma(struct lab *lab, u64 iova, u32 length, enum direction direction);
int edu_setup(struct lab *lab);

int rng_setup(struct lab *lab);
int rng_dma(struct lab *lab, u64 ring, u64 iova, u32 length, int *status);

// dma.c
void dma(struct lab *lab, const char *step, const char *what, u64 iova, u8 *page);
void dma_read(struct lab *lab, const char *step, const char *what, u64 iova, u8 *source,
	      u64 good_iova, u8 *good_page);
void full_set(struct lab *lab, const char *step, u64 api_iova);

// calls.c
void show_domain(struct lab *lab, const char *step);
struct iommu_domain *alloc_domain(const char *step, const char *name);
int map(const char *step, const char *why, struct iommu_domain *domain, u64 iova, u64 pa,
	size_t size, int prot);
size_t unmap(const char *step, const char *why, struct iommu_domain *domain, u64 iova, size_t size);
void to_phys(const char *step, const char *why, struct iommu_domain *domain, u64 iova);
int attach(struct lab *lab, const char *step, struct iommu_domain *domain);
void detach(struct lab *lab, const char *step, struct iommu_domain *domain);
int attach_group(struct lab *lab, const char *step, struct iommu_domain *domain);
void detach_group(struct lab *lab, const char *step, struct iommu_domain *domain);
#if SINCE(5, 19)
int claim(struct lab *lab, const char *step, const char *who, void *owner);
void release(struct lab *lab, const char *step);
void show_claimed(struct lab *lab, const char *step);
#endif
u64 api_map(struct lab *lab, const char *step, u8 *page);
void api_map_ring(struct lab *lab, const char *step);
void map_ring(struct lab *lab, const char *step, struct iommu_domain *domain);
void ensure_mapped(struct lab *lab, const char *step, struct iommu_domain *domain, u8 *page);
void remap(struct lab *lab, const char *step, struct iommu_domain *domain, u8 *page);

void show_zpci(struct lab *lab, const char *step);

void sequence_detach(struct lab *lab);
void sequence_claim(struct lab *lab);
void sequence_maps(struct lab *lab);
void sequence_group(struct lab *lab);

#endif
