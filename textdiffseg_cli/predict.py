"""`tds_predict`: segment scans with a trained model."""

import argparse
from pathlib import Path

from plans.presets import PRESETS
from textdiffseg_cli.common import add_root, command, positive_int, run, whole_number


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_predict`."""
    parser = command(
        "tds_predict",
        "Segment a folder of scans, or one scan. Geometry and label values are those of the scans and of the "
        "training data. With one trained model under the root, -i and -o are enough.",
        """
        tds_predict -i scans -o segmentations
        tds_predict -i scans -o segmentations -d Hippocampus --folds 0 1
        tds_predict -i scan.nii.gz -o segmentations --prompt "anterior hippocampus"
        tds_predict -i scans -o segmentations --prompts asked.json
        tds_predict -i scans -o segmentations --texts texts
        tds_predict -i scans -o segmentations -m results/Dataset004_Hippocampus/default --uncertainty
        """,
    )
    parser.add_argument(
        "-i", dest="source", type=Path, required=True, metavar="IN", help="folder of scans, or one scan"
    )
    parser.add_argument("-o", dest="out", type=Path, required=True, metavar="OUT", help="folder for the segmentations")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("-m", dest="model", type=Path, metavar="RESULTS_FOLDER", help="folder of a trained model")
    model.add_argument("-d", dest="dataset", metavar="DATASET", help="data set of the model: id, name or folder name")
    parser.add_argument("--preset", choices=PRESETS, help="preset of the model (default: the only one that is trained)")
    add_root(parser)
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="folds to average (default: all that are finished)")
    parser.add_argument(
        "--include-unfinished", action="store_true", help="use folds that are in training or were interrupted, too"
    )
    parser.add_argument(
        "--checkpoint", choices=("best", "latest"), default="best", help="weights of each fold (default: best)"
    )
    _add_words(parser)
    _add_sampling(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument(
        "--picture", action="store_true", help="draw a PNG beside each mask: three planes through its middle"
    )
    parser.add_argument("--probabilities", action="store_true", help="write each label's probabilities too")
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="write entropy, how samples and folds disagree, and 90%% intervals of volumes, from samples of their own "
        "beside the mask (at least 4 steps and 8 samples)",
    )
    parser.add_argument("--overwrite", action="store_true", help="redo what is complete, replace files of others")
    return parser


def _add_words(parser: argparse.ArgumentParser) -> None:
    """What to segment, in words."""
    words = parser.add_mutually_exclusive_group()
    words.add_argument(
        "--prompt", nargs="+", action="extend", metavar="WORDS", help="segment only what these words name"
    )
    words.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='JSON of what to segment and with which value: {"labels": {NAME: {"phrase": WORDS, "value": N}}}',
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FOLDER",
        help="words about single cases, CASE.txt each, for a model that was trained with such texts",
    )
    parser.add_argument("--force", action="store_true", help="run prompts that the model was not trained with")
    parser.add_argument(
        "--text-encoder",
        metavar="NAME",
        help="hub name or local folder of the model's text encoder, for --force and --texts, where it is not the "
        "bundled one: an encoder that a model names is not loaded unasked",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """How samples are drawn."""
    parser.add_argument(
        "--steps", type=positive_int, metavar="N", help="sampling steps (default: what validation chose)"
    )
    parser.add_argument(
        "--samples", type=positive_int, metavar="N", help="samples to average (default: what validation chose)"
    )
    parser.add_argument("--no-mirroring", action="store_true", help="do not average over mirrored views")
    parser.add_argument("--seed", type=whole_number, default=0, metavar="N", help="of the noise (default: 0)")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_predict, make_parser().parse_args(argv))


def _predict(args: argparse.Namespace) -> None:
    import textdiffseg as tds
    from textdiffseg.precision import cuda_kernels
    from textdiffseg_cli.bars import Bars
    from textdiffseg_cli.threads import idle_cores_only

    options = tds.SegmentOptions(
        prompts=tuple(args.prompt or ()),
        answers=args.prompts,
        force=args.force,
        text_encoder=args.text_encoder,
        steps=args.steps,
        samples=args.samples,
        mirroring=not args.no_mirroring,
        seed=args.seed,
        uncertainty=args.uncertainty,
        probabilities=args.probabilities,
    )
    with idle_cores_only(), Bars() as bars, cuda_kernels():
        outcome = tds.predict(
            args.source,
            args.out,
            model=args.model,
            dataset=args.dataset,
            root=args.root,
            folds=args.folds,
            checkpoint=args.checkpoint,
            device=args.device,
            include_unfinished=args.include_unfinished,
            options=options,
            texts=args.texts,
            overwrite=args.overwrite,
            preset=args.preset,
            picture=args.picture,
            report=bars.say,
            progress=bars,
        )
    print(f"{len(outcome.written)} predicted, {len(outcome.skipped)} complete already: {args.out}")
    cases = len(outcome.written) + len(outcome.skipped)
    if outcome.empty:
        print(f"{len(outcome.empty)} of {cases} masks are empty: {', '.join(outcome.empty)}.")
    if outcome.not_found:
        print(f"Found in no scan: {', '.join(outcome.not_found)}. Train longer, or predict scans that hold them.")
    for note in outcome.notes:
        print(f"Note: {note}")
    if outcome.failures:
        raise tds.UserError(*outcome.failures)
