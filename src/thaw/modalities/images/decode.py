"""Decodes image files, the same way for checks, training and prediction. Needs no TensorFlow."""

import contextlib
import io
import math
import stat
import threading
from pathlib import Path

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, PngImagePlugin, WebPImagePlugin, features  # noqa: F401  # registers

from thaw.errors import ThawError, one_line

ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".bmp", ".webp"}
FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP"]  # by content, whatever a file is called
VERSION = f"2 Pillow {Image.__version__}"  # of the checks in `problem`
HEIC = {".heic", ".heif", ".hif"}  # written by iPhones
UNSUPPORTED = HEIC | {".avif", ".tif", ".tiff", ".jp2", ".jxl", ".svg", ".psd", ".ico", ".tga", ".pgm", ".ppm", ".dng",
                 ".cr2", ".cr3", ".nef", ".arw", ".raw"}  # image formats without a decoder here  # fmt: skip

if features.check("avif"):
    ENDINGS.add(".avif")
    FORMATS.append("AVIF")

with contextlib.suppress(ImportError):  # the extra `heic`
    import pillow_heif

    pillow_heif.register_heif_opener()
    ENDINGS |= HEIC
    FORMATS.append("HEIF")
    VERSION += f", pillow-heif {pillow_heif.__version__}"

LARGE = 25.0  # megapixels; larger images are decoded one at a time, since each may take a gigabyte
TINY = 128  # px; pictures with a shorter longer side are enlarged for people
_ALONE = threading.Lock()
Image.MAX_IMAGE_PIXELS = None  # the limit is ours, and comes from the configuration
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # ICC profiles and text chunks may take megabytes


def read(source: Path | np.ndarray, size: int, megapixels: float = math.inf) -> np.ndarray:
    """Decode one image.

    Args:
        source: a file, or uint8 (height, width) or (height, width, 3).
        size: of the result, px a side.
        megapixels: larger files are refused.

    Returns:
        uint8 (size, size, 3) in RGB, resized to a square as `keras.utils.image_dataset_from_directory` does. EXIF
        orientation is applied; reads the first frame; composites transparency onto white.

    Raises:
        ThawError: the file does not decode.
    """
    if isinstance(source, np.ndarray):
        return source if source.shape == (size, size, 3) else _square(Image.fromarray(source).convert("RGB"), size)
    try:
        with _opened(source, megapixels) as image:
            image.draft("RGB", (2 * size, 2 * size))  # lets JPEG skip detail that resizing drops
            return _square(_upright(image), size)
    except FileNotFoundError as error:
        raise ThawError(f"{source} does not exist; give another") from error
    except Exception as error:  # decoders raise anything for invalid bytes
        if source.suffix.lower() in HEIC - ENDINGS:
            raise ThawError(f"{source} {unreadable(source)}") from error
        raise ThawError(f"{source} does not decode as an image ({_reason(error)}); mend or remove it") from error


def photograph(source: Path | np.ndarray, longest: int) -> np.ndarray:
    """A picture for people in its own aspect ratio, uint8 (height, width, 3), its longer side at most `longest` px.

    Tiny pictures are enlarged pixel by pixel, so that a heat map has room.
    """
    if isinstance(source, np.ndarray):
        image = Image.fromarray(source).convert("RGB")
    else:
        with _opened(source, math.inf) as opened:
            opened.draft("RGB", (longest, longest))
            image = _upright(opened)
    if max(image.size) < TINY:
        times = math.ceil(TINY / max(image.size))
        image = image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(image)


def unreadable(path: Path) -> str:
    """Why files with that suffix are not read; empty if they are."""
    ending = path.suffix.lower()
    if ending in ENDINGS:
        return ""
    if ending in HEIC:
        return "is a HEIC image; to read it: pip install -e '.[heic]'"
    return f"does not end in {', '.join(sorted(ENDINGS))}"


def is_picture(path: Path) -> bool:
    """Whether the content starts like an image, whatever the suffix."""
    try:
        _opened(path, math.inf).close()
    except Exception:
        return False
    return True


def problem(content: bytes, megapixels: float) -> str:
    """Why a file with that content cannot be used; empty if it decodes completely."""
    if not content:
        return "is empty"
    try:
        with _opened(io.BytesIO(content), megapixels) as image:
            # At a small size if the format allows it: a truncated file is noticed all the same.
            image.draft("RGB", (32, 32))
            with _alone(image):
                image.load()
            _to_rgb(image.crop((0, 0, 1, 1)))  # one pixel shows whether the mode converts
    except MemoryError:
        raise  # not the file's fault
    except Exception as error:
        return _reason(error)
    return ""


def _opened(file: Path | io.BytesIO, megapixels: float) -> Image.Image:
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("is not a regular file")  # reading a pipe would block
    image = Image.open(file, formats=FORMATS)
    if _megapixels(image) > megapixels:
        image.close()
        raise ValueError(f"has {_megapixels(image):.0f} megapixels, and dataset.max_megapixels={megapixels:g}")
    return image


def _megapixels(image: Image.Image) -> float:
    return image.width * image.height / 1e6


def _upright(image: Image.Image) -> Image.Image:
    """8-bit RGB; EXIF orientation is applied."""
    with _alone(image):
        return _to_rgb(image)


def _alone(image: Image.Image) -> contextlib.AbstractContextManager:
    """Held while an image is decoded, if it is large."""
    return _ALONE if _megapixels(image) > LARGE else contextlib.nullcontext()


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    with contextlib.suppress(Exception):  # unreadable EXIF; the pixels may be fine
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray: `convert` would turn all values above 255 white
        values = np.asarray(image)
        gray = np.empty(values.shape, np.uint8)
        for row in range(len(gray)):  # row by row: temporary arrays would multiply the memory
            gray[row] = values[row].clip(0, 65535).astype(np.uint16) >> 8
        image = Image.fromarray(gray)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> np.ndarray:
    # Bilinear without antialiasing, like Keras' own loader, so that results compare with notebooks. On real photographs
    # with MobileNetV2's ImageNet weights antialiasing cost more than a point of accuracy (three seeds).
    scale = (image.width / size, 0, 0, 0, image.height / size, 0)
    return np.asarray(image.transform((size, size), Image.Transform.AFFINE, scale, Image.Resampling.BILINEAR))


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "is not an image of a known format"
    return one_line(error)
