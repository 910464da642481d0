"""The computed memory and work compared with built networks."""

import weakref
from dataclasses import replace
from math import prod

import pytest

from plans.errors import UserError
from plans.network_plan import NetworkPlan, OverviewPlan
from plans.plan import LabelPlan, Plan, TextPlan
from plans.planning import memory
from plans.planning.budget import cpu_budget, gpu_budget, refuse_beyond_budget
from plans.planning.layers import Convolution, _residual
from plans.planning.planner import make_plan


def small_plan(make_fingerprint, shape, spacing, preset, budget, labels=2) -> Plan:
    fingerprint = make_fingerprint(shape, spacing, thickness=(8,) * labels)
    named = [LabelPlan(name=f"label {number}", value=number) for number in range(1, labels + 1)]
    text = TextPlan(encoder="bundled", width=64)
    return make_plan("Dataset001_Test", ["MRI"], named, fingerprint, budget=budget, preset=preset, text=text)


BYTES_KEPT_PER_CLASS = 9  # of each voxel by the loss: float32 log-softmax and softmax, and a mask
CASES = [((32, 32, 32), (1, 1, 1)), ((6, 48, 48), (8, 1, 1)), ((20, 48, 48), (3.3, 1, 1))]


@pytest.mark.parametrize("preset", ["default", "unet", "paper"])
@pytest.mark.parametrize("budget", [gpu_budget(), cpu_budget(2)], ids=lambda budget: budget.device)
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_the_number_of_parameters_equals_the_model_s(make_fingerprint, shape, spacing, preset, budget):
    from textdiffseg.networks.model import build_model

    plan = small_plan(make_fingerprint, shape, spacing, preset, budget)
    built = sum(weight.numel() for weight in build_model(plan).parameters())
    assert memory.parameters(memory.network_of(plan)) == pytest.approx(built, rel=0.005)


@pytest.mark.parametrize("preset", ["default", "unet", "paper"])
def test_the_plan_has_all_settings_that_determine_a_shape(make_fingerprint, preset):
    from textdiffseg.networks.model import build_model

    usual = small_plan(make_fingerprint, *CASES[0], preset, gpu_budget())
    other = NetworkPlan(head_width=8, least_width=12, label_divisor=3, denoiser_divisor=3, time_factor=2)
    found = {}
    for plan in (usual, usual.model_copy(update={"network": other})):
        found[plan.network] = sum(weight.numel() for weight in build_model(plan).parameters())
        assert memory.parameters(memory.network_of(plan)) == pytest.approx(found[plan.network], rel=0.005)
    if preset == "unet":  # it has neither label encoder nor denoiser
        assert found[other] == found[usual.network]
    else:
        assert found[other] < 0.99 * found[usual.network]


@pytest.mark.parametrize("preset", ["default", "unet"])
def test_the_overview_encoder_s_weights_are_counted(make_fingerprint, preset):
    from textdiffseg.networks.model import build_model

    alone = small_plan(make_fingerprint, *CASES[0], preset, gpu_budget()).model_copy(update={"overview": None})
    reading = alone.model_copy(update={"overview": OverviewPlan(edge=16, widths=(4, 12))})
    first, second = (sum(weight.numel() for weight in build_model(plan).parameters()) for plan in (alone, reading))
    added = memory.parameters(memory.network_of(reading)) - memory.parameters(memory.network_of(alone))
    assert added == second - first


def test_plans_without_network_settings_have_those_of_older_weights(make_fingerprint):
    usual = small_plan(make_fingerprint, *CASES[0], "default", gpu_budget())
    older = Plan.model_validate(usual.model_dump(exclude={"network"}))
    assert older == usual
    numbers = {"head_width": 32, "least_width": 8, "label_divisor": 2, "denoiser_divisor": 2, "time_factor": 4}
    assert older.network.model_dump() == numbers | {"swin_features": 12, "swin_stride": 32, "swin_edge": 64}
    assert [older.network.label_width(width) for width in (8, 16, 40)] == [8, 8, 20]


@pytest.mark.parametrize("preset", ["default", "unet", "paper"])
@pytest.mark.parametrize("labels", [2, 20])
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_the_estimate_counts_what_autograd_keeps_on_a_cpu(make_fingerprint, shape, spacing, preset, labels):
    """In both stages of training. At the loss, more is alive for a moment than what is kept."""
    plan = small_plan(make_fingerprint, shape, spacing, preset, cpu_budget(1), labels)
    network = memory.network_of(plan)
    of_loss = plan.batch * prod(plan.patch) * (1 + labels) * (memory.BYTES_PER_CLASS - BYTES_KEPT_PER_CLASS)
    kept, estimate = bytes_kept(plan), memory.mask_activations(network, plan.patch, plan.batch, "cpu")
    assert kept < estimate < 1.35 * kept + of_loss
    if network.samples:
        held = memory.sampler_activations(network, plan.patch, plan.batch, "cpu")
        assert bytes_kept(plan, samples=True) < held
        assert estimate < memory.activations(network, plan.patch, plan.batch, "cpu") * 1.0001


