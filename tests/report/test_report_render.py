"""The page of a run: what it says, what it leaves out, and that nothing in a run folder can break it.

Just over 300 lines: all of it is about one page.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from fake_run import edit, write
from page_parts import take_apart

from limbeck.core.errors import RunError, UsageError
from limbeck.report import render
from limbeck.report.learning import learning
from limbeck.report.palette import DARK, LIGHT
from limbeck.report.reading import read_run

HOSTILE = "<script>alert(1)</script>"
LOADING = {"src", "href", "srcset", "data", "action", "poster", "xlink:href", "formaction", "background"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return render(write(tmp_path_factory.mktemp("run") / "digits"))


@pytest.fixture(scope="module")
def page(report):
    return take_apart(report)


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "run", seeds=2, epochs=4)


def test_says_the_verdict_first_and_then_the_rest_in_order(page):
    headings = [(element.tag, element.text) for element in page.all("h1", "h2")]
    assert headings[0][1].startswith("KD-AIF is better than plain KD by 3.8 points of test accuracy (95\u202f% interval")
    assert [text for _, text in headings[1:]] == [
        "Figures",
        "Learning curves",
        "Weights",
        "Samples that made the difference",
        "Finding wrong labels",
        "Events and warnings",
        "What was run",
        "How to read this",
    ]


def test_says_when_the_weights_were_taken(page):
    said = "Weights are taken at every step, along a q that is renewed every 20 steps; scores are scaled by zscore."
    assert said in [element.text for element in page.all("p")]


def test_shows_the_answer_as_a_word_and_a_sign(page):
    answer = next(element for element in page.all("p") if element.attributes.get("class") == "answer")
    assert answer.text == "✓Better"


def test_shows_the_oracle_as_a_ceiling_and_in_no_warning_colour(page):
    chips = {
        element.text: element.attributes["class"]
        for element in page.all("li")
        if "answer-" in element.attributes.get("class", "")
    }
    assert chips["↑ceiling, no rival KD, flipped labels dropped (oracle)"] == "answer-ceiling"
    assert sum("oracle" in text for text in chips) == 1
    row = next(element for element in page.all("tr") if "oracle" in element.text and "paired t-test" in element.text)
    assert "ceiling" in row.text
    assert "not better" not in row.text


def test_shows_every_arm_with_its_interval(page):
    table = next(element for element in page.all("table") if "arms" in element.attributes["class"])
    for words in ("Teacher", "KD-AIF", "Plain KD + query set in training", "563\u202f722", "0.412\u202fms", "92.2 to 94.2"):
        assert words in table.text


def test_shows_samples_as_pictures_with_labels_and_views(page):
    pictures = page.all("img")
    assert len(pictures) == 32
    assert all(base64.b64decode(p.attributes["src"].removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG" for p in pictures)
    card = next(element for element in page.all("li") if "card" in element.attributes.get("class", ""))
    for words in ("given", "true", "✕ label is wrong", "Teacher", "Student", "Score", "rank 1 of 938", "Weight"):
        assert words in card.text


def test_draws_every_figure_with_words_and_a_table(page):
    plots = [element for element in page.all("div") if element.attributes.get("class") == "plot"]
    keys = [plot.attributes["data-spec"] for plot in plots]
    assert keys == [
        f"spec-{key}" for key in ("effects", "learning-accuracy", "learning-loss", "weights", "weights-time", "found")
    ]
    assert all(plot.attributes["role"] == "img" and len(plot.attributes["aria-label"]) > 40 for plot in plots)
    figures = page.all("figure")
    assert len(figures) == 6
    assert all("Show as a table" in figure.text for figure in figures)


def test_a_single_epoch_stands_in_the_middle_and_epochs_are_whole(tmp_path):
    one, eight = (learning(read_run(write(tmp_path / str(n), seeds=2, epochs=n)), "loss").spec["layout"]["xaxis"] for n in (1, 8))
    assert (one["range"], one["dtick"]) == ([0.5, 1.5], 1)
    assert (eight["range"], eight["dtick"]) == ([1, 8.14], 1)


def test_is_small_enough_and_the_same_bytes_every_time(report):
    before = report.read_bytes()
    assert len(before) < 6_000_000
    assert render(report.parent).read_bytes() == before


def test_loads_nothing(page, report):
    for element in page.elements:
        for name in LOADING & element.attributes.keys():
            assert element.attributes[name].startswith(("#", "data:")), element
    for style in page.all("style"):
        assert "url(" not in style.text
        assert "@import" not in style.text
    assert not page.all("iframe", "object", "embed", "base", "form")
    assert "default-src 'none'" in _policy(page)
    assert not re.search(r"\son\w+=", report.read_text().split("<main>")[1].split("</main>")[0])


def test_policy_lets_only_the_two_scripts_run(page):
    scripts = [element for element in page.all("script") if "type" not in element.attributes]
    hashes = {base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode() for script in scripts}
    assert len(scripts) == 2
    assert set(re.findall(r"'sha256-([^']+)'", _policy(page))) == hashes
    assert "unsafe" not in _policy(page).split("style-src")[0]


def _policy(page):
    return next(e.attributes["content"] for e in page.all("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy")


def test_can_be_read_without_eyes_and_without_a_mouse(page):
    assert page.all("html")[0].attributes["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert len(page.all("main")) == 1
    assert page.all("a")[0].attributes["class"] == "skip"
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert all(e.attributes["href"][1:] in ids for e in page.all("a"))
    assert all(element.attributes.get("scope") in ("col", "row") for element in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(element.attributes["alt"] for element in page.all("img"))
    scrolling = [element for element in page.elements if element.attributes.get("class") == "scroll"]
    assert all(element.attributes["tabindex"] == "0" and element.attributes["aria-label"] for element in scrolling)
    levels = [int(element.tag[1]) for element in page.all("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "raised"])
def test_colours_have_enough_contrast(palette, ground):
    for name, least in {"ink": 7, "muted": 4.5, "accent": 4.5, "second": 4.5, "grey": 3}.items():
        assert _contrast(palette[name], palette[ground]) >= least, name


def _contrast(one, other):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_hostile_names_stay_text(run):
    names = [HOSTILE, "</script><img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "<b>bold</b>", *"456789"]
    change = {"name": HOSTILE, "data.classes": names, "data.name": HOSTILE, "arms.uniform.title": names[1]}
    change |= {"verdict.sentence": HOSTILE, "warnings": [HOSTILE], "events": [{"what": HOSTILE}], "arms.kd_aif.title": HOSTILE}
    edit(run, change)
    edit(run, {"python": HOSTILE, HOSTILE: HOSTILE}, "environment.json")
    (run / "recipe.yaml").write_text(f"data: {HOSTILE}")
    report = render(run)
    page = take_apart(report)
    assert len([script for script in page.all("script") if "type" not in script.attributes]) == 2
    assert not page.all("svg")
    assert all(image.attributes["src"].startswith("data:image/png") for image in page.all("img"))
    assert "alert(1)" not in "".join(
        script.text.replace("\\u003c", "") for script in page.all("script") if "type" not in script.attributes
    )
    assert page.all("h1")[0].text == HOSTILE
    assert "given <b>bold</b>" in page.shown
    for script in page.all("script"):
        if "type" in script.attributes:
            assert "<" not in script.text
    effects = next(script.text for script in page.all("script") if script.attributes.get("id") == "spec-effects")
    assert "\\u0026lt;/script\\u0026gt;\\u0026lt;img" in effects


@pytest.mark.parametrize("kind", ["text", "row"])
def test_shows_samples_that_are_no_pictures(tmp_path, kind):
    folder = write(tmp_path / "run", seeds=1, kind=kind, epochs=2)
    edit(folder, {"name": "words"})
    page = take_apart(render(folder))
    assert not page.all("img")
    assert ("the ending <stays> with you" if kind == "text" else "Graz") in page.shown


def test_works_when_the_truth_is_unknown(tmp_path):
    page = take_apart(render(write(tmp_path / "run", seeds=2, truth=False, epochs=2)))
    assert "Finding wrong labels" not in page.shown
    assert "label is wrong" not in page.shown
    assert "cannot be told apart" in page.shown


def test_works_with_one_seed(tmp_path):
    page = take_apart(render(write(tmp_path / "run", seeds=1, epochs=1)))
    assert page.all("h1")[0].text.startswith("Undecided, because one seed cannot tell an effect from chance")
    assert "one seed, no interval" in page.shown
    assert "the verdict stays undecided" in page.shown
    assert "nan" not in page.shown.lower().split()


def test_equal_differences_have_no_interval_and_are_not_of_one_seed(tmp_path):
    folder = write(tmp_path / "run", seeds=2, epochs=1)
    verdict = json.loads((folder / "result.json").read_text())["verdict"]
    verdict["comparisons"] = [{**one, "low": None, "high": None} for one in verdict["comparisons"]]
    edit(folder, {"verdict": verdict})
    shown = take_apart(render(folder)).shown
    assert "the same on all 2 seeds, no interval" in shown
    assert "one seed, no interval" not in shown


def test_works_with_nothing_but_the_result(run):
    for path in run.iterdir():
        if path.name != "result.json":
            path.unlink()
    edit(run, {"weights": None, "events": [], "warnings": []})
    page = take_apart(render(run))
    assert [element.text for element in page.all("h2")] == ["Figures", "What was run", "How to read this"]


def test_works_without_a_verdict_and_says_when_a_run_is_unfinished(run):
    edit(run, {"verdict": None, "status": "running"})
    page = take_apart(render(run))
    assert "there is no verdict" in page.all("h1")[0].text
    assert "This run is not finished" in page.shown


def test_passes_over_what_a_later_writer_adds(run):
    edit(run, {"extra": 1, "arms.uniform.per_seed.colour": [1.0]})
    assert render(run).exists()


def test_a_torn_last_line_of_the_metrics_does_no_harm(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"seed": 0, "arm": "kd_')
    assert "Validation accuracy" in take_apart(render(run)).shown


BROKEN = {
    "result is missing": ("result.json", None, "has no result.json"),
    "result is cut": ("result.json", '{"schema": 1, "na', "no valid JSON"),
    "result is a list": ("result.json", "[]", "must hold a JSON object"),
    "result lacks fields": ("result.json", '{"schema": 1}', "does not fit its schema at 'name'"),
    "newer version": ("result.json", '{"schema": 2, "other": true}', "has schema 2, this limbeck reads up to 1; update limbeck"),
    "no UTF-8": ("recipe.yaml", b"\xff\xfe\xfa", "cannot be read"),
    "metrics are broken": ("metrics.jsonl", "{}\nnonsense\n{}\n", "no valid JSON at line 2"),
    "samples are no parquet": ("samples.parquet", "PAR1", "no readable parquet"),
    "gallery does not fit": ("gallery.json", '{"samples": [{"index": 0, "kind": "film"}]}', "at 'samples.0.kind'"),
}


@pytest.mark.parametrize(("name", "content", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_gets_one_sentence_and_leaves_the_old_report(run, name, content, words):
    (run / "report.html").write_text("the old report")
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError) as error:
        render(run)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert (run / "report.html").read_text() == "the old report"
    assert not list(run.glob(".report*"))


def test_a_picture_that_is_no_png_is_refused(run):
    shown = {"index": _first_shown(run), "kind": "image", "png_base64": base64.b64encode(b"<svg onload=alert(1)>" * 3).decode()}
    edit(run, {"samples": [shown]}, "gallery.json")
    with pytest.raises(RunError, match="holds no PNG for sample"):
        render(run)


def _first_shown(run):
    return json.loads((run / "gallery.json").read_text())["samples"][0]["index"]


def test_a_main_arm_that_is_not_there_is_refused(run):
    edit(run, {"main": "other"})
    with pytest.raises(RunError, match="names the main arm 'other'"):
        render(run)


def test_a_folder_that_is_not_there_is_the_users_mistake(tmp_path):
    with pytest.raises(UsageError, match="there is no run folder"):
        render(tmp_path / "nowhere")


def test_a_full_disk_gets_one_sentence_and_leaves_nothing_behind(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="cannot be written \\(No space left on device\\)"):
        render(run)
    assert not list(run.glob("*report*"))


@pytest.mark.slow
def test_never_imports_torch(run):
    code = "import sys, pathlib as p, limbeck.report as r; r.render(p.Path(sys.argv[1])); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(run)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_says_what_each_term_amounted_to(page):
    table = next(element for element in page.all("table") if "Terms of KD-AIF" in element.text)
    assert "Share of the gradient" in table.text
    assert re.search(r"KD.*40\.0.%\sCE.*60\.0.%", table.text)


def test_says_nothing_of_terms_where_a_run_kept_nothing_of_them(run):
    (run / "metrics.jsonl").unlink()
    assert "Terms of" not in render(run).read_text(encoding="utf-8")
