"""`tds_predict`: segment scans with a trained model."""

import argparse
from pathlib import Path

from textdiffseg_cli.common import add_root, choose_device, command, positive_int, run, whole_number


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
    add_root(parser)
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="folds to average (default: all that are trained)")
    parser.add_argument(
        "--checkpoint", choices=("best", "latest"), default="best", help="weights of each fold (default: best)"
    )
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
        "--steps", type=positive_int, metavar="N", help="sampling steps (default: what validation chose)"
    )
    parser.add_argument(
        "--samples", type=positive_int, metavar="N", help="samples to average (default: what validation chose)"
    )
    parser.add_argument("--no-mirroring", action="store_true", help="do not average over mirrored views")
    parser.add_argument("--seed", type=whole_number, default=0, metavar="N", help="of the noise (default: 0)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--probabilities", action="store_true", help="write each label's probabilities too")
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="write entropy, how samples and folds disagree, and 90%% intervals of volumes, from samples of their own "
        "beside the mask (at least 4 steps and 8 samples)",
    )
    parser.add_argument("--overwrite", action="store_true", help="redo what is complete, replace files of others")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_predict, make_parser().parse_args(argv))


def _predict(args: argparse.Namespace) -> None:
    from plans.errors import UserError

    job, scans = _prepare(args)
    _announce(job, scans)
    outcome = _run_with_bar(job, scans)
    print(f"{len(outcome.written)} predicted, {len(outcome.skipped)} complete already: {args.out}")
    if outcome.failures:
        raise UserError(*outcome.failures)


def _prepare(args: argparse.Namespace):
    """The checked job and the scans it is for."""
    from plans.prompts import read_answers
    from plans.texts import read_texts
    from textdiffseg.folds.calibration import applied
    from textdiffseg.folds.ensemble import find_model, load_ensemble
    from textdiffseg.folds.sampling import Settings, settings_for, settings_of_uncertainty
    from textdiffseg.inference.export import Job, find_scans, output_place
    from textdiffseg.inference.predictor import Predictor
    from textdiffseg.inference.prompting import ask, ask_for, tell
    from textdiffseg.inference.scan import Calibrated
    from textdiffseg.text.case_texts import tell_cuts

    answers = read_answers(args.prompts) if args.prompts else None
    device = choose_device(args.device)
    folder = find_model(args.root, args.dataset, args.model)
    ensemble = load_ensemble(folder, args.folds, args.checkpoint, device)

    def with_settings(settings: Settings) -> Calibrated:
        return Calibrated(Predictor(ensemble.networks, settings, device), applied(ensemble.calibrations, settings))

    scans = find_scans(args.source, len(ensemble.plan.channels))
    if answers is None:
        asked = ask(ensemble.plan, ensemble.bank, args.prompt or (), args.force)
    else:
        asked = ask_for(ensemble.plan, ensemble.bank, answers, args.force)
    words, strays = read_texts(args.texts, scans) if args.texts else ({}, 0)
    texts = tell(ensemble.plan, ensemble.bank, words)
    settings = settings_for(
        ensemble.plan,
        ensemble.sampling,
        steps=args.steps,
        samples=args.samples,
        mirroring=not args.no_mirroring,
        seed=args.seed,
    )
    masks, samples = with_settings(settings), None
    if args.uncertainty:
        enough = settings_of_uncertainty(ensemble.plan, settings, len(ensemble.folds))
        samples = masks if enough == settings else with_settings(enough)
    out, file_name = output_place(args.out, len(scans))
    job = Job(
        masks=masks,
        uncertainty=samples,
        asked=asked,
        model=ensemble.hash,
        folds=ensemble.folds,
        checkpoint=ensemble.checkpoint,
        out=out,
        file_name=file_name,
        probabilities=args.probabilities,
        texts=texts,
        overwrite=args.overwrite,
    )
    print(f"Model: {folder}, {'folds' if len(ensemble.folds) > 1 else 'fold'} {', '.join(ensemble.folds)}")
    if ensemble.plan.text.note:
        print(ensemble.plan.text.note)
    if args.texts:
        cuts = tell_cuts({case: one.entry.length for case, one in texts.items()})
        others = (f"{strays} texts in {args.texts} name no scan that is predicted.",) if strays else ()
        print(" ".join((f"Texts: {len(texts)} of {len(scans)} scans have one.", *others, *cuts)))
    return job, scans


def _announce(job, scans) -> None:
    """What will be done, and the memory it takes, before it is taken."""
    from textdiffseg.imaging.sources.files import read_geometry
    from textdiffseg.inference.memory import largest_ram_gb
    from textdiffseg.inference.prompting import caution
    from textdiffseg.resources import free_memory

    predictors = [one.predictor for one in (job.masks, job.uncertainty) if one is not None]
    print(f"Labels: {', '.join(f'{n} = {v}' for n, v in zip(job.asked.names, job.asked.values, strict=True))}")
    print(f"Sampling: {_in_words(predictors[0].settings)}, on {predictors[0].device}")
    if job.samples_apart:
        print(f"Uncertainty: {_in_words(predictors[1].settings)}, predicted beside the mask")
    _tell_calibration(job)
    if told := caution(job.plan, job.asked):
        print(f"Note: {told}")
    geometries = [read_geometry(paths[0]) for paths in scans.values()]
    need = max(
        largest_ram_gb(
            one.plan,
            one.settings,
            len(one.networks),
            geometries,
            slots=job.asked.queries.labels.shape[1],  # rivals of known prompts too
            uncertainty=job.uncertainty is not None,
            on_cpu=one.device.type == "cpu",
        )
        for one in predictors
    )
    free = free_memory() / 1e9
    advice = " This may not fit: use fewer --samples or --folds, or a larger machine." if need > free else ""
    print(f"RAM: about {need:.1f} GB for the largest of {len(scans)} scans, {free:.1f} GB free.{advice}", flush=True)


def _in_words(settings) -> str:
    mirrored = f"mirrored along {len(settings.mirror_axes)} axes" if settings.mirror_axes else "no mirroring"
    steps = f"{settings.steps} step{'s' * (settings.steps > 1)}"
    samples = f"{settings.samples} sample{'s' * (settings.samples > 1)}"
    return f"{steps}, {samples}, {mirrored}, seed {settings.seed}"


def _tell_calibration(job) -> None:
    """What probabilities and volume intervals are worth; the mask needs neither."""

    def told(temperature: float | None) -> str:
        return f"temperature {temperature:.2f}" if temperature else "none was fitted for this sampling; as they come"

    if job.probabilities:
        print(f"Calibration of probabilities: {told(job.masks.calibration.temperature)}")
    if job.uncertainty:
        widening = job.uncertainty.calibration.widening
        intervals = f"volume intervals widened by {widening:.2f}" if widening else "volume intervals as they come"
        print(f"Calibration of uncertainty: {told(job.uncertainty.calibration.temperature)}, {intervals}")


def _run_with_bar(job, scans):
    """Predict with a bar that counts scans and moves with every window."""
    from tqdm import tqdm

    from textdiffseg.inference.export import predict_scans

    order = {case: number for number, case in enumerate(scans)}
    layout = "{percentage:3.0f}%|{bar}| {n:.1f}/{total} scans [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=len(scans), bar_format=layout) as bar:

        def advance(case: str, done: int, windows: int) -> None:
            bar.set_postfix_str(f"{case}, window {done}/{windows}", refresh=False)
            bar.update(order[case] + done / windows - bar.n)

        outcome = predict_scans(job, scans, advance)
        bar.update(len(scans) - bar.n)
    return outcome
