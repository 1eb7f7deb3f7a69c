// SPDX-License-Identifier: GPL-2.0
// A01…A18: attach and detach, of a device and of its group; with the wrong domain, twice, mixed.
#include "attachlab.h"

static u64 ring_by_api;	 // virtio-rng: where the DMA API last mapped the ring

// While a domain is attached, what does the DMA API do? On s390 it crashes: hence `danger`.
static void use_api_while_attached(struct lab *lab, const char *step)
{
	u64 iova;

	if (!(!lab->rng && SINCE(5, 19)) && danger != 5)
		return;
	iova = api_map(lab, step, Q);
	show_domain(lab, step);
	if (!iova)
		return;
	dma(lab, step, "dmaapi-iova->Q", iova, Q);
	if (!lab->rng)
		dma_unmap_single(lab->dev, iova, PAGE_SIZE, DMA_FROM_DEVICE);
}

static void before_attach(struct lab *lab, u64 *api_iova)
{
	api_map_ring(lab, "A01");
	ring_by_api = lab->ring_iova;
	if (lab->rng)
		api_map(lab, "A01-spacer", P);
	if (use_api)
		*api_iova = api_map(lab, "A01", S);
	old_api_iova = *api_iova;
	full_set(lab, "A01-before", *api_iova);

	map("A02", "never-attached", D1, T, virt_to_phys(P), PAGE_SIZE, RW);
	to_phys("A02", "never-attached", D1, T);
	unmap("A02", "never-attached", D1, T, PAGE_SIZE);
}

static void attached(struct lab *lab, u64 api_iova)
{
	attach(lab, "A03", D1);
	use_api_while_attached(lab, "A03-api-while-attached");
	full_set(lab, "A03-attached-D1-empty", api_iova);
	map_ring(lab, "A04", D1);
	if (lab->rng)
		full_set(lab, "A04-attached-D1-ring-only", api_iova);
	map("A05", "first-page", D1, T, virt_to_phys(P), PAGE_SIZE, RW);
	full_set(lab, "A05-attached-D1-T-mapped", api_iova);

	attach(lab, "A06-while-D1", D2);
	attach(lab, "A06-same-again", D1);
	show_domain(lab, "A06");
	dma(lab, "A06-after-busy", "T->P", T, P);
	attach_group(lab, "A06-while-D1", D2);
	attach_group(lab, "A06-same-again", D1);
	show_domain(lab, "A06b");
	map_ring(lab, "A07", D2);
	map("A07", "other-page", D2, T, virt_to_phys(Q), PAGE_SIZE, RW);

	detach(lab, "A08-wrong-domain-D2", D2);
	show_domain(lab, "A08");
	dma(lab, "A08-after-wrong-detach", "T->P", T, P);
	dma(lab, "A08-after-wrong-detach", "T->Q", T, Q);
	if (iommu_get_domain_for_dev(lab->dev) != D1)
		attach(lab, "A08-reattach", D1);
}

static void detached(struct lab *lab, u64 api_iova)
{
	u64 iova = api_iova;

	detach(lab, "A09", D1);
	full_set(lab, "A09-detached(ring=old-domain-iova)", api_iova);
	if (lab->rng) {
		lab->ring_iova = ring_by_api;
		full_set(lab, "A09-detached(ring=old-api-iova)", api_iova);
		lab->ring_iova = virt_to_phys(lab->ring);
		full_set(lab, "A09-detached(ring=phys)", api_iova);
	}
	if (lab->rng || use_api) {
		api_map_ring(lab, "A10");
		ring_by_api = lab->ring_iova;
		iova = api_map(lab, "A10", Q);
		new_api_iova = iova;
		show_domain(lab, "A10");
		dma(lab, "A10-detached-new-api-mapping", "new-dmaapi-iova->Q", iova, Q);
		dma(lab, "A10-detached-new-api-mapping", "old-dmaapi-iova->S", api_iova, S);
		dma(lab, "A10-detached-new-api-mapping", "T->P", T, P);
		dma(lab, "A10-detached-new-api-mapping", "phys-of-P", virt_to_phys(P), P);
	}
	detach(lab, "A11-nothing-attached", D1);
	show_domain(lab, "A11");
	dma(lab, "A11-after-idle-detach", "new-dmaapi-iova->Q", iova, Q);
	dma(lab, "A11-after-idle-detach", "phys-of-P", virt_to_phys(P), P);

	attach(lab, "A12", D2);
	if (lab->rng)
		lab->ring_iova = R;
	ensure_mapped(lab, "A12", D2, Q);
	show_domain(lab, "A12");
	dma(lab, "A12-attached-D2", "T->Q", T, Q);
	dma(lab, "A12-attached-D2", "T->P", T, P);
	dma(lab, "A12-attached-D2", "dmaapi-iova->Q", iova, Q);
}

static void by_group(struct lab *lab)
{
	detach_group(lab, "A13-wrong-domain-D1", D1);
	show_domain(lab, "A13");
	dma(lab, "A13-after-detach_group(wrong)", "T->Q", T, Q);
	dma(lab, "A13-after-detach_group(wrong)", "phys-of-P", virt_to_phys(P), P);
	if (iommu_get_domain_for_dev(lab->dev) == D2)
		detach(lab, "A13b", D2);

	attach_group(lab, "A14", D1);
	show_domain(lab, "A14");
	to_phys("A14", "T", D1, T);
	dma(lab, "A14-attach_group-D1", "T->P", T, P);
	if (lab->rng) {
		remap(lab, "A14", D1, P);
		dma(lab, "A14-after-remap", "T->P", T, P);
	}
	attach(lab, "A14-while-group-attached", D2);
	detach_group(lab, "A15", D1);
	show_domain(lab, "A15");
	dma(lab, "A15-detach_group", "T->P", T, P);
	dma(lab, "A15-detach_group", "phys-of-P", virt_to_phys(P), P);

	attach(lab, "A16-D1", D1);
	detach_group(lab, "A16-mixed", D1);
	show_domain(lab, "A16");
	if (iommu_get_domain_for_dev(lab->dev) == D1)
		detach(lab, "A16b", D1);
}

void sequence_detach(struct lab *lab)
{
	u64 api_iova = 0;

	D1 = alloc_domain("A00", "D1");
	D2 = alloc_domain("A00", "D2");
	if (!D1 || !D2)
		return;
	before_attach(lab, &api_iova);
	attached(lab, api_iova);
	detached(lab, api_iova);
	by_group(lab);

	api_map_ring(lab, "A17");
	full_set(lab, "A17-end", api_map(lab, "A17", S));
	unmap("A18", "cleanup", D1, T, PAGE_SIZE);
	unmap("A18", "cleanup", D2, T, PAGE_SIZE);
	if (lab->rng) {
		unmap("A18", "ring", D1, R, PAGE_SIZE);
		unmap("A18", "ring", D2, R, PAGE_SIZE);
	}
	iommu_domain_free(D1);
	iommu_domain_free(D2);
	D1 = D2 = NULL;
}
