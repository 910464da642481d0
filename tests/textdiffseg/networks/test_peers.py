"""Networks for comparison: shapes for any patch, published sizes, and the equations of those that are written here."""

import math

import pytest
import torch
from monai.networks.nets.basic_unet import BasicUNet
from torch import nn

from plans.planning.recipes import RECIPES
from plans.planning.rules import ladder
from textdiffseg.networks.model import build_model
from textdiffseg.networks.peers.diffunet import STEPS, DiffUNet, LabelDiffusion, halved
from textdiffseg.networks.peers.peer import two_positions
from textdiffseg.networks.peers.unetrpp import PairedAttention, UnetrPlusPlus, stem_stride
from textdiffseg.queries import Queries

NEW = ("peer-nnunet", "peer-resenc", "peer-unetrpp", "peer-diffunet")
ODD_PATCHES = [(8, 16, 16), (2, 12, 20), (10, 28, 4), (6, 36, 44)]  # the plan's stages divide them, the peers' do not


def queries(*labels) -> Queries:
    """The same queried labels for two samples."""
    count = len(labels)
    return Queries(
        torch.tensor([labels, labels]), torch.zeros(2, count, 4), torch.zeros(2, 3, 4), torch.ones(2, 3).bool()
    )


@pytest.fixture
def make_peer(make_plan):
    """A function that builds the network of a peer's plan."""

    def build(preset, **changes):
        torch.manual_seed(0)
        return build_model(make_plan(preset, diffusion=None, peer=RECIPES[preset].peer, **changes))

    return build


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("preset", NEW)
@pytest.mark.parametrize("patch", ODD_PATCHES, ids=str)
def test_any_patch_of_a_plan_is_segmented_and_trained(make_peer, preset, patch):
    peer = make_peer(preset, patch=patch)
    image = torch.randn(2, 1, *patch)
    peer.eval()
    with torch.no_grad():
        logits = peer.logits(image, queries(2, 1))
    assert logits.shape == (2, 3, *patch)
    assert logits.isfinite().all()
    one = Queries(*(getattr(queries(2, 1), name)[:1] for name in ("labels", "vectors", "tokens", "token_mask")))
    peer.train().logits(image[:1], one).square().mean().backward()  # one sample: normalisation needs two values


@pytest.mark.parametrize("preset", NEW)
def test_the_queries_select_channels(make_peer, preset):
    peer, image = make_peer(preset).eval(), torch.randn(2, 1, 8, 16, 16)
    with torch.no_grad():
        both, one = peer.logits(image, queries(1, 2)), peer.logits(image, queries(2, 0))
    torch.testing.assert_close(one[:, :2], both[:, [0, 2]])
    assert (one.softmax(1)[:, 2] == 0).all()


@pytest.mark.parametrize("preset", NEW)
def test_the_channels_of_several_images_are_read(make_peer, preset):
    channels = [{"name": f"MRI {number}", "scheme": "zscore"} for number in range(3)]
    peer, image = make_peer(preset, channels=channels).eval(), torch.randn(2, 3, 8, 16, 16)
    with torch.no_grad():
        before = peer.logits(image, queries(1, 2))
        image[:, 2] += torch.randn(2, 8, 16, 16)
        assert not torch.equal(before, peer.logits(image, queries(1, 2)))


@pytest.mark.parametrize("preset", NEW)
def test_each_weight_has_one_name(make_peer, preset):
    """Safetensors does not write a tensor under two names."""
    weights = make_peer(preset).state_dict()
    assert len({value.data_ptr() for value in weights.values()}) == len(weights)


def test_nnunet_has_the_stages_that_nnunet_plans(make_peer):
    """nnU-Net 2.8.1's plan of Hippocampus: patch 40 x 56 x 40, four stages of 32 to 256 channels."""
    stages = [{"stride": (s, s, s), "kernel": (3, 3, 3), "width": 32, "blocks": 1} for s in (1, 2)]
    usual = {"patch": (40, 56, 40), "stages": stages, "fusion_level": 1, "latent": {"level": 1, "channels": 4}}
    network = make_peer("peer-nnunet", **usual).network
    assert network.encoder.output_channels == [32, 64, 128, 256]
    assert network.encoder.strides == [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]
    assert [len(stage[0].convs) for stage in network.encoder.stages] == [2, 2, 2, 2]
    deep = make_peer("peer-resenc", **usual | {"patch": (128, 128, 128)}).network
    assert deep.encoder.output_channels == [32, 64, 128, 256, 320, 320]
    assert [len(stage.blocks) for stage in deep.encoder.stages] == [1, 3, 4, 6, 6, 6]
    narrow = make_peer("peer-nnunet", **usual | {"stages": [stage | {"width": 16} for stage in stages]}).network
    assert narrow.encoder.output_channels == [16, 32, 64, 128]


