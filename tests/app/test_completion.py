"""completion: the answers, the speed, and bash itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import environment_of

from sparsebench.app.cli.bench import SUBJECTS
from sparsebench.app.cli.bench.options import PARSERS
from sparsebench.app.cli.complete_overrides import FLAGS
from sparsebench.app.cli.completion import SCRIPTS, complete
from sparsebench.app.config.check import FLAGS as OPTIONS
from sparsebench.app.config.tree import groups, options
from sparsebench.app.main import VERBS


def test_verbs():
    assert complete("sparsebench ") == sorted(VERBS)
    assert complete("sparsebench pl") == ["plan"]
    assert complete("sparsebench nothing ") == []


def test_groups_are_offered_and_filled_from_the_folders():
    assert {f"{name}=" for name in groups()} <= set(complete("sparsebench train "))
    assert complete("sparsebench train method=") == sorted(f"method={name}" for name in options("method"))
    assert complete("sparsebench train method=rig") == [
        f"method={m}" for m in sorted(options("method")) if m[:3] == "rig"
    ]


def test_after_a_comma_the_next_value_of_a_sweep():
    found = complete("sparsebench plan -m method=rigl,set,")
    assert "method=rigl,set,static" in found
    assert "method=rigl,set,rigl" not in found


def test_keys_go_one_level_at_a_time():
    assert complete("sparsebench train trainer.max") == ["trainer.max_epochs=", "trainer.max_steps="]
    assert {"trainer=", "trainer."} <= set(complete("sparsebench train tr"))
    assert all(word.startswith("trainer.") for word in complete("sparsebench train trainer."))
    assert "seed=" in complete("sparsebench train s")


def test_keys_follow_the_options_that_the_line_has_chosen():
    assert "method.c=" in complete("sparsebench train method=dst_ee method.")
    assert "method.c=" not in complete("sparsebench train method.")
    assert "method.drop_fraction=" in complete("sparsebench train method=dst_ee method.")  # inherited
    assert "method.drop_schedule." in complete("sparsebench train method=set method.drop_s")


def test_values_of_keys():
    assert complete("sparsebench train trainer.compile=") == ["trainer.compile=false", "trainer.compile=true"]
    assert "progress=lines" in complete("sparsebench train progress=")
    assert complete("sparsebench train seed=") == ["seed=0"]


def test_flags_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "runs").mkdir(parents=True)
    (tmp_path / "other.txt").touch()
    assert complete("sparsebench report ") == ["outputs/"]
    assert complete("sparsebench report outputs/") == ["outputs/runs/"]
    assert complete("sparsebench report --format m") == ["markdown"]
    assert "--json" in complete("sparsebench plan --")
    assert complete("sparsebench list met") == ["method"]
    assert complete("sparsebench completion ") == sorted(SCRIPTS)


PARSED = (
    "report", "compare", "dashboard", "status", "clean", "evaluate", "export", "bench channels", "bench execution",
    "build-kernels", "reproduce",
)  # fmt: skip


@pytest.mark.parametrize("verb", PARSED)
def test_every_option_of_a_verb_is_offered_once(verb, cli):
    helped = cli(*verb.split(), "--help").out
    listed = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", helped.partition("options:")[2]))
    assert "--help" in listed
    assert listed <= set(complete(f"sparsebench {verb} -"))
    for option in listed:
        assert option not in complete(f"sparsebench {verb} {option} -") + complete(f"sparsebench {verb} {option}=x --")


def test_no_verb_is_forgotten():
    verbs = {verb.split()[0] for verb in PARSED} | {"train", "plan", "list", "completion"}
    assert verbs == set(VERBS)
    assert complete("sparsebench bench ") == sorted(SUBJECTS) == sorted(PARSERS)
    assert all("--help" in complete(f"sparsebench {verb} -") for verb in VERBS)
    assert complete("sparsebench -") == ["--help", "--version"]


def test_hydra_knows_the_flags_of_train():
    from hydra._internal.utils import get_args_parser

    known = {name for action in get_args_parser()._actions for name in action.option_strings}
    assert set(FLAGS["train"]) <= known == set(OPTIONS)
    assert set(FLAGS["plan"]) - known == {"--execution", "--json"}


def test_values_and_places_of_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    assert complete("sparsebench report outputs --format ht") == ["html"]
    assert complete("sparsebench report --format=p") == ["--format=parquet"]
    assert complete("sparsebench report --plots ") == ["outputs/"]
    assert complete("sparsebench report --every ") == []
    assert complete("sparsebench report outputs ") == []
    assert complete("sparsebench report --watch ") == ["outputs/"]
    assert complete("sparsebench compare outputs ") == ["outputs/"]
    assert complete("sparsebench compare outputs outputs ") == []
    assert complete("sparsebench export --output=o") == ["--output=outputs/"]
    assert complete("sparsebench dashboard ") == []
    assert complete("sparsebench bench channels --clock ") == ["cpu", "wall"]
    assert complete("sparsebench report --nothing=") == []


def test_launchers_and_sweepers_of_hydra():
    assert complete("sparsebench train -m hydra/la") == ["hydra/launcher="]
    assert "hydra/launcher=pool" in complete("sparsebench train -m hydra/launcher=")
    assert "hydra.launcher.workers=" in complete("sparsebench train -m hydra/launcher=pool hydra.launcher.")
    assert "hydra.launcher." not in complete("sparsebench train -m hydra.")
    assert "hydra.sweeper.trials=" in complete("sparsebench train -m hydra/sweeper=optuna hydra.sweeper.")


def test_a_folder_of_ones_own_is_completed_too(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("_target_: mine\nstrength: 3\n")
    line = f"sparsebench train --config-dir {tmp_path} "
    assert "method=mine" in complete(line + "method=mi")
    assert "method.strength=" in complete(line + "method=mine method.")


def test_open_quotes_are_survived():
    assert complete('sparsebench train "method=rig') == []
    assert complete("") == []


def test_it_answers_without_hydra_and_torch():
    code = """
