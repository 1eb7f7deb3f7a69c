// SPDX-License-Identifier: GPL-2.0
// B01…B14: who owns a group's DMA. Claim and release, with and without a domain, in odd orders.
#include "attachlab.h"

#if SINCE(5, 19)
static int owner_a, owner_b;
static u64 ring_by_api;

static void before_claim(struct lab *lab, u64 *api_iova)
{
	api_map_ring(lab, "B01");
	ring_by_api = lab->ring_iova;
	*api_iova = api_map(lab, "B01", S);
	old_api_iova = *api_iova;
	full_set(lab, "B01-before", *api_iova);
}

static int claimed(struct lab *lab, u64 api_iova)
{
	int returned = claim(lab, "B02", "ownerA", &owner_a);

	full_set(lab, "B02-claimed", api_iova);
	show_claimed(lab, "B02");
	if (lab->rng) {
		lab->ring_iova = virt_to_phys(lab->ring);
		dma(lab, "B02-claimed(ring=phys)", "phys-of-P", virt_to_phys(P), P);
	}
	claim(lab, "B03-same-owner", "ownerA", &owner_a);
	claim(lab, "B03-other-owner", "ownerB", &owner_b);
	map("B04", "T-before-first-attach", D1, T, virt_to_phys(P), PAGE_SIZE, RW);
	map("B04", "T", D2, T, virt_to_phys(Q), PAGE_SIZE, RW);
	return returned;
}

static void attached_while_claimed(struct lab *lab, u64 api_iova)
{
	attach(lab, "B04-while-claimed", D1);
	ensure_mapped(lab, "B04", D1, P);
	full_set(lab, "B04-claimed-attached-D1", api_iova);
	attach(lab, "B05-second-while-claimed", D2);
	claim(lab, "B05-claim-while-attached", "ownerB", &owner_b);
	detach(lab, "B06-while-claimed", D1);
	full_set(lab, "B06-claimed-detached", api_iova);
	if (lab->rng) {
		lab->ring_iova = ring_by_api;
		dma(lab, "B06-claimed-detached(ring=api)", "dmaapi-iova->S", api_iova, S);
		lab->ring_iova = virt_to_phys(lab->ring);
		dma(lab, "B06-claimed-detached(ring=phys)", "phys-of-P", virt_to_phys(P), P);
	}

	attach_group(lab, "B07-while-claimed", D1);
	if (lab->rng)
		lab->ring_iova = R;
	ensure_mapped(lab, "B07", D1, P);
	to_phys("B07", "T", D1, T);
	show_domain(lab, "B07-attached");
	if (lab->rng)
		remap(lab, "B07", D1, P);
	dma(lab, "B07-claimed-attach_group", "T->P", T, P);
	detach_group(lab, "B07-while-claimed", D1);
	show_domain(lab, "B07");
	dma(lab, "B07-claimed-detach_group", "T->P", T, P);
	dma(lab, "B07-claimed-detach_group", "phys-of-P", virt_to_phys(P), P);
}

static void released(struct lab *lab, u64 *api_iova)
{
	release(lab, "B08");
	show_claimed(lab, "B08");
	api_map_ring(lab, "B08");
	if (lab->rng) {
		dma(lab, "B08-released", "old-dmaapi-iova->S", *api_iova, S);
		*api_iova = api_map(lab, "B08", S);
	}
	full_set(lab, "B08-released", *api_iova);
	release(lab, "B09-not-claimed");
	show_domain(lab, "B09");
	dma(lab, "B09", "phys-of-P", virt_to_phys(P), P);
}

static void claim_after_attach(struct lab *lab)
{
	int returned;

	attach(lab, "B10", D1);
	if (lab->rng)
		lab->ring_iova = R;
	ensure_mapped(lab, "B10", D1, P);
	if (lab->rng)
		remap(lab, "B10", D1, P);
	returned = claim(lab, "B10-claim-while-attached-unclaimed", "ownerA", &owner_a);
	show_domain(lab, "B10");
	dma(lab, "B10", "T->P", T, P);
	if (!returned)
		release(lab, "B10");
	detach(lab, "B10", D1);
	show_domain(lab, "B10-detached");
}

static void release_before_detach(struct lab *lab, u64 api_iova)
{
	if (claim(lab, "B11", "ownerA", &owner_a))
		return;
	attach(lab, "B11", D1);
	if (lab->rng) {
		lab->ring_iova = R;
		remap(lab, "B11", D1, P);
	}
	dma(lab, "B11-claimed-attached", "T->P", T, P);
	release(lab, "B11-while-attached");
	show_domain(lab, "B11");
	dma(lab, "B11-released-while-attached", "T->P", T, P);
	dma(lab, "B11-released-while-attached", "phys-of-P", virt_to_phys(P), P);
	if (!lab->rng)
		dma(lab, "B11-released-while-attached", "dmaapi-iova->S", api_iova, S);
	detach(lab, "B11-late", D1);
	show_domain(lab, "B11-late");
	dma(lab, "B11-late-detach", "phys-of-P", virt_to_phys(P), P);
}

static void claim_without_attach(struct lab *lab)
{
	int returned = claim(lab, "B12", "ownerB", &owner_b);

	show_domain(lab, "B12");
	if (!returned)
		release(lab, "B12");
	show_domain(lab, "B12-released");
	api_map_ring(lab, "B12");
	full_set(lab, "B12-end", api_map(lab, "B12", S));
}

static void owner_null(struct lab *lab)
{
	int returned = claim(lab, "B13-owner-NULL", "NULL", NULL);

	show_domain(lab, "B13");
	dma(lab, "B13-owner-NULL", "phys-of-P", virt_to_phys(P), P);
	if (returned)
		return;
	release(lab, "B13-owner-NULL");
	show_domain(lab, "B13-after");
	show_claimed(lab, "B13");
}

void sequence_claim(struct lab *lab)
{
	u64 api_iova;

	D1 = alloc_domain("B00", "D1");
	D2 = alloc_domain("B00", "D2");
	if (!D1 || !D2)
		return;
	before_claim(lab, &api_iova);
	if (!claimed(lab, api_iova)) {
		attached_while_claimed(lab, api_iova);
		released(lab, &api_iova);
	}
	claim_after_attach(lab);
	release_before_detach(lab, api_iova);
	claim_without_attach(lab);
	owner_null(lab);
	unmap("B14", "cleanup", D1, T, PAGE_SIZE);
	unmap("B14", "cleanup", D2, T, PAGE_SIZE);
	if (lab->rng)
		unmap("B14", "ring", D1, R, PAGE_SIZE);
	iommu_domain_free(D1);
	iommu_domain_free(D2);
	D1 = D2 = NULL;
}
#else
void sequence_claim(struct lab *lab)
{
	say("step=B00 call=iommu_group_claim_dma_owner rc=not-in-this-kernel");
}
#endif
