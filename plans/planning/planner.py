"""`make_plan` and `make_low_plan`: the `Plan` for a fingerprint and a budget, with a reason per decision."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from plans.choices import Preset
from plans.errors import UserError, listed
from plans.fingerprint import Fingerprint
from plans.geometry import Millimetres, Triple
from plans.network_plan import DiffusionPlan, LatentPlan
from plans.plan import ChannelPlan, Decision, LabelPlan, MemoryPlan, Plan, TextPlan
from plans.planning import memory, rules
from plans.planning.budget import Budget, training_plan
from plans.planning.layers import NetworkShape
from plans.planning.memory import GB
from plans.planning.mirroring import mirroring_of
from plans.planning.reasons import crop_reason, reasons_of, reasons_of_preset
from plans.planning.recipes import RECIPES, VARIANTS
from plans.planning.rules import sizes_text
from plans.planning.scan_memory import case_ram_bytes, disk_bytes
from plans.planning.search import Draft, Facts, choose_batch, plan_low_resolution, search
from plans.planning.spacing import MIN_PATCH_SHARE, SPACING_ROW, WantedSpacing, choose_spacing
from plans.raw.prompts import Prompts
from plans.regions import Regions

USUAL_TEXT_WIDTH = 384  # of the bundled text encoder


def make_plan(
    dataset_name: str,
    channels: Sequence[str],
    labels: Sequence[LabelPlan],
    fingerprint: Fingerprint,
    *,
    budget: Budget,
    preset: Preset,
    text: TextPlan,
    prompts: Prompts | None = None,
    regions: Regions | None = None,
    known_together: tuple[tuple[int, ...], ...] = (),
    spacing: WantedSpacing = None,
    texts: Collection[str] = (),
    optional: Collection[int] = (),
    mirroring: bool = False,
) -> Plan:
    """The plan of a data set for a preset.

    Preset `unet` and the peers get the patch, batch and widths of `default`, the ablations of `paper` those of `paper`.
    `regions` are the values of overlapping labels. `known_together` is that of `Plan`. `spacing` and `mirroring` are
    the user's; None: the usual rule. `texts` are those of cases, `optional` the channels that a case may lack. Raises
    `UserError` for single slices, a budget too small, and overlapping labels with preset `paper`.
    """
    refuse_single_slices(fingerprint)
    refuse_overlap(regions, preset, dataset_name)
    channel_plans, channel_rows = _channels(channels, fingerprint, optional)
    facts, spacing_row = _facts_at_chosen_spacing(fingerprint, spacing, len(channels), labels, text, budget, preset)
    draft = _complete_draft(facts)
    low_resolution, why_low = plan_low_resolution(facts, draft)
    draft = replace(draft, reasons={**draft.reasons, "low resolution": why_low})
    mirrored = mirroring_of(labels, prompts, texts, preset, mirroring)
    plan = Plan(
        preset=preset,
        dataset=dataset_name,
        channels=channel_plans,
        labels=tuple(labels),
        regions=regions,
        known_together=known_together,
        crop=rules.crop_of(channels),
        text=text,
        low_resolution=low_resolution,
        mirror_axes=mirrored.axes,
        text_axes=mirrored.text_axes,
        **_network_fields(facts, draft, fingerprint, preset, channel_plans),
    )
    crop_row = crop_reason(fingerprint, plan.crop)
    rows = [spacing_row, crop_row, *channel_rows, *reasons_of(facts, draft, plan), mirrored.row]
    return plan.model_copy(update={"reasons": tuple(reasons_of_preset(plan, rows))})


def make_low_plan(full: Plan, fingerprint: Fingerprint, budget: Budget) -> Plan | None:
    """The plan of the low resolution that `full` suggests; None if it suggests none.

    Channels, labels, words, crop and mirroring are those of `full`. Patch, network and batch are searched for again at
    the low spacing, within the same budget.
    """
    low = full.low_resolution
    if low is None:
        return None
    facts = replace(
        _facts_at(fingerprint, low.spacing, len(full.channels), full.labels, budget),
        median_shape=low.median_shape,
        text_width=full.text.width,
        paper=full.paper is not None,
    )
    draft = _complete_draft(facts)
    draft = replace(draft, reasons={**draft.reasons, "low resolution": "this is its plan"})
    fields = _network_fields(facts, draft, fingerprint, full.preset, full.channels)
    plan = Plan.model_validate(full.model_dump() | fields | {"resolution": "low", "low_resolution": None})
    before = {row.name: row for row in full.reasons}
    spacing = f"the finest at which the patch covers {MIN_PATCH_SHARE:.0%} of a median case, in steps of 3% (nnU-Net)"
    reasons = [
        Decision(name=SPACING_ROW, value=sizes_text(facts.spacing), reason=spacing),
        *(row for name, row in before.items() if name == "crop" or name.startswith("channel ")),
        *reasons_of(facts, draft, plan),
        before["mirroring"],
    ]
    return plan.model_copy(update={"reasons": tuple(reasons_of_preset(plan, reasons))})


def _complete_draft(facts: Facts) -> Draft:
    """The draft of the search with its batch and its overview, but without a low-resolution plan."""
    draft = search(facts)
    batch, why_batch = choose_batch(facts, draft)
    overview, why_overview = rules.overview(draft.patch, facts.median_shape)
    reasons = {**draft.reasons, "batch": why_batch, "overview": why_overview}
    network = replace(draft.network, overview=overview)
    return replace(draft, network=network, batch=batch, reasons=reasons)


def _channels(
    names: Sequence[str], fingerprint: Fingerprint, optional: Collection[int]
) -> tuple[tuple[ChannelPlan, ...], list[Decision]]:
    """The channels' normalisation, and its reasons."""
    plans, rows = [], []
    for number, name in enumerate(names):
        plan, reason = rules.channel_plan(name, number, fingerprint, number in optional)
        plans.append(plan)
        rows.append(Decision(name=f"channel {name}", value=plan.scheme, reason=reason))
    return tuple(plans), rows


