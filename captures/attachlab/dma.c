// SPDX-License-Identifier: GPL-2.0
// One DMA and its verdict: how many of the bytes are in the page that should hold them.
#include "attachlab.h"

static u8 mark;	 // written to the device's configuration space; the emulator's trace shows it

static bool wanted(const char *step, const char *what)
{
	char name[160], each[96];
	const char *rest = only;
	size_t length;

	if (!*only)
		return true;
	snprintf(name, sizeof(name), "%s:%s", step, what);
	while (*rest) {
		length = strcspn(rest, "+");
		snprintf(each, sizeof(each), "%.*s", (int)length, rest);
		if (length && strstr(name, each))
			return true;
		rest += length;
		if (*rest)
			rest++;
	}
	return false;
}

// QEMU's zPCI looks at a table only when the guest says that it changed.
static void refresh_emulator(struct lab *lab)
{
	struct iommu_domain *domain = refresh ? iommu_get_domain_for_dev(lab->dev) : NULL;

	if (domain && domain->ops && domain->ops->flush_iotlb_all)
		domain->ops->flush_iotlb_all(domain);
}

static void mark_for_the_emulator(struct lab *lab)
{
	mark++;
	pci_write_config_byte(lab->pci, PCI_INTERRUPT_LINE, mark);
}

// The device writes to `iova`; we look at `page`.
void dma(struct lab *lab, const char *step, const char *what, u64 iova, u8 *page)
{
	int used, status = 0;

	if (!wanted(step, what))
		return;
	memset(P, UNTOUCHED, PAGE_SIZE);
	memset(Q, UNTOUCHED, PAGE_SIZE);
	memset(S, UNTOUCHED, PAGE_SIZE);
	mb();
	refresh_emulator(lab);
	if (lab->rng) {
		used = rng_dma(lab, lab->ring_iova, iova, LENGTH, &status);
		say("dma dev=%d step=%s what=%s iova=0x%llx landed=%d/%d ring=0x%llx used=%d "
		    "vstatus=0x%x",
		    lab_number(lab), step, what, iova, arrived(lab, page), LENGTH, lab->ring_iova,
		    used, status);
		return;
	}
	mark_for_the_emulator(lab);
	edu_dma(lab, iova, LENGTH, TO_MEMORY);
	say("dma dev=%d step=%s what=%s iova=0x%llx landed=%d/%d mark=%d", lab_number(lab), step,
	    what, iova, arrived(lab, page), LENGTH, mark);
}

// The device reads `iova`: did it get what `source` holds? What it got is written out through
// `good_iova`, which is known to be mapped to `good_page`. edu only.
void dma_read(struct lab *lab, const char *step, const char *what, u64 iova, u8 *source,
	      u64 good_iova, u8 *good_page)
{
	int i, got = 0, zeros = 0;

	if (lab->rng || !wanted(step, what))
		return;
	memset(good_page, 0x5A, PAGE_SIZE);
	edu_dma(lab, good_iova, LENGTH, TO_DEVICE);
	for (i = 0; i < LENGTH; i++)
		source[i] = 0x80 + i;
	mark_for_the_emulator(lab);
	edu_dma(lab, iova, LENGTH, TO_DEVICE);
	memset(good_page, UNTOUCHED, PAGE_SIZE);
	edu_dma(lab, good_iova, LENGTH, TO_MEMORY);
	for (i = 0; i < LENGTH; i++) {
		got += good_page[i] == (u8)(0x80 + i);
		zeros += good_page[i] == 0;
	}
	say("dmaread dev=%d step=%s what=%s iova=0x%llx got=%d/%d zeros=%d mark=%d",
	    lab_number(lab), step, what, iova, got, LENGTH, zeros, mark);
	for (i = 0; i < LENGTH; i++)
		good_page[i] = pattern(i);
	edu_dma(lab, good_iova, LENGTH, TO_DEVICE);
}

// The four places that tell blocked, identity, the DMA API's mapping and our own apart.
void full_set(struct lab *lab, const char *step, u64 api_iova)
{
	show_domain(lab, step);
	dma(lab, step, "T->P", T, P);
	if (api_iova)
		dma(lab, step, "dmaapi-iova->S", api_iova, S);
	dma(lab, step, "phys-of-P", virt_to_phys(P), P);
	dma(lab, step, "hole", HOLE, P);
}
