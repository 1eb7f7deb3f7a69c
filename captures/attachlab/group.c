// SPDX-License-Identifier: GPL-2.0
// G00…G12: two devices. In one group: what is done to one is done to the other.
#include "attachlab.h"

static void each_to_its_own(struct lab *one, struct lab *other)
{
	int returned = attach(one, "G02", D1);

	attach(other, "G02", D2);
	show_domain(one, "G02");
	show_domain(other, "G02");
	dma(one, "G02", "T->P", T, P);
	dma(other, "G02", "T->Q", T, Q);
	dma(other, "G02", "T->P", T, P);
	if (one->group == other->group)
		return;
	if (!returned)
		detach(one, "G02", D1);
	detach(other, "G02", D2);
}

static void by_group(struct lab *one, struct lab *other, u64 api_iova)
{
	detach(one, "G03-not-attached", D1);
	attach_group(one, "G04", D1);
	show_domain(one, "G04");
	show_domain(other, "G04");
	dma(one, "G04-attach_group", "T->P", T, P);
	dma(other, "G04-attach_group", "T->P", T, P);
	dma(other, "G04-attach_group", "dmaapi-iova->S", api_iova, S);
	dma(other, "G04-attach_group", "phys-of-P", virt_to_phys(P), P);

	attach(other, "G05-while-group-attached", D2);
	attach_group(other, "G05-second", D2);
	detach(one, "G06-detach_device-in-2-device-group", D1);
	show_domain(one, "G06");
	dma(one, "G06", "T->P", T, P);
	dma(other, "G06", "T->P", T, P);

	detach_group(one, "G07", D1);
	show_domain(one, "G07");
	show_domain(other, "G07");
	dma(one, "G07-detach_group", "T->P", T, P);
	dma(other, "G07-detach_group", "T->P", T, P);
	dma(other, "G07-detach_group", "dmaapi-iova->S", api_iova, S);
	dma(other, "G07-detach_group", "phys-of-P", virt_to_phys(P), P);
}

#if SINCE(5, 19)
static int owner_a, owner_b;

static void by_owner(struct lab *one, struct lab *other, u64 api_iova)
{
	int returned = claim(one, "G08", "ownerA", &owner_a);

	show_domain(other, "G08");
	dma(one, "G08-claimed", "phys-of-P", virt_to_phys(P), P);
	dma(other, "G08-claimed", "phys-of-P", virt_to_phys(P), P);
	dma(other, "G08-claimed", "dmaapi-iova->S", api_iova, S);
	claim(other, "G08-sibling-other-owner", "ownerB", &owner_b);

	attach(one, "G09-attach_device-while-claimed", D1);
	attach_group(one, "G09-attach_group-while-claimed", D1);
	dma(other, "G09", "T->P", T, P);
	detach_group(one, "G09", D1);
	show_domain(other, "G09");
	dma(other, "G09-detached-claimed", "phys-of-P", virt_to_phys(P), P);

	if (!returned)
		release(one, "G10");
	show_domain(other, "G10");
	dma(other, "G10-released", "phys-of-P", virt_to_phys(P), P);
	dma(other, "G10-released", "dmaapi-iova->S", api_iova, S);
}
#endif

#if SINCE(6, 6)
static int claim_device(struct lab *lab, const char *who, void *owner)
{
	int returned = iommu_device_claim_dma_owner(lab->dev, owner);

	say("step=G11 call=iommu_device_claim_dma_owner args=dev%d,%s rc=%d", lab_number(lab), who,
	    returned);
	return returned;
}

static void release_device(struct lab *lab)
{
	iommu_device_release_dma_owner(lab->dev);
	say("step=G11 call=iommu_device_release_dma_owner args=dev%d rc=void", lab_number(lab));
}

static void by_device_owner(struct lab *one, struct lab *other)
{
	int first = claim_device(one, "ownerA", &owner_a);
	int second = claim_device(other, "ownerA", &owner_a);

	show_domain(other, "G11");
	dma(other, "G11-device-claims", "phys-of-P", virt_to_phys(P), P);
	claim_device(other, "ownerB", &owner_b);
	if (!first) {
		release_device(one);
		show_domain(other, "G11-one-released");
		dma(one, "G11-one-released", "phys-of-P", virt_to_phys(P), P);
	}
	if (!second) {
		release_device(other);
		show_domain(other, "G11-both-released");
		dma(one, "G11-both-released", "phys-of-P", virt_to_phys(P), P);
	}
}
#endif

void sequence_group(struct lab *one)
{
	struct lab *other = &labs[1];
	u64 api_of_one, api_of_other;

	if (lab_count < 2) {
		say("step=G00 need two devices");
		return;
	}
	say("step=G00 same-group=%d", one->group == other->group);
	D1 = alloc_domain("G00", "D1");
	D2 = alloc_domain("G00", "D2");
	if (!D1 || !D2)
		return;
	map("G00", "T", D1, T, virt_to_phys(P), PAGE_SIZE, RW);
	map("G00", "T", D2, T, virt_to_phys(Q), PAGE_SIZE, RW);
	api_of_one = api_map(one, "G01", S);
	api_of_other = api_map(other, "G01", S);
	full_set(one, "G01-before", api_of_one);
	full_set(other, "G01-before", api_of_other);
	dma(one, "G01-sibling-iova", "dev1's-dmaapi-iova", api_of_other, S);

	each_to_its_own(one, other);
	if (one->group == other->group) {
		by_group(one, other, api_of_other);
#if SINCE(5, 19)
		by_owner(one, other, api_of_other);
#endif
#if SINCE(6, 6)
		by_device_owner(one, other);
#endif
	}
	unmap("G12", "cleanup", D1, T, PAGE_SIZE);
	unmap("G12", "cleanup", D2, T, PAGE_SIZE);
	iommu_domain_free(D1);
	iommu_domain_free(D2);
	D1 = D2 = NULL;
}
