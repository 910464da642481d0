import pytest
import torch

from plans.network_plan import DiffusionPlan, LatentPlan, Stage
from plans.plan import ChannelPlan, LabelPlan, MemoryPlan, Plan, TextPlan, TrainingPlan
from textdiffseg.networks.blocks import ConvBlock, ResidualBlock
from textdiffseg.networks.model import build_model, can_sample
from textdiffseg.queries import Queries
from textdiffseg.segmenter import mask_features

TEXT_WIDTH = 12


def make_plan(preset="default", strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 2, 2)), labels=2):
    stages = tuple(
        Stage(stride=stride, kernel=(3, 3, 3), width=8 * (i + 1), blocks=1, attention=i >= 2)
        for i, stride in enumerate(strides)
    )
    return Plan(
        preset=preset,
        dataset="Dataset001_Test",
        device="cpu",
        channels=(ChannelPlan(name="MRI", scheme="zscore"), ChannelPlan(name="CT", scheme="ct")),
        labels=tuple(LabelPlan(name=f"organ {i}", value=i) for i in range(1, labels + 1)),
        spacing=(1.0, 1.0, 1.0),
        median_shape=(16, 16, 16),
        patch=(8, 16, 16),
        batch=2,
        stages=stages,
        fusion_level=2,
        latent=LatentPlan(level=1, channels=4),
        diffusion=None if preset == "unet" else DiffusionPlan(min_log_snr=-5),
        text=TextPlan(encoder="bundled", width=TEXT_WIDTH),
        training=TrainingPlan(
            epochs=1,
            iterations_per_epoch=1,
            learning_rate=1e-3,
            weight_decay=0.01,
            warmup=0.1,
            ema=0.99,
            foreground_share=0.33,
        ),
        mirror_axes=(0, 1, 2),
        memory=MemoryPlan(budget_gb=1, training_gb=1, prediction_gb=1, ram_gb=1, disk_gb=1),
    )


def make_queries(labels, seed=0, tokens=6):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(labels)
    batch, count = labels.shape
    return Queries(
        labels,
        torch.randn(batch, count, TEXT_WIDTH, generator=generator),
        torch.randn(batch, tokens, TEXT_WIDTH, generator=generator),
        torch.ones(batch, tokens, dtype=torch.bool),
    )


@pytest.fixture(params=["default", "unet"])
def model(request):
    torch.manual_seed(0)
    return build_model(make_plan(request.param)).eval()


@torch.no_grad()
def run(model, image, queries):
    return mask_features(model, image, queries).logits


def test_shapes_follow_the_plan(model):
    image = torch.randn(2, 2, 8, 16, 16)
    z_i, skips = model.encode_image(image)
    assert z_i.shape == (2, 24, 2, 4, 4)
    assert [skip.shape[1:] for skip in skips] == [(8, 8, 16, 16), (16, 4, 8, 8)]
    logits = run(model, image, make_queries([[1, 2], [2, 1]]))
    assert logits.shape == (2, 3, 8, 16, 16)
    h = model.estimate(torch.randn(2, 24, 2, 4, 4))
    assert h.shape == (2, 24, 2, 4, 4)
    assert [one.shape[1:] for one in model.decode((*skips, h))] == [(24, 2, 4, 4), (16, 4, 8, 8), (8, 8, 16, 16)]


def test_a_batch_gives_the_results_of_its_samples(model):
    image = torch.randn(2, 2, 8, 16, 16)
    queries = make_queries([[1, 2], [2, 1]])
    together = run(model, image, queries)
    for i in range(2):
        chosen = queries.of(torch.tensor([i]))
        exclusive = run(model, image[i : i + 1], chosen)
        torch.testing.assert_close(exclusive[0], together[i], atol=1e-4, rtol=1e-4)


def test_padded_slots_and_masked_tokens_change_nothing(model):
    image = torch.randn(1, 2, 8, 16, 16)
    queries = make_queries([[1]])
    padded = Queries(
        torch.tensor([[1, 0]]),
        torch.cat((queries.vectors, torch.randn(1, 1, TEXT_WIDTH)), dim=1),
        torch.cat((queries.tokens, torch.randn(1, 3, TEXT_WIDTH)), dim=1),
        torch.cat((queries.token_mask, torch.zeros(1, 3, dtype=torch.bool)), dim=1),
    )
    expected, found = run(model, image, queries), run(model, image, padded)
    torch.testing.assert_close(found[:, :2], expected, atol=1e-5, rtol=1e-5)
    assert (found.softmax(1)[:, 2] == 0).all()


def test_logits_follow_the_order_of_the_queries(model):
    """The text vectors are the classifier, so another order of queries only reorders the logits."""
    image = torch.randn(1, 2, 8, 16, 16)
    queries = make_queries([[1, 2]])
    swapped = Queries(queries.labels.flip(1), queries.vectors.flip(1), queries.tokens, queries.token_mask)
    torch.testing.assert_close(
        run(model, image, swapped)[:, [0, 2, 1]], run(model, image, queries), atol=1e-5, rtol=1e-5
    )


