// SPDX-License-Identifier: GPL-2.0
// edulab: a driver of QEMU's edu device that uses the DMA API and looks where its DMA lands.
//
// edu waits 100 ms between the kick and its DMA. That is time to unmap a buffer while a DMA to it
// is pending, which tells lazy invalidation (flushed 10 ms after the unmap) from strict.
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>

#define SLOT 0x40000ull	 // edu's own buffer on the device side
#define LENGTH 64
#define UNTOUCHED 0xCC

enum direction { TO_DEVICE = 0, TO_MEMORY = 2 };

static void __iomem *edu;

static u8 pattern(int i)
{
	return (u8)(i * 7 + 0x11) | 1;
}

static void kick(u64 iova, u32 length, enum direction direction)
{
	writeq(direction ? SLOT : iova, edu + 0x80);
	writeq(direction ? iova : SLOT, edu + 0x88);
	writeq(length, edu + 0x90);
	writel(1 | direction, edu + 0x98);
}

static bool pending(void)
{
	return readl(edu + 0x98) & 1;
}

static void finish(void)
{
	int i;

	for (i = 0; i < 400 && pending(); i++)
		msleep(1);
}

static int landed(const u8 *bytes)
{
	int i, count = 0;

	for (i = 0; i < LENGTH; i++)
		count += bytes[i] == pattern(i);
	return count;
}

static void verdict(const char *label, u64 iova, int count)
{
	pr_info("edulab RESULT label=%s iova=0x%llx len=%d landed=%d outcome=%s\n", label, iova,
		LENGTH, count,
		count == LENGTH ? "LANDED"
		: count		? "PARTIAL"
				: "BLOCKED");
}

// The device writes to an address; did the bytes arrive at `at` in this page?
static void write_and_look(const char *label, u64 iova, u8 *page, int at)
{
	memset(page, UNTOUCHED, PAGE_SIZE);
	kick(iova, LENGTH, TO_MEMORY);
	finish();
	verdict(label, iova, landed(page + at));
}

static void coherent_buffer(struct device *dev, u8 *coherent, dma_addr_t iova)
{
	int i;

	pr_info("edulab coherent iova=0x%llx phys=0x%llx same=%d\n", (u64)iova,
		(u64)virt_to_phys(coherent), (u64)iova == (u64)virt_to_phys(coherent));
	for (i = 0; i < 256; i++)
		coherent[i] = pattern(i);
	kick(iova, 256, TO_DEVICE);  // from here on the device holds the pattern
	finish();
	write_and_look("X01-coherent-write", iova, coherent, 0);
}

// Kick, wait until `lead` ms before the DMA, unmap, check that the DMA is still pending.
static void unmap_before_dma(struct device *dev, const char *label, u8 *page, dma_addr_t iova,
			     int lead)
{
	u64 start, end;
	bool still;

	memset(page, UNTOUCHED, PAGE_SIZE);
	start = ktime_get_ns();
	kick(iova, LENGTH, TO_MEMORY);
	if (lead > 10)
		msleep(100 - lead - 10);
	else
		mdelay(100 - lead);
	dma_unmap_single(dev, iova, PAGE_SIZE, DMA_FROM_DEVICE);
	end = ktime_get_ns();
	still = pending();
	finish();
	msleep(5);
	pr_info("edulab %s unmap finished %llu us after kick, dma still pending at unmap=%d, "
		"landed=%d\n",
		label, (end - start) / 1000, still, landed(page));
	verdict(label, iova, landed(page));
}

static dma_addr_t map_and_warm(struct device *dev, u8 *page)
{
	dma_addr_t iova = dma_map_single(dev, page, PAGE_SIZE, DMA_FROM_DEVICE);

	memset(page, UNTOUCHED, PAGE_SIZE);
	kick(iova, LENGTH, TO_MEMORY);	// the IOTLB now remembers this page
	finish();
	return iova;
}