def _facts_at_chosen_spacing(
    fingerprint: Fingerprint,
    wanted: WantedSpacing,
    channels: int,
    labels: Sequence[LabelPlan],
    text: TextPlan,
    budget: Budget,
    preset: Preset,
) -> tuple[Facts, Decision]:
    """The facts at the chosen spacing, and the reason of the spacing.

    All presets share the stored cases. So the spacing does not depend on the preset.
    """

    def at(spacing: Millimetres) -> Facts:
        return _facts_at(fingerprint, spacing, channels, labels, budget)

    on_cpu = budget.device == "cpu"
    spacing, reason = choose_spacing(fingerprint, wanted, lambda candidate: search(at(candidate)).patch, on_cpu)
    row = Decision(name=SPACING_ROW, value=sizes_text(spacing), reason=reason)
    return replace(at(spacing), text_width=text.width, paper=preset in VARIANTS), row


def _facts_at(
    fingerprint: Fingerprint, spacing: Millimetres, channels: int, labels: Sequence[LabelPlan], budget: Budget
) -> Facts:
    """The facts of preset `default` at a spacing."""
    return Facts(
        cases=len(fingerprint.cases),
        thickness={labels[number - 1].name: mm for number, mm in fingerprint.thickness_mm().items()},
        spacing=spacing,
        median_shape=fingerprint.median_shape_at(spacing),
        channels=channels,
        labels=len(labels),
        text_width=USUAL_TEXT_WIDTH,
        budget=budget,
    )


def refuse_overlap(regions: Regions | None, preset: Preset, dataset_name: str) -> None:
    """Raise `UserError` if labels overlap and the preset is one of the publication's."""
    if regions and preset in VARIANTS:
        raise UserError(
            f"--preset {preset}: the publication's model paints label numbers, which cannot overlap as the labels of "
            f"{dataset_name} do. Use the preset default or unet."
        )


def _network_fields(
    facts: Facts, draft: Draft, fingerprint: Fingerprint, preset: Preset, channels: Sequence[ChannelPlan]
) -> dict[str, Any]:
    """The fields of a plan that follow from the chosen patch and network, and its training."""
    recipe = RECIPES[preset]
    overview = draft.network.overview if recipe.overview else None
    sampler, n_factors = recipe.sampler, rules.FACTORS if recipe.sampler else 0
    network = replace(draft.network, diffusion=sampler or facts.paper, overview=overview, n_factors=n_factors)
    positions = rules.grid_positions(draft.patch, network.stride_at(network.latent_level))
    min_log_snr = rules.min_log_snr(network.latent_channels, positions)
    diffusion = DiffusionPlan(min_log_snr=min_log_snr, decoder="likelihood", n_factors=n_factors) if sampler else None
    return {
        "batch": draft.batch,
        "device": facts.budget.device,
        "spacing": facts.spacing,
        "median_shape": facts.median_shape,
        "patch": draft.patch,
        "stages": network.stages,
        "fusion_level": network.fusion_level,
        "latent": LatentPlan(level=network.latent_level, channels=network.latent_channels),
        "network": network.settings,
        "overview": overview,
        "diffusion": diffusion,
        "paper": recipe.paper,
        "peer": recipe.peer,
        "training": recipe.training(training_plan(facts.budget.device, channels)),
        "memory": estimate_memory(fingerprint, facts, network, draft.patch, draft.batch),
    }


def refuse_single_slices(fingerprint: Fingerprint) -> None:
    """Raise `UserError` if a case is a single slice. The model is three-dimensional."""
    flat = [case.case for case in fingerprint.cases if min(case.shape) == 1]
    if flat:
        raise UserError(
            f"{fingerprint.dataset}: {len(flat)} of {len(fingerprint.cases)} cases are single slices ({listed(flat)}). "
            "TextDiffSeg segments volumes of at least two slices; remove these cases or stack the slices."
        )


def refuse_empty_labels(fingerprint: Fingerprint) -> None:
    """Raise `UserError` if no case holds a label: there is nothing to learn."""
    if not any(label.voxels for case in fingerprint.cases for label in case.labels):
        raise UserError(
            f"{fingerprint.dataset}: every label file is empty: expected voxels of at least one label. Check that the "
            "files of labelsTr belong to the images and hold the values of dataset.json."
        )


def estimate_memory(
    fingerprint: Fingerprint, facts: Facts, network: NetworkShape, patch: Triple, batch: int
) -> MemoryPlan:
    """The memory estimates of a plan, in GB."""
    cases = fingerprint.cases
    shapes = [case.shape_at(facts.spacing) for case in cases]
    ram = max(
        case_ram_bytes(facts.channels, facts.labels, patch, shape, case.shape)
        for shape, case in zip(shapes, cases, strict=True)
    )
    return MemoryPlan(
        budget_gb=facts.budget.memory_gb,
        training_gb=memory.training_bytes(network, patch, batch, facts.budget.device) / GB,
        prediction_gb=memory.prediction_bytes(network, patch, facts.budget.device) / GB,
        ram_gb=ram / GB,
        disk_gb=disk_bytes(facts.channels, tuple(shapes), tuple(case.shape for case in cases)) / GB,
    )
