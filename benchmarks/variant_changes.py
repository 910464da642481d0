"""The changes that variants.py compares: other settings of the plan, other modules of the model, another loss.

A change that the library does not offer has its code here.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from unittest import mock

import torch
from torch import Tensor, nn

from plans.errors import UserError
from plans.network_plan import OverviewPlan
from plans.plan import Plan
from textdiffseg.data import sampling
from textdiffseg.losses import segmentation_loss
from textdiffseg.networks.blocks import Attention, InstanceNorm
from textdiffseg.networks.label_decoder import BACKGROUND_BIAS, LABEL_SCALE, LabelDecoder
from textdiffseg.networks.model import TextDiffSeg
from textdiffseg.queries import Queries
from textdiffseg.readout import readout_of
from textdiffseg.segmenter import Segmenter
from textdiffseg.training import objectives
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.draws import NoiseDraws
from textdiffseg.training.objectives import Losses, Objective, balance_at

CONTROL = "control"
GROUPS = 4


@dataclass(frozen=True)
class Change:
    """The difference between a variant and the control."""

    plan: Callable[[Plan], Plan] = lambda plan: plan
    model: Callable[[TextDiffSeg], TextDiffSeg] = lambda model: model
    objective: Callable[[TrainingState], Objective] = lambda state: state.objective
    costs: bool = True  # whether the time of an iteration may differ from the control's
    constant: tuple[object, str, float] | None = None  # a module, the name of a constant in it, its other value

    def applied(self) -> contextlib.AbstractContextManager[object]:
        """A context in which the library's constant has this change's value."""
        return mock.patch.object(*self.constant) if self.constant else contextlib.nullcontext()


def setting(part: str, *, costs: bool = False, **values: object) -> Change:
    """A change of settings in one section of the plan, e.g. `diffusion`."""

    def change(plan: Plan) -> Plan:
        if getattr(plan, part) is None:
            raise UserError(f"--changes: preset {plan.preset} has no {part}. Leave that change out.")
        return plan.model_copy(update={part: getattr(plan, part).model_copy(update=values)})

    return Change(change, costs=costs)


def deeper(*blocks: int) -> Change:
    """A change of the residual blocks per stage, finest first. The last number holds for all further stages."""

    def change(plan: Plan) -> Plan:
        depths = (blocks[min(index, len(blocks) - 1)] for index in range(len(plan.stages)))
        stages = (stage.model_copy(update={"blocks": depth}) for stage, depth in zip(plan.stages, depths, strict=False))
        return plan.model_copy(update={"stages": tuple(stages)})

    return Change(change)


def scaled_rate(factor: float) -> Change:
    """A change of the learning rate by a factor."""

    def change(plan: Plan) -> Plan:
        rate = plan.training.learning_rate * factor
        return plan.model_copy(update={"training": plan.training.model_copy(update={"learning_rate": rate})})

    return Change(change, costs=False)


def convolutional_head(model: TextDiffSeg) -> TextDiffSeg:
    """Replace the text classifier by one channel per label. The prior for background stays the same."""
    plan = model.plan
    if plan.diffusion:
        raise UserError("--changes: samples need the text classifier. Use this change with --preset unet.")
    stages = plan.stages[: plan.fusion_level + 1]
    model.label_decoder = LabelDecoder(stages, plan.text.width, None, len(plan.labels))
    nn.init.zeros_(model.label_decoder.classifier.bias)
    model.label_decoder.classifier.bias.data[0] = BACKGROUND_BIAS
    return model


def overviewed(plan: Plan) -> Plan:
    """Let the network read an overview of the scan; or leave it out, where the plan has it."""
    return plan.model_copy(update={"overview": None if plan.overview else OverviewPlan()})


def large_classifier(model: TextDiffSeg) -> TextDiffSeg:
    """Draw the classifier's initial vectors with unit variance, that of the background, too."""
    classifier = model.label_decoder.classifier
    classifier.head.weight.data /= LABEL_SCALE
    classifier.background.data[:-1].normal_()
    return model


