"""A volume of a Secret or ConfigMap, written as the kubelet writes it (`pkg/volume/util/atomic_writer.go`)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

Payload = Mapping[str, bytes]


class Volume:
    """A folder whose files are links into `..data`, itself a link to a folder that is replaced with each payload."""

    def __init__(self, folder: Path, payload: Payload) -> None:
        folder.mkdir()
        self.folder = folder
        self.write(payload)

    def write(self, payload: Payload) -> None:
        """Replace all files."""
        for _ in self.steps(payload):
            pass

    def steps(self, payload: Payload) -> Iterator[str]:
        """Replace all files, and say after each step what was done; a reader may look at any of these moments."""
        data, before = self.folder / "..data", {path.name for path in self.folder.glob("[!.]*")}
        old = data.resolve() if data.is_symlink() else None
        new = Path(tempfile.mkdtemp(prefix="..2026_12_01_12_00_00.", dir=self.folder))
        new.chmod(0o755)
        for name, content in payload.items():
            (new / name).write_bytes(content)
            (new / name).chmod(0o440)
        yield "written"
        for name in payload.keys() - before:
            (self.folder / name).symlink_to(Path("..data") / name)
        yield "linked"
        (self.folder / "..data_tmp").symlink_to(new.name)
        os.replace(self.folder / "..data_tmp", data)
        yield "swapped"
        for name in before - payload.keys():
            (self.folder / name).unlink()
        yield "unlinked"
        if old is not None:
            shutil.rmtree(old)
        yield "removed"
