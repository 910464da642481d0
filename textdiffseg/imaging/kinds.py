"""The kind of a scan, guessed from its intensities: CT in Hounsfield units, or MRI."""

import numpy as np

AIR_HU = (-1100.0, -900.0)
MIN_AIR = 0.001  # share of voxels; a CT of the body has far more
TISSUE_HU = (-200.0, 300.0)  # fat to soft tissue with contrast agent
MIN_TISSUE = 0.01
CT, MRI = "CT", "MRI"


def kind_of(image: np.ndarray) -> str:
    """`CT` if an image (D, H, W) has air near -1000 HU, and tissue; else `MRI`.

    A CT without air, or with shifted intensities, is not recognised: it counts as MRI.
    """
    air = np.mean((image >= AIR_HU[0]) & (image <= AIR_HU[1]))
    tissue = np.mean((image >= TISSUE_HU[0]) & (image <= TISSUE_HU[1]) & (image != 0))
    return CT if air >= MIN_AIR and tissue >= MIN_TISSUE else MRI
