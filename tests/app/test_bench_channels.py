"""The benchmark of small networks: cases in turn, ratios within a round, a null ratio, JSON."""

import json
import time

import pytest
import torch

from sparsebench.app.cli.bench import main
from sparsebench.app.cli.bench.protocol import interleave, peak_bytes, ratio

CPU = torch.device("cpu")


def test_cases_run_in_turn_and_ratios_are_taken_within_a_round():
    order = []
    cases = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = interleave(cases, rounds=3, warmups=1, device=CPU)
    assert order == ["a", "b"] * 4
    assert [len(s) for s in seconds.values()] == [3, 3]
    measured = ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0])
    assert (measured.median, measured.least, measured.greatest) == (3.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="rounds=0"):
        interleave(cases, rounds=0, device=CPU)


def test_a_clock_of_this_process_does_not_see_sleep():
    seconds = interleave({"a": lambda: time.sleep(0.05)}, rounds=1, warmups=0, device=CPU, clock=time.process_time)
    assert seconds["a"][0] < 0.04


def test_peak_memory_counts_what_is_alive_at_once():
    def case():
        for _ in range(5):
            torch.ones(1000)
        one, two = torch.ones(1000), torch.ones(2000)
        del one
        return torch.cat([two, two])

    assert peak_bytes(case, device=CPU) == 4 * 6000


def test_prints_ratios_beside_flops_and_writes_json(tmp_path, capsys):
    small = [
        "--model=resnet20",
        "--keep=0.5",
        "--batch=2",
        "--rounds=1",
        "--size=16",
        "--sum-multiple=1",
        "--warm-ups=1",
    ]
    main(["channels", *small, f"--json={tmp_path / 'numbers.json'}"])
    shown = capsys.readouterr().out
    assert "| keep | FLOP ratio (executed) | dense / dense |" in shown
    (row,) = json.loads((tmp_path / "numbers.json").read_text())["rows"]
    assert row["flops"] == row["executed_flops"] > 2
    assert {"median", "least", "greatest"} == row["null"].keys()
    assert row["memory"]["dense"] == 1


def test_wrong_arguments_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["chanels"])
    assert "did you mean 'channels'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["channels", "--keep", "1.5"])
    assert "shares of channels must be above 0 and at most 1" in capsys.readouterr().err
    main([])
    assert "channels" in capsys.readouterr().out
