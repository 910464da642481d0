"""The presets `paper` and `peer-*`: the publication's optimisation settings, and the reasons of their decisions.

docs/paper.md lists which settings the publication states, and which come from its parent (LDSeg) or from this
project.
"""

from plans.network_plan import PaperPlan
from plans.plan import Decision, Plan, TrainingPlan
from plans.planning.rules import PAPER_COARSER_STAGES, PAPER_PATCH, PAPER_STRIDE, sizes_text

ENCODER = "emilyalsentzer/Bio_ClinicalBERT"
LABEL_TIMESTEPS = 1000  # of Diff-UNet's noise schedule
WARMUP_EPOCHS = 30


def training_plan(usual: TrainingPlan) -> TrainingPlan:
    """The published optimisation settings. The length, and settings that the publication omits, are the usual ones."""
    changes = {
        "learning_rate": 1e-4,
        "weight_decay": 1e-5,
        "optimiser": "adamw",
        "warmup": min(0.1, WARMUP_EPOCHS / usual.epochs),
        "augmentation": "paper",
        "averaged": "denoiser",
    }
    return usual.model_copy(update=changes)


def reasons(plan: Plan) -> dict[str, Decision]:
    """The decisions that differ from those of preset `default`, by name; {} for presets other than `paper*`."""
    if plan.paper is None:
        return {}
    attending = ", ".join(f"stage {i}" for i, stage in enumerate(plan.stages) if stage.attention)
    rows = (
        (
            "patch",
            sizes_text(plan.patch),
            f"published: {PAPER_PATCH} along each axis, cut to the padded median case "
            f"({sizes_text(plan.median_shape)}); smaller only if the narrowest network does not fit the budget",
        ),
        ("fusion stride", sizes_text(plan.latent_stride), "published: the latent grid"),
        (
            "latent stride",
            sizes_text(plan.latent_stride),
            f"published: {PAPER_STRIDE}, or less if the patch would leave under 4 positions along an axis",
        ),
        (
            "strides",
            ", ".join("x".join(map(str, stage.stride)) for stage in plan.stages),
            f"those of the usual rule, at most {PAPER_COARSER_STAGES} stages below the latent grid",
        ),
        ("latent channels", "1", "published: k = 1; z_it is projected to k channels"),
        ("attention", attending, "published: multi-head, in the image encoder's last two down-sampling stages"),
        (
            "diffusion",
            f"eps, {plan.paper.timesteps} steps",
            f"published: noise prediction, cosine schedule, t uniform, {plan.paper.steps} DDIM steps",
        ),
        (
            "loss",
            f"CE + {plan.paper.dice_weight:g} Dice + {plan.paper.latent_weight:g} noise",
            "published: gamma 2, lambda 1, gradients end to end",
        ),
        (
            "optimiser",
            f"AdamW {plan.training.learning_rate:g}, decay {plan.training.weight_decay:g}",
            f"published; warm-up over {plan.training.warmup:.0%} of the iterations, then a cosine",
        ),
        ("parts", description_of(plan.paper), "the publication's model, or one of its ablations"),
    )
    return {name: Decision(name=name, value=value, reason=reason) for name, value, reason in rows}


def description_of(paper: PaperPlan) -> str:
    """A description of the model's modules, for the table of reasons."""
    text = "no text" if paper.fusion == "none" else f"fusion by {paper.fusion}"
    return f"{text}, {paper.image_encoder} image encoder, {paper.label_encoder} label encoder"


def peer_reason(network: str) -> Decision:
    """The decision for a peer: the name of its network."""
    reason = (
        "a network for comparison: the same cases, patch, batch and loop; the memory above is that of preset unet, "
        "and training refits the plan to the memory of this network"
    )
    return Decision(name="network", value=network, reason=reason)
