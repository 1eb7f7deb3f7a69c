// SPDX-License-Identifier: GPL-2.0
// Back end: a modern virtio-rng, driven by hand. Its entropy is /dev/zero, so that bytes which
// landed are 0. Two accesses are made for one DMA: the ring must be reachable as well.
#include "attachlab.h"

struct virtq_desc {
	__le64 addr;
	__le32 len;
	__le16 flags, next;
};

// Fields of virtio_pci_common_cfg (virtio 1.2, 4.1.4.3)
enum {
	DRIVER_FEATURE_SELECT = 8,
	DRIVER_FEATURE = 12,
	DEVICE_STATUS = 20,
	QUEUE_SELECT = 22,
	QUEUE_SIZE = 24,
	QUEUE_ENABLE = 28,
	QUEUE_NOTIFY_OFF = 30,
	QUEUE_DESC = 32,
	QUEUE_DRIVER = 40,
	QUEUE_DEVICE = 48,
};
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };
enum { AVAIL = 0x100, USED = 0x200 };  // offsets in the ring's page

static void write_address(void __iomem *field, u64 address)
{
	iowrite32((u32)address, field);
	iowrite32(address >> 32, field + 4);
}

static bool negotiate(struct lab *lab)
{
	void __iomem *common = lab->common;
	int i;

	iowrite8(0, common + DEVICE_STATUS);
	for (i = 0; i < 100 && ioread8(common + DEVICE_STATUS); i++)
		msleep(1);
	iowrite8(ACKNOWLEDGE, common + DEVICE_STATUS);
	iowrite8(ACKNOWLEDGE | DRIVER, common + DEVICE_STATUS);
	iowrite32(0, common + DRIVER_FEATURE_SELECT);
	iowrite32(0, common + DRIVER_FEATURE);
	iowrite32(1, common + DRIVER_FEATURE_SELECT);
	iowrite32(3, common + DRIVER_FEATURE);	// VERSION_1 and ACCESS_PLATFORM
	iowrite8(ACKNOWLEDGE | DRIVER | FEATURES_OK, common + DEVICE_STATUS);
	return ioread8(common + DEVICE_STATUS) & FEATURES_OK;
}

// Returns how many buffers the device says it used; `status` is its status afterwards.
int rng_dma(struct lab *lab, u64 ring, u64 iova, u32 length, int *status)
{
	struct virtq_desc *desc = (void *)lab->ring;
	__le16 *avail = (void *)(lab->ring + AVAIL), *used = (void *)(lab->ring + USED);
	void __iomem *common = lab->common;
	int i, done;

	memset(lab->ring, 0, PAGE_SIZE);
	if (!negotiate(lab)) {
		*status = -2;
		return -2;
	}
	iowrite16(0, common + QUEUE_SELECT);
	iowrite16(8, common + QUEUE_SIZE);
	write_address(common + QUEUE_DESC, ring);
	write_address(common + QUEUE_DRIVER, ring + AVAIL);
	write_address(common + QUEUE_DEVICE, ring + USED);
	desc->addr = cpu_to_le64(iova);
	desc->len = cpu_to_le32(length);
	desc->flags = cpu_to_le16(2);  // the device writes
	avail[2] = 0;
	wmb();
	avail[1] = cpu_to_le16(1);
	wmb();
	iowrite16(1, common + QUEUE_ENABLE);
	iowrite8(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, common + DEVICE_STATUS);
	iowrite16(0, lab->notify + ioread16(common + QUEUE_NOTIFY_OFF) * lab->notify_multiplier);
	for (i = 0; i < 60; i++) {
		if (le16_to_cpu(READ_ONCE(used[1])))
			break;
		msleep(1);
	}
	*status = ioread8(common + DEVICE_STATUS);
	done = le16_to_cpu(READ_ONCE(used[1]));
	iowrite8(0, common + DEVICE_STATUS);
	return done;
}

static int find_registers(struct lab *lab)
{
	enum { COMMON = 1, NOTIFY = 2 };
	struct pci_dev *pci = lab->pci;
	int at = pci_find_capability(pci, PCI_CAP_ID_VNDR);

	for (; at; at = pci_find_next_capability(pci, at, PCI_CAP_ID_VNDR)) {
		u8 type, bar;
		u32 offset;

		pci_read_config_byte(pci, at + 3, &type);
		pci_read_config_byte(pci, at + 4, &bar);
		pci_read_config_dword(pci, at + 8, &offset);
		if (type != COMMON && type != NOTIFY)
			continue;
		if (!lab->bar)
			lab->bar = pci_iomap(pci, bar, 0);
		if (!lab->bar)
			return -EIO;
		if (type == COMMON) {
			lab->common = lab->bar + offset;
		} else {
			lab->notify = lab->bar + offset;
			pci_read_config_dword(pci, at + 16, &lab->notify_multiplier);
		}
	}
	return lab->common && lab->notify ? 0 : -ENODEV;
}

int rng_setup(struct lab *lab)
{
	int error = find_registers(lab);

	say("virtio-rng find rc=%d mult=%u", error, lab->notify_multiplier);
	if (error)
		return error;
	lab->ring = (u8 *)get_zeroed_page(GFP_KERNEL);
	return lab->ring ? 0 : -ENOMEM;
}
