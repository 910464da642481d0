"""Connected components of a mask, and the holes in it."""

import numpy as np


def components_of(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The number 1 to N of the component of each voxel (D, H, W) of a bool mask, 0 elsewhere, and N.

    Voxels of one component share a face, an edge or a corner.
    """
    import cc3d

    components, count = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26, return_N=True)
    return components.reshape(mask.shape), int(count)  # older cc3d: (0,) for an array without voxels


def component_sizes(components: np.ndarray, count: int, where: np.ndarray | None = None) -> np.ndarray:
    """The voxels (count,) of each component from `components_of`. `where`: count only inside this mask."""
    numbers = components.ravel() if where is None else components[where]
    return np.bincount(numbers, minlength=count + 1)[1:]


def holes_in(mask: np.ndarray) -> np.ndarray:
    """The voxels (D, H, W) bool outside a mask from which no path of faces leads to the border of the array."""
    from scipy.ndimage import binary_fill_holes

    return binary_fill_holes(mask) & ~mask
