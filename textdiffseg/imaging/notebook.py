"""A NiiVue widget for notebooks: a scan and its masks in three planes and in 3D, by ipyniivue."""

import gzip
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from plans.geometry import triple
from textdiffseg.extras import require
from textdiffseg.imaging.planes import grey_range, reduction
from textdiffseg.imaging.volume import Geometry, Volume, in_file_order
from textdiffseg.imaging.writers.files import nifti_content, smallest
from textdiffseg.pictures import label_colour

if TYPE_CHECKING:
    from ipyniivue import NiiVue

MAX_VOXELS = 32_000_000  # of the scan in the widget; it is sent to the browser as a whole
HEIGHT = 480  # pixels
OPACITY = 0.55  # of the masks
OPTIONS: dict[str, Any] = {
    "is_radiological_convention": True,
    "sagittal_nose_left": True,
    "drag_and_drop_enabled": False,
    "multiplanar_layout": 2,  # ipyniivue's MultiplanarType.GRID
    "multiplanar_show_render": 1,  # ipyniivue's ShowRender.ALWAYS: the 3D view beside the planes
}


def niivue_widget(scan: Volume, labels: np.ndarray, names: Mapping[int, str], hounsfield: bool = False) -> "NiiVue":
    """The widget. It has the first channel that the scan has, and its masks in the colours of pictures and reports.

    Args:
        scan: (C, D, H, W). Beyond `MAX_VOXELS` voxels are left out, along the finest axis first.
        labels: label values (D, H, W) on the scan's grid.
        names: value -> name of all queried labels.
        hounsfield: whether the scan's channel 0 is CT, in HU.

    Raises `UserError` if ipyniivue or matplotlib is not installed.
    """
    require("notebook", "A view in a notebook", "ipyniivue", "matplotlib")
    from ipyniivue import NiiVue
    from ipyniivue import Volume as Layer

    image = scan.array[scan.first_channel]
    low, high = grey_range(image, labels > 0, hounsfield and scan.first_channel == 0)
    grey = Layer(name="scan.nii.gz", data=_packed(image, scan.geometry), colormap="gray", cal_min=low, cal_max=high)
    masks = Layer(name="masks.nii.gz", data=_packed(smallest(labels), scan.geometry), opacity=OPACITY)
    masks.set_colormap_label(colours(names))
    widget = NiiVue(height=HEIGHT, **OPTIONS)
    widget.load_volumes([grey, masks])
    return widget


def colours(names: Mapping[int, str]) -> dict[str, list[Any]]:
    """NiiVue's table of colours: red, green, blue and alpha (0..255) of background and of each label value."""
    rows = np.array([(0, 0, 0), *(label_colour(position) for position in range(len(names)))])
    red, green, blue = (255 * rows).round().astype(int).T.tolist()
    alpha = [0, *[255] * len(names)]
    return {"R": red, "G": green, "B": blue, "A": alpha, "I": [0, *names], "labels": ["", *names.values()]}


def _packed(array: np.ndarray, geometry: Geometry) -> bytes:
    """A compressed NIfTI file of an array (D, H, W), with every n-th voxel along each axis."""
    array, geometry = in_file_order(array, geometry)
    steps = reduction(array.shape, geometry.spacing, MAX_VOXELS)
    array = array[tuple(slice(None, None, step) for step in steps)]
    grid = Geometry(triple(array.shape), geometry.affine @ np.diag([*steps, 1]))
    return gzip.compress(nifti_content(array, grid), 1, mtime=0)
