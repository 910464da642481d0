"""A case's own text is used where it is told, and not needed where it is missing."""

from functools import partial

import numpy as np
import pytest
import torch

from plans.plan import bank_file, texts_file
from plans.prompts import Prompts
from textdiffseg.data.splits import Fold
from textdiffseg.data.store import CaseRecord, open_case, save_case
from textdiffseg.imaging.volume import Geometry, Volume
from textdiffseg.inference import validation
from textdiffseg.preprocessing.case import preprocess_image
from textdiffseg.text import case_texts
from textdiffseg.text.bank import build_bank
from textdiffseg.text.case_texts import read_case_texts, update_case_texts
from textdiffseg.text.encoder import PhraseVectors
from textdiffseg.training import loop
from textdiffseg.training.run import TrainingOptions

TEXTS = ("it is bright", "it is dark")
CASES = tuple(f"case_{i}" for i in range(10))
FOLD = Fold(train=CASES[:8], validation=CASES[8:])


class WordHash:
    """A text encoder for tests: a token a word, a function of its letters."""

    width = 8

    def __init__(self, name="hash"):
        self.name = name

    def encode(self, phrases, longest=32):
        return [self._encode(phrase.split()[:longest]) for phrase in phrases]

    def length(self, phrase):
        return len(phrase.split())

    def _encode(self, words):
        seeds = [torch.Generator().manual_seed(sum(map(ord, word))) for word in words]
        tokens = torch.stack([torch.randn(self.width, generator=seed) for seed in seeds])
        return PhraseVectors(tokens, tokens.mean(0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shapes_plan):
    """A preprocessed folder and a fold trained on it. Each scan has a bright cube, a dark one and a long bar; the bar
    is a label by its looks, and of the cubes the one that the case's text names is the other."""
    root, plan = tmp_path_factory.mktemp("root"), shapes_plan("unet")
    plan = plan.model_copy(
        update={
            "text": plan.text.model_copy(update={"of_cases": True}),
            "training": plan.training.model_copy(
                update={"epochs": 4, "iterations_per_epoch": 60, "learning_rate": 1e-2, "ema": 0.95}
            ),
            "batch": 4,
        }
    )
    plan.write(root / "plan_unet.json")
    for index, case in enumerate(CASES):
        image, labels = draw_case(index)
        image, trail = preprocess_image(Volume(image, Geometry(labels.shape, np.eye(4))), plan)
        save_case(
            root,
            CaseRecord(
                case=case, hash="", settings={}, shape=labels.shape, present=(1, 2), annotated=(1, 2), trail=trail
            ),
            image,
            labels,
            labels,
        )
    prompts = Prompts(scan="scan", labels={"ball": ("the cube",), "box": ("bar",)})
    build_bank(prompts, ("ball", "box"), WordHash()).save(root / bank_file("unet"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case_texts, "TextEncoder", WordHash)
        texts = {case: TEXTS[index % 2] for index, case in enumerate(CASES)}
        update_case_texts(root / texts_file("unet"), texts, "hash")
    told = []
    loop.fit(root, FOLD, root / "fold_0", TrainingOptions(preset="unet"), told.append)
    assert "Texts of 10 of 10 cases are read, each for about half of its samples." in told
    return root


def draw_case(index):
    """Image (1, 16, 16, 16) and labels: 1 the bright cube in even cases, the dark one in odd ones; 2 the bar."""
    rng = np.random.default_rng(index)
    image, labels = rng.normal(0, 0.1, (1, 16, 16, 16)).astype(np.float32), np.zeros((16, 16, 16), np.int16)
    corners = [(2, 2), (2, 9), (9, 2)]
    for place, which in enumerate(rng.permutation(3)):
        y, x = corners[place] + rng.integers(0, 2, 2)
        long = which == 2
        cube = (slice(None) if long else slice(5, 10), slice(y, y + 5), slice(x, x + 5))
        image[0][cube] += (1.0, -1.0, 2.0)[which]
        labels[cube] = 2 if long else which == index % 2
    return image, labels


def dice(root, case, words):
    """Dice of both labels in a held-out case of which `words` are told."""
    predictor, bank = validation.load_fold(root / "fold_0", "best", "cpu", validation.Sampling(mirroring=False))
    stored = open_case(root, case)
    (tokens,) = WordHash().encode([words]) if words else (None,)
    queries = bank.all_labels().with_tokens([tokens and bank.token_standard.apply(tokens.tokens)])
    found = predictor.predict_image(torch.from_numpy(stored.image[...].astype(np.float32)), queries)
    slots, truth = found.probabilities.argmax(0).numpy(), stored.labels[...]
    return [2 * np.sum((slots == n) & (truth == n)) / (np.sum(slots == n) + np.sum(truth == n)) for n in (1, 2)]


def test_the_network_does_what_the_text_says(trained):
    scores = partial(dice, trained)
    right = np.array([scores(case, TEXTS[index % 2]) for index, case in enumerate(FOLD.validation)])
    wrong = np.array([scores(case, TEXTS[1 - index % 2]) for index, case in enumerate(FOLD.validation)])
    assert right.min() > 0.8
    assert wrong[:, 0].max() < 0.1, "told the other word, it takes the other cube"
    assert wrong[:, 1].min() > 0.8


def test_a_missing_text_costs_only_what_it_alone_tells(trained):
    without = np.array([dice(trained, case, None) for case in FOLD.validation])
    assert without[:, 1].min() > 0.8
    assert without[:, 0].mean() < 0.7, "the scan alone does not tell which cube is meant"


def test_validation_of_stored_cases_tells_their_texts(trained):
    summary = validation.validate_fold(trained / "fold_0", trained, FOLD.validation)
    expected = np.mean([dice(trained, case, TEXTS[i % 2])[0] for i, case in enumerate(FOLD.validation)])
    assert summary.labels["ball"].dice == pytest.approx(expected, abs=0.02)


def test_without_the_file_nothing_is_trained_or_validated_on_by_mistake(trained, tmp_path):
    from plans.errors import UserError
    from textdiffseg.text.bank import TextBank

    bank = TextBank.load(trained / "fold_0" / "text_bank.safetensors")
    with pytest.raises(UserError, match=r"does not exist.*Put the data set's texts/ back"):
        read_case_texts(tmp_path / texts_file("unet"), bank, CASES)
