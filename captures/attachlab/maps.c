// SPDX-License-Identifier: GPL-2.0
// C00…C22: what map, unmap and iova_to_phys return, and what a DMA then reaches.
#include "attachlab.h"

#define HUGE 0x200000

static u64 good;  // an IOVA that stays mapped to S, for reading back

// How the fault handler of a domain is called, if at all.
static int report_fault(struct iommu_domain *domain, struct device *dev, unsigned long iova,
			int flags, void *token)
{
	say("fault_handler called iova=0x%lx flags=%d", iova, flags);
	return -ENOSYS;
}

static void looking_up(struct lab *lab)
{
	map("C01", "plain", D3, T, virt_to_phys(P), PAGE_SIZE, RW);
	to_phys("C01", "start", D3, T);
	to_phys("C01", "plus-0x123", D3, T + 0x123);
	to_phys("C01", "last-byte", D3, T + 0xfff);
	to_phys("C01", "next-page-hole", D3, T + 0x1000);
	to_phys("C01", "far-hole", D3, HOLE + 0x40000000);
	say("step=C01 pa(P)=0x%llx", (u64)virt_to_phys(P));
	dma(lab, "C01", "T->P", T, P);
}

static void unmapping(struct lab *lab, u64 block)
{
	unmap("C02", "hole-4K", D3, HOLE, PAGE_SIZE);
	unmap("C02", "hole-64K", D3, HOLE, 0x10000);
	unmap("C02", "size-0", D3, T, 0);
	unmap("C02", "unaligned-iova", D3, T + 0x10, PAGE_SIZE);
	unmap("C02", "unaligned-size", D3, T, 0x123);
	dma(lab, "C02", "T->P(still)", T, P);

	unmap("C03", "bigger-than-mapping-16K", D3, T, 0x4000);
	to_phys("C03", "after", D3, T);
	dma(lab, "C03", "T->P", T, P);
	unmap("C03", "twice", D3, T, PAGE_SIZE);

	map("C04", "at-T+4K-only", D3, T + 0x1000, virt_to_phys(P), PAGE_SIZE, RW);
	unmap("C04", "range-with-leading-hole-T..T+8K", D3, T, 0x2000);
	to_phys("C04", "T+4K-after", D3, T + 0x1000);
	dma(lab, "C04", "T+4K->P", T + 0x1000, P);
	unmap("C04", "cleanup", D3, T + 0x1000, PAGE_SIZE);

	map("C05", "4-pages", D3, T, block, 0x4000, RW);
	unmap("C05", "page-2-of-4", D3, T + 0x1000, PAGE_SIZE);
	to_phys("C05", "page1", D3, T);
	to_phys("C05", "page2", D3, T + 0x1000);
	to_phys("C05", "page3", D3, T + 0x2000);
	unmap("C05", "all-4-with-a-hole", D3, T, 0x4000);
	to_phys("C05", "page4-after", D3, T + 0x3000);
	unmap("C05", "rest", D3, T + 0x2000, 0x2000);
}

static void mapping_over(struct lab *lab, u64 block)
{
	map("C06", "first", D3, T, virt_to_phys(P), PAGE_SIZE, RW);
	map("C06", "over-existing-other-page", D3, T, virt_to_phys(Q), PAGE_SIZE, RW);
	to_phys("C06", "after", D3, T);
	say("step=C06 pa(P)=0x%llx pa(Q)=0x%llx", (u64)virt_to_phys(P), (u64)virt_to_phys(Q));
	dma(lab, "C06", "T->P", T, P);
	dma(lab, "C06", "T->Q", T, Q);
	map("C06", "over-existing-same-page", D3, T, virt_to_phys(Q), PAGE_SIZE, RW);
	unmap("C06", "once", D3, T, PAGE_SIZE);
	to_phys("C06", "after-unmap", D3, T);
	unmap("C06", "second-time", D3, T, PAGE_SIZE);
	dma(lab, "C06-unmapped", "T->P", T, P);
	dma(lab, "C06-unmapped", "T->Q", T, Q);

	map("C07", "at-T+4K", D3, T + 0x1000, virt_to_phys(P), PAGE_SIZE, RW);
	map("C07", "8K-over-hole+existing", D3, T, block, 0x2000, RW);
	to_phys("C07", "T", D3, T);
	to_phys("C07", "T+4K", D3, T + 0x1000);
	unmap("C07", "cleanup", D3, T, 0x2000);
	unmap("C07", "cleanup2", D3, T + 0x1000, PAGE_SIZE);
}

