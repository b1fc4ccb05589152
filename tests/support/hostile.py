"""Files that were made to hurt whoever opens them; the bench times how quickly they are refused."""

from __future__ import annotations

import os
import tarfile

from device_runtime.format import container
from device_runtime.format.container import BLOCK, END


def gnu_long_name() -> bytes:
    """tarfile reads 300 MB for this header; the file is sparse."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = b"L", 300 << 20
    return info.tobuf(tarfile.GNU_FORMAT)


_RAW = {
    "zip": b"PK\x03\x04" + bytes(2044),
    "gnu-longname": gnu_long_name() + bytes(END),
    "pax": tarfile.TarInfo("x").create_pax_header(tarfile.TarInfo("x" * 200).get_info(), "utf-8"),
    "huge-size": container.header("payload/a", 8**11 - 1) + bytes(END),
    "base-256-size": container.header("payload/a", 0)[:124] + b"\x80" * 12 + bytes(376 + END),
    "symlink": tarfile.TarInfo("payload/a").tobuf()[:156] + b"2/etc/passwd" + bytes(344 + END),
    "ones": b"\xff" * 4096,
    "zeros": bytes(4096),
    "random": os.urandom(1 << 16),
}
CONTAINERS = {name: data + bytes(-len(data) % BLOCK) for name, data in _RAW.items()}
