"""What a boot left behind, made into the files that are kept.

QEMU's trace is folded: thousands of identical lines (edu's DMA is split into accesses of four
bytes) become one line a step and kind with a count. A step is told by a byte that iotest writes
to the host bridge's interrupt line register before each step, and attachlab to the device's
before each DMA; the trace shows both.

The kernel's log of an attachlab capture is thinned to the lines a replay or a reader needs.
"""

import re
from collections import Counter

HOST_BRIDGE = "00:00.0"
_MARK = re.compile(r"pci_cfg_write \S+ (?P<device>\S+) @0x3c <- 0x(?P<mark>[0-9a-f]+)")
# "addr 0x1004 write 1" of VT-d, "address =0x1004" of virtio-iommu
_ADDRESS = re.compile(r"\b(?P<word>addr |address =)0x(?P<address>[0-9a-f]+)(?: |$)")
_KEPT = re.compile(
    r"Command line:|attachlab|tach_device_(?:to|from)_domain:|io_page_fault:"
    r"|WARNING:|kernel BUG|BUG:|Oops|Modules linked in:|Kernel panic"
)


def tidy(raw: bytes) -> str:
    """The text of a serial port: line ends as elsewhere, nothing undecodable."""
    return raw.decode("utf-8", errors="replace").replace("\r", "")


def thin_log(text: str) -> str:
    """The lines of a kernel log that speak of calls, DMA, attachments and warnings."""
    return "".join(f"{line}\n" for line in text.splitlines() if _KEPT.search(line))


def _page(line: str) -> str:
    """A fault at a page: its offset differs from access to access of one DMA."""
    if "inv" in line.split(" ")[0]:
        return line
    return _ADDRESS.sub(lambda m: f"{m['word']}0x{int(m['address'], 16) & ~0xFFF:x}(page) ", line)


def fold(trace: str, *, mark_of_step: bool) -> str:
    """QEMU's trace as counts: ``step=N n=COUNT line``, or ``mark=N …`` of attachlab.

    Steps pass 255, the mark is a byte: a mark that goes down has passed 256.
    """
    counts: dict[int, Counter[str]] = {}
    step = 0
    for line in trace.splitlines():
        if not line.startswith("pci_cfg_write"):
            if step:
                counts.setdefault(step, Counter())[_page(line)] += 1
            continue
        found = _MARK.match(line)
        if not found or (found["device"] == HOST_BRIDGE) != mark_of_step:
            continue
        mark = int(found["mark"], 16)
        if step or mark == 1:  # firmware and kernel write this register too, before the first
            step += (mark - step) % 256
    word = "step" if mark_of_step else "mark"
    return "".join(
        f"{word}={number} n={count} {line}\n"
        for number, lines in counts.items()
        for line, count in lines.items()
    )


def finished(text: str) -> bool:
    """Whether the guest got to its last line."""
    return bool(re.search(r"^DONE uptime=|attachlab-init DONE", text, re.M))


def unread(text: str) -> list[str]:
    """What a maker of captures should look at: verbs that do not exist, dead devices."""
    return re.findall(r"^(?:ERR .*|.*RESULT .*outcome=DMA-ERR.*)$", text, re.M)