static void protection(struct lab *lab)
{
	u64 far = T + 0x10000;

	map("C08", "prot-0", D3, T, virt_to_phys(P), PAGE_SIZE, 0);
	to_phys("C08", "after-prot-0", D3, T);
	dma(lab, "C08-prot-0", "T->P", T, P);
	dma_read(lab, "C08-prot-0", "T", T, P, good, S);
	unmap("C08", "cleanup", D3, T, PAGE_SIZE);

	map("C09", "read-only", D3, T, virt_to_phys(P), PAGE_SIZE, IOMMU_READ);
	dma(lab, "C09-read-only", "T->P", T, P);
	dma_read(lab, "C09-read-only", "T", T, P, good, S);
	unmap("C09", "cleanup", D3, T, PAGE_SIZE);

	map("C10", "write-only", D3, far, virt_to_phys(P), PAGE_SIZE, IOMMU_WRITE);
	dma(lab, "C10-write-only", "T->P", far, P);
	dma_read(lab, "C10-write-only", "T", far, P, good, S);
	unmap("C10", "cleanup", D3, far, PAGE_SIZE);
}

static void wrong_arguments(void)
{
	if (danger == 1)
		map("C11", "size-0", D3, T, virt_to_phys(P), 0, RW);
	map("C11", "unaligned-iova", D3, T + 0x10, virt_to_phys(P), PAGE_SIZE, RW);
	map("C11", "unaligned-pa", D3, T, virt_to_phys(P) + 0x10, PAGE_SIZE, RW);
	map("C11", "unaligned-size", D3, T, virt_to_phys(P), 0x800, RW);
	to_phys("C11", "after-errors", D3, T);
}

static void end_of_aperture(struct lab *lab, u64 block)
{
	u64 end = D3->geometry.aperture_end, last = end & PAGE_MASK;
	bool mapped;

	if (!end || end == ~0ull)
		return;
	mapped = !map("C12", "last-page-of-aperture", D3, last, virt_to_phys(P), PAGE_SIZE, RW);
	to_phys("C12", "last-page-of-aperture", D3, last);
	if (mapped) {
		if (!lab->rng)
			dma(lab, "C12", "last-page->P", last, P);
		unmap("C12", "last-page", D3, last, PAGE_SIZE);
	}
	mapped = !map("C12", "one-page-beyond-aperture", D3, last + PAGE_SIZE, virt_to_phys(P),
		      PAGE_SIZE, RW);
	to_phys("C12", "beyond", D3, last + PAGE_SIZE);
	if (mapped || danger == 2)
		unmap("C12", "beyond", D3, last + PAGE_SIZE, PAGE_SIZE);
	mapped = !map("C12", "straddles-aperture-end", D3, last, block, 0x2000, RW);
	to_phys("C12", "straddle-first-page", D3, last);
	if (mapped || danger == 3)
		unmap("C12", "straddle-cleanup", D3, last, 0x2000);
}

static void map_and_look(const char *why, u64 iova)
{
	if (map("C13", why, D3, iova, virt_to_phys(P), PAGE_SIZE, RW))
		return;
	to_phys("C13", why, D3, iova);
	unmap("C13", why, D3, iova, PAGE_SIZE);
}

static void odd_addresses(void)
{
	map_and_look("iova-0", 0);
	if (danger == 6)
		map_and_look("top-of-64-bit", ~0xfffull);
	map_and_look("iova-2^51", 1ull << 51);
	map_and_look("iova-2^39", 1ull << 39);
	if (danger == 4)
		unmap("C13", "nothing-there-2^51", D3, 1ull << 51, PAGE_SIZE);
}

static void interrupt_window(void)
{
	map("C14", "msi-window-0xfee00000", D3, 0xfee00000ull, virt_to_phys(P), PAGE_SIZE, RW);
	to_phys("C14", "msi", D3, 0xfee00000ull);
	unmap("C14", "msi", D3, 0xfee00000ull, PAGE_SIZE);
}

static void say_changed_bytes(const u8 *bytes)
{
	u64 i, first = 0, last = 0, count = 0;

	for (i = 0; i < HUGE; i++) {
		if (bytes[i] == 0x33)
			continue;
		if (!count++)
			first = i;
		last = i;
	}
	say("step=C18 call=check-data-of-the-2M-page "
	    "args=filled-with-0x33,first=0x%llx,last=0x%llx "
	    "rc=%llu (bytes that changed during iommu_unmap)",
	    first, last, count);
}