def group_normalised(model: TextDiffSeg) -> TextDiffSeg:
    """Replace instance normalisation by group normalisation with `GROUPS` groups."""
    for module in model.modules():
        if isinstance(module, InstanceNorm):
            module.num_groups = gcd(GROUPS, module.num_channels)
    return model


def with_positions(model: TextDiffSeg) -> TextDiffSeg:
    """Add position encodings to the input of self-attention."""
    for module in model.estimator.modules():
        if isinstance(module, Attention):
            module.norm.register_forward_hook(lambda _, __, out: out + positions(out))
    return model


@dataclass(frozen=True)
class CrossEntropyLast(Objective):
    """The loss of masks, and in the last `share` of the iterations cross-entropy alone."""

    segmenter: Segmenter
    share: float

    def losses(
        self, image: Tensor, targets: Tensor, queries: Queries, draws: NoiseDraws | None, done: float = 1.0
    ) -> Losses:
        logits = next(self.segmenter.logits(image, queries))
        dice_weight = float(done < 1 - self.share)
        return Losses(segmentation_loss(logits, targets, queries.labels, dice_weight, dice_weight * balance_at(done)))


def cross_entropy_last(share: float) -> Change:
    """A change to cross-entropy alone in the last `share` of the iterations."""

    def change(state: TrainingState) -> Objective:
        if state.model.plan.regions is not None:
            raise UserError("--changes: cross-entropy alone is for labels that exclude each other. Leave it out.")
        return CrossEntropyLast(readout_of(state.model.plan), Segmenter.of(state.model), share)

    return Change(objective=change, costs=False)


def positions(x: Tensor) -> Tensor:
    """The position encodings (C, d, h, w) for x (B, C, d, h, w): sines and cosines of each position's coordinates.

    Each axis has C // 6 wave lengths, from 50 positions down to 3. Remaining channels are 0.
    """
    waves = x.shape[1] // 6
    frequencies = torch.logspace(-3, 1, waves, base=2, device=x.device)
    encodings = x.new_zeros(x.shape[1:])
    for axis, size in enumerate(x.shape[2:]):
        along = [1, 1, 1]
        along[axis] = size
        angles = frequencies[:, None] * torch.arange(size, device=x.device)
        for half, wave in enumerate((angles.sin(), angles.cos())):
            first = (2 * axis + half) * waves
            encodings[first : first + waves] = wave.view(waves, *along)
    return encodings


CHANGES = {
    CONTROL: Change(),
    "instance to group normalisation": Change(model=group_normalised),
    "subsets from the start": Change(costs=False, constant=(sampling, "ALL_LABELS_SHARE", 0.0)),
    "all labels always": Change(costs=False, constant=(sampling, "ALL_LABELS_SHARE", 1.0)),
    "voxels count alike": Change(costs=False, constant=(objectives, "BALANCE", 0.0)),
    "convolutional head": Change(model=convolutional_head),
    "classifier begins large": Change(model=large_classifier, costs=False),
    "positions in self-attention": Change(model=with_positions),
    "blocks 0 1 2 4": deeper(0, 1, 2, 4),
    "blocks 1 2": deeper(1, 2),
    "overview of the scan": Change(overviewed),
    "AdamW alone": setting("training", costs=True, optimiser="adamw"),
    "learning rate x 0.5": scaled_rate(0.5),
    "learning rate x 2": scaled_rate(2.0),
    "nnU-Net's augmentation": setting("training", augmentation="full"),
    "average 0.98": setting("training", ema=0.98),
    "average 0.995": setting("training", ema=0.995),
    "cross-entropy alone in the last tenth": cross_entropy_last(0.1),
    "cross-entropy alone in the last third": cross_entropy_last(1 / 3),  # in the last tenth, the learning rate is low
}
