"""A report in headless Chromium: it renders, scrolls and toggles, without an error and without a request."""

import shutil
from io import BytesIO

import numpy as np
import pytest

from textdiffseg.imaging.volume import Geometry, Volume
from textdiffseg.report.overlays import overlay
from textdiffseg.report.page import Section, join, page
from textdiffseg.report.shown import shown_case
from textdiffseg.report.viewer import ViewedCase, viewer_scripts, viewer_section

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
MAX_WAIT_MS = 240_000
NAMES = ("<b>left</b>", "right")
SOFTWARE = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with a picture and the viewer: two cases of two balls each."""
    grid = np.indices((40, 48, 56)) - np.array([20, 24, 28])[:, None, None, None]
    shown = []
    for case, shift in (("a", 9), ("b'\"", 12)):
        labels = np.zeros(grid.shape[1:], np.int16)
        for number, side in ((1, -shift), (2, shift)):
            labels[(grid[0] ** 2 + grid[1] ** 2 + (grid[2] - side) ** 2) < 64] = number
        noise = np.random.default_rng(0).uniform(50, 100, labels.shape).astype(np.float32)
        affine = np.eye(4)[[2, 1, 0, 3]]
        scan = Volume(noise[None], Geometry(labels.shape, affine))
        parts = dict(zip(NAMES, ((1,), (2,)), strict=True))
        shown.append(shown_case(case, scan, labels, parts, hounsfield=False, reference=np.roll(labels, 2, 0)))
    viewed = [ViewedCase.of(case) for case in shown]
    sections = [Section("cases", "Cases", join(overlay(case) for case in shown)), viewer_section(viewed)]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page("title", "subtitle", sections, viewer_scripts(viewed)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    """Chromium of the system, else the one that Playwright has installed."""
    own = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=own, args=list(SOFTWARE))
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: apt-get install chromium ({str(error).splitlines()[0]})")
        yield found
        found.close()


@pytest.fixture
def tab(browser, report):
    """The opened report. At the end: no error was seen, and nothing but the file was requested."""
    tab, errors, requests = browser.new_page(viewport={"width": 1200, "height": 900}), [], []
    tab.set_default_timeout(MAX_WAIT_MS)
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(report.as_uri())
    tab.wait_for_function("document.body.dataset.viewer")
    yield tab
    assert errors == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    tab.close()


def picture(tab) -> np.ndarray:
    """What the viewer shows, (rows, columns, red green blue) in 0..255."""
    from matplotlib.image import imread

    tab.wait_for_timeout(500)
    shown = imread(BytesIO(tab.locator("#viewer-canvas").screenshot()))
    return (255 * shown[..., :3]).astype(int)


def vivid(shown: np.ndarray) -> tuple[int, int]:
    """The numbers of blue and of orange pixels: those of the first and of the second label."""
    coloured = shown[np.ptp(shown, axis=2) > 50]
    strongest = np.bincount(coloured.argmax(1), minlength=3)
    return int(strongest[2]), int(strongest[0])


def test_the_page_renders(tab):
    assert tab.inner_text("#viewer-state").startswith("x, y, z in mm:")
    assert tab.evaluate("document.body.dataset.viewer") == "ready"
    assert tab.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 300)")
    assert tab.locator(".legend").count() == 0
    assert NAMES[0] in tab.locator("#viewer-labels").inner_text()
    wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0, "nothing is wider than the window"


def test_labels_and_layers_toggle(tab):
    blue, orange = vivid(picture(tab))
    assert min(blue, orange) > 200
    tab.uncheck("#label-0")
    hidden, other = vivid(picture(tab))
    assert hidden < blue / 20
    assert other > orange / 2
    tab.check("#label-0")
    assert vivid(picture(tab))[0] > blue / 2
    tab.uncheck("#layer-prediction")
    assert vivid(picture(tab))[0] < blue / 20
    before = picture(tab)
    tab.check("#layer-reference")
    assert (picture(tab) != before).any()


def test_slices_scroll_by_wheel_and_by_slider(tab):
    tab.select_option("#viewer-view", "0")
    middle, place = picture(tab), float(tab.input_value("#viewer-slice"))
    tab.locator("#viewer-canvas").hover()
    tab.mouse.wheel(0, 300)
    tab.wait_for_timeout(500)
    assert float(tab.input_value("#viewer-slice")) != place
    tab.locator("#viewer-slice").fill("30")
    edge = picture(tab)
    assert min(vivid(middle)) > 200
    assert max(vivid(edge)) < min(vivid(middle)) / 5, "no ball reaches the lowest slices"
    assert tab.locator("#viewer-slice").is_enabled()
    tab.select_option("#viewer-view", "4")
    assert tab.locator("#viewer-slice").is_disabled()


def test_another_case_is_shown(tab):
    before = picture(tab)
    tab.select_option("#viewer-case", "1")
    after = picture(tab)
    assert min(vivid(after)) > 200
    assert (after != before).any()
