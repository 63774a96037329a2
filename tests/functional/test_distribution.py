"""Layer-wise distributions: golden tables, whole-number counts, and errors."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.functional.counts import counts
from sparsebench.functional.distribution import er, erk, table, uniform


def vgg19(classes):
    """Shapes and output positions of VGG-19 for 32 pixels."""
    plan = [64, 64, "M", 128, 128, "M"] + [256] * 4 + ["M"] + [512] * 4 + ["M"] + [512] * 4
    shapes, positions, width, side = {}, {}, 3, 32
    for entry in plan:
        if entry == "M":
            side //= 2
            continue
        name = f"conv{len(shapes)}"
        shapes[name], positions[name], width = (entry, width, 3, 3), side * side, entry
    return {**shapes, "fc": (classes, 512)}, {**positions, "fc": 1}


def resnet50(classes, *, cifar):
    """Shapes and output positions of ResNet-50, stride on the 3x3 convolution."""
    shapes = {"stem": (64, 3, 3, 3) if cifar else (64, 3, 7, 7)}
    positions = {"stem": (32 if cifar else 112) ** 2}
    width, side = 64, 32 if cifar else 56
    for stage, depth in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**stage
        for block in range(depth):
            after = side // 2 if stage and not block else side
            layers = {
                "conv1": ((inner, width, 1, 1), side),
                "conv2": ((inner, inner, 3, 3), after),
                "conv3": ((4 * inner, inner, 1, 1), after),
            }
            if not block:
                layers["shortcut"] = ((4 * inner, width, 1, 1), after)
            for name, (shape, output) in layers.items():
                shapes[f"s{stage + 1}.{block}.{name}"] = shape
                positions[f"s{stage + 1}.{block}.{name}"] = output**2
            width, side = 4 * inner, after
    return {**shapes, "fc": (classes, 2048)}, {**positions, "fc": 1}


def wrn22_2():
    shapes, positions = {"stem": (16, 3, 3, 3)}, {"stem": 1024}
    width, side = 16, 32
    for stage, out in enumerate((32, 64, 128)):
        for block in range(3):
            side = side // 2 if stage and not block else side
            shapes |= {f"{stage}.{block}.a": (out, width, 3, 3), f"{stage}.{block}.b": (out, out, 3, 3)}
            positions |= {f"{stage}.{block}.a": side**2, f"{stage}.{block}.b": side**2}
            if not block:
                shapes[f"{stage}.shortcut"], positions[f"{stage}.shortcut"] = (out, width, 1, 1), side**2
            width = out
    return {**shapes, "fc": (10, 128)}, {**positions, "fc": 1}


NETWORKS = {
    "resnet50": resnet50(1000, cifar=False),
    "resnet50_c10": resnet50(10, cifar=True),
    "resnet50_c100": resnet50(100, cifar=True),
    "vgg19_c10": vgg19(10),
    "vgg19_c100": vgg19(100),
    "wrn22_2": wrn22_2(),
}


def size(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


def forward_ratio(network, densities):
    shapes, positions = NETWORKS[network]
    cost = {name: math.prod(shape) * positions[name] for name, shape in shapes.items()}
    return sum(cost[name] * densities[name] for name in shapes) / sum(cost.values())


@pytest.mark.parametrize(
    ("network", "weights", "macs"),
    [
        ("resnet50", 25_502_912, 4_089_184_256),
        ("resnet50_c10", 23_467_712, 1_297_829_888),
        ("resnet50_c100", 23_652_032, 1_298_014_208),
        ("vgg19_c10", 20_024_000, 398_136_320),
        ("vgg19_c100", 20_070_080, 398_182_400),
        ("wrn22_2", 1_076_912, 157_730_048),
    ],
)
def test_networks_are_those_of_the_tables(network, weights, macs):
    shapes, positions = NETWORKS[network]
    assert size(shapes) == weights
    assert sum(math.prod(shape) * positions[name] for name, shape in shapes.items()) == macs


STAGE_ONE = {f"s1.{b}.{c}" for b in range(3) for c in ("conv1", "conv3")} | {"s1.0.shortcut"}
SHORTCUTS = {f"{stage}.shortcut" for stage in range(3)}


@pytest.mark.parametrize(
    ("network", "sparsity", "kernel", "first_dense", "dense"),
    [
        ("resnet50", 0.80, 0.4138, 0.2231, STAGE_ONE | {"s2.0.conv1"}),
        ("resnet50", 0.90, 0.2418, 0.1260, {"s1.0.conv1"}),
        ("resnet50", 0.95, 0.1217, 0.0774, set()),
        ("resnet50", 0.965, 0.0852, 0.0628, set()),
        ("resnet50_c10", 0.90, 0.2306, 0.1012, {"stem", "s1.0.conv1", "fc"}),
        ("resnet50_c10", 0.95, 0.1156, 0.0513, {"fc"}),
        ("resnet50_c10", 0.98, 0.0452, 0.0213, set()),
        ("resnet50_c100", 0.80, 0.3851, 0.2011, STAGE_ONE | {"stem", "s2.0.conv1"}),
        ("resnet50_c100", 0.90, 0.2247, 0.1012, {"stem", "s1.0.conv1"}),
        ("resnet50_c100", 0.95, 0.1136, 0.0513, set()),
        ("resnet50_c100", 0.98, 0.0454, 0.0213, set()),
        ("vgg19_c10", 0.80, 0.4052, 0.2036, {"conv0", "conv1", "conv2", "fc"}),
        ("vgg19_c10", 0.90, 0.2225, 0.1040, {"conv0", "fc"}),
        ("vgg19_c10", 0.95, 0.1131, 0.0542, {"conv0", "fc"}),
        ("vgg19_c10", 0.98, 0.0475, 0.0244, {"conv0", "fc"}),
        ("vgg19_c100", 0.90, 0.2180, 0.1040, {"conv0", "fc"}),
        ("vgg19_c100", 0.95, 0.1084, 0.0542, {"conv0", "fc"}),
        ("vgg19_c100", 0.98, 0.0458, 0.0244, {"conv0"}),
        ("wrn22_2", 0.80, 0.3521, 0.2022, {"stem", "fc"} | SHORTCUTS),
    ],
)
def test_golden_forward_ratios_and_dense_layers(network, sparsity, kernel, first_dense, dense):
    shapes = NETWORKS[network][0]
    densities = erk(shapes, 1 - sparsity)
    assert round(forward_ratio(network, densities), 4) == kernel
    assert {name for name, value in densities.items() if value == 1.0} == dense
    assert round(forward_ratio(network, uniform(shapes, 1 - sparsity, dense_first=True)), 4) == first_dense
    whole = counts(shapes, densities)
    assert sum(whole.values()) == round((1 - sparsity) * size(shapes))


@pytest.mark.parametrize(
    ("network", "values"),
    [
        ("vgg19_c100", [1.0, 0.1305, 0.0964, 0.0638, 0.0475, *[0.0315] * 3, 0.0236, *[0.0157] * 7, 0.4291]),
        ("vgg19_c10", [1.0, 0.1360, 0.1005, 0.0665, 0.0495, *[0.0329] * 3, 0.0245, *[0.0163] * 7, 1.0]),
    ],
)
def test_golden_vgg_densities(network, values):
    densities = erk(NETWORKS[network][0], 0.02)
    assert [round(value, 4) for value in densities.values()] == values


MIXED = {"a": (8, 3, 3, 3), "b": (16, 8, 3, 3), "c": (16, 16, 1, 1), "d": (10, 64), "e": (5, 10)}


def test_er_by_hand_and_kernels_ignored():
    # raw 5/6 and 7/12 on 6 and 12 weights: sum of raw * size is 12; density 1/2 of 18 is 9; factor 3/4.
    assert er({"p": (2, 3), "q": (4, 3)}, 0.5) == pytest.approx({"p": 0.625, "q": 0.4375})
    linear = {"p": (20, 30), "q": (40, 30)}
    assert er(linear, 0.1) == erk(linear, 0.1)
    kernels = {name: (*shape, 3, 3) for name, shape in linear.items()}
    assert er(kernels, 0.05) == pytest.approx(er(linear, 0.05))


@pytest.mark.parametrize("distribute", [er, erk])
@pytest.mark.parametrize("density", [0.001, 0.05, 0.3, 0.7, 0.99, 1 - 2**-53, 1.0])
def test_budget_cap_and_order(distribute, density):
    densities = distribute(MIXED, density)
    assert list(densities) == list(MIXED)
    assert all(0 < value <= 1 for value in densities.values())
    total = sum(densities[name] * math.prod(shape) for name, shape in MIXED.items())
    assert total == pytest.approx(density * size(MIXED), rel=1e-12)
    turned = dict(reversed(MIXED.items()))
    assert distribute(turned, density) == densities
    # The capped layers are those of largest raw density: what is not capped is proportional.
    raw = {name: sum(shape) / math.prod(shape) for name, shape in MIXED.items()}
    if distribute is erk:
        factors = [densities[name] / raw[name] for name in MIXED if densities[name] < 1]
        assert all(factor == pytest.approx(factors[0]) for factor in factors)


def test_power_zero_is_uniform():
    assert erk(MIXED, 0.3, power=0) == pytest.approx(uniform(MIXED, 0.3))
    assert er(MIXED, 0.3, power=0) == pytest.approx(uniform(MIXED, 0.3))


def test_dense_layers():
    assert uniform(MIXED, 0.1, dense=("d",), dense_first=True) == {"a": 1, "b": 0.1, "c": 0.1, "d": 1, "e": 0.1}
    densities = erk(MIXED, 0.5, dense=["a", "[de]"])
    assert densities["a"] == densities["d"] == densities["e"] == 1
    assert sum(densities[n] * math.prod(s) for n, s in MIXED.items()) == pytest.approx(0.5 * size(MIXED))
    smallest = 1152 / size(MIXED)
    with pytest.raises(ValueError, match=f"impossible with 1 layers.*above {smallest:.6g}"):
        erk(MIXED, 0.3, dense=["b"])
    assert erk(MIXED, smallest + 1e-6, dense=["b"])["b"] == 1
    with pytest.raises(ValueError, match="'x' matches no layer"):
        er(MIXED, 0.3, dense=["x"])
    assert erk(MIXED, 1.0, dense=list(MIXED)) == dict.fromkeys(MIXED, 1.0)


@pytest.mark.parametrize("distribute", [uniform, er, erk])
@pytest.mark.parametrize("density", [0.0, -0.1, 1.2, math.nan])
def test_bad_density(distribute, density):
    with pytest.raises(ValueError, match=r"density .*\(sparsity .*must be in \(0, 1\]"):
        distribute(MIXED, density)


def test_bad_shapes():
    with pytest.raises(ValueError, match="no layers"):
        erk({}, 0.5)
    with pytest.raises(ValueError, match="'a' has shape"):
        uniform({"a": (0, 3)}, 0.5)
    with pytest.raises(ValueError, match=r"sparsity -0\.2"):
        uniform(MIXED, 1.2)


def test_table_scales_and_caps():
    plain = table(MIXED, None, densities={"a": 1.0, "*": 0.2})
    assert plain == {"a": 1.0, "b": 0.2, "c": 0.2, "d": 0.2, "e": 0.2}
    scaled = table(MIXED, 0.5, densities={"a": 1.0, "*": 0.2})
    assert scaled["a"] == 1.0
    assert scaled["b"] == scaled["e"] > 0.4
    assert sum(scaled[n] * math.prod(s) for n, s in MIXED.items()) == pytest.approx(0.5 * size(MIXED))
    halved = table(MIXED, 0.1, densities=dict.fromkeys(MIXED, 0.2))
    assert halved == pytest.approx(dict.fromkeys(MIXED, 0.1))


def test_table_from_files(tmp_path):
    wanted = {"a": 0.5, "b": 0.25, "c": 0.25, "d": 0.25, "e": 0.75}
    files = {
        "object.json": json.dumps(wanted),
        "rows.json": json.dumps([{"layer": name, "sparsity": 1 - value} for name, value in wanted.items()]),
        "rows.csv": "layer,sparsity\n" + "\n".join(f"{name},{1 - value}" for name, value in wanted.items()),
        "dense.csv": "layer,density\na,.5\n[bcd],.25\ne,.75\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.write_text(text)
        assert table(MIXED, None, path=str(path)) == wanted, name


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.txt", ""), ("a.json", "{"), ("a.csv", "name,density\na,1\n"), ("a.json", "3"), ("b.csv", None)],
)
def test_bad_table_files(tmp_path, name, text):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match="cannot read densities"):
        table(MIXED, None, path=str(path))


def test_bad_tables():
    with pytest.raises(ValueError, match="no density for 'b'"):
        table(MIXED, None, densities={"a": 0.5})
    with pytest.raises(ValueError, match="'x' matches no layer"):
        table(MIXED, None, densities={"*": 0.5, "x": 0.5})
    with pytest.raises(ValueError, match="of 'a'"):
        table(MIXED, None, densities={"a": 1.5, "*": 0.5})
    with pytest.raises(ValueError, match="either densities"):
        table(MIXED, None)


def test_counts_by_hand():
    shapes = {"a": (10,), "b": (10,), "c": (10,)}
    # quotas 3.3 each: 9.9 -> 10 in all; the tie goes to the first.
    assert counts(shapes, dict.fromkeys(shapes, 0.33)) == {"a": 4, "b": 3, "c": 3}
    assert counts(shapes, {"a": 0.36, "b": 0.34, "c": 0.19}) == {"a": 4, "b": 3, "c": 2}
    assert counts(shapes, dict.fromkeys(shapes, 1.0)) == dict.fromkeys(shapes, 10)
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert counts({"a": (100,), "b": (100,)}, {"a": 0.29, "b": 0.71}) == {"a": 29, "b": 71}
    # Equal remainders of .3 that floating point tells apart, in favour of the second: 0.1 * 13 and 0.1 * 23.
    assert counts({"a": (13,), "b": (23,)}, {"a": 0.1, "b": 0.1}) == {"a": 2, "b": 2}
    assert counts({"b": (23,), "a": (13,)}, {"a": 0.1, "b": 0.1}) == {"b": 3, "a": 1}
    # a half stays a half: round(100.5) is 100 for Python, however the half was added up.
    assert sum(counts({"a": (335, 3)}, {"a": 0.1}).values()) == round(0.1 * 1005)


def test_counts_refuse_empty_layers():
    shapes = {"big": (1000,), "small": (20,)}
    densities = {"big": 0.1, "small": 0.01}
    with pytest.raises(ValueError, match=r"'small' with 20 weights at density 0.01 .* at most 0.95 there"):
        counts(shapes, densities)
    assert counts(shapes, densities, minimum=0) == {"big": 100, "small": 0}
    with pytest.raises(ValueError, match=r"at most 0\.75"):
        counts(shapes, {"big": 0.1, "small": 0.2}, minimum=5)


def test_counts_bad_input():
    with pytest.raises(ValueError, match="'b' is in one"):
        counts({"a": (3,)}, {"a": 0.5, "b": 0.5})
    with pytest.raises(ValueError, match=r"density 1\.5"):
        counts({"a": (3,)}, {"a": 1.5})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3)), min_size=1), st.floats(0.001, 1))
def test_counts_property(dims, density):
    shapes = {str(i): (a, b, c, c) for i, (a, b, c) in enumerate(dims)}
    for distribute in (uniform, er, erk):
        densities = distribute(shapes, density)
        whole = counts(shapes, densities, minimum=0)
        # A half may fall either way once densities are rounded numbers; otherwise exact.
        assert abs(sum(whole.values()) - density * size(shapes)) <= 0.5 + 1e-6
        for name, shape in shapes.items():
            assert 0 <= whole[name] <= math.prod(shape)
            assert abs(whole[name] - densities[name] * math.prod(shape)) < 1 + 1e-6
