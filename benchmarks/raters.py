"""Do the samples show what raters disagree about? The energy distance to a known distribution of references.

The data are phantoms with two labels, liver and spleen, and two protocols. A fair coin decides between them:

- inner: the border of each organ; the lesion belongs to the liver;
- outer: each border is 2 mm further out; the lesion is cut out of the liver.

Both protocols are written as two raters of every case. Training draws one of them per sample. So each training case
shows both, and the true distribution of references is one half each.

Printed as JSON, for the validation cases of fold 0: GED^2 (textdiffseg/evaluation/raters.py), mean over labels, of

- `default`: 16 samples, as `tds_predict --alternatives` draws them;
- `factors_alone`: the same common factors, but nothing that the denoiser draws;
- `unet_voxels`: 16 samples of its softmax, each voxel by itself;
- `unet_level_sets`: 16 samples of its softmax with one uniform number for all voxels;
- `ssn`: 16 samples of a stochastic segmentation network on the same blocks (ssn.py);
- `four_unets`: the masks of four `unet`s of a quarter of the time each.

Each of the five has the same minutes of training. The claim is that `default` represents the raters' disagreement. Its
bars: at most .7 of the better `unet`; not above `ssn` and `four_unets`; for each reference, the best of 4 alternatives
has a Dice of at least .03 above the mask's. Differences have the 95% interval of a paired bootstrap over cases, whose
figures are means over seeds.

    python benchmarks/raters.py [--phantoms 60] [--minutes 15] [--seeds 0 1 2] [--root DIR]

With --root, trained folds and figures are kept, and an interrupted run resumes.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import ssn
import torch
from accuracy import train
from bootstrap import paired
from claims import FAILS, HOLDS
from sampled_parts import without_denoiser
from scipy.ndimage import distance_transform_edt
from stored import add_device, held_out, in_own_process, machine, mean, prepare

from plans.errors import UserError
from plans.file_names import NIFTI, channel_file, rater_file
from plans.layout import FoldFolder, RawFolder
from textdiffseg import phantoms
from textdiffseg.data.store import StoredCase, open_case
from textdiffseg.evaluation.metrics import dice
from textdiffseg.evaluation.raters import energy_distances
from textdiffseg.files import write_atomically
from textdiffseg.folds.sampling import ALTERNATIVE_SAMPLES, PredictionSettings, alternative_settings
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.alternatives import choose_alternatives, draw_masks
from textdiffseg.inference.predictor import Predictor
from textdiffseg.inference.samples import SamplePredictor
from textdiffseg.text.bank import TextBank
from textdiffseg.validation.cases import queries_of
from textdiffseg_cli.common import positive_float, positive_int, run, whole_number

NAME, FOLD = "Dataset902_TwoProtocols", "0"
LABELS = ("liver", "spleen")
BORDER_MM = 2.0
MODELS = ("default", "unet", "ssn", *(f"quarter_{number}" for number in range(4)))
ROWS = ("default", "factors_alone", "unet_voxels", "unet_level_sets", "ssn", "four_unets")
ALTERNATIVES = 4
BARS = {"of_unet": 0.7, "minus_ssn": 0.0, "minus_four_unets": 0.0, "best_of_4_minus_mask": 0.03}


def main() -> int:
    """Train the models, and print the distances and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--phantoms", type=positive_int, default=60, metavar="N", help="cases; a fifth is scored")
    parser.add_argument("--minutes", type=positive_float, default=15.0, help="of training, for each of the five")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    parser.add_argument("--cases", type=positive_int, metavar="N", help="scans to score (default: all)")
    parser.add_argument("--root", type=Path, help="keep everything here (default: a temporary folder)")
    add_device(parser)
    return run(compare, parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    """Print the figures of every row and seed, and the verdict."""
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        data = write_data(root, args.phantoms)
        figures = [of_seed(root, data, seed, args) for seed in args.seeds]
    settings = {name: getattr(args, name) for name in ("phantoms", "minutes", "seeds")}
    report = {"benchmark": "raters"} | settings | machine(args.device) | {"bars": BARS}
    print(json.dumps(report | summary_of(figures, args.seeds), indent=1))


def write_data(root: Path, count: int) -> Path:
    """The raw data set with both protocols of each phantom as raters. It is written unless it exists."""
    from textdiffseg.imaging.writers.files import write_labels, write_volume

    raw = RawFolder(root / "raw" / NAME)
    if raw.header.is_file():
        made = json.loads(raw.header.read_text())["numTraining"]
        if made != count:
            raise UserError(f"--phantoms {count}: {raw.path} holds {made}. Give another --root.")
        return raw.path
    for index in range(count):
        case, anatomy = f"phantom_{index:03d}", phantoms.draw_anatomy(0, index)
        scan, labels = phantoms.paint(anatomy, np.random.default_rng((0, index, 1)))
        geometry = phantoms.geometry_of(anatomy)
        write_volume(raw.images("Tr") / channel_file(case, 0, NIFTI), scan, geometry)
        for number, mask in enumerate(protocols(labels, anatomy.spacing), start=1):
            write_labels(raw.labels("Tr") / rater_file(case, number, NIFTI), mask, geometry)
    header = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{name: value for value, name in enumerate(LABELS, start=1)}},
        "numTraining": count,
        "file_ending": NIFTI,
    }
    write_atomically(raw.header, json.dumps(header, indent=1) + "\n")
    return raw.path


