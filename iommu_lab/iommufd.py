class Iommufd: pass
