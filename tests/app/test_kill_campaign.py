"""The short form of ``scripts/kill_campaign``: killed at random instants, resumed, and equal to what nobody killed."""

import os
import subprocess
import sys

import pytest
from support import REPOSITORY, environment_of

SLOW = bool(os.environ.get("SPARSEBENCH_SLOW"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
def test_killed_at_random_instants():
    chosen = ["--kills", "200"] if SLOW else ["--kills", "6", "--only", "rigl,vr_pge,swamp"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "kill_campaign.py"), *chosen],
        env=environment_of(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        timeout=3600 if SLOW else 600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "differs" not in done.stdout
