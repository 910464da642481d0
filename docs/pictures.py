"""Draw the pictures of the gallery, from the model and two scans of the notebook.

    python docs/pictures.py docs/tour

The notebook runs before, in the folder docs. The command needs Playwright and Chromium.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import textdiffseg as tds

HERE = Path(__file__).resolve().parent
DATASET = "Dataset900_Phantoms"
CASES = ("phantomTs_000", "phantomTs_001")
BROWSER = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
MAX_WAIT_MS = 240_000
MAX_SIDE = 1000  # pixels


def predict(root: Path, folder: Path) -> Path:
    """The report on the scans, segmented with maps of uncertainty. One picture in three planes is stored, too."""
    scans, masks = folder / "scans", folder / "masks"
    scans.mkdir()
    for case in CASES:
        shutil.copy(root / "raw" / DATASET / "imagesTs" / f"{case}_0000.nii.gz", scans)
    options = tds.SegmentOptions(uncertainty=True)
    tds.predict(scans, masks, model=root / "results" / DATASET / "default", options=options, picture=True, report=print)
    shrink(masks / f"{CASES[1]}.png", "planes.png")
    return tds.write_report(masks, folder / "report.html", scans=scans, title="Two generated scans")


def photograph(page: Page, report: Path, folder: Path) -> None:
    """Store the second case of the report and its 3D viewer as pictures."""
    page.set_default_timeout(MAX_WAIT_MS)
    page.goto(report.as_uri())
    page.wait_for_function("document.body.dataset.viewer == 'ready'")
    page.wait_for_timeout(1000)
    page.select_option("#viewer-case", "1")
    page.wait_for_timeout(1000)
    for part, name in (("#cases figure >> nth=1", "report.png"), ("#viewer", "viewer.png")):
        page.locator(part).screenshot(path=folder / name)
        shrink(folder / name, name)


def shrink(source: Path, name: str) -> None:
    """Store a picture beside this file, smaller and with 256 colours."""
    picture = Image.open(source).convert("RGB")
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    picture.quantize(method=Image.Quantize.FASTOCTREE).save(HERE / name, optimize=True)


def main() -> None:
    """Run the command."""
    chromium = shutil.which("chromium")
    with TemporaryDirectory() as name, sync_playwright() as playwright:
        report = predict(Path(sys.argv[1]), Path(name))
        browser = playwright.chromium.launch(executable_path=chromium, args=list(BROWSER))
        photograph(browser.new_page(viewport={"width": 1000, "height": 800}), report, Path(name))
        browser.close()


if __name__ == "__main__":
    main()
