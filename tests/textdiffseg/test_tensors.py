"""Safetensors files: what was written comes back, and nothing else does."""

import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from textdiffseg.tensors import DamagedError, read_tensor_file, read_tensor_metadata, write_tensor_file

TENSORS = {
    "weight": torch.arange(24.0).reshape(2, 3, 4),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}
METADATA = {"progress": '{"iteration": 7}', "other": "ä"}


@pytest.fixture
def path(tmp_path):
    write_tensor_file(tmp_path / "x.safetensors", TENSORS, METADATA)
    return tmp_path / "x.safetensors"


def test_there_and_back(path):
    content = read_tensor_file(path)
    assert content.metadata == METADATA == read_tensor_metadata(path)
    assert content.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(content.tensors[name], value) for name, value in TENSORS.items())
    assert read_tensor_file(path, ["count"]).tensors == {"count": TENSORS["count"]}
    with pytest.raises(DamagedError, match="no tensor 'ghost'"):
        read_tensor_file(path, ["ghost"])


def test_equal_content_gives_equal_bytes(path, tmp_path):
    for number in range(8):  # safetensors alone orders metadata at random
        write_tensor_file(tmp_path / str(number), TENSORS, METADATA)
        assert (tmp_path / str(number)).read_bytes() == path.read_bytes()


def test_no_flipped_bit_changes_what_is_read(path):
    """DESIGN 3: each file that is read back is checked against a hash that was stored with it."""
    whole, refused = path.read_bytes(), 0
    for place in random.Random(0).sample(range(8, len(whole)), min(400, len(whole) - 8)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            content = read_tensor_file(path)
        except DamagedError:
            refused += 1
            continue
        assert content.tensors.keys() == TENSORS.keys()
        assert all(torch.equal(content.tensors[name], value) for name, value in TENSORS.items())
        assert METADATA.items() <= content.metadata.items()
    assert refused > 300


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused(path, size):
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.raises(DamagedError):
        read_tensor_file(path)


def test_a_file_without_hashes_is_read_as_older_versions_wrote_it(path):
    save_file(load_file(path), path, METADATA)
    assert read_tensor_file(path).metadata == METADATA
    save_file(load_file(path), path)
    assert read_tensor_file(path).metadata == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_even_without_hashes(path, value):
    tensors = load_file(path)
    tensors["weight"][1, 2, 3] = value
    save_file(tensors, path, METADATA)
    with pytest.raises(DamagedError, match="tensor 'weight' holds numbers that are not finite"):
        read_tensor_file(path)
