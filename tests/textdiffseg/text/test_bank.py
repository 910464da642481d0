import errno
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import textdiffseg.files
from plans.errors import UserError
from plans.layout import FoldFolder
from plans.raw.prompts import Prompts
from textdiffseg.queries import Queries
from textdiffseg.text.bank import TextBank, build_bank
from textdiffseg.text.encoder import MAX_PHRASE_TOKENS


def row(queries: Queries, index: int) -> tuple[torch.Tensor, ...]:
    """The queries of a sample, without its padding."""
    queried, real = queries.mask[index], queries.token_mask[index]
    return queries.labels[index][queried], queries.vectors[index][queried], queries.tokens[index][real]


def test_labels_are_numbered_in_the_order_given_not_in_that_of_the_prompts(bank):
    assert bank.labels == ("Anterior", "Posterior")
    assert list(bank.phrasings.values()) == [
        ("anterior hippocampus", "hippocampal head", "front"),
        ("posterior hippocampus", "tail of the hippocampus"),
    ]
    assert bank.width == 384


def test_words_that_are_one_to_the_encoder_are_refused(encoder):
    others = tuple(f"structure {index}" for index in range(30))
    prompts = Prompts(scan="CT", labels={"a": ("lesion \U0001f701", *others), "b": ("lesion \U0001f702",)})  # [UNK]
    with pytest.raises(UserError, match="name two labels, but the text encoder cannot distinguish them"):
        build_bank(prompts, ("a", "b"), encoder)


def test_a_phrase_that_the_encoder_would_cut_is_refused_and_a_long_description_is_cut(bank, encoder):
    most = " ".join(["very"] * (MAX_PHRASE_TOKENS - 4)) + " large mass"  # [CLS] and [SEP] come around them
    long = most.replace("large", "very large")
    build_bank(Prompts(scan=long, labels={"a": (most,)}), ("a",), encoder)
    with pytest.raises(UserError, match="very very large mass' is too long: the text encoder makes 33 tokens of it"):
        build_bank(Prompts(scan="CT", labels={"a": (long,)}), ("a",), encoder)
    with pytest.raises(UserError, match="and it reads 32"):
        bank.queries_for([long], force=True, encoder=encoder)


def test_the_banks_own_phrases_are_standardised(bank, encoder):
    phrases = [phrase for all_phrases in bank.phrasings.values() for phrase in all_phrases]
    raw = torch.stack([one.pooled for one in encoder.encode([*phrases, bank.words.scan, "background"])])
    rows = bank.space.pooled_standard.apply(raw)
    assert torch.allclose(rows.mean(0), torch.zeros(bank.width), atol=1e-5)
    assert (rows.std(0, unbiased=False) < 1 + 1e-4).all()
    assert (rows.std(0, unbiased=False) > 0.999).float().mean() > 0.9  # the others are floored
    tokens = torch.cat([bank.encode(one, encoder).tokens for one in [*phrases, bank.words.scan, "background"]])
    assert torch.allclose(tokens.mean(0), torch.zeros(bank.width), atol=1e-4)


def test_a_phrase_encoded_later_lands_on_the_banks_vectors(bank, encoder):
    later = bank.encode("hippocampal head", encoder)
    queried = bank.queries([[(1, 1)]])
    assert torch.allclose(later.pooled, queried.vectors[0, 0], atol=1e-5)
    assert torch.allclose(later.tokens, queried.tokens[0, : len(later.tokens)], atol=1e-4)


def test_a_new_phrase_lies_near_its_label(bank, encoder):
    queried = bank.all_labels().vectors[0]
    anterior, posterior = (bank.encode(phrase, encoder).pooled for phrase in ("head of hippocampus", "posterior tail"))
    assert torch.cdist(torch.stack((anterior, posterior)), queried).argmin(1).tolist() == [0, 1]


def test_a_batch_equals_its_samples_one_by_one(bank):
    queried = [[(1, 0), (2, 1)], [(2, 0)], [(1, 2)]]
    batch = bank.queries(queried)
    assert batch.labels.tolist() == [[1, 2], [2, 0], [1, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False], [True, False]]
    for index, one in enumerate(queried):
        assert all(torch.equal(*pair) for pair in zip(row(batch, index), row(bank.queries([one]), 0), strict=True))
    assert not batch.vectors[~batch.mask].any()
    assert not batch.tokens[~batch.token_mask].any()


