// SPDX-License-Identifier: GPL-2.0
// Back end: QEMU's edu device, which copies between the bus and a buffer of its own.
#include "attachlab.h"

#define SLOT 0x40000ull

int edu_dma(struct lab *lab, u64 iova, u32 length, enum direction direction)
{
	int i;

	writeq(direction ? SLOT : iova, lab->bar + 0x80);
	writeq(direction ? iova : SLOT, lab->bar + 0x88);
	writeq(length, lab->bar + 0x90);
	writel(1 | direction, lab->bar + 0x98);
	for (i = 0; i < 400; i++) {
		if (!(readl(lab->bar + 0x98) & 1))
			return 0;
		msleep(1);
	}
	return -1;
}

// Load the pattern into the device, and see that it writes it back.
int edu_setup(struct lab *lab)
{
	dma_addr_t iova;
	u8 *buffer;
	int i;

	lab->bar = pci_iomap(lab->pci, 0, 0);
	if (!lab->bar)
		return -EIO;
	buffer = dma_alloc_coherent(lab->dev, PAGE_SIZE, &iova, GFP_KERNEL);
	if (!buffer)
		return -ENOMEM;
	for (i = 0; i < 256; i++)
		buffer[i] = pattern(i);
	edu_dma(lab, iova, 256, TO_DEVICE);
	memset(buffer, UNTOUCHED, PAGE_SIZE);
	edu_dma(lab, iova, LENGTH, TO_MEMORY);
	say("selftest dev%d coherent-buffer iova=0x%llx landed=%d/%d", lab_count, (u64)iova,
	    arrived(lab, buffer), LENGTH);
	dma_free_coherent(lab->dev, PAGE_SIZE, buffer, iova);
	return 0;
}
