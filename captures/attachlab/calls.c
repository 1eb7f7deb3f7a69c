// SPDX-License-Identifier: GPL-2.0
// Each function of the core: called, and what it returned reported in one line.
#include "attachlab.h"

static const char *domain_name(struct iommu_domain *domain)
{
	if (!domain)
		return "NULL";
	if (IS_ERR(domain))
		return "ERR";
	return domain == D0   ? "boot"
	       : domain == D1 ? "D1"
	       : domain == D2 ? "D2"
	       : domain == D3 ? "D3"
			      : "other";
}

void show_domain(struct lab *lab, const char *step)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(lab->dev);

	say("step=%s call=iommu_get_domain_for_dev dev=%d is=%s type=0x%x", step, lab_number(lab),
	    domain_name(domain), domain ? domain->type : 0);
	if (domain && old_api_iova)
		say("step=%s call=iommu_iova_to_phys args=current(%s),iova=0x%llx "
		    "why=old-dmaapi-iova rc=0x%llx",
		    step, domain_name(domain), old_api_iova,
		    (u64)iommu_iova_to_phys(domain, old_api_iova));
	show_zpci(lab, step);
}

struct iommu_domain *alloc_domain(const char *step, const char *name)
{
	struct iommu_domain *domain;

#if SINCE(6, 11)
	domain = iommu_paging_domain_alloc(labs[0].dev);
	say("step=%s call=iommu_paging_domain_alloc args=%s rc=%ld", step, name,
	    IS_ERR(domain) ? PTR_ERR(domain) : 0L);
	if (IS_ERR(domain))
		domain = NULL;
#else
	domain = iommu_domain_alloc(&pci_bus_type);
	say("step=%s call=iommu_domain_alloc args=%s rc=%s", step, name, domain ? "ptr" : "NULL");
#endif
	if (domain)
		say("step=%s domain %s type=0x%x pgsize_bitmap=0x%lx aperture=0x%llx..0x%llx "
		    "force=%d",
		    step, name, domain->type, domain->pgsize_bitmap,
		    (u64)domain->geometry.aperture_start, (u64)domain->geometry.aperture_end,
		    domain->geometry.force_aperture);
	return domain;
}

int map(const char *step, const char *why, struct iommu_domain *domain, u64 iova, u64 pa,
	size_t size, int prot)
{
#if SINCE(6, 3)
	int returned = iommu_map(domain, iova, pa, size, prot, GFP_KERNEL);
#else
	int returned = iommu_map(domain, iova, pa, size, prot);
#endif

	say("step=%s call=iommu_map args=%s,iova=0x%llx,pa=0x%llx,size=0x%zx,prot=%d why=%s rc=%d",
	    step, domain_name(domain), iova, pa, size, prot, why, returned);
	return returned;
}

size_t unmap(const char *step, const char *why, struct iommu_domain *domain, u64 iova, size_t size)
{
	size_t returned = iommu_unmap(domain, iova, size);

	say("step=%s call=iommu_unmap args=%s,iova=0x%llx,size=0x%zx why=%s rc=0x%zx", step,
	    domain_name(domain), iova, size, why, returned);
	return returned;
}

void to_phys(const char *step, const char *why, struct iommu_domain *domain, u64 iova)
{
	say("step=%s call=iommu_iova_to_phys args=%s,iova=0x%llx why=%s rc=0x%llx", step,
	    domain_name(domain), iova, why, (u64)iommu_iova_to_phys(domain, iova));
}

int attach(struct lab *lab, const char *step, struct iommu_domain *domain)
{
	int returned = iommu_attach_device(domain, lab->dev);

	say("step=%s call=iommu_attach_device args=%s,dev%d rc=%d", step, domain_name(domain),
	    lab_number(lab), returned);
	return returned;
}