def test_tokens_are_those_of_the_phrases_and_of_the_scan(bank, encoder):
    length = sum(len(one.tokens) for one in encoder.encode(["front", "posterior hippocampus", bank.words.scan]))
    assert int(bank.queries([[(1, 2), (2, 0)]]).token_mask.sum()) == length


def test_all_labels_is_one_sample_with_first_phrasings(bank):
    everything, same = bank.all_labels(), bank.queries([[(1, 0), (2, 0)]])
    assert torch.equal(everything.vectors, same.vectors)
    assert everything.labels.tolist() == [[1, 2]]


def test_a_label_or_phrasing_beyond_the_bank_is_an_index_error(bank):
    for pair in [(3, 0), (0, 0), (1, 3), (1, -1)]:
        with pytest.raises(IndexError):
            bank.queries([[pair]])


def test_there_and_back_on_disk(bank, tmp_path):
    files = FoldFolder(tmp_path).words
    bank.save(files)
    again = TextBank.load(files)
    assert again.words == bank.words
    queried = [[(1, 2), (2, 1)], [(2, 0)]]
    assert all(
        torch.equal(*pair) for pair in zip(row(bank.queries(queried), 0), row(again.queries(queried), 0), strict=True)
    )
    assert torch.equal(again.space.pooled_standard.std, bank.space.pooled_standard.std)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text_bank.safetensors", "text_space.safetensors"]


def test_no_description_of_the_scan_is_no_tokens(encoder, tmp_path):
    bank = build_bank(Prompts(scan=" ", labels={"liver": ("liver",)}), ("liver",), encoder)
    assert bank.raw_scan is None
    assert int(bank.all_labels().token_mask.sum()) == 3
    bank.save(FoldFolder(tmp_path).words)
    assert TextBank.load(FoldFolder(tmp_path).words).raw_scan is None


def test_missing_damaged_and_foreign_files_are_refused(bank, tmp_path):
    files = FoldFolder(tmp_path).words
    path = files.bank
    with pytest.raises(UserError, match="does not exist"):
        TextBank.load(files)
    bank.save(files)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is not a readable text bank"):
        TextBank.load(files)
    path.write_bytes(whole)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["words"])
    for change, words in (
        ({"version": 3}, "written by a newer TextDiffSeg: version 3, this one reads up to 2"),
        ({"version": 1}, "1 is too old: this TextDiffSeg reads from 2 on"),
        ({"words": header["words"] | {"phrasings": [["a"], ["b"]]}}, "differ in number"),
        ({"lengths": header["lengths"][::-1][1:]}, "differ in number"),
    ):
        save_file(tensors, path, metadata={"words": json.dumps(header | change)})
        with pytest.raises(UserError, match=words):
            TextBank.load(files)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="is not a text bank"):
        TextBank.load(files)


def test_a_full_disk_names_the_bank_and_leaves_nothing(bank, tmp_path, monkeypatch):
    files, open_new = FoldFolder(tmp_path).words, textdiffseg.files.open_no_link

    def full(path, flags):
        if files.bank.name in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        return open_new(path, flags)

    monkeypatch.setattr("textdiffseg.files.open_no_link", full)
    with pytest.raises(OSError, match="No space") as error:
        bank.save(files)
    assert error.value.filename == str(files.bank)
    assert [path.name for path in tmp_path.iterdir()] == [files.space.name]


def test_labels_and_phrasings_are_found_whatever_their_spelling(bank):
    assert [bank.find(words)[0] for words in ("Anterior", "anterior_hippocampus", "HIPPOCAMPAL  head")] == [1, 1, 1]
    assert bank.find("posterior")[0] == 2
    assert bank.words.find("tail of the hippocampus") == (2, 1)


def test_an_unknown_prompt_shows_the_three_nearest_and_stops(bank, encoder):
    with pytest.raises(UserError) as spelled:
        bank.queries_for(["anterior hippocampi"])
    assert str(spelled.value).index("'anterior hippocampus' (label Anterior)") < str(spelled.value).index("(label Post")
    with pytest.raises(UserError) as meant:
        bank.queries_for(["head of hippocampus", "the moon", "posterior"], encoder=encoder)
    assert len(meant.value.lines) == 2
    assert "are 'hippocampal head' (label Anterior)" in meant.value.lines[0]
    assert all(line.count("(label") == 3 for line in meant.value.lines)
    assert "--force" in meant.value.lines[1]


