"""`RECIPES`: what each preset decides. All other fields of a plan follow from the data and the memory.

docs/extending.md adds a preset step by step.
"""

from collections.abc import Callable
from dataclasses import dataclass

from plans.choices import PeerNetwork, Preset
from plans.network_plan import PaperPlan
from plans.plan import TrainingPlan, reads_words
from plans.planning import paper


def unchanged(usual: TrainingPlan) -> TrainingPlan:
    """The usual optimisation settings."""
    return usual


@dataclass(frozen=True)
class Recipe:
    """The decisions of a preset. The network is ours, unless `paper` or `peer` is given."""

    sampler: bool = False  # a residual diffusion beside the masks
    overview: bool = False  # the network may read an overview of the scan
    paper: PaperPlan | None = None  # the publication's model
    peer: PeerNetwork | None = None  # a network for comparison
    network: str = ""  # the peer's name in the table of reasons
    training: Callable[[TrainingPlan], TrainingPlan] = unchanged  # the optimisation settings, from the usual ones

    @property
    def reads_words(self) -> bool:
        """Whether the network reads the query, and so also the texts of cases."""
        return reads_words(self.peer, self.paper)


def _publication(settings: PaperPlan) -> Recipe:
    return Recipe(paper=settings, training=paper.training_plan)


RECIPES: dict[Preset, Recipe] = {
    "default": Recipe(sampler=True, overview=True),
    "unet": Recipe(overview=True),
    "paper": _publication(PaperPlan()),
    "paper-concatenation": _publication(PaperPlan(fusion="concatenation")),
    "paper-no-text": _publication(PaperPlan(fusion="none")),
    "paper-no-image-encoder": _publication(PaperPlan(image_encoder="down-sampling")),
    "paper-no-label-encoder": _publication(PaperPlan(label_encoder="fixed")),
    "peer-unet": Recipe(peer="unet", network="MONAI's UNet"),
    "peer-swinunetr": Recipe(peer="swinunetr", network="MONAI's SwinUNETR"),
    "peer-nnunet": Recipe(peer="nnunet", network="nnU-Net's PlainConvUNet"),
    "peer-resenc": Recipe(peer="resenc", network="nnU-Net's ResidualEncoderUNet"),
    "peer-unetrpp": Recipe(peer="unetrpp", network="UNETR++"),
    "peer-diffunet": Recipe(peer="diffunet", network="Diff-UNet"),
}
VARIANTS = tuple(preset for preset, recipe in RECIPES.items() if recipe.paper)  # of the publication
