"""LaTeX as papers print it: methods by sparsities, the best bold with ties, chosen columns."""

import json

import pytest
from written_runs import write_run

from sparsebench.app.cli.report import read
from sparsebench.app.main import main
from sparsebench.results.names import DATASETS, METHODS, MODELS, RECIPES, display
from sparsebench.results.render.latex import pivot


def write(root, method, sparsity, accuracies, **more):
    for seed, accuracy in enumerate(accuracies):
        name = f"{method}{sparsity}{seed}"
        write_run(
            root / name, method=method, seed=seed, sparsity_target=sparsity, sparsity=sparsity or 0.0,
            test_accuracy=accuracy, config_hash=name, **more,
        )  # fmt: skip


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "dense", None, (0.770, 0.780))
    write(tmp_path, "rigl", 0.8, (0.750, 0.752, 0.754))  # 75.2 +- 0.2
    write(tmp_path, "set", 0.8, (0.749, 0.750, 0.751))  # 0.2 +- 0.25 below, paired: may be equal
    write(tmp_path, "static", 0.8, (0.740, 0.741, 0.742))  # 1.1 +- 0.25 below: is not
    write(tmp_path, "rigl", 0.9, (0.730,))
    write(tmp_path, "set", 0.9, (0.72998,))  # single runs: no best
    write(tmp_path, "static", 0.9, (0.729,))
    return tmp_path


def lines_of(text):
    return {line.split(" & ")[0]: line for line in text.splitlines() if " & " in line}


def test_methods_by_sparsities_with_the_best_and_its_ties_in_bold(root):
    text = pivot(read(root).rows)
    lines = lines_of(text)
    assert lines["ImageNet, ResNet-50"] == r"ImageNet, ResNet-50 & 80\,\% & 90\,\% \\"
    assert lines["RigL"] == r"RigL & \textbf{75.20} {\scriptsize $\pm$ 0.20} & 73.00 \\"
    assert lines["SET"] == r"SET & \textbf{75.00} {\scriptsize $\pm$ 0.10} & 73.00 \\"
    assert lines["Static"] == r"Static & 74.10 {\scriptsize $\pm$ 0.10} & 72.90 \\"
    assert r"\multicolumn{3}{l}{Dense: 77.50 {\scriptsize $\pm$ 0.71}} \\" in text
    assert text.count(r"\begin{tabular}{lrr}") == text.count(r"\end{tabular}") == 1


def test_lower_is_better_for_costs_and_holes_stay_holes(root):
    write(root, "gmp", 0.95, (0.7, 0.71), train_flops_ratio=0.2)
    write(root, "mest", 0.95, (0.7, 0.71), train_flops_ratio=0.3)
    text = pivot(read(root).rows, ("train_flops_ratio",))
    assert "% ImageNet, ResNet-50: training FLOPs, of dense" in text
    assert lines_of(text)["GMP"] == r"GMP & -- & -- & \textbf{0.200} \\"
    assert lines_of(text)["MEST"] == r"MEST & -- & -- & 0.300 \\"


def test_each_network_and_each_column_has_a_table_of_its_own(root):
    write(root, "rigl", 0.99, (0.7,), model="vgg19")
    text = pivot(read(root).rows, ("test_accuracy", "inference_flops_ratio"))
    assert text.count(r"\begin{tabular}") == 4
    assert "ImageNet, VGG-19" in text


def test_a_sparsity_that_emerges_stands_under_the_target_it_meets(root):
    write(root, "linbreg", None, (0.7,))
    for path in root.glob("linbreg*/result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "sparsity": 0.8991}))
    assert lines_of(pivot(read(root).rows))["LinBreg"] == r"LinBreg & -- & 70.00 \\"


def test_from_the_command_line(root, capsys):
    main(["report", str(root), "--format", "latex", "--pivot"])
    assert r"\textbf{75.20}" in capsys.readouterr().out
    main(["report", str(root), "--format", "latex", "--columns", "test_accuracy,explored"])
    out = capsys.readouterr().out
    assert r"method & sparsity & n & test acc. \% & explored \\" in out
    assert "RigL & 0.8" in out
    main(["report", str(root), "--format", "csv", "--columns", "test_accuracy,delta"])
    head = capsys.readouterr().out.splitlines()[0]
    assert head.endswith("n,seeds,test_accuracy,test_accuracy_std,delta")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--columns", "test_acuracy"], "--columns test_acuracy: no run has a number of that name; did you mean"),
        (["--pivot"], "--pivot is for LaTeX: add --format latex (given: terminal)"),
        (["--format", "html", "--columns", "seconds"], "--columns has no effect on the page"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(root, capsys, given, said):
    with pytest.raises(SystemExit):
        main(["report", str(root), *given])
    assert said in capsys.readouterr().err


def test_dense_runs_alone_have_no_pivot(tmp_path):
    write(tmp_path, "dense", None, (0.77,))
    with pytest.raises(ValueError, match="--pivot needs sparse runs"):
        pivot(read(tmp_path).rows)


@pytest.mark.parametrize(
    ("group", "names"), [("method", METHODS), ("recipe", RECIPES), ("model", MODELS), ("dataset", DATASETS)]
)
def test_everything_that_can_be_chosen_has_a_name_for_papers(group, names, request):
    files = {path.stem for path in (request.config.rootpath / "conf" / group).glob("*.yaml")} - {"timm"}
    assert files - set(names) == set()
    assert display(group, "my_own") == "my_own"