def test_forced_phrases_run_with_their_own_vectors_and_numbers_beyond_the_labels(bank, encoder):
    queries = bank.queries_for(["the moon", "tail of the hippocampus", "the sun"], force=True, encoder=encoder)
    assert queries.labels.tolist() == [[3, 2, 4]]
    assert torch.equal(queries.vectors[0, 1], bank.queries([[(2, 1)]]).vectors[0, 0])
    assert torch.allclose(queries.vectors[0, 0], bank.encode("the moon", encoder).pooled)


def test_force_needs_the_banks_own_encoder(bank):
    with pytest.raises(UserError, match="need its text encoder 'bundled'"):
        bank.queries_for(["the moon"], force=True)


def test_known_phrases_need_no_encoder(bank):
    queries = bank.queries_for(["front", "posterior"])
    assert torch.equal(queries.vectors, bank.queries([[(1, 2), (2, 0)]]).vectors)


def test_asking_twice_for_one_label_or_for_nothing_is_refused(bank):
    with pytest.raises(UserError, match=r"all mean label 'Anterior'"):
        bank.queries_for(["front", "anterior"])
    with pytest.raises(UserError, match="No prompt"):
        bank.queries_for([])


def test_a_bank_of_another_space_is_refused(bank, encoder, tmp_path):
    """DESIGN 3: text space and text bank are two files."""
    mine, other = FoldFolder(tmp_path / "fold_0").words, FoldFolder(tmp_path / "fold_1").words
    bank.save(mine)
    build_bank(Prompts(scan="CT", labels={"liver": ("liver", "hepar")}), ("liver",), encoder).save(other)
    other.space.replace(mine.space)
    with pytest.raises(UserError, match=r"text_bank.*belongs to another text space") as error:
        TextBank.load(mine)
    assert len(error.value.lines) == 1
    bank.space.save(mine.space)
    assert TextBank.load(mine).words == bank.words


def test_phrases_are_added_in_the_same_space(bank, encoder, tmp_path):
    """DESIGN 3: phrases can be added later."""
    more = bank.with_phrases({"Posterior": ["posterior tail"], "Anterior": ["front", "top of it"]}, encoder)
    assert more.phrasings == {
        "Anterior": ("anterior hippocampus", "hippocampal head", "front", "top of it"),
        "Posterior": ("posterior hippocampus", "tail of the hippocampus", "posterior tail"),
    }
    assert more.space is bank.space
    assert torch.equal(
        more.queries_for(["posterior tail"]).vectors[0, 0], bank.encode("posterior tail", encoder).pooled
    )
    before, after = bank.queries([[(1, 2), (2, 1)]]), more.queries([[(1, 2), (2, 1)]])
    assert torch.equal(before.vectors, after.vectors)
    assert torch.equal(before.tokens, after.tokens)
    files = FoldFolder(tmp_path).words
    bank.save(files)
    space = files.space.read_bytes()
    more.save(files)
    assert files.space.read_bytes() == space
    assert TextBank.load(files).find("TOP of it") == (1, 3)


def test_phrases_that_cannot_be_added_are_refused(bank, encoder):
    with pytest.raises(UserError, match="liver: not among the bank's labels, which are Anterior, Posterior"):
        bank.with_phrases({"liver": ["liver"]}, encoder)
    with pytest.raises(UserError, match="names both 'Anterior' and 'Posterior'"):
        bank.with_phrases({"Posterior": ["Front"]}, encoder)
    other = replace(bank, space=replace(bank.space, encoder="other", encoder_hash=None))
    with pytest.raises(UserError, match="need its text encoder 'other'"):
        other.with_phrases({"Posterior": ["end"]}, encoder)


def test_context_labels_add_their_tokens_and_no_slot(bank):
    plain, both = bank.queries([[(1, 0)]]), bank.queries([[(1, 0), (2, 1)]])
    found = bank.queries([[(1, 0)], [(1, 0)]], context_labels=[[(2, 1)], []])
    assert torch.equal(found.labels, plain.labels.expand(2, -1))
    assert torch.equal(found.vectors, plain.vectors.expand(2, -1, -1))
    assert found.token_mask.sum(1).tolist() == [int(both.token_mask.sum()), int(plain.token_mask.sum())]
    first = {tuple(token.tolist()) for token in found.tokens[0][found.token_mask[0]]}
    assert first == {tuple(token.tolist()) for token in both.tokens[0]}
    assert torch.equal(bank.queries([[(1, 0)]], context_labels=[[]]).tokens, plain.tokens)