static void superpages(struct lab *lab, u64 block, u8 *bytes)
{
	u64 iova = ALIGN(T, HUGE) + 0x1000000;

	map("C15", "2M-aligned-2M", D3, iova, block, HUGE, RW);
	to_phys("C15", "start", D3, iova);
	to_phys("C15", "+1M+0x123", D3, iova + 0x100123);
	say("step=C15 bp=0x%llx", block);
	dma(lab, "C15", "2M+0", iova, bytes);
	say("step=C15 check first-bytes-of-2M landed=%d", arrived(lab, bytes));

	unmap("C16", "first-4K-of-2M", D3, iova, PAGE_SIZE);
	to_phys("C16", "first-4K", D3, iova);
	to_phys("C16", "second-4K", D3, iova + 0x1000);
	to_phys("C16", "last-4K", D3, iova + 0x1ff000);
	memset(bytes, UNTOUCHED, HUGE);
	dma(lab, "C16", "2M+0", iova, bytes);
	dma(lab, "C16", "2M+4K", iova + 0x1000, bytes + 0x1000);
	dma(lab, "C16", "2M+1M", iova + 0x100000, bytes + 0x100000);
	unmap("C17", "whole-2M-after", D3, iova, HUGE);
	to_phys("C17", "last-4K", D3, iova + 0x1ff000);

	map("C18", "2M-again", D3, iova, block, HUGE, RW);
	memset(bytes, 0x33, HUGE);
	unmap("C18", "4K-in-the-middle-of-2M", D3, iova + 0x100000, PAGE_SIZE);
	say_changed_bytes(bytes);
	to_phys("C18", "first-4K", D3, iova);
	to_phys("C18", "middle", D3, iova + 0x100000);
	to_phys("C18", "last-4K", D3, iova + 0x1ff000);
	unmap("C18", "whole-2M-after", D3, iova, HUGE);
	unmap("C18", "second-half", D3, iova + 0x101000, 0xff000);

	map("C19", "2M-third", D3, iova, block, HUGE, RW);
	map("C19", "4K-over-superpage", D3, iova + 0x1000, virt_to_phys(P), PAGE_SIZE, RW);
	to_phys("C19", "+4K", D3, iova + 0x1000);
	to_phys("C19", "+8K", D3, iova + 0x2000);
	unmap("C19", "whole", D3, iova, HUGE);
	unmap("C19", "rest", D3, iova + 0x2000, 0x1fe000);

	map("C20", "4K-first", D3, iova + 0x5000, virt_to_phys(P), PAGE_SIZE, RW);
	map("C20", "2M-over-4K", D3, iova, block, HUGE, RW);
	to_phys("C20", "+0", D3, iova);
	to_phys("C20", "+20K", D3, iova + 0x5000);
	unmap("C20", "whole", D3, iova, HUGE);
	unmap("C20", "rest", D3, iova + 0x5000, 0x1fb000);
	unmap("C20", "rest2", D3, iova + 0x6000, 0x1fa000);
}

void sequence_maps(struct lab *lab)
{
	struct page *pages = alloc_pages(GFP_KERNEL, get_order(HUGE));
	u64 block;

	if (!pages) {
		say("step=C00 no-2M-page");
		return;
	}
	block = page_to_phys(pages);
	good = T + 0x8000000;
	D3 = alloc_domain("C00", "D3");
	if (!D3)
		return;
	attach(lab, "C00", D3);
	map_ring(lab, "C00", D3);
	map("C00", "known-good-page", D3, good, virt_to_phys(S), PAGE_SIZE, RW);
	if (!lab->rng)
		iommu_set_fault_handler(D3, report_fault, NULL);

	looking_up(lab);
	unmapping(lab, block);
	mapping_over(lab, block);
	protection(lab);
	wrong_arguments();
	// On s390 since 6.7 the geometry is larger than the function's window; one map outside it
	// makes the function fail every later call with EIO.
	if (!(lab->rng && SINCE(6, 7)) || danger == 7) {
		end_of_aperture(lab, block);
		odd_addresses();
		interrupt_window();
	}
	superpages(lab, block, page_address(pages));

	dma(lab, "C21-fault-handler-armed", "hole", HOLE, P);
	detach(lab, "C22", D3);
	unmap("C22", "after-detach", D3, good, PAGE_SIZE);
	show_domain(lab, "C22");
	iommu_domain_free(D3);
	D3 = NULL;
	__free_pages(pages, get_order(HUGE));
}
