"""The registry of published numbers: schema, speed, and which number stands beside one of ours."""

import json
import re
import time

import pytest
import yaml

from sparsebench import methods
from sparsebench.results.published import PUBLISHED, Published, citation, find, load_published, load_yaml, match

ENTRIES = load_published()


def entry(**changes):
    fixed = {
        "id": "x",
        "paper": "rigl",
        "arxiv": None,
        "table": "Table 1",
        "method": "rigl",
        "model": "resnet50",
        "dataset": "imagenet",
        "sparsity": 0.9,
        "metric": "top1",
        "value": 73.0,
        "std": None,
        "seeds": None,
        "epochs": 100,
        "train_flops_ratio": None,
        "inference_flops_ratio": None,
        "evidence": "read",
        "protocol": "distribution=erk; split=test",
    }
    return Published(**{**fixed, **changes})


def test_the_file_loads_safely_in_less_than_a_second():
    text = PUBLISHED.read_text(encoding="utf-8")
    start = time.process_time()
    document = load_yaml(text)
    assert time.process_time() - start < 1.0
    assert document["schema"] == 1
    assert len(document["entries"]) == 466


def test_ids_are_unique_and_papers_are_known():
    document = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    assert len({one.id for one in ENTRIES}) == len(ENTRIES)
    assert {one.paper for one in ENTRIES} <= set(document["papers"])
    assert all({"title", "authors", "venue", "year", "arxiv", "code"} <= set(p) for p in document["papers"].values())


METHODS = [cls for cls in vars(methods).values() if isinstance(cls, type) and issubclass(cls, methods.Method)]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_names_a_paper_of_the_registry(method):
    if method in (methods.Method, methods.Masked, methods.Dense):
        assert method.paper == ""
    else:
        assert citation(method.paper).count(", ") >= 3


@pytest.mark.parametrize("one", ENTRIES, ids=lambda one: one.id)
def test_every_entry_keeps_the_schema(one):
    assert re.fullmatch(r"[\w.\-+]+", one.id)
    assert one.metric == "top1"
    assert one.evidence in ("read", "second_hand")
    assert one.value is None or 0 < one.value < 100
    assert one.value is not None or one.train_flops_ratio is not None or one.inference_flops_ratio is not None
    assert one.sparsity is None or 0 <= one.sparsity < 1
    assert one.std is None or 0 <= one.std < 10
    assert one.seeds is None or one.seeds >= 1
    assert one.epochs is None or one.epochs >= 1
    assert one.method.startswith("dense") == (one.sparsity == 0)
    assert all(ratio is None or ratio > 0 for ratio in (one.train_flops_ratio, one.inference_flops_ratio))
    assert one.protocol
    assert one.table


def test_the_distribution_is_read_from_the_protocol():
    assert entry(protocol="distribution=uniform; dense=first conv").distribution == "uniform"
    assert entry(protocol="distribution=erk, start at 50 % sparsity; dense=none").distribution == "erk"
    assert entry(protocol="split=test; distribution=global magnitude over conv kernels").distribution == "global"
    assert entry(protocol="distribution=not stated; split=test").distribution is None
    assert entry(protocol="split=test").distribution is None


def test_rigl_on_imagenet_is_found_under_its_own_distribution():
    wanted = {"method": "rigl", "model": "resnet50", "dataset": "imagenet", "sparsity": 0.9}
    uniform = match(epochs=100, distribution="uniform", **wanted)
    erk = match(epochs=100, distribution="erk", **wanted)
    assert uniform.published.value == 72.0
    assert erk.published.value == 73.0
    assert erk.protocol == "same epochs, distribution"
    assert match(epochs=500, distribution="erk", **wanted).published.value == 76.4


def test_differences_of_protocol_are_named():
    wanted = {"method": "rigl", "model": "resnet50", "dataset": "imagenet", "sparsity": 0.9}
    found = match(epochs=5, distribution="global", **wanted)
    assert "epochs 5, not 100" in found.protocol
    assert "distribution global, not " in found.protocol


def test_dense_training_is_compared_without_a_distribution():
    found = match(method="dense", model="resnet50", dataset="imagenet", sparsity=0.0, epochs=100, distribution=None)
    assert found.published.method == "dense"
    assert "distribution" not in "".join(found.differences)


def test_equal_sparsity_means_equal():
    wanted = {"method": "rigl", "model": "resnet50", "dataset": "imagenet"}
    assert find(**wanted, sparsity=0.9)
    assert not find(**wanted, sparsity=0.897)
    assert find(**wanted, sparsity=0.897, emerged=True)


def test_a_network_for_small_images_is_found_under_both_names_on_small_images_only():
    one = entry(model="resnet50_cifar", dataset="cifar100")
    wanted = {"method": "rigl", "model": "resnet50", "sparsity": 0.9, "entries": [one]}
    assert find(dataset="cifar100", **wanted) == [one]
    other = entry(model="resnet50_cifar")
    assert find(dataset="imagenet", **{**wanted, "entries": [other]}) == []


def test_a_recipe_is_looked_up_in_the_place_of_the_method():
    one, two = entry(method="imp"), entry(method="dense", sparsity=0.9)
    wanted = {"model": "resnet50", "dataset": "imagenet", "sparsity": 0.9, "entries": [one, two]}
    assert find(method="given", recipe="imp", **wanted) == [one]


def test_own_name_comes_before_an_alias_and_reading_before_hearsay():
    wanted = {"method": "rigl", "model": "resnet50", "dataset": "imagenet", "sparsity": 0.9}
    alias, heard, read = entry(id="a", method="rigl_itop"), entry(id="h", evidence="second_hand"), entry(id="r")
    found = match(epochs=100, distribution="erk", **wanted, entries=[alias, heard, read])
    assert found.published.id == "r"
    assert match(epochs=100, distribution="erk", **wanted, entries=[alias]).published.id == "a"


def test_nothing_is_found_where_nothing_was_published():
    assert match(method="rigl", model="mlp", dataset="digits", sparsity=0.9, epochs=2, distribution="erk") is None


def test_citations_name_author_title_and_year():
    assert citation("rigl").startswith("Utku Evci et al., Rigging the Lottery")
    assert citation("rigl").endswith("arXiv 1911.11134, 2020")


def test_a_number_says_how_far_it_is_verified(tmp_path, monkeypatch):
    from sparsebench.results import published

    path = tmp_path / "reproduced.json"
    rows = [{"cell": "rigl-f2-resnet50-imagenet-rigl-0.8", "verdict": "reproduced"},
            {"cell": "rigl-f2-resnet50-imagenet-set-0.8", "verdict": "differs"}]  # fmt: skip
    path.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    monkeypatch.setattr(published, "REPRODUCED", (tmp_path / "nowhere.json", path))
    published._verdicts.cache_clear()
    entries = {entry.id: entry for entry in published.load_published()}
    try:
        assert published.verification(entries["rigl-f2-resnet50-imagenet-rigl-0.8"]) == "reproduced here"
        assert published.verification(entries["rigl-f2-resnet50-imagenet-set-0.8"]) == "claimed"
        assert published.verification(entries["dsr-in_rigl-resnet50-imagenet-dsr-0.8"]) == "second hand"
    finally:
        published._verdicts.cache_clear()