def test_every_parameter_is_used_in_one_of_both_stages_of_training(model):
    from textdiffseg.data.batch import batch_keys
    from textdiffseg.training.objectives import objective_of

    torch.manual_seed(3)
    model.train()
    for parameter in model.parameters():  # zero-initialised layers hide what lies before them
        parameter.data += 0.01 * torch.randn_like(parameter)
    slots = torch.randint(0, 3, (2, 8, 16, 16))
    queries, image = make_queries([[1, 2], [2, 1]]), torch.randn(2, 2, 8, 16, 16)
    stages = (False,) if model.plan.diffusion is None else (False, True)
    for samples in stages:
        objective = objective_of(model, samples)
        draws = objective.draw(1, batch_keys(0, 2, 2))
        objective.losses(image, slots, queries, draws).total.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert idle == []


def test_the_spread_is_stored_and_0_before_the_sampler_is_trained(model):
    if model.plan.diffusion is None:
        assert not hasattr(model, "spread")
        assert can_sample([model]), "nothing is missing: it has no samples"
        return
    assert torch.equal(model.state_dict()["spread"], torch.zeros(()))
    assert not can_sample([model])
    other = build_model(model.plan)
    other.spread.fill_(1)
    assert can_sample([other])
    assert not can_sample([other, model])


def test_default_and_unet_start_with_the_same_masks():
    """The sampler is beside the masks: with the same seed both presets train the same network first."""
    models = []
    for preset in ("default", "unet"):
        torch.manual_seed(0)
        models.append(build_model(make_plan(preset)).eval())
    image, queries = torch.randn(1, 2, 8, 16, 16), make_queries([[1, 2]])
    assert torch.equal(*(run(one, image, queries) for one in models))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(5))
def test_at_the_start_most_voxels_are_background(seed):
    torch.manual_seed(seed)
    model, queries = build_model(make_plan(labels=7)), make_queries([[1, 2, 3, 4, 5, 6, 7]])
    with torch.no_grad():
        p = mask_features(model, torch.randn(1, 2, 8, 16, 16), queries).logits.softmax(1)
    assert p[:, 0].mean() > 0.5


def test_the_decoder_of_samples_starts_as_the_mask_s_finest_stages():
    model = build_model(make_plan()).eval()
    image, queries = torch.randn(1, 2, 8, 16, 16), make_queries([[1, 2]])
    mask = mask_features(model, image, queries)
    decoder = model.sample_decoder
    assert not torch.allclose(decoder.logits(None, mask.skips, queries), mask.logits)
    decoder.copy_finest(model.label_decoder)
    torch.testing.assert_close(decoder.logits(None, mask.skips, queries), mask.logits)
    assert [skip.shape[1:] for skip in mask.skips] == [(8, 8, 16, 16), (16, 4, 8, 8)]


@pytest.mark.parametrize(("up", "blocks"), [(1, 0), (2, 0), (1, 2)])
@torch.no_grad()
def test_a_stage_may_have_one_convolution_on_the_way_up_and_no_block_on_the_way_down(up, blocks):
    plan = make_plan()
    lean = tuple(stage.model_copy(update={"up": up, "blocks": blocks}) for stage in plan.stages)
    model = build_model(plan.model_copy(update={"stages": lean})).eval()
    kinds = {type(block) for block in model.label_decoder.blocks}
    assert kinds == {ConvBlock if up == 1 else ResidualBlock}
    assert [len(stage.blocks) for stage in model.estimator.down] == [blocks] * 2
    assert [len(stage.blocks) for stage in model.denoiser.down] == [min(1, blocks)] * 3
    assert run(model, torch.randn(1, 2, 8, 16, 16), make_queries([[1, 2]])).shape == (1, 3, 8, 16, 16)


def test_attention_has_as_many_heads_as_the_plan_says():
    plan = make_plan()
    narrow = plan.model_copy(update={"network": plan.network.model_copy(update={"head_width": 4})})
    for chosen, heads in ((plan, 1), (narrow, 6)):
        model = build_model(chosen)
        assert model.fusion.attention.heads == model.estimator.down[0].attention.heads == heads


def test_slots_of_queries():
    queries = make_queries([[5, 2], [1, 0]])
    label_map = torch.tensor([[0, 1, 2, 5, -1], [0, 1, 2, 5, -1]]).view(2, 1, 1, 5)
    expected = torch.tensor([[0, 0, 2, 1, -1], [0, 1, 0, 0, -1]]).view(2, 1, 1, 5)
    assert torch.equal(queries.slots(label_map, 5), expected)
