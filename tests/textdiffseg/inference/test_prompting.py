from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from plans.errors import UserError
from plans.raw.prompts import PromptFile
from textdiffseg.inference import prompting
from textdiffseg.inference.prompting import caution, select_answers, select_labels
from textdiffseg.text.encoder import PhraseVectors


def test_without_prompts_all_labels_are_queried_with_their_values(plan, bank):
    selection = select_labels(plan, bank)
    assert selection.names == ("Front_Part", "back")
    assert selection.values == (7, 3)
    assert selection.queries.labels.tolist() == [[1, 2]]


@pytest.mark.parametrize("words", ["posterior end", "Posterior  END", "posterior_end"])
def test_a_known_phrase_asks_for_its_label_beside_its_rivals(plan, bank, words):
    selection = select_labels(plan, bank, [words])
    assert (selection.names, selection.values, selection.forced) == (("back",), (3,), False)
    assert selection.numbers == (2,)
    assert torch.equal(selection.queries.vectors, bank.queries([[(2, 1), (1, 0)]]).vectors), "then its rival"


def test_labels_that_no_case_was_known_of_together_do_not_compete(plan, bank):
    apart = plan.model_copy(update={"known_together": ((1,), (2,))})
    assert select_labels(apart, bank, ["back"]).queries.labels.tolist() == [[2]]
    assert select_labels(apart, bank, ["back", "front part"]).queries.labels.tolist() == [[2, 1]]


def test_labels_that_were_never_learned_together_are_reported(plan, bank):
    apart = plan.model_copy(update={"known_together": ((1,), (2,))})
    assert "learned Front_Part, back on different scans" in caution(apart, select_labels(apart, bank))
    assert caution(apart, select_labels(apart, bank, ["back"])) is None
    assert caution(plan, select_labels(plan, bank)) is None
    assert caution(plan.model_copy(update={"known_together": ((1, 2), (2,))}), select_labels(plan, bank)) is None


def test_where_labels_overlap_nothing_competes(plan, bank):
    overlapping = plan.model_copy(update={"regions": ((3, 7), (3,))})
    assert select_labels(overlapping, bank, ["back"]).queries.labels.tolist() == [[2]]


def test_values_follow_the_labels_not_the_order_of_the_prompts(plan, bank):
    assert select_labels(plan, bank, ["back", "front part"]).values == (3, 7)
    assert select_labels(plan, bank, ["back", "front part"], force=True).values == (3, 7)


def test_an_unknown_phrase_shows_the_three_nearest_and_does_not_run(plan, bank):
    with pytest.raises(UserError) as error:
        select_labels(plan, bank, ["front part of it"])
    (line,) = error.value.lines
    assert "'front part of it'" in line
    assert line.count("(label") == 3
    assert "--force" in line


class NamedEncoder:
    """The vectors of the fixture `bank`. It notes what is loaded; the source "other" gives other vectors."""

    loaded: ClassVar[list[str]] = []

    def __init__(self, source="bundled", name=None):
        self.source, self.name = source, name or source
        self.loaded.append(source)

    def encode(self, phrases, longest=None):
        vectors = []
        for phrase in phrases:
            rng = np.random.default_rng([*phrase.encode(), *([1] if self.source == "other" else [])])
            draw = torch.from_numpy(rng.normal(size=(4, 384)).astype(np.float32))
            vectors.append(PhraseVectors(draw[:3], draw[3]))
        return vectors


def test_an_encoder_that_a_model_names_is_loaded_only_where_the_user_names_it_too(plan, bank, monkeypatch):
    """A carried model may name any folder, or any model of the hub."""
    monkeypatch.setattr(prompting, "TextEncoder", NamedEncoder)
    foreign = replace(bank, space=replace(bank.space, encoder="/models/evil"))
    NamedEncoder.loaded.clear()
    with pytest.raises(UserError, match=r"encoded with '/models/evil', .*: --text-encoder /models/evil\.$") as error:
        select_labels(plan, foreign, ["the middle"], force=True)
    assert len(error.value.lines) == 1
    with pytest.raises(UserError, match="The nearest phrases are"):
        select_labels(plan, foreign, ["the middle"])
    reading = plan.model_copy(update={"text": plan.text.model_copy(update={"of_cases": True})})
    with pytest.raises(UserError, match="--text-encoder /models/evil"):
        prompting.encode_texts(reading, foreign, {"a": "large"})
    assert NamedEncoder.loaded == []
    assert select_labels(plan, foreign, ["the middle"], force=True, text_encoder="/models/evil").forced
    assert select_labels(plan, foreign, ["the middle"], force=True, text_encoder="elsewhere").forced
    with pytest.raises(UserError, match="--text-encoder other: its vectors differ from those of '/models/evil'"):
        select_labels(plan, foreign, ["the middle"], force=True, text_encoder="other")
    assert NamedEncoder.loaded == ["/models/evil", "elsewhere", "other"]


