"""The 3D viewer: NiiVue with some reduced cases, embedded as NIfTI. It reads nothing else."""

import gzip
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textdiffseg.imaging.forms import RAS_TO_LPS
from textdiffseg.imaging.planes import MAX_AIR, middle, reduction, shown_box
from textdiffseg.pictures import Colour, label_colour
from textdiffseg.report.page import Html, Section, element, in_bytes, join, paragraphs, resource, swatch
from textdiffseg.report.shown import Parts, ShownCase

MAX_VOXELS = 2_500_000  # of an embedded case; three of them take at most 10 MB
NIIVUE = "vendor/niivue-0.69.0.umd.js"


@dataclass(frozen=True)
class ViewedCase:
    """What the viewer embeds of a case. It holds no array of the scan's size."""

    name: str
    parts: Parts
    content: dict[str, Any]  # for the script

    @classmethod
    def of(cls, case: ShownCase) -> "ViewedCase":
        """The reduced case."""
        return cls(case.name, case.parts, _embedded(case))


def viewer_section(cases: Sequence[ViewedCase]) -> Section:
    """The section with the viewer. Its scripts come from `viewer_scripts`."""
    options = [element("option", case.name, value=str(place)) for place, case in enumerate(cases)]
    views = [element("option", name, value=value) for value, name in _VIEWS.items()]
    layers = [_box(f"layer-{name}", name, shown=name != "reference") for name in cases[0].content["volumes"]]
    labels = [_box(f"label-{place}", name, label_colour(place)) for place, name in enumerate(cases[0].parts)]
    slider = Html('<input type="range" id="viewer-slice" min="0" max="1000" value="500">')
    body = (
        paragraphs(
            "Scroll over a plane with the mouse wheel to change its slice. Click to move the cross. Drag the 3D view "
            "to turn it. Boxes show or hide the scan, the masks and single labels; the reference has paler colours. "
            "The scan is reduced, so do not measure on it."
        ),
        element(
            "div",
            element("label", "case ", element("select", *options, id="viewer-case")),
            element("label", "view ", element("select", *views, id="viewer-view")),
            element("label", "slice ", slider),
            class_="controls",
        ),
        element("div", *layers, class_="controls"),
        element("div", *labels, class_="controls", id="viewer-labels"),
        element("div", element("canvas", id="viewer-canvas"), id="viewer-stage"),
        element("p", id="viewer-state", role="status"),
        element("noscript", paragraphs("The viewer needs JavaScript. The rest of the report does not.")),
    )
    return Section("viewer", "3D viewer", join(body))


_VIEWS = {"3": "three planes and 3D", "0": "axial", "1": "coronal", "2": "sagittal", "4": "3D"}  # NiiVue's numbers


def _box(identity: str, name: str, colour: Colour | None = None, shown: bool = True) -> Html:
    """A box that shows or hides something."""
    box = Html(f'<input type="checkbox" id="{identity}"{" checked" if shown else ""}> ')
    return element("label", box, Html("") if colour is None else swatch(colour), name)


def viewer_scripts(cases: Sequence[ViewedCase]) -> Html:
    """NiiVue, the data of the cases and the script that joins them."""
    data = {
        "labels": [
            {"numbers": values, "colour": in_bytes(label_colour(place))}
            for place, values in enumerate(cases[0].parts.values())
        ],
        "cases": [case.content for case in cases],
    }
    content = Html(json.dumps(data).replace("<", "\\u003c"))
    return join(
        (
            element("script", resource(NIIVUE)),
            element("script", content, type="application/json", id="viewer-data"),
            element("script", resource("viewer.js")),
        )
    )


def _embedded(case: ShownCase) -> dict[str, Any]:
    """A case for the script: where the cross starts, and volumes as base64 of compressed NIfTI.

    The scan has the values 0..255, a mask the numbers of labels. The cross is a fraction along x (to the right), y (to
    anterior) and z (to superior).
    """
    low, high = case.window
    labelled = case.labelled
    box = shown_box(case.image, labelled, min(low, case.image.min() + MAX_AIR * (high - case.image.min())))
    steps = reduction([edge.stop - edge.start for edge in box], case.geometry.spacing, MAX_VOXELS)
    grid = case.geometry.affine.copy()
    corner = np.array([edge.start for edge in box]) + (steps - 1) / 2
    grid[:3, 3] += grid[:3, :3] @ corner
    grid[:3, :3] *= steps
    grey = _means(np.clip((case.image[box].astype(np.float32) - low) / (high - low), 0, 1), steps)
    found = {"scan": _nifti((255 * grey).round().astype(np.uint8), grid)}
    centres = tuple(slice(step // 2, None, step) for step in steps)
    for name, masks in (("prediction", case.prediction), ("reference", case.reference)):
        if masks is not None:
            shrunk = masks[box][centres][tuple(slice(size) for size in grey.shape)]
            found[name] = _nifti(np.maximum(shrunk, 0).astype(np.int16), grid)
    place = [(at - edge.start + 0.5) / (edge.stop - edge.start) for at, edge in zip(middle(labelled), box, strict=True)]
    return {"cross": [1 - place[2], 1 - place[1], place[0]], "volumes": found}


def _means(image: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The means over blocks of voxels. Voxels beyond the last whole block are left out."""
    shape = np.array(image.shape) // steps
    whole = image[tuple(slice(size) for size in shape * steps)]
    return whole.reshape(shape[0], steps[0], shape[1], steps[1], shape[2], steps[2]).mean((1, 3, 5))


def _nifti(array: np.ndarray, affine: np.ndarray) -> str:
    """Base64 of a compressed NIfTI file. affine: index (d, h, w) -> world LPS in mm."""
    from nibabel.nifti1 import Nifti1Image

    volume = Nifti1Image(array.transpose(2, 1, 0), RAS_TO_LPS @ affine[:, [2, 1, 0, 3]])
    return b64encode(gzip.compress(volume.to_bytes(), 6, mtime=0)).decode()