GPU_CASES = [((64, 192, 192), (1.24, 0.8, 0.8), 1), ((10, 256, 216), (8, 1.5, 1.5), 1), ((140, 170, 140), (1, 1, 1), 4)]


@pytest.mark.parametrize(
    ("preset", "shape", "spacing", "channels"), [("paper", *GPU_CASES[0]), *(("default", *case) for case in GPU_CASES)]
)
def test_the_estimate_equals_what_is_alive_in_bfloat16(make_fingerprint, shape, spacing, channels, preset):
    """Of whole plans for 8 GB. Tensors have shapes and types, but no memory, and bfloat16 as on a GPU."""
    fingerprint = make_fingerprint(shape, spacing, thickness=(8, 8, 8), channels=channels)
    labels = [LabelPlan(name=f"label {number}", value=number) for number in (1, 2, 3)]
    names = [f"channel {number}" for number in range(channels)]
    text = TextPlan(encoder="bundled", width=384)
    plan = make_plan("D", names, labels, fingerprint, budget=gpu_budget(), preset=preset, text=text)
    network = memory.network_of(plan)
    all_weights = memory.parameters(network)
    stages = {False: memory.mask_activations, True: memory.sampler_activations}
    for samples, estimated in stages.items():
        if samples and not network.samples:
            continue
        estimate = estimated(network, plan.patch, plan.batch, "gpu")
        of_masks = memory.parameters(replace(network, diffusion=False)) if network.samples else all_weights
        copies = 2 * (all_weights - of_masks if samples else of_masks)  # of the weights that learn, in bfloat16
        assert estimate == pytest.approx(peak(plan, samples) - copies, rel=0.1)
        assert memory.training_bytes(network, plan.patch, plan.batch, "gpu") > 1.3 * estimate, "until one was measured"


