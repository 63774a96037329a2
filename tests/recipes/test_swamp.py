"""SWAMP and IMP: what is shared, what is averaged, what is rewound."""

import json
from functools import partial

import lightning as L
import pytest
import torch
from tiny_run import Net, states, tiny_run

from sparsebench.engine.callbacks.averaging import Averaging
from sparsebench.fits import State
from sparsebench.functional.average import mean
from sparsebench.recipes import CycleChecks, imp, soup, swamp
from sparsebench.recipes.cycle import merge
from sparsebench.recipes.pruning import dense_masks, density_of, prune, rewind
from sparsebench.sparse import digest

QUICK = {"share": 0.5, "rewind_to": 0.25}
BLIND = CycleChecks(barrier=0)


def same(one, two):
    return digest(one.weights) == digest(two.weights) and digest(one.masks) == digest(two.masks)


@pytest.fixture(scope="module")
def swamped(tmp_path_factory):
    run = tiny_run(tmp_path_factory.mktemp("swamp"))
    average = Averaging(start=0.5, every=2, rate=0.02)
    return run, swamp(run, particles=3, average=average, look=CycleChecks(hessian=2), **QUICK)


def timeless(state):
    """What is known of the cycles, without times and the names of stages."""
    cycles = [{k: v for k, v in cycle.items() if "seconds" not in k} for cycle in state.facts["cycles"]]
    return [{**cycle, "stages": [*cycle["stages"].values()]} for cycle in cycles]


def test_one_particle_and_one_sample_are_imp_bit_for_bit(tmp_path):
    once = Averaging(start=0.5, every=1000, rate=None)
    one = swamp(tiny_run(tmp_path / "swamp"), particles=1, average=once, **QUICK)
    two = imp(tiny_run(tmp_path / "imp"), **QUICK)
    assert same(one, two)
    swamps, imps = states(tmp_path / "swamp"), states(tmp_path / "imp")
    for cycle in range(3):
        assert same(swamps[f"cycle{cycle}-particle0"], imps[f"cycle{cycle}"])
        assert same(swamps[f"cycle{cycle}-measured"], imps[f"cycle{cycle}-measured"])
    assert timeless(one) == timeless(two)


def test_a_switch_at_zero_is_swamp_and_a_late_one_saves_particles(tmp_path, swamped):
    average = Averaging(start=0.5, every=2, rate=0.02)
    late = tiny_run(tmp_path)
    swamp(late, particles=3, average=average, switch=2, look=BLIND, **QUICK)
    names = set(late.journal.fits)
    assert names == {"ticket", "cycle0-particle0", "cycle1-particle0", *(f"cycle2-particle{n}" for n in range(3))}
    assert same(states(tmp_path)["cycle0-particle0"], states(swamped[0].stages.folder)["cycle0-particle0"])


def test_masks_are_exact_shared_and_nested(swamped):
    run, final = swamped
    found, total = states(run.stages.folder), 6 * 9 + 4 * 96
    kept = [sum(int(m.sum()) for m in found[f"cycle{c}-measured"].masks.values()) for c in range(3)]
    assert kept == [total, round(total * 0.5), round(total * 0.3)]
    for cycle in range(3):
        masks = [found[f"cycle{cycle}-particle{n}"].masks for n in range(3)]
        assert len({digest(m) for m in masks}) == 1
        for name, mask in masks[0].items():
            assert not found[f"cycle{cycle}-measured"].weights[name][~mask].any()
            if cycle:
                assert not (mask & ~found[f"cycle{cycle - 1}-measured"].masks[name]).any()
    assert density_of(final.masks) == round(total * 0.3) / total


def test_the_mean_of_means_is_the_mean_of_all_samples(tmp_path):
    # every step of the second half is a sample: collect them beside the run
    samples = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step > 6:
                samples.append({n: p.detach().clone() for n, p in module.net.named_parameters()})

    run = tiny_run(tmp_path, progress=lambda: [Watch()])
    average = Averaging(start=0.5, every=1, rate=None)
    start = rewind(run.initial(), dense_masks(run))
    particles = [run.fit(f"p{n}", start, seed=n, average=average) for n in range(2)]
    state = merge(run, "mean", particles, look=BLIND)
    assert len(samples) == 12
    for name, value in mean(samples).items():
        torch.testing.assert_close(state.weights[name], value, rtol=1e-6, atol=1e-8)


