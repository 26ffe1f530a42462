"""A picture's file -> its pixels: the same for checks, training and prediction. Nothing here needs TensorFlow."""

import contextlib
import io
import math
import stat
import threading
from pathlib import Path

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, PngImagePlugin, WebPImagePlugin, features  # noqa: F401  # registers

from thaw.errors import ThawError

ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".bmp", ".webp"}
FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP"]  # by content, whatever a file is called
VERSION = f"2 Pillow {Image.__version__}"  # of what `trouble` finds
HEIC = {".heic", ".heif", ".hif"}  # the format of Apple's phones
UNSUPPORTED = HEIC | {".avif", ".tif", ".tiff", ".jp2", ".jxl", ".svg", ".psd", ".ico", ".tga", ".pgm", ".ppm", ".dng",
                 ".cr2", ".cr3", ".nef", ".arw", ".raw"}  # image formats without a decoder here  # fmt: skip
MEGAPIXELS = 100.0  # more is taken for a file made to fill the memory

if features.check("avif"):
    ENDINGS.add(".avif")
    FORMATS.append("AVIF")
with contextlib.suppress(ImportError):  # the extra `heic`
    import pillow_heif

    pillow_heif.register_heif_opener()
    ENDINGS |= HEIC
    FORMATS.append("HEIF")
    VERSION += f", pillow-heif {pillow_heif.__version__}"

SOFTWARE = "Thaw"  # in the metadata of the PNGs that it draws
LARGE = threading.Lock()
TINY = 128  # px of the longer side of a picture that is enlarged for people

Image.MAX_IMAGE_PIXELS = None  # the limit is ours, and comes from the configuration
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # ICC profiles and text chunks may take megabytes


def read(source: Path | np.ndarray, size: int, megapixels: float = math.inf) -> np.ndarray:
    """One image, from a file or from pixels.

    Args:
        source: a file, or uint8 (height, width) or (height, width, 3).
        size: of the result, px a side.
        megapixels: a file with more is refused.

    Returns:
        uint8 (size, size, 3) in RGB, upright, squeezed to a square as `keras.utils.image_dataset_from_directory` does.
        Of several frames the first; what is transparent lies on white.

    Raises:
        ThawError: the file does not decode.
    """
    if isinstance(source, np.ndarray):
        return source if source.shape == (size, size, 3) else _square(Image.fromarray(source).convert("RGB"), size)
    try:
        with _opened(source, megapixels) as image:
            image.draft("RGB", (2 * size, 2 * size))  # lets JPEG skip detail that resizing would drop anyway
            return _square(_upright(image), size)
    except FileNotFoundError as error:
        raise ThawError(f"{source} is not there; give another") from error
    except Exception as error:  # whatever a decoder raises for bytes that are no image
        if source.suffix.lower() in HEIC - ENDINGS:
            raise ThawError(f"{source} {unreadable(source)}") from error
        raise ThawError(f"{source} does not decode as an image ({_reason(error)}); mend or remove it") from error


def photograph(source: Path | np.ndarray, longest: int) -> np.ndarray:
    """A picture for people, in its own shape: uint8 (height, width, 3).

    Its longer side has at most `longest` px; a tiny picture is enlarged, pixel by pixel, so that a heat map has room.
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


def is_drawing(path: Path) -> bool:
    """Whether it is a figure that Thaw drew, which is neither data nor anybody else's."""
    if path.suffix.lower() != ".png":
        return False
    try:
        with _opened(path, math.inf) as image:
            return image.info.get("Software") == SOFTWARE
    except Exception:
        return False


def check_replaceable(path: Path) -> None:
    """Refuse to draw over a file that Thaw did not draw.

    Raises:
        ThawError: there is one.
    """
    if path.exists() and not is_drawing(path):
        raise ThawError(f"{path} is there, and Thaw did not draw it; move it, or work in another folder")


def is_picture(path: Path) -> bool:
    """Whether the content begins as a picture does, whatever the file is called."""
    try:
        _opened(path, math.inf).close()
    except Exception:
        return False
    return True


def trouble(content: bytes, megapixels: float) -> str:
    """Why a file with that content is of no use; nothing if all of it decodes."""
    if not content:
        return "is empty"
    try:
        with _opened(io.BytesIO(content), megapixels) as image:
            # At a small size where the format can do that: a file that breaks off is noticed all the same.
            image.draft("RGB", (32, 32))
            with _alone(image):
                image.load()
            _turned(image.crop((0, 0, 1, 1)))  # one pixel tells whether its mode converts
    except MemoryError:
        raise  # the machine's trouble, not the file's
    except Exception as error:
        return _reason(error)
    return ""


def _opened(file: Path | io.BytesIO, megapixels: float) -> Image.Image:
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("is no file")  # a pipe would be waited for
    image = Image.open(file, formats=FORMATS)
    if _millions(image) > megapixels:
        image.close()
        raise ValueError(f"has {_millions(image):.0f} megapixels, and dataset.max_megapixels={megapixels:g}")
    return image


def _millions(image: Image.Image) -> float:
    return image.width * image.height / 1e6


def _upright(image: Image.Image) -> Image.Image:
    """RGB of 8 bit; EXIF orientation is applied."""
    with _alone(image):
        return _turned(image)


def _alone(image: Image.Image) -> contextlib.AbstractContextManager:
    """Decode large images one at a time, since each may take a gigabyte."""
    return LARGE if _millions(image) > MEGAPIXELS / 4 else contextlib.nullcontext()


def _turned(image: Image.Image) -> Image.Image:
    image.load()
    with contextlib.suppress(Exception):  # a note that cannot be read; the pixels can
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # grey of 16 bit, of which `convert` would keep the dark end alone
        values = np.asarray(image)
        grey = np.empty(values.shape, np.uint8)
        for row in range(len(grey)):  # row by row, since temporary arrays would multiply the memory
            grey[row] = values[row].clip(0, 65535).astype(np.uint16) >> 8
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> np.ndarray:
    # Bilinear without antialiasing, as Keras' own loader does it: results can be held against notebooks. On real
    # photographs with MobileNetV2's ImageNet weights antialiasing cost more than a point of accuracy (three seeds).
    scale = (image.width / size, 0, 0, 0, image.height / size, 0)
    return np.asarray(image.transform((size, size), Image.Transform.AFFINE, scale, Image.Resampling.BILINEAR))


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "is no image of a known format"
    return " ".join(str(error).split()) or type(error).__name__
