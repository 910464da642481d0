"""A case's text is used if it is given, and not needed if it is missing."""

from functools import partial

import numpy as np
import pytest
import torch

from plans.errors import UserError
from plans.layout import FoldFolder, PreprocessedFolder
from plans.raw.prompts import Prompts
from textdiffseg.data.splits import Split
from textdiffseg.data.store import CaseRecord, open_case, save_case
from textdiffseg.files import write_record
from textdiffseg.folds.sampling import Sampling
from textdiffseg.imaging.volume import Geometry, Volume
from textdiffseg.preprocessing.case import preprocess_image, preprocess_labels
from textdiffseg.text import case_texts
from textdiffseg.text.bank import TextBank, build_bank
from textdiffseg.text.case_texts import read_case_texts, update_case_texts
from textdiffseg.text.encoder import PhraseVectors
from textdiffseg.training import loop
from textdiffseg.training.options import TrainingOptions
from textdiffseg.validation import score
from textdiffseg.validation.cases import load_fold
from textdiffseg.validation.score import validate_fold

TEXTS = ("tiny small little thin narrow slight", "large huge big wide broad vast")
CASES = tuple(f"case_{i}" for i in range(10))
PLAIN = Sampling(mirroring=False)
FOLD = Split(train=CASES[:8], validation=CASES[8:])


class WordHash:
    """A text encoder for tests: a token a word, a function of its letters."""

    width = 8

    def __init__(self, name="hash"):
        self.name = name

    def encode(self, phrases, longest=None):
        return [self._encode(phrase.split()[:longest]) for phrase in phrases]

    def length(self, phrase):
        return len(phrase.split())

    def _encode(self, words):
        seeds = [torch.Generator().manual_seed(sum(map(ord, word))) for word in words]
        tokens = torch.stack([torch.randn(self.width, generator=seed) for seed in seeds])
        return PhraseVectors(tokens, tokens.mean(0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shapes_plan):
    """A preprocessed folder and a fold trained on it; a case's text states the extent of its label 1."""
    root, plan = tmp_path_factory.mktemp("root"), shapes_plan("unet")
    plan = plan.model_copy(
        update={
            "text": plan.text.model_copy(update={"of_cases": True}),
            "training": plan.training.model_copy(
                update={"epochs": 1, "iterations_per_epoch": 350, "learning_rate": 1e-2, "augmentation": "paper"}
            ),
            "batch": 8,
            "patch": (8, 8, 8),
            "median_shape": (8, 8, 8),
        }
    )
    write_record(PreprocessedFolder(root).plan("unet"), plan)
    for index, case in enumerate(CASES):
        image, labels = draw_case(index)
        image, transform = preprocess_image(Volume(image, Geometry(labels.shape, np.eye(4))), plan)
        known = {"present": (1, 2), "annotated": (1, 2)}
        record = CaseRecord(case=case, hash="", settings={}, shape=transform.shape, transform=transform, **known)
        save_case(root, record, image, preprocess_labels(labels, transform, plan), labels)
    prompts = Prompts(scan="scan", labels={"ball": ("the slab",), "box": ("brightest",)})
    build_bank(prompts, ("ball", "box"), WordHash()).save(PreprocessedFolder(root).words("unet"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case_texts, "TextEncoder", WordHash)
        texts = {case: TEXTS[index % 2] for index, case in enumerate(CASES)}
        update_case_texts(PreprocessedFolder(root).case_texts("unet"), texts, "hash")
    messages = []
    loop.train_fold(root, FOLD, FoldFolder(root / "fold_0"), TrainingOptions(), "unet", messages.append)
    assert "Texts: 10 of 10 cases have one. About half of their samples read it." in messages
    return root


def draw_case(index):
    """Image (1, 8, 8, 8) of four slabs, and labels: 1 the brightest slab, in odd cases the bright one too; 2 the dark.

    The images come in pairs. Only the texts of a pair differ.
    """
    rng = np.random.default_rng(index // 2)
    image, labels = rng.normal(0, 0.1, (1, 8, 8, 8)).astype(np.float32), np.zeros((8, 8, 8), np.int16)
    for place, (intensity, label) in enumerate(rng.permutation([(2, 1), (1, index % 2), (0, 0), (-1, 2)])):
        slab = slice(2 * place, 2 * place + 2)
        image[:, slab] += intensity
        labels[slab] = label
    return image, labels


def dice(root, case, words):
    """Dice of both labels in a held-out case with the text `words`."""
    predictor, bank = load_fold(FoldFolder(root / "fold_0"), "cpu", PLAIN)
    stored = open_case(root, case)
    (tokens,) = WordHash().encode([words]) if words else (None,)
    queries = bank.all_labels().with_tokens([tokens and bank.space.tokens(tokens.tokens)])
    found = predictor.predict_image(torch.from_numpy(stored.image[...].astype(np.float32)), queries)
    slots, truth = found.probabilities.argmax(0).numpy(), stored.labels[...]
    return [2 * np.sum((slots == n) & (truth == n)) / (np.sum(slots == n) + np.sum(truth == n)) for n in (1, 2)]


def test_the_network_follows_the_text(trained):
    scores = partial(dice, trained)
    right = np.array([scores(case, TEXTS[index % 2]) for index, case in enumerate(FOLD.validation)])
    wrong = np.array([scores(case, TEXTS[1 - index % 2]) for index, case in enumerate(FOLD.validation)])
    assert right.min() > 0.9
    assert wrong[:, 0].max() < 0.75, "the other text gives the other extent, whose Dice is 2/3"
    assert wrong[:, 1].min() > 0.9


def test_a_missing_text_costs_only_what_no_image_shows(trained):
    without = np.array([dice(trained, case, None) for case in FOLD.validation])
    assert without[:, 1].min() > 0.9
    assert without[:, 0].min() > 0.6, "the brightest slab is found"
    assert without[:, 0].mean() < 0.9, "whether the bright one belongs to it, only the text states"


def test_validation_of_stored_cases_reads_their_texts(trained, monkeypatch):
    monkeypatch.setattr(score, "read_sampling", lambda _: PLAIN)
    summary = validate_fold(FoldFolder(trained / "fold_0"), trained, FOLD.validation)
    expected = np.mean([dice(trained, case, TEXTS[i % 2])[0] for i, case in enumerate(FOLD.validation)])
    assert summary.labels["ball"].dice == pytest.approx(expected, abs=0.02)


def test_a_plan_that_reads_texts_needs_their_file(trained, tmp_path):
    bank = TextBank.load(FoldFolder(trained / "fold_0").words)
    with pytest.raises(UserError, match=r"does not exist.*Put the data set's texts/ back"):
        read_case_texts(PreprocessedFolder(tmp_path).case_texts("unet"), bank, CASES)
