"""``python -m iommu_lab`` is ``iommu-lab``, for an environment that is not on the PATH."""

import sys

from .cli import main

sys.exit(main())
