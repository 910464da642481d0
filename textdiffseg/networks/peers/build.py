"""`build_peer`: the untrained peer of a plan."""

from plans.choices import PeerNetwork
from plans.plan import Plan
from textdiffseg.extras import require
from textdiffseg.networks.peers.diffunet import LabelDiffusion
from textdiffseg.networks.peers.monai import swin_unetr, unet
from textdiffseg.networks.peers.nnunet import plain, residual_encoder
from textdiffseg.networks.peers.peer import Peer
from textdiffseg.networks.peers.unetrpp import unetrpp

# The modules that a network is built from, if it comes from a library.
LIBRARIES: dict[PeerNetwork, tuple[str, ...]] = {
    "unet": ("monai", "einops"),
    "swinunetr": ("monai", "einops"),
    "nnunet": ("dynamic_network_architectures",),
    "resenc": ("dynamic_network_architectures",),
    "unetrpp": ("monai",),
}


def build_peer(plan: Plan, peer: PeerNetwork) -> Peer:
    """The untrained network `peer`. Raises `UserError` if the library that it comes from is not installed."""
    if peer in LIBRARIES:
        require("train", f"Preset {plan.preset}", *LIBRARIES[peer])
    match peer:
        case "unet":
            return unet(plan)
        case "swinunetr":
            return swin_unetr(plan)
        case "nnunet":
            return plain(plan)
        case "resenc":
            return residual_encoder(plan)
        case "unetrpp":
            return unetrpp(plan)
        case "diffunet":
            return LabelDiffusion(plan)
