"""The site builds without a warning, its links lead somewhere, and its notebook runs."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("myst_nb", reason="no Sphinx: pip install '.[docs]'")
LINK = re.compile(r'(?:href|src)="([^"#:]*)(?:#([^"]*))?"')  # within the site


@pytest.fixture(scope="module")
def site(repository, tmp_path_factory) -> Path:
    """The folder of the built pages."""
    folder = tmp_path_factory.mktemp("site") / "html"
    command = (sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(folder))
    done = subprocess.run(command, cwd=repository, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    return folder


def text(page: Path) -> str:
    """What a page shows, without its markup."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_links_within_the_site_lead_somewhere(site):
    pages = {page: page.read_text(encoding="utf-8") for page in site.glob("*.html")}
    assert len(pages) > 15
    anchors = {page: set(re.findall(r'id="([^"]+)"', source)) for page, source in pages.items()}
    broken = []
    for page, source in pages.items():
        for target, anchor in LINK.findall(source):
            file = (page.parent / target.partition("?")[0]).resolve() if target else page
            known = anchors.get(file)
            if not file.exists() or (anchor and known is not None and html.unescape(anchor) not in known):
                broken.append(f"{page.name}: {target}#{anchor}")
    assert broken == []


def test_pages_need_no_network(site):
    for page in site.glob("*.html"):
        source = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="https?:', source) == [], page.name


def test_the_api_page_shows_types_and_the_comments_of_fields(site):
    shown = " ".join(text(site / "api.html").split())
    assert "spacing: Sequence[float] | None = None" in shown  # of Model.segment
    assert "preset: Preset = 'default'" in shown
    assert shown.count("load( folder: str | Path") == 2  # the function and the method
    assert "progress: Callable[[ProgressEvent], None] = silent" in shown
    assert "the value of each voxel, 0 background" in shown  # Result.labels
    assert "1970" in shown  # FoldStatus.since


def test_the_notebook_ran(site):
    """It raises no error, or the build fails. Its outputs are on the page."""
    shown = text(site / "tour.html")
    assert re.search(r"liver: \d+ ml \(90% interval \d+ to \d+\)", shown)
    assert "2 scans, 0 failures" in shown
    assert re.search(r'<img[^>]+src="_images/', (site / "tour.html").read_text(encoding="utf-8"))
