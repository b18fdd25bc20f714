"""The report in a real browser: figures are drawn, nothing complains, nothing hostile runs."""

import re
import shutil
import subprocess

import pytest
from devtools import browser
from fake_run import edit, write

from limbeck.report import render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")]
QUIET = ["disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"]


def browse(path, profile, *options, anchor=""):
    """What Chromium prints for the page, and what was said on its console."""
    flags = [f"--{flag}" for flag in ("headless", "no-sandbox", "disable-gpu", *QUIET, "enable-logging=stderr")]
    flags += [f"--user-data-dir={profile}", "--virtual-time-budget=8000", *options]
    done = subprocess.run([CHROMIUM, *flags, f"{path.as_uri()}{anchor}"], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return render(write(tmp_path_factory.mktemp("run") / "digits", seeds=3))


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_every_figure_is_drawn_within_its_place(report, tmp_path, width):
    with browser(CHROMIUM, tmp_path) as page:
        page.resize(width)
        page.open(report)
        page.settle()
        assert page.run("document.documentElement.scrollWidth") <= width
        sizes = (
            "[...document.querySelectorAll('[data-spec]')].map((p) => [p.clientWidth, p.querySelector('.main-svg').clientWidth])"
        )
        drawn = page.run(sizes)
        assert len(drawn) == 6
        assert all(inner == outer >= 300 for outer, inner in drawn)
        assert page.run("document.querySelectorAll('.js-line').length") >= 20
        assert page.run("document.querySelectorAll('.point').length") >= 80
        assert page.complaints == []


def test_figures_fit_again_when_the_window_changes(report, tmp_path):
    with browser(CHROMIUM, tmp_path) as page:
        page.resize(1600)
        page.open(report)
        page.resize(390)
        page.settle()
        assert page.run("document.documentElement.scrollWidth") <= 390
        assert page.run("Math.max(...[...document.querySelectorAll('.main-svg')].map((svg) => svg.clientWidth))") <= 350


def test_the_theme_is_switched_and_the_verdict_reached_by_keyboard(report, tmp_path):
    with browser(CHROMIUM, tmp_path) as page:
        page.open(report)
        page.press("Tab")
        assert page.run("document.activeElement.className") == "skip"
        assert page.run("getComputedStyle(document.activeElement).left") == "8px"
        page.press("Enter")
        assert page.run("document.activeElement.id") == "verdict"
        page.run("document.getElementById('theme').focus()")
        assert page.run("getComputedStyle(document.querySelector('.plot .xtick text')).fill") == "rgb(89, 97, 106)"
        page.press("Enter")
        page.settle()
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert page.run("getComputedStyle(document.querySelector('.plot .xtick text')).fill") == "rgb(165, 173, 181)"
        assert page.run("document.getElementById('theme').innerText").strip().endswith("Light")
        assert page.complaints == []


def test_follows_the_systems_dark_colours(report, tmp_path):
    dom, console = browse(report, tmp_path, "--blink-settings=preferredColorScheme=0", "--dump-dom")
    assert console == []
    assert dom.count('data-drawn="dark"') == 6


def test_hostile_names_are_drawn_as_text(tmp_path):
    folder = write(tmp_path / "run", seeds=2, epochs=4)
    title = "<img src=x onerror=alert(1)><b>bold</b>"
    edit(folder, {"arms.uniform.title": title, "data.classes": ["<script>alert(1)</script>"] * 10, "warnings": ["</script>"]})
    dom, console = browse(render(folder), tmp_path / "profile", "--dump-dom")
    assert console == []
    assert dom.count('data-drawn="light"') == 6
    drawn = re.sub(r"<script.*?</script>", "", dom, flags=re.S)
    assert "<img src=x" not in drawn
    assert '<img src="x"' not in drawn
    texts = re.findall(r"<text[^>]*>(.*?)</text>", drawn, flags=re.S)
    assert any("&lt;img src=x onerror=alert(1)&gt;&lt;b&gt;bold" in text for text in texts)


def test_prints_to_paper(report, tmp_path):
    paper = tmp_path / "report.pdf"
    _, console = browse(report, tmp_path / "profile", f"--print-to-pdf={paper}", "--no-pdf-header-footer", anchor="#dark")
    assert console == []
    assert paper.read_bytes().startswith(b"%PDF")
    assert paper.stat().st_size > 50_000
