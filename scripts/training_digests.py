"""Train every method and recipe for a few steps and print a digest of each network, to compare versions.

Run it before and after a change that must not alter training, on one machine, and compare the two files::

    python scripts/training_digests.py before.json
    python scripts/training_digests.py after.json --against before.json

Digests depend on the processor and on the version of torch, so they are compared and never committed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

COMMON = ["dataset=digits", "sparsity=0.8", "every=4", "trainer.max_epochs=3", "dataset.limit=512",
          "dataset.batch_size=64", "progress=none", "logger=none", "monitor=light"]  # fmt: skip
GRIDS = [
    ["method=glob(*)", "model=digits_cnn"],
    ["method=glob(*)", "model=lenet300"],
    ["recipe=imp,imp_swa,imp_ensemble,swamp,swamp_plus,soup,prune_finetune", "model=lenet300", "trainer.max_epochs=1"],
    ["method=rigl,dst_ee,gmp,str,ml_linbreg", "model=digits_cnn", "trainer.precision=bf16-mixed"],
    ["method=static,gmp", "model=digits_cnn", "pattern=channels", "execution=compact,masked"],
]


def digest(folder: Path) -> str:
    """Return 16 hexadecimal digits over the final weights and masks of a run."""
    import torch

    hashed = hashlib.blake2b(digest_size=8)
    for name in ("final.pt", "masks.pt"):
        for key, value in sorted(torch.load(folder / name, weights_only=True).items()):
            hashed.update(key.encode())
            hashed.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def label(folder: Path) -> str:
    """Return a name that does not depend on how run folders are named."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return " ".join(str(result[key]) for key in ("method", "model", "recipe") if key in result)


def main() -> None:
    """Train all grids, write the digests, and compare them on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    found: dict[str, str] = {}
    for number, grid in enumerate(GRIDS):
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "sparsebench", "train", "-m", *COMMON, *grid, f"output_root={place}"]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for finished in sorted(Path(place).rglob("DONE")):
                config = (finished.parent / "config.yaml").read_text(encoding="utf-8")
                execution = next((line for line in config.splitlines() if line.startswith("execution:")), "")
                found[f"{number} {label(finished.parent)} {execution}".strip()] = digest(finished.parent)
            print(f"grid {number}: {len(found)} networks so far, exit code {done.returncode}", flush=True)
            print("\n".join(line for line in done.stderr.splitlines() if "error" in line)[:2000], flush=True)
    arguments.output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if arguments.against:
        before = json.loads(arguments.against.read_text(encoding="utf-8"))
        differ = [name for name in sorted({*before, *found}) if before.get(name) != found.get(name)]
        print("\n".join(f"differs: {name}" for name in differ) or f"all {len(found)} networks are equal")
        sys.exit(bool(differ))


if __name__ == "__main__":
    main()
