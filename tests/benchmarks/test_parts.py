"""Each intervention changes the module in its name, and nothing else."""

import argparse

import pytest
import torch

from plans.errors import UserError
from textdiffseg.folds.sampling import Settings
from textdiffseg.inference.predictor import Predictor


@pytest.fixture
def parts(benchmark):
    return benchmark("parts")


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 15, 18, 21, generator=torch.Generator().manual_seed(5))


def predict(model, image, queries):
    return Predictor([model], Settings()).predict_image(image, queries).probabilities


def test_without_an_intervention_the_prediction_is_the_models_own(parts, model, bank, image):
    queries = bank.all_labels()
    assert torch.equal(predict(parts.Undisturbed(model), image, queries), predict(model, image, queries))


def test_a_cases_own_latents_give_its_own_prediction_back(parts, model, bank, image):
    queries, listening = bank.all_labels(), parts.LatentRecorder(model)
    own = predict(listening, image, queries)
    assert torch.equal(predict(parts.ExchangedLatent(model, listening.latents), image, queries), own)
    other = [-latent for latent in listening.latents]
    assert not torch.allclose(predict(parts.ExchangedLatent(model, other), image, queries), own)


def test_swapping_the_classifiers_vectors_swaps_the_labels(parts, model, bank, image):
    own = predict(model, image, bank.all_labels())
    swapped = predict(parts.SwappedVectors(model), image, bank.all_labels())
    torch.testing.assert_close(swapped, own[[0, 2, 1]])


def test_tokens_of_both_labels_are_one_set_and_of_single_ones_are_not(parts, model, bank, image):
    own, other = (bank.queries([[(number, 0)]]) for number in (1, 2))
    backwards = bank.queries([[(2, 0), (1, 0)]])
    together = predict(model, image, bank.all_labels())
    torch.testing.assert_close(predict(parts.ExchangedTokens(model, backwards), image, bank.all_labels()), together)
    assert torch.equal(predict(parts.ExchangedTokens(model, own), image, own), predict(model, image, own))
    assert not torch.allclose(predict(parts.ExchangedTokens(model, other), image, own), predict(model, image, own))


def test_zeroed_parts_are_zero(parts, model, bank):
    z_i, queries = torch.randn(2, 8, 4, 4, 4), bank.all_labels().expand(2)
    assert torch.equal(parts.NoFusion(model).fuse(z_i, queries), z_i)
    assert not torch.allclose(model.fuse(z_i, queries), z_i)
    z_0, skips = torch.randn(2, 4, 4, 4, 4), (torch.randn(2, 8, 16, 16, 16), torch.randn(2, 8, 8, 8, 8))
    bare = parts.NoSkips(model).decode(z_0, skips, queries)
    assert torch.equal(bare, model.decode(z_0, tuple(torch.zeros_like(skip) for skip in skips), queries))


def test_an_intervention_without_loss_is_decorative(parts):
    whole = {"a": 0.75, "b": 0.25}
    rows = {
        "as it is": parts.row(whole),
        "fusion": parts.row({"a": 0.75, "b": 0.246}, whole),
        "skips": parts.row({"a": 0.5, "b": 0.25}, whole),
    }
    assert rows["skips"]["loss"] == 0.125
    assert parts.decorative(rows) == ["fusion"]


def test_a_model_without_these_parts_is_refused(parts, model, tmp_path):
    (tmp_path / "plan.json").write_text(model.plan.model_copy(update={"diffusion": None}).model_dump_json())
    with pytest.raises(UserError, match="has not all of these parts"):
        parts.examine(argparse.Namespace(fold=tmp_path))
