"""The leaderboard in a real browser: charts with bands, filters, ties in bold, commands of the rows."""

import importlib.util
import re
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from sparsebench.results.leaderboard import Entry, records

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
ROOT = Path(__file__).resolve().parents[2]


def entry(method, sparsity, values, *, dataset="mnist", who="", note=""):
    costs = {"sparsity": sparsity, "train_flops_ratio": 1 - sparsity}
    command = f"sparsebench train method={method}"
    return Entry(
        dataset, "lenet300", method, 5, dict(enumerate(values)), costs, command, ("aa",), "a.json", who, "", note
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("leaderboard_script", ROOT / "scripts" / "leaderboard.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = records(
        [
            entry("rigl", 0.9, (98.0, 98.2, 98.1)),
            entry("set", 0.9, (98.1, 98.0, 98.2), who="</script><b>eve</b>", note="<i>"),
            entry("static", 0.9, (90.0, 90.1, 90.2)),
            entry("rigl", 0.99, (97.0, 97.2, 97.1)),
            entry("snip", 0.99, (97.5,)),
            entry("set", 0.9, (60.0, 61.0), dataset="cifar10"),
        ]
    )
    folder = tmp_path_factory.mktemp("site")
    (folder / "_static").mkdir()
    (folder / "_static" / "leaderboard.js").write_bytes((ROOT / "docs" / "_static" / "leaderboard.js").read_bytes())
    (folder / "results").mkdir()
    raw = re.search(r"```\{raw\} html\n(.*?)```", script.page(rows), re.S).group(1)
    path = folder / "results" / "leaderboard.html"
    path.write_text(f"<!DOCTYPE html><meta charset='utf-8'><body>{raw}</body>", encoding="utf-8")
    return path


@pytest.fixture
def chromium(page):
    with Browser() as browser:
        browser.open(page)
        yield browser
        assert browser.errors == []


def texts(browser, selector):
    return browser.run(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")


def test_charts_table_and_filters(chromium):
    assert len(texts(chromium, "#leaderboard figure svg")) == 2
    assert len(texts(chromium, "#leaderboard svg circle")) == 10, "five entries of MNIST in each chart"
    assert chromium.run("document.querySelectorAll('#leaderboard svg polygon').length") == 2, "RigL alone has a band"
    assert texts(chromium, "#leaderboard option") == ["MNIST, LeNet-300-100 (5)", "CIFAR-10, LeNet-300-100 (1)"]
    assert texts(chromium, "#leaderboard tbody strong") == ["98.10 ± 0.25", "98.10 ± 0.25"], "ties share the first rank"
    assert texts(chromium, "#leaderboard tbody td:first-child") == ["1", "1", "3", "–", "–"]
    assert "sparsebench train method=rigl" in texts(chromium, "#leaderboard details pre")
    assert texts(chromium, "#leaderboard tbody b, #leaderboard tbody i") == [], "what a sender writes is never markup"

    chromium.click("#leaderboard .chips input")
    assert texts(chromium, "#leaderboard tbody th") == ["SET", "Static", "SNIP"]
    chromium.run("(() => { const f = document.querySelector('#leaderboard input[type=search]'); f.value = 'static'; "
                 "f.dispatchEvent(new Event('input')); })()")  # fmt: skip
    assert texts(chromium, "#leaderboard tbody th") == ["Static"]
    chromium.run("(() => { const f = document.querySelector('#leaderboard select'); f.selectedIndex = 1; "
                 "f.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert texts(chromium, "#leaderboard tbody th") == []
    assert texts(chromium, "#leaderboard figure p") == ["no result here", "no result here"]
