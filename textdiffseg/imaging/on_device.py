"""Resampling on a GPU, with the same matrices as on the CPU (`imaging.resample`).

A scan is resampled in slabs along the first axis of the result, as a cubic spline's matrix is banded: a slab reads
only some planes around it. So little memory of the GPU is needed, and the network keeps the rest.

Only prediction uses it. Preprocessing for training stays on the CPU: it has many processes, which would each take
half a GB of the GPU and wait for each other there.
"""

from math import prod

import numpy as np
import torch
from torch import Tensor

from plans.geometry import Triple
from textdiffseg.imaging.resample import Matrices, Products, apply_matrices, reading
from textdiffseg.precision import float32_products
from textdiffseg.resources import free_on, is_out_of_memory

MAX_SLAB_BYTES = 1 << 29  # of the tensors of a slab on the GPU
MAX_SHARE = 0.25  # of the GPU's free memory


def products_on(device: torch.device) -> Products:
    """The function that applies matrices on this device. On a CPU it is numpy's."""
    if device.type != "cuda":
        return apply_matrices

    def products(matrices: Matrices, volume: np.ndarray, out: np.ndarray) -> np.ndarray:
        limit = min(MAX_SLAB_BYTES, MAX_SHARE * free_on(device))
        return products_in_slabs(matrices, volume, out, device, limit)

    return products


def products_in_slabs(
    matrices: Matrices, volume: np.ndarray, out: np.ndarray, device: torch.device, limit: float
) -> np.ndarray:
    """The product of a volume (D, H, W) and one matrix per axis, in `out`. A slab takes about `limit` bytes.

    If the device's memory runs out, slabs are halved. A single plane that does not fit is computed on the CPU.
    """
    first, planes = 0, slab_planes(matrices, volume.shape, out.shape, limit)
    while first < len(out):
        rows = slice(first, min(first + planes, len(out)))
        part = reading(matrices, (rows, slice(0, out.shape[1]), slice(0, out.shape[2])))
        source = volume[part.source]
        if _fits(part.matrices, source, out[rows], device):
            first = rows.stop
        elif planes > 1:
            planes = max(1, planes // 2)
        else:
            apply_matrices(part.matrices, source, out[rows])
            first = rows.stop
    return out


def slab_planes(matrices: Matrices, shape: Triple, shape_to: Triple, limit: float) -> int:
    """The planes of the result in a slab that takes about `limit` bytes, with its input and what lies between them."""
    plane = max(prod(shape[1:]), prod(shape_to[1:]), shape[1] * shape_to[2], shape_to[1] * shape[2])
    read = 1.0 if matrices[0] is None else max(1.0, shape[0] / shape_to[0])  # input planes of each plane of the result
    band = 0 if matrices[0] is None else int(np.count_nonzero(matrices[0], axis=1).max())
    return max(1, int((limit / (3 * 4 * plane) - band) / read))


def _fits(matrices: Matrices, volume: np.ndarray, out: np.ndarray, device: torch.device) -> bool:
    """Whether the product is in `out`. False: the device's memory ran out."""
    try:
        torch.from_numpy(out).copy_(_product(matrices, volume, device))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _product(matrices: Matrices, volume: np.ndarray, device: torch.device) -> Tensor:
    """The product on the device. Axes that shrink come first, which saves work."""
    values = torch.tensor(volume, device=device)
    steps = [(axis, torch.tensor(matrix, device=device)) for axis, matrix in enumerate(matrices) if matrix is not None]
    steps.sort(key=lambda step: step[1].shape[0] / step[1].shape[1])
    with float32_products(device):
        for axis, matrix in steps:
            values = _multiply(matrix, values, axis)
    return values


def _multiply(matrix: Tensor, volume: Tensor, axis: int) -> Tensor:
    if axis == 0:
        return (matrix @ volume.flatten(1)).unflatten(1, volume.shape[1:])
    return matrix @ volume if axis == 1 else volume @ matrix.T
