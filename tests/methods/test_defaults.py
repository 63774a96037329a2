"""What a class does by default is what its YAML says: one method under one name, from Python and from a shell."""

from __future__ import annotations

import inspect
from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import yaml
from support import REPOSITORY

from sparsebench.app.config.build import build_run
from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import conf_dir
from sparsebench.functional.distribution import uniform
from sparsebench.methods import CHT, DeepR, RandomUnfired, SRigL

SETTINGS_OF = {"set_itop": "set", "rigl_itop": "rigl", "gradual_snip": "gmp"}
"""YAMLs that are other settings of a class, and the YAML that is the class itself."""


def methods() -> list[str]:
    """Every YAML that names a class."""
    files = sorted((conf_dir() / "method").glob("*.yaml"))
    return [path.stem for path in files if "_target_" in yaml.safe_load(path.read_text())]


def built(name: str, tmp_path) -> Any:
    return build_run(compose_config([f"method={name}", "progress=none"]), tmp_path).method


def plain(value: Any) -> Any:
    """Return a value in the form in which Python and YAML can be compared."""
    if isinstance(value, partial):
        defaults = {n: p.default for n, p in inspect.signature(value.func).parameters.items()}
        other = {n: plain(v) for n, v in value.keywords.items() if plain(v) != plain(defaults[n])}
        return value.func if not other else (value.func, tuple(sorted(other.items())))
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return value
    return tuple(plain(part) for part in value)


@pytest.mark.parametrize("name", methods())
def test_the_class_has_the_defaults_of_its_yaml(name, tmp_path):
    method = built(name, tmp_path)
    if name in SETTINGS_OF:
        assert type(method) is type(built(SETTINGS_OF[name], tmp_path))
        return
    required = {f.name for f in fields(method) if f.init and _required(f)}
    given = {key: getattr(method, key) for key in (required | {"density"}) if hasattr(method, key)}
    alone = type(method)(**given)
    differing = {
        f.name: (plain(getattr(alone, f.name)), plain(getattr(method, f.name)))
        for f in fields(method)
        if plain(getattr(alone, f.name)) != plain(getattr(method, f.name))
    }
    assert differing == {}, "(class, YAML)"


def test_no_other_classes_share_their_yamls(tmp_path):
    classes: dict[Any, list[str]] = {}
    for name in methods():
        method = built(name, tmp_path)
        classes.setdefault(type(method), []).append(name)
    shared = {name for names in classes.values() if len(names) > 1 for name in names}
    assert shared <= {*SETTINGS_OF, *SETTINGS_OF.values(), "linbreg", "adabreg", "ml_linbreg", "ml_adabreg"}


SHARED = {
    "uniform": ("gmp", "mest", "mest_soft", "cht", "snfs", "sr_ste", "top_kast"),
    "global": ("granet", "snip", "grasp", "synflow", "ac_dc", "str"),
    "erk": ("rigl", "set", "dst_ee"),
}
"""Distribution over layers -> methods whose published numbers use it."""


@pytest.mark.parametrize(("distribution", "name"), [(key, name) for key, names in SHARED.items() for name in names])
def test_layers_share_the_budget_as_published(distribution, name, tmp_path):
    """GMP, MEST, CHT, SNFS, SR-STE and Top-KAST were never published with ERK, which was their default."""
    assert compose_config([f"method={name}"])["choices"]["distribution"] == distribution
    if distribution == "uniform":
        assert plain(built(name, tmp_path).distribution) is uniform


def test_schedules_are_those_of_the_published_code():
    """DeepR cools at epochs 25, 80 and 140 of 200 and ends at 190; CHT moves 0.3 along a cosine to 0.75."""
    deep_r, cht, unfired, srigl = DeepR(), CHT(), RandomUnfired(), SRigL()
    assert (deep_r.cools_at, deep_r.until, deep_r.eta, deep_r.walk) == ((0.125, 0.4, 0.7), 0.95, 0.01, "mostafa_wang")
    assert (cht.drop_fraction, cht.drop_fraction_end, cht.until, cht.every) == (0.3, 0.0, 0.75, 0.01)
    assert (unfired.every, unfired.until, unfired.drop_fraction, unfired.drop_count) == (1500, 1.0, 0.5, "ceil")
    assert (srigl.gamma, srigl.replaces_step, srigl.ablate_last) == (0.3, False, False)


@pytest.mark.parametrize(
    ("card", "said"),
    [("sr_ste", "2e-4 in its code"), ("srigl", "0.95 for vision transformers"), ("deep_r", "0.125, 0.4, 0.7"),
     ("cht", "epoch")],
)  # fmt: skip
def test_cards_give_what_published_code_tells(card, said):
    text = (REPOSITORY / "docs" / "methods" / f"{card}.md").read_text(encoding="utf-8")
    assert "not known" not in text
    assert said in text


def _required(field: Any) -> bool:
    from dataclasses import MISSING

    return field.default is MISSING and field.default_factory is MISSING
