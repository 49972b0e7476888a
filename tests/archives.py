"""Archives in memory."""

from __future__ import annotations

import io
import tarfile
import zipfile
from typing import Any, Mapping


def tarred(files: Mapping[str, bytes], packing: str = "w", **header: Any) -> bytes:
    """Return a tar file; ``header`` goes to the header of every member."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=packing) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in header.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def zipped(files: Mapping[str, bytes], **header: Any) -> bytes:
    """Return a zip file; ``header`` goes to the header of every member."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in header.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return made.getvalue()