static void unmapping(struct device *dev, u8 *page, u8 *coherent, dma_addr_t coherent_iova)
{
	dma_addr_t iova;

	memset(page, UNTOUCHED, PAGE_SIZE);
	iova = dma_map_single(dev, page, PAGE_SIZE, DMA_FROM_DEVICE);
	pr_info("edulab map_single FROM_DEVICE iova=0x%llx phys=0x%llx same=%d\n", (u64)iova,
		(u64)virt_to_phys(page), (u64)iova == (u64)virt_to_phys(page));
	write_and_look("X02-mapped-from-device-write", iova, page, 0);
	if (iova + PAGE_SIZE == coherent_iova)
		write_and_look("X03-overrun-to-next-iova-page-is-the-coherent-buffer",
			       iova + PAGE_SIZE, coherent, 0);
	unmap_before_dma(dev, "X04a-unmap-3ms-before-dma", page, iova, 3);
	iova = map_and_warm(dev, page);
	unmap_before_dma(dev, "X04b-unmap-30ms-before-dma", page, iova, 30);
	iova = map_and_warm(dev, page);
	unmap_before_dma(dev, "X04c-unmap-8ms-before-dma", page, iova, 8);
	msleep(50);
	write_and_look("X05-100ms-after-unmap", iova, page, 0);
}

static void direction_and_size(struct device *dev, u8 *page)
{
	dma_addr_t iova, second;

	memset(page, UNTOUCHED, PAGE_SIZE);
	iova = dma_map_single(dev, page, PAGE_SIZE, DMA_TO_DEVICE);
	write_and_look("X06-mapped-to-device-but-device-writes", iova, page, 0);
	dma_unmap_single(dev, iova, PAGE_SIZE, DMA_TO_DEVICE);
	msleep(50);

	memset(page, UNTOUCHED, PAGE_SIZE);
	iova = dma_map_single(dev, page + 0x100, LENGTH, DMA_FROM_DEVICE);
	write_and_look("X07-same-page-outside-64B-mapping", (iova & PAGE_MASK) + 0x800, page,
		       0x800);

	second = dma_map_single(dev, page, PAGE_SIZE, DMA_FROM_DEVICE);
	pr_info("edulab second map of same page iova=0x%llx first=0x%llx\n", (u64)second,
		(u64)iova);
	dma_unmap_single(dev, iova, LENGTH, DMA_FROM_DEVICE);
	msleep(50);
	write_and_look("X08-second-mapping-survives-first-unmap", second, page, 0);
	write_and_look("X09-first-iova-after-its-unmap", iova & PAGE_MASK, page, 0);
	dma_unmap_single(dev, second, PAGE_SIZE, DMA_FROM_DEVICE);
	msleep(50);
	write_and_look("X10-raw-physical-address", virt_to_phys(page), page, 0);

	iova = dma_map_single(dev, page, PAGE_SIZE, DMA_FROM_DEVICE);
	pr_info("edulab remap iova=0x%llx previous=0x%llx\n", (u64)iova, (u64)second);
	dma_unmap_single(dev, iova, PAGE_SIZE, DMA_FROM_DEVICE);
}

static int edulab_probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	struct device *dev = &pci->dev;
	dma_addr_t coherent_iova;
	u8 *coherent, *page;
	int error;

	error = pci_enable_device(pci);
	if (error)
		return error;
	pci_set_master(pci);
	edu = pci_iomap(pci, 0, 0);
	if (!edu)
		return -EIO;
	pr_info("edulab mask64 rc=%d\n", dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64)));
	coherent = dma_alloc_coherent(dev, PAGE_SIZE, &coherent_iova, GFP_KERNEL);
	page = (u8 *)__get_free_page(GFP_KERNEL);
	if (!coherent || !page)
		return -ENOMEM;

	coherent_buffer(dev, coherent, coherent_iova);
	unmapping(dev, page, coherent, coherent_iova);
	direction_and_size(dev, page);

	dma_free_coherent(dev, PAGE_SIZE, coherent, coherent_iova);
	msleep(50);
	free_page((unsigned long)page);
	return 0;
}

static void edulab_remove(struct pci_dev *pci)
{
	pci_iounmap(pci, edu);
	pci_disable_device(pci);
}

static const struct pci_device_id edulab_ids[] = {{PCI_DEVICE(0x1234, 0x11e8)}, {}};
MODULE_DEVICE_TABLE(pci, edulab_ids);

static struct pci_driver edulab_driver = {
	.name = "edulab",
	.id_table = edulab_ids,
	.probe = edulab_probe,
	.remove = edulab_remove,
};
module_pci_driver(edulab_driver);
MODULE_DESCRIPTION("DMA API experiments on QEMU's edu device");
MODULE_LICENSE("GPL");