// Functions that may warn say "enter" first, so that the warning has a place.
void detach(struct lab *lab, const char *step, struct iommu_domain *domain)
{
	say("step=%s call=iommu_detach_device args=%s,dev%d enter", step, domain_name(domain),
	    lab_number(lab));
	iommu_detach_device(domain, lab->dev);
	say("step=%s call=iommu_detach_device args=%s,dev%d rc=void", step, domain_name(domain),
	    lab_number(lab));
}

int attach_group(struct lab *lab, const char *step, struct iommu_domain *domain)
{
	int returned = iommu_attach_group(domain, lab->group);

	say("step=%s call=iommu_attach_group args=%s rc=%d", step, domain_name(domain), returned);
	return returned;
}

void detach_group(struct lab *lab, const char *step, struct iommu_domain *domain)
{
	say("step=%s call=iommu_detach_group args=%s enter", step, domain_name(domain));
	iommu_detach_group(domain, lab->group);
	say("step=%s call=iommu_detach_group args=%s rc=void", step, domain_name(domain));
}

#if SINCE(5, 19)
int claim(struct lab *lab, const char *step, const char *who, void *owner)
{
	int returned;

	say("step=%s call=iommu_group_claim_dma_owner args=%s enter", step, who);
	returned = iommu_group_claim_dma_owner(lab->group, owner);
	say("step=%s call=iommu_group_claim_dma_owner args=%s rc=%d", step, who, returned);
	return returned;
}

void release(struct lab *lab, const char *step)
{
	say("step=%s call=iommu_group_release_dma_owner args=- enter", step);
	iommu_group_release_dma_owner(lab->group);
	say("step=%s call=iommu_group_release_dma_owner args=- rc=void", step);
}

void show_claimed(struct lab *lab, const char *step)
{
	say("step=%s call=iommu_group_dma_owner_claimed rc=%d", step,
	    iommu_group_dma_owner_claimed(lab->group));
}
#endif

// What a driver does: map a page through the DMA API. Returns 0 when the API refuses.
u64 api_map(struct lab *lab, const char *step, u8 *page)
{
	dma_addr_t iova = dma_map_single(lab->dev, page, PAGE_SIZE, DMA_FROM_DEVICE);
	int error = dma_mapping_error(lab->dev, iova);

	say("step=%s call=dma_map_single iova=0x%llx pa=0x%llx same=%d err=%d", step, (u64)iova,
	    (u64)virt_to_phys(page), (u64)iova == (u64)virt_to_phys(page), error);
	return error ? 0 : iova;
}

void api_map_ring(struct lab *lab, const char *step)
{
	dma_addr_t iova;

	if (!lab->rng)
		return;
	iova = dma_map_single(lab->dev, lab->ring, PAGE_SIZE, DMA_BIDIRECTIONAL);
	lab->ring_iova = iova;
	say("step=%s call=dma_map_single(ring) iova=0x%llx pa=0x%llx err=%d", step, (u64)iova,
	    (u64)virt_to_phys(lab->ring), dma_mapping_error(lab->dev, iova));
}

void map_ring(struct lab *lab, const char *step, struct iommu_domain *domain)
{
	if (!lab->rng)
		return;
	map(step, "ring", domain, R, virt_to_phys(lab->ring), PAGE_SIZE, RW);
	lab->ring_iova = R;
}

// A domain may have refused to map before its first attach (s390): map now what is not there.
void ensure_mapped(struct lab *lab, const char *step, struct iommu_domain *domain, u8 *page)
{
	if (lab->rng && !iommu_iova_to_phys(domain, R))
		map_ring(lab, step, domain);
	if (!iommu_iova_to_phys(domain, T))
		map(step, "T-after-attach", domain, T, virt_to_phys(page), PAGE_SIZE, RW);
}

// QEMU's zPCI translates only from entries that were refreshed after the table was registered.
void remap(struct lab *lab, const char *step, struct iommu_domain *domain, u8 *page)
{
	unmap(step, "remap", domain, R, PAGE_SIZE);
	unmap(step, "remap", domain, T, PAGE_SIZE);
	ensure_mapped(lab, step, domain, page);
}
