"""Read what W&B has written offline."""

import struct
import time
from pathlib import Path


def told(folder: Path) -> dict[str, list]:
    """Return the records of the one W&B run in a folder, by kind, once its last one is on the disk.

    The process that writes them does so behind the back of the one that has closed the run.
    """
    (path,) = (folder / "wandb").rglob("*.wandb")
    for _ in range(200):
        found = _records(path)
        if "exit" in found:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"{path} has no end")


def _records(path: Path) -> dict[str, list]:
    from wandb.proto import wandb_internal_pb2

    found: dict[str, list] = {}
    for data in chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found.setdefault(record.WhichOneof("record_type"), []).append(record)
    return found


def chunks(data: bytes, block: int = 32768, head: int = 7):
    """Read a log in LevelDB's format: records that are split where blocks of 32 KiB end."""
    position, parts = head, b""  # the file begins with a header of seven bytes
    while position + head <= len(data):
        if block - position % block < head:
            position += block - position % block  # too little room for a header: filled up
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts += data[position + head : position + head + length]
        position += head + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