import sys
from sparsebench.app.main import VERBS, main
for line in ("train trainer.", *(f"{verb} --" for verb in VERBS), "bench channels --"):
    main(["completion", "query", f"sparsebench {line}"])
assert not {"torch", "hydra", "omegaconf", "lightning", "numpy"} & set(sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment_of())
    assert found.returncode == 0, found.stderr
    assert {"trainer.max_epochs=", "--plots", "--dry-run", "--channels-last"} <= set(found.stdout.splitlines())


def test_an_unknown_shell_is_one_line(cli):
    answer = cli("completion", "bsh")
    assert answer.code == 2
    assert "did you mean 'bash'" in answer.err
    assert cli("completion").code == 0


@pytest.fixture
def bash(tmp_path):
    """Source the printed script in bash and press tab after the given words."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    place = tmp_path / "bin"
    place.mkdir()
    (place / "sparsebench").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sparsebench "$@"\n')
    (place / "sparsebench").chmod(0o755)

    def press(*words: str, cwd: Path = tmp_path) -> list[str]:
        listed = " ".join(f"'{word}'" for word in words)
        script = f"""
source <(sparsebench completion bash)
COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}
_sparsebench
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        environment = environment_of(PATH=f"{place}{os.pathsep}{os.environ['PATH']}")
        command = ["bash", "--norc", "-c", script]
        found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=True)
        assert found.stderr == ""
        return found.stdout.rstrip("\n").split("\n")

    return press


def test_bash_completes_verbs_and_adds_a_space(bash):
    assert bash("sparsebench", "pl") == ["plan "]


def test_bash_breaks_words_at_equals_signs(bash):
    names = [name for name in sorted(options("method")) if name.startswith("rig")]
    assert bash("sparsebench", "train", "method", "=", "rig") == names
    assert bash("sparsebench", "train", "method=rig") == [f"method={name}" for name in names]
    assert set(bash("sparsebench", "train", "method", "=")) == set(options("method"))


def test_bash_goes_on_after_earlier_overrides(bash):
    found = bash("sparsebench", "train", "-m", "method", "=", "rigl,se", "seed", "=", "0,1", "trainer.max_e")
    assert found == ["trainer.max_epochs="]
    assert "rigl,set" in bash("sparsebench", "train", "-m", "seed", "=", "0,1", "method", "=", "rigl,se")


def test_bash_completes_folders_of_runs(bash, tmp_path):
    (tmp_path / "outputs").mkdir()
    assert bash("sparsebench", "report", "out") == ["outputs/"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    script = tmp_path / "script"
    script.write_text(SCRIPTS[shell])
    subprocess.run([shell, "-n", str(script)], check=True)
