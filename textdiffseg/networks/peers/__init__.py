"""Networks for comparison, one file per family. They use the same training loop, patches and windows as the model."""

from textdiffseg.networks.peers.build import build_peer
from textdiffseg.networks.peers.diffunet import LabelDiffusion
from textdiffseg.networks.peers.peer import Peer

__all__ = ["LabelDiffusion", "Peer", "build_peer"]
