"""The disagreement between diffusion samples and between folds.

p_fs are the probabilities of fold f and sample s, and H is the entropy in bits. A missing index is a mean over it:

    H(p) - mean_fs H(p_fs) = [mean_f H(p_f) - mean_fs H(p_fs)] + [H(p) - mean_f H(p_f)]
                               between samples                     between folds

Both terms are mutual informations, so they are never negative. They are computed for each window and averaged over
windows like probabilities. No sample of a whole volume is kept in memory. Both use the network's uncalibrated
probabilities. Only H(p) uses calibrated ones, if a temperature was fitted (`calibration`).

`Readout.entropy` is H. For overlapping labels it is a sum over labels, and so are both terms.

Each sample takes the DDIM steps of the plan. The mask itself comes from a single pass without diffusion.
"""

from torch import Tensor

from textdiffseg.readout import Readout


def disagreement(fold_means: Tensor, sample_entropies: Tensor, readout: Readout) -> tuple[Tensor, Tensor]:
    """The disagreement between samples and between folds, each (B, D, H, W) in bits.

    Args:
        fold_means: mean_s p_fs (F, B, K, D, H, W).
        sample_entropies: mean_s H(p_fs) (F, B, D, H, W).
        readout: defines H.
    """
    fold_entropy = readout.entropy(fold_means, 2).mean(0)
    between_samples = fold_entropy - sample_entropies.mean(0)
    between_folds = readout.entropy(fold_means.mean(0), 1) - fold_entropy
    return between_samples.clamp_(min=0), between_folds.clamp_(min=0)  # rounding can make them negative
