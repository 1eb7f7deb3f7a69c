// SPDX-License-Identifier: GPL-2.0
// What s390's own structures hold: which table is registered for the function, and what is in it,
// whatever the emulator has cached of it. Nothing on other architectures.
#include "attachlab.h"

#ifdef CONFIG_S390
#include <asm/pci.h>
#include <asm/pci_dma.h>

#if SINCE(6, 7)
void show_zpci(struct lab *lab, const char *step)
{
	struct zpci_dev *zdev = to_zpci(lab->pci);

	say("step=%s zpci dma_table=%s s390_domain=%s start_dma=0x%llx end_dma=0x%llx", step,
	    zdev->dma_table ? "set" : "NULL", zdev->s390_domain ? "set" : "NULL",
	    (u64)zdev->start_dma, (u64)zdev->end_dma);
}
#else
static const char *look_up(struct zpci_dev *zdev, u64 iova)
{
	unsigned long *regions = zdev->dma_table, *segments, *pages;

	if (!regions)
		return "no-table";
	segments = get_rt_sto(regions[calc_rtx(iova)]);
	if (!segments)
		return "no-segment-table";
	pages = get_st_pto(segments[calc_sx(iova)]);
	if (!pages)
		return "no-page-table";
	return pt_entry_isvalid(pages[calc_px(iova)]) ? "VALID" : "invalid";
}

void show_zpci(struct lab *lab, const char *step)
{
	struct zpci_dev *zdev = to_zpci(lab->pci);

	say("step=%s zpci dma_table=%s iommu_pages=0x%lx bitmap=%s s390_domain=%s "
	    "start_dma=0x%llx end_dma=0x%llx",
	    step, zdev->dma_table ? "set" : "NULL", zdev->iommu_pages,
	    zdev->iommu_bitmap ? "set" : "NULL", zdev->s390_domain ? "set" : "NULL",
	    (u64)zdev->start_dma, (u64)zdev->end_dma);
	say("step=%s s390-table at=0x%llx T:0x%lx=%s oldapi:0x%llx=%s newapi:0x%llx=%s", step,
	    zdev->dma_table ? (u64)virt_to_phys(zdev->dma_table) : 0, T, look_up(zdev, T),
	    old_api_iova, old_api_iova ? look_up(zdev, old_api_iova) : "-", new_api_iova,
	    new_api_iova ? look_up(zdev, new_api_iova) : "-");
}
#endif
#else
void show_zpci(struct lab *lab, const char *step)
{
}
#endif
