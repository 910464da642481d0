"""The options of `tds_predict`, by what they choose."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from plans.choices import PRESETS
from plans.layout import CHECKPOINTS, DICOM_SEG, RTSTRUCT, SEPARATE
from textdiffseg.resources import DEVICES
from textdiffseg_cli.common import positive_int, whole_number

if TYPE_CHECKING:
    from textdiffseg.inference.segmenting import SegmentOptions


def add_scans(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the scans and the output."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "-i",
        dest="source",
        type=Path,
        metavar="IN",
        help="folder of scans, or one scan; DICOM may be a folder, a zip or one slice",
    )
    source.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="CSV or JSON file with a row per case: its name (case), its scan (image; for several channels image_0, "
        "image_1, ...) and a text about it (text, optional)",
    )
    parser.add_argument(
        "--series",
        metavar="UID",
        help="predict this DICOM series only (default: the largest of each folder; a note names the others)",
    )
    parser.add_argument(
        "-o",
        dest="out",
        type=Path,
        required=True,
        metavar="OUT",
        help="folder for the segmentations; for one scan also a file name",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the model and its folds."""
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "-m",
        dest="model",
        type=Path,
        metavar="RESULTS_FOLDER",
        help="use the model in this folder, which contains fold_0, ...",
    )
    model.add_argument(
        "-d", dest="dataset", metavar="DATASET", help="use the model of this data set: id, name or folder name"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, metavar="NAME", help="use the model of this preset (default: the only trained one)"
    )
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="folds to average (default: all finished folds)")
    parser.add_argument(
        "--include-unfinished", action="store_true", help="also use folds that are in training or were interrupted"
    )
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINTS, default="best", help="which weights of each fold (default: best)"
    )


def add_words(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose what to segment, in words."""
    words = parser.add_mutually_exclusive_group()
    words.add_argument(
        "--prompt",
        nargs="+",
        action="extend",
        metavar="WORDS",
        help="segment only these structures; write each one in quotes",
    )
    words.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='JSON file with names and values of your own: {"labels": {NAME: {"phrase": WORDS, "value": N}}}',
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FOLDER",
        help="folder of texts about single cases, CASE.txt each, for a model that was trained with such texts",
    )
    parser.add_argument("--force", action="store_true", help="run words that the model was not trained with")
    parser.add_argument(
        "--text-encoder",
        metavar="NAME",
        help="the model's text encoder, for --force and --texts, if it is not the bundled one: a hub name or a local "
        "folder. An encoder that only the model names is not loaded",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling."""
    parser.add_argument(
        "--steps",
        type=positive_int,
        metavar="N",
        help="make the mask from diffusion samples of N steps, not from the usual single pass; also the steps of "
        "--uncertainty and --alternatives (default: the plan's)",
    )
    parser.add_argument(
        "--samples",
        type=positive_int,
        metavar="N",
        help="make the mask from the mean of N diffusion samples, not from the usual single pass",
    )
    parser.add_argument(
        "--no-mirroring",
        action="store_true",
        help="do not average over mirrored views (default: what the validation chose)",
    )
    parser.add_argument("--seed", type=whole_number, default=0, metavar="N", help="seed of the noise (default: 0)")


def add_effort(parser: argparse.ArgumentParser) -> None:
    """Add the options of the time that a mask takes, and of what follows the network."""
    parser.add_argument("--device", choices=DEVICES, help="where to predict (default: cuda if there is a GPU)")
    parser.add_argument(
        "--backend",
        choices=("torch", "openvino"),
        default="torch",
        help="what computes the masks; openvino is faster on a CPU and needs the extra [openvino] (default: torch)",
    )
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument(
        "--fast",
        dest="effort",
        action="store_const",
        const="fast",
        default="chosen",
        help="low resolution alone, where it is trained (tds_train --resolution low); else fewer windows, which "
        "overlap less. No mirroring",
    )
    effort.add_argument(
        "--best",
        dest="effort",
        action="store_const",
        const="best",
        help="the setting with the best Dice in validation, however much time it takes; implies --no-guide",
    )
    parser.add_argument(
        "--no-guide",
        dest="guide",
        action="store_false",
        help="compute full resolution everywhere (default: only where the low resolution finds something, if it is "
        "trained)",
    )
    parser.add_argument(
        "--no-postprocessing",
        dest="postprocessing",
        action="store_false",
        help="leave out the postprocessing that gained Dice in validation (tds_info lists it)",
    )


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the options for further outputs."""
    parser.add_argument(
        "--picture",
        action="store_true",
        help="also draw a PNG of each scan: three planes through the middle of the masks",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write OUT/report.html: the scans to check first, volumes, pictures and a 3D viewer",
    )
    parser.add_argument(
        "--separate",
        dest="conversions",
        action="append_const",
        const=SEPARATE,
        help="also write one mask per label, with the values 0 and 1: OUT/separate/CASE/LABEL.nii.gz",
    )
    for kind, name in ((DICOM_SEG, "a DICOM segmentation"), (RTSTRUCT, "a DICOM structure set (outlines)")):
        parser.add_argument(
            f"--{kind}",
            dest="conversions",
            action="append_const",
            const=kind,
            help=f"also write {name} on the slices of a DICOM scan: OUT/{kind}/CASE.dcm",
        )
    parser.add_argument("--probabilities", action="store_true", help="also write the probabilities of each label")
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write maps of uncertainty. They come from extra samples (at least 8); the masks do not change",
    )
    parser.add_argument(
        "--alternatives",
        type=positive_int,
        metavar="K",
        help="also write K possible masks (16 at most), each with its share of 16 extra samples; the masks do not "
        "change",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="predict again what is complete; replace corrected masks, and files that tds_predict did not make",
    )


def segment_options(args: argparse.Namespace) -> "SegmentOptions":
    """The options of segmenting that the arguments give."""
    import textdiffseg as tds

    return tds.SegmentOptions(
        prompts=tuple(args.prompt or ()),
        answers=args.prompts,
        force=args.force,
        text_encoder=args.text_encoder,
        steps=args.steps,
        samples=args.samples,
        mirroring=not args.no_mirroring,
        effort=args.effort,
        guide=args.guide,
        postprocessing=args.postprocessing,
        seed=args.seed,
        uncertainty=args.uncertainty,
        probabilities=args.probabilities,
        alternatives=args.alternatives or 0,
    )
