"""The page in a real browser: opened from disk, without a network and without an error."""

import time
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import CHROMIUM, Browser
from written_runs import LAYERS, write_grid, write_metrics, write_run

from sparsebench.app.main import main

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")

ROWS = "document.querySelectorAll('#table tbody tr').length"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("grid")
    for method in ("rigl", "set", "dense"):
        for sparsity in (0.8, 0.9) if method != "dense" else (0.0,):
            for seed in (0, 1):
                folder = write_run(
                    root / f"{method}, {sparsity} #{seed}", method=method, seed=seed, sparsity=sparsity,
                    sparsity_target=sparsity or None, test_accuracy=0.78 - sparsity / 10 + 0.01 * (method == "rigl"),
                    train_flops_ratio=1.02 - sparsity, config_hash=f"{method}{sparsity}{seed}", steps=5000,
                    density_per_layer=dict.fromkeys(LAYERS, 1 - sparsity), config={"sparsity": sparsity},
                )  # fmt: skip
                write_metrics(folder, epochs=10, sparsity=sparsity)
    write_run(root / "cut", done=False)
    main(["report", str(root), "--format", "html"])
    return root / "report.html"


@pytest.fixture(scope="module")
def chromium():
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(chromium, report):
    chromium.errors.clear()
    chromium.open(report)
    yield chromium
    assert chromium.errors == []


def test_all_charts_are_drawn(page):
    marks = "document.querySelectorAll('#plot-{} .mark').length"
    assert page.run(marks.format("sparsity")) >= 4
    assert page.run(marks.format("flops")) >= 5
    for name in ("curves", "explored", "layers"):
        assert page.run(f"document.querySelectorAll('#plot-{name} path.curve').length") >= 4
    assert page.run("document.querySelectorAll('#plot-flops path.front').length") == 1
    assert page.run(ROWS) == 5
    assert page.run("document.getElementById('sub').textContent").startswith("10 runs")
    assert "NaN" not in page.run("document.body.innerHTML.replace(/<script[\\s\\S]*?<\\/script>/g, '')")


def test_a_click_on_a_method_filters_table_and_charts(page):
    page.click('[data-chip="rigl"]')
    assert page.run(ROWS) == 2
    assert page.run("[...document.querySelectorAll('#table tbody th')].map(e => e.textContent)") == ["RigL", "RigL"]
    assert page.run("document.querySelector('[data-chip=\"rigl\"]').getAttribute('aria-pressed')") == "true"
    page.click("#reset")
    assert page.run(ROWS) == 5


def test_a_click_on_a_point_leads_to_the_folders_of_its_runs(page, report):
    page.click("#plot-flops .mark[data-row]")
    assert page.run(ROWS) == 1
    links = page.run("[...document.querySelectorAll('#pin a')].map(a => new URL(a.href).pathname)")
    assert len(links) == 2
    assert all((Path(unquote(place)) / "result.json").exists() for place in links)
    page.press("Escape", 27)
    assert page.run(ROWS) == 5


