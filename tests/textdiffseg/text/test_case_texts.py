import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from plans.errors import UserError
from plans.raw.prompts import Prompts
from textdiffseg.text import case_texts
from textdiffseg.text.bank import build_bank
from textdiffseg.text.case_texts import encode_text, read_case_texts, update_case_texts
from textdiffseg.text.encoder import MAX_TEXT_TOKENS

TEXTS = {"a": "sclerotic on the left", "b": "normal volume"}
loaded: list[str] = []  # encoders, by `path`


@pytest.fixture
def path(tmp_path, encoder, monkeypatch):
    """A file of two texts; the encoder counts how often it is loaded."""
    monkeypatch.setattr(case_texts, "TextEncoder", lambda name: loaded.append(name) or encoder)
    loaded.clear()
    path = tmp_path / "case_texts.safetensors"
    assert update_case_texts(path, TEXTS, "bundled") == ("Texts of 2 cases: 2 encoded, 0 unchanged.",)
    return path


def test_tokens_are_the_encoder_s_in_the_bank_s_space(path, bank, encoder):
    found = read_case_texts(path, bank, ("a", "nobody"))
    assert set(found) == {"a"}
    assert torch.equal(found["a"], bank.encode(TEXTS["a"], encoder).tokens)
    other = build_bank(Prompts(scan="CT", labels={"liver": ("liver", "hepar")}), ("liver",), encoder)
    assert not torch.equal(found["a"], read_case_texts(path, other, ("a",))["a"])


def test_an_edited_text_renews_its_own_entry_alone(path, bank):
    before, content = read_case_texts(path, bank, TEXTS), path.read_bytes()
    assert update_case_texts(path, TEXTS, "bundled") == ("Texts of 2 cases: 0 encoded, 2 unchanged.",)
    assert (path.read_bytes(), loaded) == (content, ["bundled"])
    notes = update_case_texts(path, TEXTS | {"b": "enlarged"}, "bundled")
    after = read_case_texts(path, bank, TEXTS)
    assert notes == ("Texts of 2 cases: 1 encoded, 1 unchanged.",)
    assert torch.equal(before["a"], after["a"])
    assert before["b"].shape != after["b"].shape
    update_case_texts(path, {"b": "enlarged"}, "bundled")
    assert set(read_case_texts(path, bank, TEXTS)) == {"b"}
    assert len(loaded) == 2
    update_case_texts(path, {}, "bundled")
    assert not path.exists()


def test_texts_beyond_the_limit_are_cut_and_reported(path, bank, encoder):
    words = " ".join(["liver"] * (MAX_TEXT_TOKENS - 2))  # [CLS] and [SEP] come around them
    just, more = encode_text(words, encoder), encode_text(words + " liver", encoder)
    assert len(just.tokens) == len(more.tokens) == MAX_TEXT_TOKENS
    assert (just.entry.length, more.entry.length) == (MAX_TEXT_TOKENS, MAX_TEXT_TOKENS + 1)
    _, cut = update_case_texts(path, TEXTS | {"b": words, "c": words + " liver"}, "bundled")
    assert cut == f"These texts are long, so only their first {MAX_TEXT_TOKENS} tokens are read: c."
    assert update_case_texts(path, {"c": words + " liver"}, "bundled")[1] == cut, "reported every time"


def test_another_encoder_encodes_all_again_and_fits_no_other_bank(path, bank):
    assert update_case_texts(path, TEXTS, "other")[0] == "Texts of 2 cases: 2 encoded, 0 unchanged."
    with pytest.raises(UserError, match="encoder 'other', but the model has 'bundled'"):
        read_case_texts(path, bank, TEXTS)
    read_case_texts(path, replace(bank, space=replace(bank.space, encoder="other")), TEXTS)


def test_missing_damaged_and_foreign_files_are_refused_and_made_again(path, bank):
    whole = path.read_bytes()
    for spoil, sentence in (
        (path.unlink, "does not exist"),
        (lambda: path.write_bytes(whole[:100]), "is not a readable file of texts"),
        (lambda: save_file({"a": torch.zeros(1, 2)}, path), "case_texts.safetensors"),
        (lambda: save_file({}, path, metadata={"texts": json.dumps({"version": 99})}), "version"),
    ):
        spoil()
        with pytest.raises(UserError, match=sentence):
            read_case_texts(path, bank, TEXTS)
        assert update_case_texts(path, TEXTS, "bundled")[0] == "Texts of 2 cases: 2 encoded, 0 unchanged."
        assert path.read_bytes() == whole


def test_a_bank_adds_a_case_s_text_to_the_words(path, bank):
    queried = [((1, 0),), ((1, 0), (2, 1)), ((2, 0),)]
    with_bank = replace(bank, texts=read_case_texts(path, bank, TEXTS))
    plain, with_texts = bank.queries(queried), with_bank.queries(queried, ("a", None, "nobody"))
    assert torch.equal(with_texts.vectors, plain.vectors)
    before, after = ([one.tokens[row][one.token_mask[row]] for row in range(3)] for one in (plain, with_texts))
    assert torch.equal(after[0], torch.cat((before[0], with_bank.texts["a"])))
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[2], before[2])
    nothing = bank.queries(queried, ("a", None, "nobody"))
    assert torch.equal(nothing.tokens, plain.tokens), "without texts not a padded token more"
