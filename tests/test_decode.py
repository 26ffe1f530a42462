import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from thaw.errors import ThawError
from thaw.modalities.images import decode


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_picture_comes_as_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image = Image.new("RGB", (20, 10), (200, 120, 60)).convert(mode)
    image.save(path)
    pixels = decode.read(path, 8)
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    expected = np.asarray(image.convert("RGB")).mean((0, 1))
    assert pixels.mean((0, 1)) == pytest.approx(expected, abs=12)


def test_the_orientation_that_a_camera_noted_is_honoured(tmp_path):
    image = Image.new("RGB", (40, 20), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    pixels = decode.read(tmp_path / "a.png", 8)
    assert pixels[4, 0, 0] == 0
    assert pixels[4, 7, 0] == 255


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "half.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ThawError, match="half.png does not decode"):
        decode.read(path, 8)


@pytest.mark.parametrize("shape", [(348, 300), (8, 8), (75, 75)])
def test_images_are_resized_as_keras_does(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    expected = tf.image.resize(pixels, (75, 75)).numpy()
    np.testing.assert_allclose(decode.read(pixels, 75).astype(np.float32)[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1.01)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of(side):
    """A PNG of few bytes that says it has that many pixels a side."""
    header = b"IHDR" + side.to_bytes(4) * 2 + b"\x08\x02\0\0\0"
    whole = encoded(Image.new("RGB", (9, 9)), "PNG")
    return whole[:12] + header + zlib.crc32(header).to_bytes(4) + whole[33:]


GRAY = Image.new("RGB", (64, 48), (200, 200, 200))
KINDS = {
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "plain.JPEG": ("JPEG", {}),
    "first.gif": ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (64, 48), (0, 0, 0))]}),
    "a.bmp": ("BMP", {}),
    "a.webp": ("WEBP", {"lossless": True}),
    "a.png": ("PNG", {}),
    "of-windows.jfif": ("JPEG", {}),
    "old.jpe": ("JPEG", {}),
    "both-eyes.mpo": ("MPO", {"save_all": True, "append_images": [Image.new("RGB", (64, 48), (0, 0, 0))]}),
    "telephone.jpg": ("MPO", {"save_all": True, "append_images": [Image.new("RGB", (64, 48), (0, 0, 0))]}),
    "a.avif": ("AVIF", {"quality": 100}),
    "IMG_0001.HEIC": ("HEIF", {"quality": 100}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_format_is_read(tmp_path, name):
    kind = name.rpartition(".")[2].lower()
    if kind in ("webp", "avif") and not features.check(kind):
        pytest.skip(f"Pillow was built without {kind}")
    content = encoded(GRAY, *[KINDS[name][0]], **KINDS[name][1])
    (tmp_path / name).write_bytes(content)
    assert decode.problem(content, 1.0) == ""
    assert np.abs(decode.read(tmp_path / name, 16).astype(int) - 200).max() <= 2


def test_a_picture_for_which_there_is_no_decoder_says_what_brings_one(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "ENDINGS", decode.ENDINGS - decode.HEIC)
    monkeypatch.setattr(decode, "FORMATS", [each for each in decode.FORMATS if each != "HEIF"])
    (tmp_path / "a.heic").write_bytes(encoded(GRAY, "HEIF"))
    assert decode.unreadable(tmp_path / "a.heic") == "is a HEIC image; to read it: pip install -e '.[heic]'"
    with pytest.raises(ThawError, match="a.heic is a HEIC image; to read it: pip install"):
        decode.read(tmp_path / "a.heic", 8)


@pytest.mark.parametrize("where", ["text", "profile"])
def test_notes_and_profiles_of_megabytes_do_no_harm(tmp_path, where):
    notes = PngInfo()
    notes.add_text("notes", "x" * 3_000_000, zip=True)
    options = {"pnginfo": notes} if where == "text" else {"icc_profile": bytes(3_000_000)}
    content = encoded(GRAY, "PNG", **options)
    (tmp_path / "a.png").write_bytes(content)
    assert decode.problem(content, 1.0) == ""
    assert np.unique(decode.read(tmp_path / "a.png", 16)).tolist() == [200]


DECODE = """
import resource, sys
from pathlib import Path
from thaw.data import fingerprints
from thaw.modalities.images import decode

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
paths = sorted(Path(sys.argv[1]).glob("*.png"))
found = fingerprints.validated(paths, Path(sys.argv[1]), "1", lambda content: decode.problem(content, 100.0))
assert [said for _, said in found] == [""] * 6, found
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000)
"""


@pytest.mark.parametrize("mode", ["RGB", "I;16", "noise"])
def test_large_pictures_are_checked_in_the_memory_of_one(tmp_path, mode):
    side = 6000  # 36 megapixels
    for number in range(6):
        if mode == "noise":  # whose files are large
            values = np.random.default_rng(number).integers(0, 256, (3600, 3600, 3), np.uint8)
            image = Image.fromarray(values)
        else:
            image = Image.fromarray(np.full((side, side), number, np.uint16 if mode == "I;16" else np.uint8))
            image = image if mode == "I;16" else image.convert("RGB")
        image.save(tmp_path / f"{number}.png", compress_level=0 if mode == "noise" else 1)
    ran = subprocess.run([sys.executable, "-c", DECODE, tmp_path], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 2.5 * side * side * 4 / 1e6  # megabytes


def test_gray_of_16_bit_keeps_its_brightness(tmp_path):
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(tmp_path / "a.png")
    assert np.unique(decode.read(tmp_path / "a.png", 8)).tolist() == [40000 >> 8]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(tmp_path, mode):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    if mode == "P":
        Image.new("P", (20, 20), 0).save(tmp_path / "a.png", transparency=0)
    else:
        image.convert(mode).save(tmp_path / "a.png")
    assert np.unique(decode.read(tmp_path / "a.png", 8)).tolist() == [255]


def test_pixels_of_the_right_size_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(decode.read(pixels, 8), pixels)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
BAD = {
    "nothing": (b"", "is empty"),
    "text": (b"not an image", "is not an image of a known format"),
    "a page": (b"<!DOCTYPE html><html><body>404</body></html>", "is not an image of a known format"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image of a known format"),
    "TIFF": (encoded(NOISE, "TIFF"), "is not an image of a known format"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image of a known format"),
    "PNG header alone": (encoded(NOISE, "PNG")[:16], ""),
    "half a PNG": (encoded(NOISE, "PNG")[:3000], ""),
    "half a JPEG": (encoded(NOISE, "JPEG")[:1500], "truncated"),
    "half a progressive JPEG": (encoded(NOISE, "JPEG", progressive=True)[:1500], "truncated"),
    "half a GIF": (encoded(NOISE, "GIF")[:900], ""),
    "half a BMP": (encoded(NOISE, "BMP")[:900], ""),
    "half a WebP": (encoded(NOISE, "WEBP", lossless=True)[:900], ""),
    "a PNG with a wrong checksum": (
        (lambda whole: whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])(encoded(NOISE, "PNG")),
        "",
    ),
    "a PNG of 3,600 megapixels": (png_of(60_000), "has 3600 megapixels"),
    "more megapixels than allowed": (encoded(Image.new("L", (2000, 1500)), "PNG"), "has 3 megapixels"),
    "zeros": (bytes(5000), "is not an image of a known format"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_decode_is_found_and_never_read(tmp_path, name):
    content, words = BAD[name]
    said = decode.problem(content, 2.0)
    assert said
    assert words in said
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ThawError, match="a.jpg does not decode as an image"):
        decode.read(tmp_path / "a.jpg", 8, 2.0)


@pytest.mark.parametrize(("shape", "shown"), [((8, 8), (128, 128)), ((600, 300), (480, 240)), ((200, 100), (200, 100))])
def test_a_picture_for_people_keeps_its_shape(shape, shown):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = decode.photograph(pixels, 480)
    assert found.shape == (*shown, 3)
    if shape == (8, 8):
        np.testing.assert_array_equal(found[::16, ::16], pixels)
