"""scripts/gpu_check against the clock, simulated: it ends in time and leaves a row for everything, whatever happens."""

import json
import random
import signal
import sys

import pytest
from support import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts" / "gpu"))
import importlib

import host as hosts
import parts
import runs

check = importlib.import_module("importlib.util").spec_from_file_location(
    "gpu_check_main", REPOSITORY / "scripts" / "gpu" / "__main__.py"
)
main = importlib.util.module_from_spec(check)
check.loader.exec_module(main)


class Process:
    """A process of the simulation: it needs so many seconds, and obeys signals from the one on that it knows."""

    def __init__(self, host, seconds, obeys, folder=None, steps=0):
        self.host, self.left, self.obeys, self.folder, self.steps = host, seconds, obeys, folder, steps
        self.total, self.code, self.stops = seconds, None, False

    def poll(self):
        return self.code

    @property
    def taken(self):
        return round(self.steps * (1 - self.left / self.total))


class Simulation(hosts.Host):
    """A clock that moves when somebody sleeps, and a GPU that divides its time among trainings."""

    def __init__(self, *, seconds, obeys=signal.SIGINT, full=2):
        self.time, self.seconds, self.obeys, self.full = 0.0, seconds, obeys, full
        self.processes, self.finished, self.most = [], {}, 0

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds
        alive = [p for p in self.processes if p.code is None]
        training = [p for p in alive if p.folder is not None]
        self.most = max(self.most, len(training))
        for process in alive:
            shared = min(1.0, self.full / len(training)) if process.folder is not None else 1.0
            before = process.left
            process.left -= seconds * shared
            if process.left <= 0:
                process.code = 0
                if process.folder is not None:
                    self.finished[process.folder.name] = {"test_accuracy": 0.9, "seconds": self.time}
            elif process.stops and int(process.left / 3) < int(before / 3):  # the end of an epoch
                process.code = 4

    def start(self, command, log, environment):
        folder = next((runs.Path(a.partition("=")[2]) for a in command if a.startswith("run_dir=")), None)
        name = folder.name if folder else log.stem
        needs = self.seconds(name)
        kept = [p for p in self.processes if p.folder == folder and folder is not None]
        process = Process(self, needs, self.obeys, folder, steps=1000)
        if kept:  # goes on from its checkpoint
            process.left, process.total = kept[-1].left, kept[-1].total
        self.processes.append(process)
        return process

    def tell(self, process, sign):
        order = [s for s, _ in hosts.ENDINGS]
        if process.code is None and order.index(sign) >= order.index(process.obeys):
            process.code = -int(sign)

    def run(self, command, seconds):
        self.time += min(2.0, max(1.0, seconds))
        return "table\n"

    def steps(self, folder):
        found = [p for p in self.processes if p.folder == folder]
        return (found[-1].taken, 1000) if found and found[-1].taken else None

    def ask_to_stop(self, folder, why):
        for process in self.processes:
            process.stops |= process.folder == folder

    def result(self, folder):
        return self.finished.get(folder.name, {})


def expected_names():
    promises = {f"promises{n}" for n in range(max(1, min(6, (parts.os.cpu_count() or 2) // 2 - 1)))}
    return {"devices", *promises, *parts.BENCHES, *runs.DENSE94, *runs.QUEUE}


def rows_in(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("obeys", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
@pytest.mark.parametrize("seed", range(6))
def test_it_ends_in_time_with_a_row_for_everything(seed, obeys, tmp_path):
    luck = random.Random(seed)
    minutes = luck.choice([0.2, 1, 4, 9])
    simulated = Simulation(seconds=lambda name: luck.choice([0.5, 5, 40, 200, 5000]), obeys=obeys)
    main.carry_out(list(main.SHARES), tmp_path, 60 * minutes, dry=False, host=simulated)
    assert simulated.time <= 60 * minutes + 2.5, "the report alone may take a little, and only where no time was left"
    if minutes >= 1:
        assert simulated.time <= 60 * minutes
    rows = rows_in(tmp_path)
    assert {row["name"] for row in rows} == expected_names()
    assert len(rows) == len(expected_names()), "one row each"
    assert all(p.code is not None for p in simulated.processes), "no process is left"
    assert {row["status"] for row in rows} <= {"done", "out of time", "not begun", "not measured", "failed"}
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "table\n"


def test_a_long_queue_makes_room_for_the_most_wanted(tmp_path):
    """Four at once would all be cut; two at once end one after another, and the most wanted are among them."""
    simulated = Simulation(seconds=lambda name: 80.0, full=1)
    part = parts.Part("protocol", tmp_path, 200.0 + hosts.RESERVE, False, simulated)
    assert runs.train_queue(part) == 0
    part.close()
    done = [row["name"] for row in rows_in(tmp_path) if row["status"] == "done"]
    assert done[:1] == ["vgg19-dense"]
    assert len(done) == 2
    assert simulated.most == runs.SIDE_BY_SIDE
    cut = [row for row in rows_in(tmp_path) if row["status"] == "out of time"]
    assert cut
    assert all(0 < row["steps"] < row["of_steps"] == 1000 for row in cut)


def test_trainings_that_end_side_by_side_stay_side_by_side(tmp_path):
    simulated = Simulation(seconds=lambda name: 80.0, full=4)
    part = parts.Part("protocol", tmp_path, 200.0, False, simulated)
    assert runs.train_queue(part) == 0
    part.close()
    done = [row["name"] for row in rows_in(tmp_path) if row["status"] == "done"]
    assert len(done) == 8


def test_whoever_cuts_it_short_finds_every_row_and_no_process(tmp_path):
    class Cut(Simulation):
        def sleep(self, seconds):
            super().sleep(seconds)
            if self.time > 100 and not self.was_cut:
                self.was_cut = True
                raise SystemExit(143)

    simulated = Cut(seconds=lambda name: 1000.0)
    simulated.was_cut = False
    with pytest.raises(SystemExit):
        main.carry_out(["protocol"], tmp_path, 540.0, dry=False, host=simulated)
    assert all(p.code is not None for p in simulated.processes)
    assert {row["name"] for row in rows_in(tmp_path)} == set(runs.QUEUE)
    states = [row["status"] for row in rows_in(tmp_path)]
    assert states.count("cut short") == simulated.most
    assert set(states) == {"cut short", "not begun"}
    assert simulated.time < 100 + hosts.RESERVE + 1


def test_a_training_that_fails_is_a_failure(tmp_path):
    simulated = Simulation(seconds=lambda name: 50.0)
    part = parts.Part("dense94", tmp_path, 300.0, False, simulated)
    start = simulated.start

    def failing(*arguments):
        process = start(*arguments)
        process.code = 1
        return process

    simulated.start = failing
    assert runs.train_queue(part) == 2
    assert [row["status"] for row in rows_in(tmp_path)] == ["failed", "failed"]
