"""Resampling on a device equals resampling by numpy, in slabs of any size. The device here is torch's CPU."""

import numpy as np
import pytest
import torch

from textdiffseg.imaging import on_device
from textdiffseg.imaging.resample import apply_matrices, matrices_between, resample

CPU = torch.device("cpu")
PLANE = 3 * 4 * 40 * 33  # bytes of a slab for each plane of the result, at most


def scan(shape=(31, 40, 22)):
    return np.random.default_rng(0).normal(100, 50, shape).astype(np.float32)


def in_slabs(limit):
    return lambda matrices, volume, out: on_device.products_in_slabs(matrices, volume, out, CPU, limit)


def no_memory(*_):
    raise torch.OutOfMemoryError


@pytest.mark.parametrize("limit", [1, 50 * PLANE, 1e9])
@pytest.mark.parametrize("shape", [(60, 25, 33), (12, 40, 33), (31, 52, 22), (60, 40, 22), (31, 40, 22)])
def test_a_device_gives_the_result_of_numpy(shape, limit):
    array = np.stack((scan(), 2 * scan()))
    expected = resample(array, shape, 3)
    assert np.abs(resample(array, shape, 3, products=in_slabs(limit)) - expected).max() < 1e-3


def test_slabs_read_only_the_planes_around_them(monkeypatch):
    found, product = [], on_device._product
    monkeypatch.setattr(
        on_device,
        "_product",
        lambda matrices, volume, device: found.append(len(volume)) or product(matrices, volume, device),
    )
    array = scan((400, 8, 8))[None]
    expected = resample(array, (300, 8, 8), 3)
    assert np.abs(resample(array, (300, 8, 8), 3, products=in_slabs(3 * 4 * 64 * 150)) - expected).max() < 1e-3
    assert len(found) > 2
    assert max(found) < 160, "a slab takes what `limit` allows"


def test_slabs_are_halved_if_the_memory_runs_out(monkeypatch):
    sizes, product = [], on_device._product

    def small_memory(matrices, volume, device):
        sizes.append(len(matrices[0]))
        return no_memory() if len(matrices[0]) > 20 else product(matrices, volume, device)

    monkeypatch.setattr(on_device, "_product", small_memory)
    expected = resample(scan()[None], (60, 25, 33), 3)
    assert np.abs(resample(scan()[None], (60, 25, 33), 3, products=in_slabs(1e9)) - expected).max() < 1e-3
    assert sizes[0] == 60
    assert max(sizes[-3:]) <= 20


def test_without_memory_for_a_plane_it_is_computed_on_the_cpu(monkeypatch):
    monkeypatch.setattr(on_device, "_product", no_memory)
    expected = resample(scan()[None], (60, 25, 33), 3)
    assert np.abs(resample(scan()[None], (60, 25, 33), 3, products=in_slabs(1e9)) - expected).max() < 1e-3


def test_other_errors_of_the_device_are_raised(monkeypatch):
    def broken(*_):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(on_device, "_product", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        resample(scan()[None], (60, 25, 33), 3, products=in_slabs(1e9))


def test_a_cpu_uses_numpy_and_a_gpu_a_share_of_its_free_memory(monkeypatch):
    assert on_device.products_on(CPU) is apply_matrices
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1e9, 8e9))
    monkeypatch.setattr(on_device, "products_in_slabs", lambda *found: found)
    device, (matrices, out) = torch.device("cuda"), (matrices_between((31, 40, 22), (60, 40, 22), 3), np.empty(1))
    assert on_device.products_on(device)(matrices, scan(), out)[3:] == (device, 0.25e9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60e9, 80e9))
    assert on_device.products_on(device)(matrices, scan(), out)[4] == on_device.MAX_SLAB_BYTES
