"""The table of reasons: a row per decision. Each reason is written by the function that decides."""

from collections.abc import Iterator
from math import prod

from plans.fingerprint import Fingerprint
from plans.plan import Crop, Decision, Plan
from plans.planning import memory, paper, rules
from plans.planning.recipes import RECIPES
from plans.planning.rules import sizes_text
from plans.planning.search import Draft, Facts


def reasons_of(facts: Facts, chosen: Draft, plan: Plan) -> list[Decision]:
    """The rows that follow from the patch and the budget. `chosen` holds the reasons of the search."""
    rows = (*_grid_reasons(chosen, plan), *_cost_reasons(facts, chosen, plan))
    return [Decision(name=name, value=value, reason=reason) for name, value, reason in rows]


def crop_reason(fingerprint: Fingerprint, crop: Crop) -> Decision:
    """The row on cropping."""
    left = f"which leaves {fingerprint.cropped_share():.0%} of a median case"
    if crop == "body":
        reason = f"all channels are CT: to the body with a margin, {left}, as air has nothing to segment"
    else:
        reason = f"to the nonzero region, {left} (nnU-Net crops always)"
    if extended := fingerprint.extended_crops():
        reason += f"; extended to labels outside it in {extended} of {len(fingerprint.cases)} cases"
    return Decision(name="crop", value=crop, reason=reason)


def reasons_of_preset(plan: Plan, usual: list[Decision]) -> list[Decision]:
    """The table, with the rows of a preset in place of the usual ones."""
    preset_rows = paper.reasons(plan)
    rows = [preset_rows.pop(row.name, row) for row in usual] + list(preset_rows.values())
    if plan.peer:
        rows.append(paper.peer_reason(RECIPES[plan.preset].network))
    if plan.text.note:
        rows.append(Decision(name="text encoder", value=plan.text.encoder, reason=plan.text.note))
    return rows


def _grid_reasons(chosen: Draft, plan: Plan) -> Iterator[tuple[str, str, str]]:
    """The rows of patch, strides, kernels, latent, attention and overview: name, value, reason."""
    level, shared = chosen.network.fusion_level, _shared(plan)
    yield (
        "patch",
        sizes_text(plan.patch),
        chosen.reasons["patch"] + shared,
    )
    yield (
        "strides",
        ", ".join("x".join(map(str, stage.stride)) for stage in plan.stages),
        "an axis is halved while its spacing is within twice the finest and at least "
        f"{rules.MIN_GRID_EDGE} positions remain (nnU-Net)",
    )
    yield (
        "kernels",
        ", ".join("x".join(map(str, stage.kernel)) for stage in plan.stages),
        "1 along an axis while its spacing is twice the finest or more",
    )
    yield "fusion stride", sizes_text(plan.stride_at(plan.fusion_level)), chosen.reasons["fusion stride"]
    positions = f"the grid below the image's own, which has {prod(plan.latent_stride)} times as many positions"
    yield "latent stride", sizes_text(plan.latent_stride), positions
    yield "latent channels", str(plan.latent.channels), chosen.reasons["latent channels"]
    attending = [f"stage {index}" for index, stage in enumerate(plan.stages) if stage.attention]
    counts = [str(rules.grid_positions(plan.patch, plan.stride_at(index))) for index in range(level, len(plan.stages))]
    yield (
        "attention",
        ", ".join(attending) or "none",
        f"stages from the fusion's grid on with at most {rules.MAX_ATTENTION_TOKENS} positions and "
        f"{rules.MAX_TOKENS_PER_CHANNEL} per channel; from stage {level} on they have {', '.join(counts)}",
    )
    if not (plan.paper or plan.peer):
        cells = f"{plan.overview.edge} cells along each axis" if plan.overview else "none"
        yield "overview", cells, chosen.reasons["overview"] + shared


def _cost_reasons(facts: Facts, chosen: Draft, plan: Plan) -> Iterator[tuple[str, str, str]]:
    """The rows of widths, memory, low resolution and batch: name, value, reason."""
    network, low, budget = memory.network_of(plan), plan.low_resolution, facts.budget
    work = plan.batch * memory.macs(network, plan.patch) / 1e9
    limit, usual = budget.gmacs_per_iteration, facts.rules.usual_width
    narrowed = plan.stages[0].width < usual
    on_gpu = f", narrowed from {usual} to fit the budget" if narrowed else ", as wide as usual on a GPU"
    yield (
        "widths",
        ", ".join(str(stage.width) for stage in plan.stages),
        f"{memory.parameters(network) / 1e6:.1f} M weights, {work:.3g} billion multiplications forward an iteration"
        + (f" of {limit:.3g} (CPU budget)" if limit else on_gpu),
    )
    yield (
        "memory (GB)",
        f"{plan.memory.training_gb:.2g}",
        f"estimate for training, of {budget.memory_gb:g}; prediction {plan.memory.prediction_gb:.2g}, host "
        f"{plan.memory.ram_gb:.2g} for the largest case, disk {plan.memory.disk_gb:.2g}",
    )
    yield "low resolution", sizes_text(low.spacing) if low else "none", chosen.reasons["low resolution"]
    yield "batch", str(plan.batch), chosen.reasons["batch"] + _shared(plan)


def _shared(plan: Plan) -> str:
    """The addition to a reason if a preset uses the decision of preset `default`, for comparison; else ""."""
    return (
        "; chosen for preset default, and the same here to compare with it"
        if plan.diffusion is None and plan.paper is None
        else ""
    )