def peak(plan: Plan, samples: bool) -> int:
    """The most bytes of tensors that are alive at once in a training step, without the weights."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from textdiffseg.data.batch import batch_keys
    from textdiffseg.networks.model import build_model
    from textdiffseg.training.objectives import objective_of

    class Alive(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.now, self.most, self.sizes = 0, 0, {}

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor):
                    self.count(leaf.untyped_storage())
            return out

        def count(self, storage):
            key, size = storage._cdata, storage.nbytes()
            if key not in self.sizes:
                self.sizes[key] = size
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.freed, key)

        def freed(self, key):
            self.now -= self.sizes.pop(key)

    batch, labels = plan.batch, len(plan.labels)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build_model(plan)
        image = torch.randn(batch, len(plan.channels), *plan.patch)
        slots = torch.randint(0, labels + 1, (batch, *plan.patch))
        queries, objective = queries_of(plan, batch), objective_of(model, samples)
        draws = objective.draw(0, batch_keys(0, 0, batch))
        with Alive() as alive:
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                total = objective.losses(image, slots, queries, draws, done=0.0).total
            total.backward()
    return alive.most


def queries_of(plan: Plan, batch: int):
    """Random queries of all labels."""
    import torch

    from textdiffseg.queries import Queries

    labels, width, generator = len(plan.labels), plan.text.width, torch.Generator().manual_seed(0)
    tokens = memory.TOKENS_PER_LABEL * (labels + 1)
    return Queries(
        labels=torch.arange(1, labels + 1).expand(batch, labels),
        vectors=torch.randn(batch, labels, width, generator=generator),
        tokens=torch.randn(batch, tokens, width, generator=generator),
        token_mask=torch.ones(batch, tokens, dtype=torch.bool),
    )


def bytes_kept(plan: Plan, samples: bool = False) -> int:
    """The bytes of activations that one training step keeps for its gradient; `samples`: of the second stage."""
    import torch

    from textdiffseg.data.batch import batch_keys
    from textdiffseg.networks.model import build_model
    from textdiffseg.training.objectives import objective_of

    model, generator = build_model(plan), torch.Generator().manual_seed(0)
    batch, labels = plan.batch, len(plan.labels)
    queries = queries_of(plan, batch)
    image = torch.randn(batch, len(plan.channels), *plan.patch, generator=generator)
    slots = torch.randint(0, labels + 1, (batch, *plan.patch), generator=generator)
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        objective = objective_of(model, samples)
        draws = objective.draw(0, batch_keys(0, 0, batch))
        total = objective.losses(image, slots, queries, draws, done=0.0).total
    for weight in model.parameters():
        sizes.pop(weight.untyped_storage().data_ptr(), None)
    assert total.requires_grad
    return sum(sizes.values())


def test_weights_of_one_convolution_by_hand():
    layer = Convolution(0, 27, 16, 32)
    assert layer.weights == 32 * (27 * 16 + 3)
    assert Convolution(0, 27, 16, 32, plain=True).weights == 32 * (27 * 16 + 1)


def test_tensors_kept_by_hand():
    """A convolution and its activation; a residual block's sum; FiLM's value; a copy of concatenated inputs."""
    assert Convolution(0, 27, 16, 32).values_kept == 2 * 32
    assert Convolution(0, 27, 80, 32, copies_input=True).values_kept == 2 * 32 + 80
    plain, timed = (list(_residual(1, 64, (3, 3, 3), timed)) for timed in (False, True))
    assert [layer.values_kept for layer in plain] == [2 * 64, 3 * 64]
    assert [layer.values_kept for layer in timed] == [2 * 64, 4 * 64]


@pytest.mark.parametrize("preset", ["default", "unet", "paper"])
def test_multiplications_are_those_of_the_built_network_s_convolutions(make_fingerprint, preset):
    """Those of the modules that training runs first. The sampler, which learns alone afterwards, counts not at all."""
    import torch

    from textdiffseg.networks.model import build_model

    plan = small_plan(make_fingerprint, *CASES[0], preset, cpu_budget(2))
    plan = plan.model_copy(update={"stages": tuple(one.model_copy(update={"attention": False}) for one in plan.stages)})
    model, network = build_model(plan).eval(), memory.network_of(plan)
    total = 0.0

    def count(weight, _, output):
        nonlocal total
        transposed = isinstance(weight, torch.nn.ConvTranspose3d)
        taps = 1 if transposed else prod(weight.kernel_size)
        total += output[0].numel() * weight.in_channels * taps

    for part in model.modules():
        if isinstance(part, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            part.register_forward_hook(count)
    queries = queries_of(plan, 1)
    image, slots = torch.zeros(1, 1, *plan.patch), torch.zeros(1, *plan.patch, dtype=torch.int64)
    with torch.no_grad():
        z_i, skips = model.encode_image(image)
        z_it = model.fuse(z_i, queries)
        if plan.paper:
            z_0 = model.encode_label_map(slots, queries)
            model.decode_latent(model.denoise(z_0, torch.ones(1), (z_it,)), queries)
        else:
            g = model.decode((*skips, model.estimate(z_it)))[-1]
            model.classify(g, queries)
    assert total == pytest.approx(memory.macs(network, plan.patch), rel=0.1)
    assert total <= memory.macs(network, plan.patch)


def test_the_sampler_adds_weights_but_no_work_to_masks(make_fingerprint):
    plan = small_plan(make_fingerprint, *CASES[0], "default", gpu_budget())
    sampling = memory.network_of(plan)
    masks = replace(sampling, diffusion=False)
    weights = memory.parameters(sampling) - memory.parameters(masks)
    assert weights > 0
    assert memory.macs(sampling, plan.patch) == memory.macs(masks, plan.patch)
    first, second = (memory.mask_activations(net, plan.patch, 2, "gpu") for net in (masks, sampling))
    assert first == second
    assert memory.sampler_activations(masks, plan.patch, 2, "gpu") == 0
    assert 0 < memory.sampler_activations(sampling, plan.patch, 2, "gpu") < 1.1 * second


def test_the_denoiser_starts_on_the_latent_grid_and_the_estimator_on_the_fusion_s(make_fingerprint):
    plan = small_plan(make_fingerprint, *CASES[0], "default", gpu_budget())
    network = memory.network_of(plan)
    assert (network.latent_level, network.fusion_level) == (plan.latent.level, plan.fusion_level) == (1, 2)
    strides = [stage.stride for stage in plan.stages]
    assert [stage.stride for stage in network.denoiser_stages] == strides[1:]
    assert [stage.stride for stage in network.coarse] == strides[2:]


def test_twice_the_batch_costs_twice_the_activations(make_fingerprint):
    plan = small_plan(make_fingerprint, (40, 40, 40), (1, 1, 1), "default", gpu_budget())
    network = memory.network_of(plan)
    one, two, four = (memory.mask_activations(network, plan.patch, batch, "gpu") for batch in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one))


def test_the_bytes_of_weights_by_hand(make_fingerprint):
    """Weight, gradient, average, moment: 16, and 2 of bfloat16; AdamW has 4 more. The sampler learns later."""
    for preset, each in (("unet", 18), ("paper", 22)):
        network = memory.network_of(small_plan(make_fingerprint, *CASES[0], preset, gpu_budget()))
        assert memory.weight_bytes(network) == each * memory.parameters(network)
    sampling = memory.network_of(small_plan(make_fingerprint, *CASES[0], "default", gpu_budget()))
    masks = replace(sampling, diffusion=False)
    sampler = memory.parameters(sampling) - memory.parameters(masks)
    assert memory.weight_bytes(sampling) == 18 * memory.parameters(masks) + 8 * sampler


def test_a_plan_far_beyond_its_budget_is_refused_before_it_is_tried(make_fingerprint):
    plan = small_plan(make_fingerprint, (64, 64, 64), (1, 1, 1), "default", cpu_budget(2))
    refuse_beyond_budget(plan, "plan.json")
    stride = plan.total_stride
    edited = plan.model_copy(update={"patch": tuple(512 // step * step for step in stride)})
    with pytest.raises(UserError, match=r"plan\.json: batch .* of patch .* GB"):
        refuse_beyond_budget(edited, "plan.json")
