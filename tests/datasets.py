"""Datasets and image files for tests."""

import io
import zlib

from PIL import Image

from thaw.config import schema


def folder(path, **changes):
    """A dataset of folders."""
    return schema.Dataset(source="folder", path=str(path), **changes)


def encoded(image, kind, **options):
    """The bytes of an image file."""
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def png_of(side):
    """A PNG of few bytes whose header says that it has that many pixels a side."""
    header = b"IHDR" + side.to_bytes(4) * 2 + b"\x08\x02\0\0\0"
    whole = encoded(Image.new("RGB", (9, 9)), "PNG")
    return whole[:12] + header + zlib.crc32(header).to_bytes(4) + whole[33:]
