// SPDX-License-Identifier: GPL-2.0
// Parameters, the devices, and which sequence runs.
#include "attachlab.h"

static char *seq = "detach,claim,maps";
module_param(seq, charp, 0444);
static int bind;
module_param(bind, int, 0444);
MODULE_PARM_DESC(bind, "0: no driver, 1: an ordinary driver, 2: one with driver_managed_dma");
ulong T = 0x50000000;
module_param(T, ulong, 0444);
ulong R = 0x60000000;
module_param(R, ulong, 0444);
char *only = "";
module_param(only, charp, 0444);
MODULE_PARM_DESC(only, "do only DMAs whose step:what contains one of these, separated by +");
int danger;
module_param(danger, int, 0444);
MODULE_PARM_DESC(danger, "a number that stands for one call known to crash some kernel");
int refresh;
module_param(refresh, int, 0444);
MODULE_PARM_DESC(refresh, "s390 since 6.7: refresh everything before each DMA");
int use_api = 1;
module_param_named(useapi, use_api, int, 0444);

struct lab labs[2];
int lab_count;
u8 *P, *Q, *S;
struct iommu_domain *D0, *D1, *D2, *D3;
u64 old_api_iova, new_api_iova;

static int setup(struct pci_dev *pci)
{
	struct lab *lab = &labs[lab_count];
	int error;

	lab->pci = pci;
	lab->dev = &pci->dev;
	lab->rng = pci->vendor == PCI_VENDOR_ID_REDHAT_QUMRANET;
	error = pci_enable_device(pci);
	if (error) {
		say("enable rc=%d", error);
		return error;
	}
	pci_set_master(pci);
	lab->group = iommu_group_get(lab->dev);
	say("dev%d=%s id=%04x:%04x driver=%s group=%d", lab_count, pci_name(pci), pci->vendor,
	    pci->device, lab->dev->driver ? lab->dev->driver->name : "none",
	    lab->group ? iommu_group_id(lab->group) : -1);
	error = dma_set_mask_and_coherent(lab->dev, DMA_BIT_MASK(64));
	if (error)
		say("mask rc=%d", error);
	error = lab->rng ? rng_setup(lab) : edu_setup(lab);
	if (!error)
		lab_count++;
	return error;
}

static void without_group(struct lab *lab)
{
	dma(lab, "N00-no-group", "phys-of-P", virt_to_phys(P), P);
	D1 = alloc_domain("N00", "D1");
	if (D1)
		attach(lab, "N00", D1);
	show_domain(lab, "N00");
}

static void run(struct lab *lab)
{
	if (!lab->group)
		say("no iommu group");
	D0 = iommu_get_domain_for_dev(lab->dev);
	say("boot-domain type=0x%x %s pa(P)=0x%llx pa(Q)=0x%llx pa(S)=0x%llx T=0x%lx",
	    D0 ? D0->type : 0, D0 ? "" : "NULL", (u64)virt_to_phys(P), (u64)virt_to_phys(Q),
	    (u64)virt_to_phys(S), T);
	if (!lab->group) {
		without_group(lab);
		return;
	}
	if (strstr(seq, "group"))
		sequence_group(lab);
	if (strstr(seq, "detach"))
		sequence_detach(lab);
	if (strstr(seq, "claim"))
		sequence_claim(lab);
	if (strstr(seq, "maps"))
		sequence_maps(lab);
	say("END");
}

static int attachlab_probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	return lab_count < 2 ? setup(pci) : -ENODEV;
}

static const struct pci_device_id attachlab_ids[] = {
	{PCI_DEVICE(0x1234, 0x11e8)},			      // edu
	{PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, 0x1044)},  // virtio-rng
	{},
};

static struct pci_driver attachlab_driver = {
	.name = "attachlab",
	.id_table = attachlab_ids,
	.probe = attachlab_probe,
};

static void take_driverless(void)
{
	struct pci_dev *pci = NULL;
	int i;

	for (i = 0; attachlab_ids[i].vendor; i++)
		while (lab_count < 2 && (pci = pci_get_device(attachlab_ids[i].vendor,
							      attachlab_ids[i].device, pci))) {
			pci_dev_get(pci);
			setup(pci);
		}
}

static int __init attachlab_init(void)
{
	P = (u8 *)get_zeroed_page(GFP_KERNEL);
	Q = (u8 *)get_zeroed_page(GFP_KERNEL);
	S = (u8 *)get_zeroed_page(GFP_KERNEL);
	if (!P || !Q || !S)
		return -ENOMEM;
	say("BEGIN bind=%d seq=%s", bind, seq);
	if (bind) {
		int registered;

#if SINCE(5, 19)
		attachlab_driver.driver_managed_dma = bind == 2;
#endif
		registered = pci_register_driver(&attachlab_driver);
		say("pci_register_driver rc=%d devices=%d", registered, lab_count);
	} else {
		take_driverless();
	}
	if (lab_count)
		run(&labs[0]);
	else
		say("no device");
	return 0;
}
module_init(attachlab_init);  // no exit: one boot, one run
MODULE_DESCRIPTION("Calls of the IOMMU core's API, and the DMA after each");
MODULE_LICENSE("GPL");
