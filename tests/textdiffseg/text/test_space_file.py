"""A text space on disk: its file, its hash, and when two are the same."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from plans.errors import UserError
from textdiffseg.text.space import Standard, TextSpace


@pytest.fixture
def space() -> TextSpace:
    draw = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    return TextSpace("mine", Standard(draw[0], draw[1].exp()), Standard(draw[2], draw[3].exp()), draw[3:7])


def test_there_and_back_on_disk(space, tmp_path):
    space.save(tmp_path / "space.safetensors")
    again = TextSpace.load(tmp_path / "space.safetensors")
    assert (again.encoder, again.width, again.hash) == ("mine", 4, space.hash)
    assert torch.equal(again.projection, space.projection)
    assert torch.equal(again.token_standard.std, space.token_standard.std)
    assert torch.equal(again.pooled_standard.mean, space.pooled_standard.mean)


def test_the_hash_knows_every_number_and_the_encoder(space):
    bit = space.projection.clone()
    bit[3, 3] = torch.nextafter(bit[3, 3], torch.tensor(9.0))
    swapped = replace(space, token_standard=space.pooled_standard, pooled_standard=space.token_standard)
    others = [replace(space, encoder="other"), replace(space, projection=bit), swapped]
    assert len({one.hash for one in (space, *others)}) == 4


def test_spaces_agree_but_for_rounding(space):
    rounded = replace(space, projection=space.projection * (1 + 1e-5))
    assert rounded.hash != space.hash
    assert space.agrees(rounded)
    assert not space.agrees(replace(space, projection=space.projection * 1.1))
    assert not space.agrees(replace(space, encoder="other"))
    narrow = Standard(torch.zeros(3), torch.ones(3))
    assert not space.agrees(TextSpace("mine", narrow, narrow, torch.eye(3)))


def test_missing_damaged_and_foreign_files_are_refused(space, tmp_path):
    path = tmp_path / "space.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        TextSpace.load(path)
    space.save(path)
    whole, tensors = path.read_bytes(), load_file(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is not a readable text space"):
        TextSpace.load(path)
    save_file(tensors, path)
    with pytest.raises(UserError, match="is not a text space"):
        TextSpace.load(path)
    for header, words in (
        ({"version": 9, "encoder": "mine", "width": 4}, "version"),
        ({"version": 1, "encoder": "mine", "width": 5}, "not 5 wide"),
        ({"version": 1, "width": 4}, "encoder"),
    ):
        save_file(tensors, path, metadata={"space": json.dumps(header)})
        with pytest.raises(UserError, match=words):
            TextSpace.load(path)


def test_the_encoder_is_known_by_its_hash_and_by_its_name_where_there_is_none(space, tmp_path):
    """Another model under the same name, and the same model under another name."""
    known = replace(space, encoder_hash="abc")
    assert known.is_of("moved", "abc")
    assert not known.is_of("mine", "def")
    assert known.is_of("mine", None)
    assert space.is_of("mine", "abc")
    assert not space.is_of("moved", "abc")
    known.save(tmp_path / "space.safetensors")
    assert TextSpace.load(tmp_path / "space.safetensors").encoder_hash == "abc"


def test_a_space_of_version_1_is_read(space, tmp_path):
    path = tmp_path / "space.safetensors"
    space.save(path)
    header = {"version": 1, "encoder": "mine", "width": 4}
    save_file(load_file(path), path, metadata={"space": json.dumps(header)})
    again = TextSpace.load(path)
    assert (again.encoder, again.encoder_hash, again.hash) == ("mine", None, space.hash)