def protocols(labels: np.ndarray, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The inner and the outer reference (D, H, W) uint8 of a phantom's label map."""
    lesion = labels == 1 + phantoms.LABELS.index("liver lesion")
    organs = [labels == 1 + phantoms.LABELS.index(name) for name in LABELS]
    organs[0] = organs[0] | lesion
    inner, outer = np.zeros((2, *labels.shape), np.uint8)
    for value, organ in enumerate(organs, start=1):
        if organ.any():
            # The border lies half a voxel outside the organ's last voxels.
            from_border = distance_transform_edt(~organ, sampling=spacing) - min(spacing) / 2
            near = from_border <= BORDER_MM
            inner[organ], outer[near & (outer == 0)] = value, value
    outer[lesion] = 0
    return inner, outer


def of_seed(root: Path, data: Path, seed: int, args: argparse.Namespace) -> dict:
    """The figures of one seed, by row and case. They are kept in a file of the root."""
    cases = f"{args.phantoms}_{args.cases or 'all'}"
    path = root / f"figures_{seed}_{args.minutes:g}_{cases}_{args.device}.json"
    if path.is_file():
        return json.loads(path.read_text())
    folders = {}
    for name in MODELS:
        preset = "default" if name == "default" else "unet"
        preprocessed = prepare(data, root, preset, args.device)
        folders[name] = root / "results" / data.name / f"{name}_seed{seed}" / f"fold_{FOLD}"
        quarter = name.startswith("quarter")
        minutes = args.minutes / 4 if quarter else args.minutes
        settings = argparse.Namespace(minutes=minutes, device=args.device, fold=FOLD)
        of_model = 4 * seed + int(name[-1]) if quarter else seed
        in_own_process(fit_one, name, preprocessed, folders[name], preset, of_model, settings)
    cases = held_out(preprocessed, FOLD, args.cases)
    figures = in_own_process(measure, preprocessed, folders, cases, args.device)
    write_atomically(path, json.dumps(figures))
    return figures


def fit_one(name: str, preprocessed: Path, folder: Path, preset: str, seed: int, args: argparse.Namespace) -> None:
    """Train one model. A finished one is not trained again."""
    with ssn.installed() if name == "ssn" else contextlib.nullcontext():
        train(preprocessed, folder, preset, seed, args)


def measure(preprocessed: Path, folders: dict[str, Path], cases: list[str], device: str) -> dict:
    """GED^2 by row and case, and the Dice of the mask and of the best of 4 alternatives by case."""
    networks = {}
    for name, folder in folders.items():
        with ssn.installed() if name == "ssn" else contextlib.nullcontext():
            networks[name] = load_network(FoldFolder(folder), device=device)
    bank = TextBank.load(FoldFolder(folders["default"]).words)
    figures: dict[str, dict[str, float]] = {row: {} for row in (*ROWS, "mask_dice", "best_of_4_dice")}
    for seed, name in enumerate(cases):
        case = open_case(preprocessed, name)
        references = [case.original_labels(index) for index in range(case.record.references)]
        scan = Scan(case, bank, device, seed)
        samples = scan.samples(networks)
        for row, masks in samples.items():
            distances = energy_distances(masks, references, dict(enumerate(LABELS, start=1)))
            figures[row][name] = mean(distances.values())
        mask = scan.masks(networks["default"])
        chosen = choose_alternatives(np.stack(samples["default"]), (1, 2), ALTERNATIVES)
        figures["mask_dice"][name] = mean(agreement([mask], reference) for reference in references)
        figures["best_of_4_dice"][name] = mean(
            agreement([a.labels for a in chosen], reference) for reference in references
        )
    return figures


class Scan:
    """A stored case with its queries. All masks are on the file's own grid."""

    def __init__(self, case: StoredCase, bank: TextBank, device: str, seed: int):
        """`seed`: of the diffusion samples. With one seed, all scans would have the same common factors."""
        self.case, self.bank, self.device, self.seed = case, bank, device, seed
        self.image = torch.from_numpy(case.image[...].astype(np.float32))

    def samples(self, networks: dict) -> dict[str, list[np.ndarray]]:
        """The samples of every row."""
        p = self.probabilities(networks["unet"])
        quarters = [networks[name] for name in networks if name.startswith("quarter")]
        return {
            "default": self.drawn(networks["default"]),
            "factors_alone": self.drawn(without_denoiser(networks["default"])),
            "unet_voxels": [self.restored(sample) for sample in voxel_samples(p)],
            "unet_level_sets": [self.restored(sample) for sample in level_sets(p)],
            "ssn": self.stochastic(networks["ssn"]),
            "four_unets": [self.masks(network) for network in quarters],
        }

    def drawn(self, network) -> list[np.ndarray]:
        """The diffusion samples."""
        settings = alternative_settings(network.plan, PredictionSettings(seed=self.seed))
        predictor = SamplePredictor([network], settings, self.device)
        queries = queries_of(network.plan, self.case, self.bank)
        return list(draw_masks(predictor, self.image, self.case.record.transform, queries, len(LABELS)))

    def stochastic(self, network) -> list[np.ndarray]:
        """The samples of a stochastic segmentation network."""
        masks = []
        for number in range(ALTERNATIVE_SAMPLES):
            ssn.classifier_of(network).drawn = ALTERNATIVE_SAMPLES * self.seed + number
            masks.append(self.masks(network))
        ssn.classifier_of(network).drawn = None
        return masks

    def probabilities(self, network) -> np.ndarray:
        """The probabilities (1 + Q, D, H, W) on the plan's grid, with one step and without mirroring."""
        predictor = Predictor([network], PredictionSettings(), self.device)
        queries = queries_of(network.plan, self.case, self.bank)
        return predictor.predict_image(self.image, queries).probabilities.numpy()

    def masks(self, network) -> np.ndarray:
        """The mask of a network."""
        return self.restored(self.probabilities(network))

    def restored(self, p: np.ndarray) -> np.ndarray:
        """The most probable class of each voxel on the file's own grid."""
        from textdiffseg.preprocessing.case import restore

        return restore(p, self.case.record.transform)


def voxel_samples(p: np.ndarray) -> list[np.ndarray]:
    """Samples (K, D, H, W) of probabilities (K, D, H, W), each voxel by itself. They are 0 or 1."""
    rng = np.random.default_rng(0)
    return [indicators(p, rng.random(p.shape[1:])) for _ in range(ALTERNATIVE_SAMPLES)]


def level_sets(p: np.ndarray) -> list[np.ndarray]:
    """Samples (K, D, H, W) of probabilities with one number for all voxels: the level sets at 16 quantiles."""
    quantiles = (np.arange(ALTERNATIVE_SAMPLES) + 0.5) / ALTERNATIVE_SAMPLES
    return [indicators(p, np.full(p.shape[1:], quantile)) for quantile in quantiles]


def indicators(p: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The indicator (K, D, H, W) of the class whose part of [0, 1] contains `uniform` (D, H, W). Background is last."""
    ordered = np.concatenate([p[1:], p[:1]]).cumsum(0)
    chosen = (ordered < uniform * ordered[-1]).sum(0).clip(max=len(p) - 1)
    classes = (chosen + 1) % len(p)
    return (np.arange(len(p))[:, None, None, None] == classes).astype(np.float32)


def agreement(masks: list[np.ndarray], reference: np.ndarray) -> float:
    """The best mean Dice over the labels of several masks with a reference."""
    scores = []
    for mask in masks:
        scores_of_labels = [dice(mask == value, reference == value) for value in range(1, 1 + len(LABELS))]
        scores.append(mean(value for value in scores_of_labels if value is not None))
    return max(score for score in scores if score is not None)


def summary_of(figures_of_seeds: list[dict], seeds: list[int]) -> dict:
    """The means of each row, their differences, and the verdict on each bar."""
    cases = list(figures_of_seeds[0]["default"])
    rows = {
        name: np.array([mean(figures[name][case] for figures in figures_of_seeds) for case in cases])
        for name in figures_of_seeds[0]
    }
    means = {name: float(values.mean()) for name, values in rows.items()}
    per_seed = {
        str(seed): {name: mean(figures[name].values()) for name in figures}
        for seed, figures in zip(seeds, figures_of_seeds, strict=True)
    }
    best_unet = min(means["unet_voxels"], means["unet_level_sets"])
    gaps = {
        "minus_factors_alone": paired(rows["default"] - rows["factors_alone"]),
        "minus_unet_voxels": paired(rows["default"] - rows["unet_voxels"]),
        "minus_unet_level_sets": paired(rows["default"] - rows["unet_level_sets"]),
        "minus_ssn": paired(rows["default"] - rows["ssn"]),
        "minus_four_unets": paired(rows["default"] - rows["four_unets"]),
        "best_of_4_minus_mask": paired(rows["best_of_4_dice"] - rows["mask_dice"]),
    }
    ratio = means["default"] / best_unet if best_unet else None
    verdict = {
        "of_unet": ratio is not None and ratio <= BARS["of_unet"],
        "minus_ssn": gaps["minus_ssn"]["mean"] <= BARS["minus_ssn"],
        "minus_four_unets": gaps["minus_four_unets"]["mean"] <= BARS["minus_four_unets"],
        "best_of_4_minus_mask": gaps["best_of_4_minus_mask"]["mean"] >= BARS["best_of_4_minus_mask"],
    }
    named = {name: HOLDS if holds else FAILS for name, holds in verdict.items()}
    return {"means": means, "seeds_apart": per_seed, "of_unet": ratio, "differences": gaps, "verdict": named}


if __name__ == "__main__":
    sys.exit(main())
