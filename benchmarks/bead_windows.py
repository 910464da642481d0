"""How should windows agree on an order? Chains of equal beads, with a denoiser that knows each window exactly.

    python benchmarks/bead_windows.py [--trials 400] [--windows 5 11]

Nothing is trained. z_0 is a known pattern along a chain, or its negative: the two orders of names. Each window's
denoiser is the exact mean of z_0 given z_t, with white noise. It does not know what lies outside the window. Windows
overlap by half, and take 8 DDIM steps with the noise levels of a plan. Three ways are compared on the same noise:

- `alone`: each window draws by itself, and the results are averaged;
- `averaged`: the windows' estimates are averaged at each step (MultiDiffusion, Bar-Tal et al. 2023);
- `in_turn`: each window continues what the window before has drawn, as for --alternatives.

Prints JSON: for each number of windows and each way, the share of chains that follow one order everywhere.
"""

import argparse
import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from plans.geometry import Triple, triple
from plans.planning.rules import min_log_snr
from textdiffseg.diffusion.ddim import Known, sample
from textdiffseg.diffusion.schedule import LogSnrSchedule
from textdiffseg.inference.tiling import Tiling, importance, tile
from textdiffseg_cli.common import positive_int, run

CHANNELS, WINDOW, STEPS = 8, (8, 4, 4), 8  # of the latent; its positions in a window (D, H, W); of DDIM
SCHEDULE = LogSnrSchedule(min_log_snr(CHANNELS, 8 * 4 * 4), 5.0)
SURE = 0.5  # a position follows an order if its value is nearer to it than to the mean of both


def main() -> int:
    """Draw the chains and print their shares."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=positive_int, default=400, metavar="N", help="chains of each way")
    parser.add_argument("--windows", type=positive_int, nargs="+", default=[5, 11], metavar="N", help="of a chain")
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the share of consistent chains of each length and way."""
    figures = {}
    for count in args.windows:
        tiling = chain(count)
        noise = torch.randn(args.trials, CHANNELS, *tiling.shape, generator=torch.Generator().manual_seed(0))
        figures[str(count)] = {name: consistent(way(noise, tiling)) for name, way in WAYS.items()}
    print(json.dumps({"benchmark": "bead_windows", "trials": args.trials, "windows": figures}, indent=1))


def chain(windows: int) -> Tiling:
    """The tiling of a chain of `windows` windows that overlap by half along D."""
    shape: Triple = ((windows + 1) * WINDOW[0] // 2, *WINDOW[1:])
    return tile(shape, WINDOW, (1, 1, 1))


def exact(z_t: Tensor, t: Tensor) -> Tensor:
    """v of the mean of z_0 given z_t (B, k, d, h, w). z_0 is 1 or -1 everywhere.

    A pattern of signs, as of alternating names, would be a factor of z_0 and of the noise. It changes nothing.
    """
    a, sigma = SCHEDULE.coefficients(t, z_t)
    evidence = (z_t * a / sigma.square()).sum((1, 2, 3, 4), keepdim=True)
    z_0 = evidence.tanh().expand_as(z_t)
    return SCHEDULE.velocity(z_0, SCHEDULE.epsilon(z_t, z_0, t), t)


def weighted(windows: Callable[[slice], Tensor], like: Tensor, tiling: Tiling) -> Tensor:
    """The mean of the windows' values with Gaussian weights, of the shape of `like` (B, k, d, h, w)."""
    sums, total, weight = torch.zeros_like(like), torch.zeros(tiling.shape), importance(triple(WINDOW))
    for start in tiling.starts:
        along = tiling.window(start)[0]
        sums[:, :, along] += weight * windows(along)
        total[along] += weight
    return sums / total


def alone(noise: Tensor, tiling: Tiling) -> Tensor:
    """The mean of windows that are drawn by themselves."""
    return weighted(lambda along: sample(exact, noise[:, :, along], SCHEDULE, STEPS), noise, tiling)


def averaged(noise: Tensor, tiling: Tiling) -> Tensor:
    """One latent, whose estimate is the mean of the windows' at each step. v is linear in the estimate."""

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        return weighted(lambda along: exact(z_t[:, :, along], t), z_t, tiling)

    return sample(denoise, noise, SCHEDULE, STEPS)


def in_turn(noise: Tensor, tiling: Tiling) -> Tensor:
    """One latent, of which each window draws what the windows before it have left."""
    z_0, drawn = torch.zeros_like(noise), torch.zeros(tiling.shape, dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    for start in tiling.starts:
        along = tiling.window(start)[0]
        fresh = [torch.randn(noise[:, :, along].shape, generator=generator) for _ in range(STEPS - 1)]
        known = Known(z_0[:, :, along], drawn[along], [noise[:, :, along], *fresh])
        z_0[:, :, along] = sample(exact, noise[:, :, along], SCHEDULE, STEPS, known)
        drawn[along] = True
    return z_0


WAYS = {"alone": alone, "averaged": averaged, "in_turn": in_turn}


def consistent(z_0: Tensor) -> float:
    """The share of the chains (B, k, d, h, w) that follow one of the two orders at all positions."""
    along = z_0.mean((1, 3, 4))
    return float(((along > SURE).all(1) | (along < -SURE).all(1)).float().mean())


if __name__ == "__main__":
    sys.exit(main())