def test_nnunet_goes_down_to_four_positions_although_the_plan_stops_earlier(make_peer):
    peer = make_peer("peer-nnunet", patch=(24, 44, 64), median_shape=(24, 44, 64))
    assert ladder(peer.plan.spacing, peer.plan.patch).total() == (4, 8, 8)
    assert peer.size == (24, 48, 64)
    deepest = []
    peer.network.encoder.stages[-1].register_forward_hook(lambda *args: deepest.append(args[2].shape[2:]))
    peer.logits(torch.randn(2, 1, 24, 44, 64), queries(1, 2))
    assert deepest == [(6, 6, 8)]


def test_unetrpp_has_the_published_number_of_weights():
    """42.96 million: the paper's comparison on Synapse, 64 x 128 x 128 voxels and 14 classes.

    That number includes the two heads of deep supervision, which this network does not have.
    """
    heads = (32 + 1) * 14 + (64 + 1) * 14
    network = UnetrPlusPlus(1, 14, features=16, size=(64, 128, 128), stem=(2, 4, 4))
    assert (count(network) + heads) / 1e6 == pytest.approx(42.96, abs=0.01)


def test_diffunet_has_the_weights_of_the_networks_that_it_is_made_of():
    """The paper gives no number. Its authors use MONAI's BasicUNet, with a time embedding of 128 and 512 channels.

    A projection of the time is added at each of the nine scales. The feature encoder is the contracting path alone.
    """
    widths = (64, 64, 128, 256, 512, 64)
    denoiser = BasicUNet(3, 1 + 13, 13, widths)
    path = BasicUNet(3, 1, 13, widths)
    encoder = (path.conv_0, path.down_1, path.down_2, path.down_3, path.down_4)
    projections = sum(512 * width + width for width in (64, 64, 128, 256, 512, 256, 128, 64, 64))
    time = 128 * 512 + 512 + 512 * 512 + 512 + projections
    expected = count(denoiser) + sum(map(count, encoder)) + time
    assert count(DiffUNet(1, 13, features=64)) == expected == 38_400_141


def test_the_stem_has_the_published_strides(make_plan):
    for name, spacing, stride in (
        ("Synapse", (3, 0.76, 0.76), (2, 4, 4)),
        ("ACDC", (10, 1.56, 1.56), (1, 4, 4)),
        ("BraTS", (1, 1, 1), (4, 4, 4)),
    ):
        plan = make_plan("peer-unetrpp", diffusion=None, peer="unetrpp", spacing=spacing)
        assert stem_stride(plan) == stride, name


@torch.no_grad()
def test_paired_attention_follows_its_equations():
    """Each head by hand, with the equations of the module."""
    torch.manual_seed(0)
    attention, x = PairedAttention(8, positions=5, projected=3), torch.randn(1, 5, 8)
    attention.space_scale.mul_(2)
    attention.channel_scale.mul_(3)
    by_head = attention.shared(x)[0].view(5, 4, 4, 2)  # position, one of Q K V_s V_c, head, channel
    space, channels = torch.zeros(5, 4, 2), torch.zeros(5, 4, 2)
    for head in range(4):
        q, k, v_s, v_c = by_head[:, :, head].unbind(1)  # each (5, 2)
        e, bias = attention.project.weight, attention.project.bias[:, None]
        unit_q, unit_k = (m / m.norm(dim=0) for m in (q, k))
        space[:, head] = (2 * unit_q @ (e @ k + bias).T).softmax(1) @ (e @ v_s + bias)
        channels[:, head] = v_c @ (3 * unit_q.T @ unit_k).softmax(1).T
    halves = attention.space_out(space.flatten(1)), attention.channel_out(channels.flatten(1))
    torch.testing.assert_close(attention(x)[0], torch.cat(halves, 1))


@pytest.fixture
def diffusion(make_peer) -> LabelDiffusion:
    return make_peer("peer-diffunet").eval()


