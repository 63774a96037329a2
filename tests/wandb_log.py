"""Read what W&B has written offline."""

import struct
from pathlib import Path


def told(folder: Path) -> dict[str, list]:
    """Return the records of the one W&B run in a folder, by kind."""
    from wandb.proto import wandb_internal_pb2

    (path,) = (folder / "wandb").rglob("*.wandb")
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
