"""Kill runs with SIGKILL at random instants, resume them, and compare with uninterrupted runs: all must be equal.

The kills are divided among all methods and recipes, in one pass. Each run is a separate process, forked from this one
with all imports done; it is killed up to four times, at any point, and started again until it is finished. The
comparison covers the digests of weights and masks, all numbers of the result except times, the rows of ``metrics.csv``,
and the names of all remaining files::

    scripts/kill_campaign --kills 200
    scripts/kill_campaign --kills 6 --only rigl,swamp --seed 3
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "model=lenet300", "dataset=digits", "dataset.limit=256", "dataset.batch_size=32", "sparsity=0.8", "every=3",
    "trainer.max_epochs=3", "trainer.accelerator=cpu", "trainer.save_steps=3", "trainer.save_seconds=0",
    "progress=none",
]  # fmt: skip
CHANNELS = ["model=digits_cnn"]
_TIMES = ("second", "images_per", "memory", "speed", "step_time", "versions", "hardware", "git")
_PATIENCE = 300


def cells(only: list[str]) -> dict[str, list[str]]:
    """Return name -> overrides of every method and every recipe, or of those that are named."""
    methods = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
    recipes = sorted(path.stem for path in (ROOT / "conf" / "recipe").glob("*.yaml"))
    found = {name: [f"method={name}", *(CHANNELS if _by_channels(name) else [])] for name in methods if name != "given"}
    found |= {name: [f"recipe={name}", "trainer.max_epochs=1"] for name in recipes if name != "single"}
    unknown = sorted(set(only) - set(found))
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join(found)}")
    return {name: overrides for name, overrides in found.items() if not only or name in only}


def _by_channels(name: str) -> bool:
    return "pattern: channels" in (ROOT / "conf" / "method" / f"{name}.yaml").read_text(encoding="utf-8")


def start(place: Path, overrides: list[str]) -> int:
    """Start a run in a separate process, the head of a group, and return its number."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    code = 70
    try:
        os.setsid()
        os.chdir(place)
        log = os.open(place / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from sparsebench.app.main import main

        sys.argv = ["sparsebench"]
        main(["train", *TINY, *overrides])
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(number: int, seconds: float) -> int | None:
    """Wait for a process; return its exit code, or None if it still runs."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


def kill(number: int) -> None:
    """Kill a process group."""
    os.killpg(number, signal.SIGKILL)
    os.waitpid(number, 0)


def finish(place: Path, overrides: list[str]) -> str:
    """Wait for a run to end; return the error, or an empty text."""
    number = start(place, overrides)
    code = wait(number, _PATIENCE)
    if code is None:
        kill(number)
        return f"does not end within {_PATIENCE} s"
    if code:
        said = (place / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"exit code {code}: {said[-1] if said else ''}"
    return ""


def outcome(place: Path) -> dict[str, Any]:
    """Return all that must be equal, digit for digit."""
    (done,) = place.rglob("DONE")
    result = json.loads((done.parent / "result.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {"folder": done.parent.name, **_without_times(result)}
    for path in sorted(done.parent.rglob("metrics.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [_without_times(row) for row in csv.DictReader(file)]
        found[path.relative_to(done.parent).as_posix()] = rows
    found["files"] = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.name != "log.txt")
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if not any(word in key for word in _TIMES)}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Describe each value that differs; of lists, the members that one of them lacks."""
    return [
        f"{key}: {_difference(one.get(key), two.get(key))}"
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key)
    ]


def _difference(one: Any, two: Any) -> str:
    if isinstance(one, list) and isinstance(two, list):
        missing, more = [x for x in one if x not in two], [x for x in two if x not in one]
        return f"without {missing[:3]}, with {more[:3]}"
    return f"{one} becomes {two}"


def attack(place: Path, overrides: list[str], seconds: float, chance: random.Random, *, most: int) -> tuple[int, str]:
    """Kill a run at random instants, at most ``most`` times, and wait for its end; return kills and error."""
    kills = 0
    for _ in range(min(most, chance.choice((1, 2, 3, 4)))):
        number = start(place, overrides)
        if wait(number, chance.uniform(0, seconds)) is not None:
            break  # the run ended before the kill
        kill(number)
        kills += 1
    return kills, finish(place, overrides)


def main() -> None:
    """Train references, kill and resume runs, compare, and print the outcome."""
    given = _arguments()
    import torch

    import sparsebench.app.config.build
    import sparsebench.app.process.result
    import sparsebench.app.process.worker  # noqa: F401

    torch.set_num_threads(1)
    chance, began = random.Random(given.seed), time.monotonic()
    chosen = list(cells([name for name in given.only.split(",") if name]).items())
    chance.shuffle(chosen)
    tally = Tally()
    with tempfile.TemporaryDirectory() as base:
        for number, (name, overrides) in enumerate(chosen, start=1):
            if time.monotonic() - began > 60 * given.minutes:
                print(f"{given.minutes:g} minutes are over", flush=True)
                break
            _besiege(Path(base), name, overrides, chance, tally, goal=round(given.kills * number / len(chosen)))
            passed = f"{time.monotonic() - began:.0f} s"
            print(f"{name}: {tally.kills} kills, {tally.runs} runs, {len(tally.wrong)} differ, {passed}", flush=True)
            tally.names += 1
    equal = f"{tally.runs - len(tally.wrong)} of {tally.runs} runs equal"
    print(f"{tally.kills} kills over {tally.names} methods and recipes: {equal}")
    sys.exit(bool(tally.wrong))


@dataclass
class Tally:
    """The counts of a campaign so far."""

    kills: int = 0
    runs: int = 0
    names: int = 0
    wrong: list[str] = field(default_factory=list)


def _besiege(base: Path, name: str, overrides: list[str], chance: random.Random, tally: Tally, *, goal: int) -> None:
    """Kill runs of one method or recipe until the campaign has made ``goal`` kills; compare each with a reference."""
    expected, seconds = _reference(base / f"{name}-whole", overrides)
    while tally.kills < goal:
        place = base / f"{name}-{tally.runs}"
        place.mkdir()
        kills, said = attack(place, overrides, seconds, chance, most=goal - tally.kills)
        tally.kills, tally.runs = tally.kills + kills, tally.runs + 1
        said = said or ", ".join(differences(expected, outcome(place)))
        if said:
            tally.wrong.append(f"{name}: {said}")
            print(f"differs: {name}: {said}", flush=True)
        shutil.rmtree(place)


def _arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="number of kills (200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of instants and order (0)")
    parser.add_argument("--only", default="", help="names of methods and recipes, separated by commas; all by default")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="end after this many, regardless of the number of kills"
    )
    return parser.parse_args()


def _reference(place: Path, overrides: list[str]) -> tuple[dict[str, Any], float]:
    """Return the result of an uninterrupted run, and its duration in seconds."""
    place.mkdir()
    began = time.monotonic()
    said = finish(place, overrides)
    if said:
        sys.exit(f"{place.name} fails even without a kill: {said}")
    return outcome(place), time.monotonic() - began


if __name__ == "__main__":
    main()