def test_prompts_that_cannot_be_printed_are_refused(plan, bank):
    with pytest.raises(UserError, match="holds characters that cannot be printed") as error:
        select_labels(plan, bank, ["back", "a\x1b[31m", "b\nerror: c"], force=True)
    assert len(error.value.lines) == 2


def test_forced_prompts_are_numbered_in_their_order(plan, bank):
    selection = select_labels(
        plan, bank, ["the middle", "back"], force=True
    )  # "the middle" might mean the front, its rival
    assert (selection.values, selection.forced, selection.names) == ((1, 2), True, ("the middle", "back"))
    assert selection.queries.vectors.shape[1] == 2
    torch.testing.assert_close(selection.queries.vectors[0, 1], bank.queries([[(2, 0)]]).vectors[0, 0])


def answers(**labels) -> PromptFile:
    return PromptFile.model_validate({"labels": {name: {"phrase": p, "value": v} for name, (p, v) in labels.items()}})


def test_a_file_names_and_numbers_the_answers(plan, bank):
    selection = select_answers(plan, bank, answers(rear=("posterior end", 40), tip=("front part", 2)))
    assert (selection.names, selection.values, selection.forced) == (("rear", "tip"), (40, 2), False)
    assert selection.queries.labels.tolist() == [[2, 1]]
    assert selection.user_labels == (("rear", 40), ("tip", 2))
    assert torch.equal(
        selection.queries.vectors, select_labels(plan, bank, ["posterior end", "front part"]).queries.vectors
    )


def test_the_words_of_a_file_are_never_replaced_either(plan, bank):
    unknown = answers(middle=("the middle", 5), end=("the end", 6), rear=("back", 7))
    with pytest.raises(UserError) as error:
        select_answers(plan, bank, unknown)
    assert [line.split("'")[1] for line in error.value.lines] == ["the middle", "the end"]
    selection = select_answers(plan, bank, unknown, force=True)
    assert (selection.names, selection.values, selection.forced) == (("middle", "end", "rear"), (5, 6, 7), True)


def test_a_model_with_a_channel_a_label_refuses_other_words(make_plan, bank):
    peer = make_plan("peer-unet", diffusion=None, peer="unet")
    assert select_labels(peer, bank, ["back"]).values == (3,)
    with pytest.raises(UserError, match="one channel per label"):
        select_labels(peer, bank, ["the middle"], force=True)
    with pytest.raises(UserError, match="one channel per label"):
        select_answers(peer, bank, answers(rear=("back", 5), middle=("the middle", 6)), force=True)


def test_labels_that_overlap_are_queried_in_their_own_order_which_decides_what_is_written(plan, bank):
    nested = plan.model_copy(update={"regions": ((3, 7), (3,))})
    selection = select_labels(nested, bank, ["back", "front part"])
    assert (selection.values, selection.prompts) == ((7, 3), ("front part", "back"))
    assert selection.queries.labels.tolist() == [[1, 2]]
    of_file = select_answers(nested, bank, answers(rear=("back", 40), tip=("front part", 2)))
    assert (of_file.names, of_file.values, of_file.prompts) == (("tip", "rear"), (2, 40), ("front part", "back"))
    assert of_file.user_labels == (("tip", 2), ("rear", 40)), "else the part would be hidden by the whole"


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("prompts", [[""], ["  "], ["back", "-"]])
def test_a_prompt_needs_words(plan, bank, prompts, force):
    with pytest.raises(UserError, match=r"A prompt has no words\. Give the words of a label: Front_Part, back"):
        select_labels(plan, bank, prompts, force)