def test_particles_differ_through_the_order_of_data_only(tmp_path):
    run = tiny_run(tmp_path)
    start = rewind(run.initial(), dense_masks(run))
    one, two, other = (run.fit(name, start, seed=seed) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert same(one, two)
    assert not same(one, other)


def test_a_cycle_starts_from_ticket_times_mask_with_an_empty_optimizer(tmp_path):
    seen = []

    class Watch(L.Callback):
        def on_train_start(self, trainer, module):
            (optimizer,) = trainer.optimizers
            weights = {n: v.clone() for n, v in module.net.state_dict().items()}
            seen.append((weights, dict(optimizer.state), trainer.global_step, optimizer.param_groups[0]["lr"]))

    run = tiny_run(tmp_path, progress=lambda: [Watch()])
    swamp(run, particles=2, look=BLIND, **QUICK)
    found = states(tmp_path)
    ticket = found["ticket"]
    assert run.journal.fits["ticket"]["steps"] == 3  # a quarter of 12
    assert len(seen) == 1 + 2 * 3
    for number, (weights, state, step, rate) in enumerate(seen[1:]):
        masks = found[f"cycle{number // 2}-particle0"].masks
        product = {n: v * masks[n] + 0.0 if n in masks else v for n, v in ticket.weights.items()}  # no negative zeros
        assert digest(weights) == digest(product)
        assert (state, step, rate) == ({}, 0, 0.1)


def test_statistics_do_not_depend_on_those_of_the_particles(tmp_path):
    run = tiny_run(tmp_path)
    net = Net().state_dict()
    wild = {n: torch.full_like(v, 7.0) if "running" in n else v for n, v in net.items()}
    one = merge(run, "one", [State(net, dense_masks(run))], look=BLIND)
    two = merge(run, "two", [State(wild, dense_masks(run))], look=BLIND)
    assert same(one, two)
    images = torch.cat([images for images, _ in _plain_batches(run)])
    conv = torch.nn.functional.conv2d(images, net["conv.weight"], padding=1)
    torch.testing.assert_close(one.weights["norm.running_mean"], conv.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)


def _plain_batches(run):
    from sparsebench.data.loader import TrainLoader

    return TrainLoader(run.setup.data.training_sets()[0], batch_size=16, order_seed=run.seed, augment=False)


def test_networks_with_different_masks_are_not_averaged(tmp_path):
    run = tiny_run(tmp_path)
    whole = rewind(run.initial(), dense_masks(run))
    with pytest.raises(ValueError, match="different masks"):
        merge(run, "mean", [whole, prune(run, whole, 0.5)], look=BLIND)


def test_the_record_of_cycles_holds_quality_and_cost(swamped):
    run, final = swamped
    cycles = final.facts["cycles"]
    assert json.loads((run.stages.folder / "cycles.json").read_text()) == cycles
    assert [c["density"] for c in cycles] == pytest.approx([1, 0.5, 0.3], abs=0.002)
    for cycle in cycles:
        assert 0 <= cycle["val_accuracy"] <= 1
        assert cycle["val_nll"] > 0
        assert 0 <= cycle["val_ece"] <= 1
        assert cycle["barrier_particles"] >= 0
        assert "hessian_trace" in cycle
        assert cycle["steps"] == 36 + (3 if cycle["cycle"] == 0 else 0)
        assert len(cycle["val_accuracy_particles"]) == cycle["particles"] == 3
        particles = {f"cycle{cycle['cycle']}-particle{number}": 12 for number in range(3)}
        assert list(cycle["stages"].items()) == [*({} if cycle["cycle"] else {"ticket": 3}).items(), *particles.items()]
        assert all((run.stages.folder / "stages" / name).is_dir() for name in cycle["stages"])
    assert "barrier_previous" not in cycles[0]
    assert cycles[2]["barrier_previous"] >= 0
    assert cycles[-1]["train_flops_so_far"] == final.facts["train_flops"] == sum(c["train_flops"] for c in cycles)
    # every fit counts, against one dense run of 12 steps
    assert final.facts["steps"] == 3 + 3 * 3 * 12
    samples, macs = 12 * 16, 9 * 6 * 64 + 96 * 4
    assert final.facts["train_flops_dense"] == 3 * 2 * macs * samples
    assert final.facts["explored"] == 1.0
    assert run.setup.data.reads["test"] == 0


def test_a_soup_goes_on_from_the_mean(tmp_path):
    begun = {}

    class Watch(L.Callback):
        label = ""

        def on_train_start(self, trainer, module):
            begun[self.label] = {n: v.clone() for n, v in module.net.state_dict().items()}

    run = tiny_run(tmp_path, density=0.09, progress=lambda: [Watch()])
    final = soup(run, members=2, phases=2, retrain_from=0.5, look=BLIND)
    found = states(tmp_path)
    assert [c["density"] for c in final.facts["cycles"]] == pytest.approx([1, 0.3, 0.09], abs=0.002)
    carried = rewind(found["phase1-measured"], found["phase2-member0"].masks)
    assert digest(begun["phase2-member1: "]) == digest(carried.weights)
    assert run.journal.fits["phase2-member1"]["steps"] == 6


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (partial(swamp, particles=0), "recipe.particles=0 is impossible: a cycle trains at least 1 network"),
        (partial(swamp, cycles=1), "is not reached by 1 cycles of 0.2"),
        (partial(imp, rewind_to=50), "recipe.rewind_to=50 is step 50, and a cycle ends at step 12"),
        (partial(imp, retrain="warmth"), "recipe.retrain=warmth is unknown: choose weights"),
        (partial(imp, retrain="finetune"), "this schedule ends at zero: give recipe.finetune_rate"),
        (partial(soup, members=0), "recipe.members=0 is impossible"),
        (partial(soup, retrain_from=12), "recipe.retrain_from=12 is step 12"),
    ],
)
def test_bad_plans_are_refused_before_training(tmp_path, recipe, says):
    with pytest.raises(ValueError, match=says) as refusal:
        recipe(tiny_run(tmp_path))
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("*"))


def test_a_method_that_chooses_masks_is_refused(tmp_path):
    from sparsebench.methods import RigL

    with pytest.raises(ValueError, match="and so does method RigL: leave method out"):
        imp(tiny_run(tmp_path, method=RigL(density=0.3)))
