"""Do lesson 09's checks know right from wrong, and a usual mistake by its name?"""

from __future__ import annotations

import pytest

from iommu_lab import check
from iommu_lab.own import OwnDriver


def made(on: str, **methods) -> type[OwnDriver]:
    return type("mine", (OwnDriver,), {"base": on, **methods})


def block(self, iommu, domain):
    iommu.block()


def opens(self, iommu, domain):
    iommu.bypass()


def to_the_platform(self, iommu, domain):
    iommu.platform()


def as_the_patch(self, iommu, domain):
    return OwnDriver.detach(self, iommu, domain)


def forgets(self, iommu, domain):
    pass


def asks_the_hardware(self, iommu, domain):
    OwnDriver.attach(self, iommu, domain)
    if iommu.now.table != domain.table:
        iommu.translate(domain)


def as_it_is(self, iommu, domain):
    return OwnDriver.attach(self, iommu, domain)


def always(self, iommu, domain):
    iommu.translate(domain)


def test_a_blocking_domain_for_s390_is_right():
    assert check.blocks_s390(made("s390", blocking=block)).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (made("amd", blocking=block), 'yours stands on amd: base = "s390"'),
        (made("s390", detach=to_the_platform), "an empty table that stands in"),
        (made("s390", blocking=opens), "It does not hold after claim_dma_owner(0, 'user')"),
        (made("s390", blocking=as_the_patch), "detach_device('dom1', 'dev0')"),
        (made("s390", blocking=forgets), "mine.blocking wrote nothing to the hardware"),
        (made("s390", bloking=block), "nearest is blocking"),
    ],
)
def test_a_wrong_blocking_domain_is_told_what_is_wrong(answer, hint):
    said = check.blocks_s390(answer)
    assert not said.passed
    assert hint in said.text


@pytest.mark.parametrize("attach", [asks_the_hardware, always])
def test_a_qcom_that_writes_when_it_has_to_is_right(attach):
    assert check.blocks_qcom_twice(made("qcom", attach=attach)).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (made("s390", attach=always), 'yours stands on s390: base = "qcom"'),
        (made("qcom", attach=as_it_is), "On arm64 it still does what qcom does"),
        (made("qcom", blocking=block), "On arm64"),
        (made("qcom", attach=block), "On arm64 something is new"),
        (made("qcom_iommu", attach=forgets), "mine.attach wrote nothing to the hardware"),
    ],
)
def test_a_wrong_repair_is_told_what_is_wrong(answer, hint):
    said = check.blocks_qcom_twice(answer)
    assert not said.passed
    assert hint in said.text


@pytest.mark.parametrize("question", [check.blocks_s390, check.blocks_qcom_twice])
@pytest.mark.parametrize("answer", [..., None, "qcom", 7, int])
def test_what_is_no_driver_is_no_answer(question, answer):
    assert not question(answer).passed
