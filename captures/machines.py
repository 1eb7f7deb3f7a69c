"""The machines that are booted: topologies, emulated IOMMUs and what each architecture needs.

The names are the vocabulary of a transcript's MACHINE line. Everything here is QEMU's word for
hardware; what the kernel makes of it is in the transcripts and nowhere in this folder.
"""

from typing import NamedTuple

# edu's own limit of 28 address bits would hide what the IOMMU does with the others.
EDU = "dma_mask=0xffffffffffffffff"
_PORT = "pcie-root-port,id=rp1,addr=5,chassis=1,slot=1"
_PORT_ON_EXPANDER = "pcie-root-port,id=rp1,bus=pxb,addr=0,chassis=1,slot=1"

# Every q35 machine also has 00:00.0 and 00:1f.0, .2 and .3.
TOPOLOGIES: dict[str, tuple[str, ...]] = {
    "single": (f"edu,addr=3,{EDU}",),
    "two": (f"edu,addr=3,{EDU}", f"edu,addr=4,{EDU}"),
    "multifn": (f"edu,addr=3.0,multifunction=on,{EDU}", f"edu,addr=3.1,{EDU}"),
    "mfe1000": (f"edu,addr=3.0,multifunction=on,{EDU}", "e1000,addr=3.1"),
    "rp": (_PORT, f"edu,bus=rp1,addr=0,{EDU}"),
    "rpnoacs": (f"{_PORT},disable-acs=on", f"edu,bus=rp1,addr=0,{EDU}"),
    "bridge": (
        _PORT,
        "pcie-pci-bridge,id=br1,bus=rp1,addr=0",
        f"edu,bus=br1,addr=1,{EDU}",
        f"edu,bus=br1,addr=2,{EDU}",
    ),
    "bridgee1000": (
        _PORT,
        "pcie-pci-bridge,id=br1,bus=rp1,addr=0",
        f"edu,bus=br1,addr=1,{EDU}",
        "e1000,bus=br1,addr=2",
    ),
    "rootbridge": (
        "i82801b11-bridge,id=br1,addr=6",
        f"edu,bus=br1,addr=1,{EDU}",
        f"edu,bus=br1,addr=2,{EDU}",
    ),
    "bypass": (
        "pxb-pcie,bus_nr=0x80,bus=pcie.0,id=pxb,bypass_iommu=on",
        _PORT_ON_EXPANDER,
        f"edu,bus=rp1,addr=0,{EDU}",
    ),
    "switch": (
        _PORT,
        "x3130-upstream,id=up1,bus=rp1,addr=0",
        "xio3130-downstream,id=dn1,bus=up1,addr=0,chassis=2,slot=1",
        "xio3130-downstream,id=dn2,bus=up1,addr=1,chassis=2,slot=2",
        f"edu,bus=dn1,addr=0,{EDU}",
        f"edu,bus=dn2,addr=0,{EDU}",
    ),
    "mask28": ("edu,addr=3",),
    # s390x: zPCI functions need MSI-X, which edu has not; a virtio-rng stands in for it. Its
    # entropy is /dev/zero, so that bytes which landed can be told from bytes which did not.
    "rng": (
        "zpci,uid=1,target=n0,id=z0",
        "virtio-rng-pci-non-transitional,id=n0,rng=r0,iommu_platform=on,addr=1",
    ),
}

IOMMUS: dict[str, tuple[str, ...]] = {
    "none": (),
    "intel": ("intel-iommu,intremap=on,caching-mode=on",),
    "intelnocm": ("intel-iommu,intremap=on",),
    "intel48": ("intel-iommu,intremap=on,caching-mode=on,aw-bits=48",),
    "intelsm": ("intel-iommu,intremap=on,caching-mode=on,x-scalable-mode=on,aw-bits=48",),
    "amd": ("amd-iommu,intremap=on",),
    "amdnoir": ("amd-iommu,intremap=off",),
    "virtio": ("virtio-iommu-pci,addr=7",),
    "smmuv3": ("-machine", "iommu=smmuv3"),  # a property of the arm64 board
    "zpci": (),  # a property of s390x
}

# These three make a run repeat itself to the byte, times included.
DETERMINISTIC = (
    *("-icount", "shift=1,sleep=off"),
    *("-rtc", "base=2022-08-01T00:00:00,clock=vm"),
    *("-seed", "7"),
)

# The kernel reports about three faults in five seconds; the emulator's own trace reports each.
TRACES: dict[str, tuple[str, ...]] = {
    "amd64": (
        "vtd_dmar_fault",
        "vtd_inv_desc_iotlb*",
        "vtd_inv_desc_cc*",
        "vtd_irq_generate",
        "amdvi_page_fault",
        "amdvi_evntlog_fail",
        "amdvi_get_pte*",
        "amdvi_invalid_dte",
        "amdvi_dte_get_fail",
        "virtio_iommu_attach",
        "virtio_iommu_detach",
        "virtio_iommu_map",
        "virtio_iommu_unmap",
        "virtio_iommu_report_fault",
        "pci_cfg_write",
    ),
    "arm64": (
        "smmuv3_record_event",
        "smmuv3_translate_abort",
        "smmuv3_translate_bypass",
        "smmuv3_cmdq_tlbi*",
        "smmuv3_cmdq_cfgi_ste",
        "pci_cfg_write",
    ),
    "s390x": ("s390_pci*",),
}


class Board(NamedTuple):
    """What one architecture's machine is called, and where its output goes."""

    program: str
    says: str  # the word of the MACHINE line
    base: tuple[str, ...]
    console: str
    transcript: str  # the serial port of iotest
    kernel_log: str  # how to get a port for the kernel's own log
    append: str


BOARDS: dict[str, Board] = {
    "amd64": Board(
        "qemu-system-x86_64",
        "x86_64",
        ("-machine", "q35,kernel-irqchip=split", "-net", "none"),
        "ttyS0",
        "ttyS1",
        "-serial chardev:log",
        # Without no_timer_check a loaded host makes the boot panic: the timer looks dead.
        "no_timer_check random.trust_cpu=on",
    ),
    "arm64": Board(
        "qemu-system-aarch64",
        "arm64",
        ("-machine", "virt,gic-version=3", "-cpu", "cortex-a57", "-net", "none"),
        "ttyAMA0",
        "ttyAMA0",
        "-serial chardev:log",
        "",
    ),
    "s390x": Board(
        "qemu-system-s390x",
        "s390x",
        ("-M", "s390-ccw-virtio", "-object", "rng-random,id=r0,filename=/dev/zero"),
        "ttysclp0",
        "ttysclp0",
        "-device sclpconsole,chardev=log",
        "random.trust_cpu=on",
    ),
}


def processor(arch: str, iommu: str) -> tuple[str, ...]:
    """The x86 processor: the AMD driver wants an AMD one."""
    if arch != "amd64":
        return ()
    return ("-cpu", "EPYC" if iommu.startswith("amd") else "qemu64")


def iommu(name: str) -> list[str]:
    """The words for an IOMMU: a device, or a property of the board."""
    words = IOMMUS[name]
    return list(words) if words[:1] == ("-machine",) else devices(words)


def devices(names: tuple[str, ...]) -> list[str]:
    return [word for name in names for word in ("-device", name)]
