"""The search: a study that persists, trials that are stopped when hopeless, and one that continues."""

import json

import pytest
from grids import TINY

optuna = pytest.importorskip("optuna", reason="optuna is not installed: sparsebench[optuna] brings it")

from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402

from hydra_plugins.sparsebench_grids.search_sweeper import distribution  # noqa: E402

LR = "optimizer.lr=tag(log,interval(0.001,0.5))"


def search(*more):
    return ["train", "-m", *TINY, "hydra/sweeper=optuna", "name=hunt", *more]


def study(bench):
    return optuna.load_study(study_name="hunt", storage=f"sqlite:///{bench.outputs / 'hunt' / 'hunt.db'}")


def test_a_search_ends_and_goes_on_where_it_stopped(cli, bench):
    answer = cli(*search(LR, "method=choice(rigl,static)", "hydra.sweeper.trials=2"))
    assert answer.code == 0, answer.err
    first = study(bench).trials
    assert [trial.state.name for trial in first] == ["COMPLETE"] * 2
    results = [json.loads(path.read_text()) for path in bench.outputs.rglob("result.json")]
    assert sorted(trial.value for trial in first) == pytest.approx(sorted(result["val_accuracy"] for result in results))
    assert all(len(trial.intermediate_values) == 2 for trial in first)
    assert "2 trials, 2 complete; best is" in answer.out

    answer = cli(*search(LR, "method=choice(rigl,static)", "hydra.sweeper.trials=3"))
    assert answer.code == 0
    later = study(bench).trials
    assert len(later) == 3
    assert [trial.params for trial in later[:2]] == [trial.params for trial in first]


def test_a_hopeless_trial_is_stopped(cli, bench):
    space = "optimizer.lr=choice(0.1,0.1000001,1e-9,1.1e-9,1.2e-9,1.3e-9)"
    more = [
        "trainer.max_epochs=40",
        "hydra.sweeper.startup=1",
        "hydra.sweeper.sampler=random",
        "hydra.sweeper.trials=6",
    ]
    answer = cli(*search(space, "method=static", *more))
    assert answer.code == 0, answer.err
    states = [trial.state.name for trial in study(bench).trials]
    assert states[0] == "COMPLETE"
    assert "PRUNED" in states
    stopped = list(bench.outputs.rglob("stopped.txt"))
    assert stopped
    assert all("is hopeless after" in path.read_text() for path in stopped)
    assert not any((path.parent / "DONE").exists() for path in stopped)
    assert "a run failed" not in answer.out + answer.err


def test_an_interrupted_trial_continues(cli, bench, monkeypatch):
    def interrupt(self, trainer, *rest):
        if trainer.global_step == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sparsebench.engine.callbacks.monitors.LossGuard.on_train_batch_end", interrupt)
        answer = cli(*search(LR, "method=static", "hydra.sweeper.trials=1", "trainer.save_steps=3"))
    assert answer.code == 130
    (running,) = study(bench).trials
    assert running.state.name == "RUNNING"
    assert not list(bench.outputs.rglob("failed.txt"))

    answer = cli(*search(LR, "method=static", "hydra.sweeper.trials=1", "trainer.save_steps=3"))
    assert answer.code == 0, answer.err
    (done,) = study(bench).trials
    assert (done.state.name, done.params) == ("COMPLETE", running.params)
    assert len(list(bench.outputs.rglob("config.yaml"))) == 1


def test_a_trial_is_the_mean_over_seeds_and_a_failing_one_is_told(cli, bench):
    answer = cli(*search(LR, "method=static", "hydra.sweeper.trials=1", "hydra.sweeper.seeds=[0,1]"))
    assert answer.code == 0, answer.err
    (trial,) = study(bench).trials
    found = [json.loads(path.read_text())["val_accuracy"] for path in bench.outputs.rglob("result.json")]
    assert len(found) == 2
    assert trial.value == pytest.approx(sum(found) / 2)

    answer = cli(
        *search("optimizer.lr=choice(1e30)", "method=static", "hydra.sweeper.trials=1", "hydra.sweeper.study=bad")
    )
    assert answer.code == 1
    assert "1 of the runs failed: FloatingPointError" in answer.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(0.1,1)", optuna.distributions.FloatDistribution(0.1, 1)),
        ("a=tag(log,interval(0.1,1))", optuna.distributions.FloatDistribution(0.1, 1, log=True)),
        ("a=int(interval(1,5))", optuna.distributions.IntDistribution(1, 5)),
        ("a=range(1,10,3)", optuna.distributions.IntDistribution(1, 7, step=3)),
        ("a=choice(x,0.1,y)", optuna.distributions.CategoricalDistribution(["x", "0.1", "y"])),
        ("a=range(3,0,-1)", optuna.distributions.CategoricalDistribution(["3", "2", "1"])),
        ("a=x,y", optuna.distributions.CategoricalDistribution(["x", "y"])),
        ("a=range(0,0.3,0.1)", optuna.distributions.CategoricalDistribution(["0.0", "0.1", "0.2"])),
    ],
)
def test_what_the_command_line_says_is_what_optuna_searches(text, expected):
    assert distribution(OverridesParser.create().parse_override(text)) == expected


def test_wrong_words(cli):
    answer = cli(*search("method=static"))
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "nothing to search for" in answer.err
    answer = cli(*search(LR, "hydra.sweeper.sampler=magic"))
    assert answer.code == 2
    assert "hydra.sweeper.sampler=magic is unknown: choose tpe, random" in answer.err


@pytest.mark.parametrize("name", ["a%20b", "exp/one", "what?x=1", "{braces}", "größe"])
def test_a_study_of_any_name(tmp_path, name):
    from sparsebench.app.grid.storage import open_storage, study_file

    place = tmp_path / "p%41th ?#{x}"
    for _ in range(2):
        study = optuna.create_study(
            study_name=name, storage=open_storage(study_file(place, name)), direction="maximize", load_if_exists=True
        )
        study.tell(study.ask({}), 1.0)
    assert len(study.trials) == 2
    assert [path.parent for path in tmp_path.rglob("*.db")] == [place]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("dataset.val_share=0", "dataset.val_share=0 leaves no images for it"),
        ("trainer.check_val_every_n_epoch=9", "never measures it: choose at most 2"),
    ],
)
def test_a_search_without_a_measure_is_refused_before(cli, bench, more, said):
    answer = cli(*search(LR, "method=static", "hydra.sweeper.trials=1", more))
    assert answer.code == 2
    assert said in answer.err
    assert not list(bench.outputs.rglob("config.yaml"))