def test_noise_grows_to_almost_nothing_but_noise(diffusion):
    x_0, eps = torch.ones(3, 2, 8, 16, 16), torch.full((3, 2, 8, 16, 16), 2.0)
    x_t = diffusion.diffuse(x_0, eps, torch.tensor([0, 1, 1000]))
    assert x_t[0].unique() == 1
    assert x_t[1, 0, 0, 0, 0].item() == pytest.approx(math.sqrt(1 - 1e-4) + 2 * math.sqrt(1e-4), abs=1e-5)
    assert x_t[2, 0, 0, 0, 0].item() == pytest.approx(2, abs=0.01)
    assert (diffusion.alpha_bar.diff() < 0).all()


@torch.no_grad()
def test_ddim_ends_in_the_masks_of_a_perfect_denoiser(diffusion, monkeypatch):
    """Its input is noise in the first step. Later it is the masks with the same noise."""
    masks, seen = torch.rand(2, 2, 8, 16, 16).round(), []

    def perfect(x_t, t, image, features):
        seen.append((t.tolist(), x_t))
        return 20 * (2 * masks - 1)

    monkeypatch.setattr(diffusion, "estimate", perfect)
    logits = diffusion.logits(torch.randn(2, 1, 8, 16, 16), queries(1, 2))
    assert torch.equal(logits[:, 1:] > 0, masks.bool())
    assert (logits[:, 0] == 0).all()
    assert [t for t, _ in seen] == [[t, t] for t in range(1000, 0, -100)]
    assert len(seen) == STEPS
    first, second = seen[0][1], seen[1][1]
    expected = diffusion.diffuse(2 * masks - 1, first, torch.tensor([900, 900]))
    torch.testing.assert_close(second, expected, atol=0.01, rtol=0)  # at T a signal of 0.6% is left


@torch.no_grad()
def test_the_fusion_weighs_late_and_certain_steps_more(diffusion, monkeypatch):
    steps = iter(torch.linspace(0.05, 0.95, STEPS).tolist())
    values = torch.linspace(0.05, 0.95, STEPS)

    def growing(x_t, t, image, features):
        return torch.full_like(x_t, torch.logit(torch.tensor(next(steps))).item())

    monkeypatch.setattr(diffusion, "estimate", growing)
    logits = diffusion.logits(torch.randn(2, 1, 8, 16, 16), queries(1, 2))
    share = torch.arange(1, STEPS + 1) / STEPS
    weights = torch.exp(torch.sigmoid(share) * (1 + values * values.log()))
    expected = ((weights * values).sum() / weights.sum()).logit()
    torch.testing.assert_close(logits[:, 1:], expected.expand(2, 2, 8, 16, 16))
    assert expected > values.mean().logit()


@torch.no_grad()
def test_a_window_s_prediction_does_not_depend_on_its_batch(diffusion):
    image = torch.randn(2, 1, 8, 16, 16)
    both = diffusion.logits(image, queries(1, 2))
    torch.testing.assert_close(both, diffusion.logits(image.flip(0), queries(1, 2)).flip(0))
    torch.testing.assert_close(both, diffusion.logits(image, queries(1, 2)))


@torch.no_grad()
def test_diffunet_reads_the_noisy_masks_the_time_and_the_image_s_features(diffusion):
    torch.manual_seed(1)
    image, x_t, t = torch.randn(2, 1, 8, 16, 16), torch.randn(2, 2, 8, 16, 16), torch.tensor([500, 500])
    features = diffusion.encode(image)
    usual = diffusion.estimate(x_t, t, image, features)
    others = (
        (x_t.flip(2), t, image, features),
        (x_t, t // 2, image, features),
        (x_t, t, image.flip(2), features),
        (x_t, t, image, diffusion.encode(image.flip(2))),
    )
    for inputs in others:
        assert not torch.allclose(usual, diffusion.estimate(*inputs), atol=1e-3)


def test_halves_of_odd_sizes_are_rounded_up():
    assert halved(torch.zeros(1, 1, 7, 2, 1)).shape == (1, 1, 4, 1, 1)


def test_a_patch_that_would_become_one_position_is_made_longer():
    assert two_positions((16, 16, 16), (16, 16, 16)) == (16, 16, 17)
    assert two_positions((16, 17, 16), (16, 16, 16)) == (16, 17, 16)