def test_words_filter_and_heads_sort(page):
    page.run("(() => { const f = document.getElementById('find'); f.value = 'set 0.9'; f.oninput({target: f}); })()")
    assert page.run(ROWS) == 1
    page.click("#reset")
    accuracies = "[...document.querySelectorAll('#table tbody tr')].map(r => parseFloat(r.children[3].textContent))"
    page.click('[data-column="test acc. %"]')
    assert page.run(accuracies) == sorted(page.run(accuracies))
    page.click('[data-column="test acc. %"]')
    assert page.run(accuracies) == sorted(page.run(accuracies), reverse=True)
    assert page.run("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"


def test_published_points_tell_their_source(page):
    page.move("#plot-sparsity .published[aria-label*='Utku Evci']")
    shown = page.run("document.getElementById('tip').textContent")
    assert "published" in shown
    assert "Evci" in shown
    assert page.run("document.getElementById('sources').hidden") is False
    assert "unfinished: cut" in page.run("document.getElementById('notes').textContent")


def test_a_chart_is_saved_as_a_file_that_stands_alone(page):
    page.run("HTMLAnchorElement.prototype.click = function () { window.saved = [this.download, this.href]; }")
    for name in ("sparsity", "flops", "curves", "explored", "layers"):
        page.click(f'[data-save="{name}"]')
        place, address = page.run("window.saved")
        assert place == f"{name}.svg"
        svg = ET.fromstring(unquote(address.removeprefix("data:image/svg+xml,")))
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(svg.get("width")) > 200
        curves = [node for node in svg.iter() if "stroke: rgb" in (node.get("style") or "")]
        assert len(curves) >= 4, "colours are written into the file, not left to a style sheet"
        assert "var(" not in "".join(node.get("style") or "" for node in svg.iter() if node.get("fill") is None)


def test_a_lead_within_noise_is_not_claimed(chromium, tmp_path):
    leads = {"rigl": (0.700, 0.710, 0.720), "set": (0.701, 0.709, 0.715), "static": (0.60, 0.61, 0.62)}
    for method, accuracies in leads.items():
        for seed, accuracy in enumerate(accuracies):
            write_run(
                tmp_path / f"{method}{seed}",
                method=method,
                seed=seed,
                test_accuracy=accuracy,
                config_hash=method + str(seed),
            )
    write_run(tmp_path / "alone", method="static", sparsity_target=0.8, sparsity=0.8, test_accuracy=0.9)
    tiles = "[...document.querySelectorAll('#tiles .tile')].map(e => e.textContent)"
    main(["report", str(tmp_path), "--format", "html"])
    chromium.open(tmp_path / "report.html")
    best = next(text for text in chromium.run(tiles) if text.startswith("Best"))
    assert best == "Best sparse network90.00 %Static · 0.8 (n = 1), noise unknown"
    chromium.click('[data-chip="0.9"]')
    best = next(text for text in chromium.run(tiles) if text.startswith("Best"))
    assert best == "Best 2 sparse networks, within noise71.00 %RigL · 0.9 (n = 3); SET · 0.9 (n = 3)"
    assert chromium.errors == []


def test_the_keyboard_is_enough(page):
    page.run("document.querySelector('#plot-sparsity .mark[tabindex]').focus()")
    assert page.run("document.getElementById('tip').hidden") is False
    page.press("Enter", 13)
    assert page.run(ROWS) == 1


@pytest.mark.parametrize(("width", "phone"), [(390, True), (820, False), (1400, False)])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_in_light_and_dark(chromium, report, tmp_path, width, phone, dark):
    chromium.errors.clear()
    chromium.open(report, width=width, height=800, phone=phone, dark=dark)
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    chromium.screenshot(tmp_path / "page.png", whole=False)
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert chromium.errors == []


CONTRAST = """
(() => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c) && c !== 'transparent') return c; } return 'rgb(255,255,255)'; };
  return [...document.querySelectorAll('h1, h2, p, td, th, button, a, text, small, li')].filter(e => e.textContent.trim() && e.getBoundingClientRect().width > 2).map(e => {
    const style = getComputedStyle(e), ink = e.tagName === 'text' ? style.fill : style.color, a = light(ink), b = light(ground(e));
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName + ' ' + e.textContent.slice(0, 30)]; }).sort((a, b) => a[0] - b[0])[0];
})()
"""  # noqa: E501


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast_and_controls_have_names(chromium, report, dark):
    chromium.open(report, dark=dark)
    ratio, where = chromium.run(CONTRAST)
    assert ratio >= 4.5, where
    nameless = (
        "[...document.querySelectorAll('button, select, input, a, [role=button]')].filter(e => !e.hidden && "
        "!(e.getAttribute('aria-label') || e.textContent.trim())).length"
    )
    assert chromium.run(nameless) == 0


@pytest.mark.slow
def test_a_thousand_runs_open_within_five_seconds_and_ten_megabytes(chromium, tmp_path, capsys):
    write_grid(tmp_path / "grid", count=1000)
    start = time.perf_counter()
    main(["report", str(tmp_path / "grid"), "--format", "html"])
    written = time.perf_counter() - start
    path = tmp_path / "grid" / "report.html"
    assert path.stat().st_size < 10e6
    chromium.errors.clear()
    opened = chromium.open(path)
    assert chromium.run(ROWS) == 334
    assert chromium.errors == []
    assert written < 15, "generous: machines are shared; 1 s alone"
    assert opened < 5
