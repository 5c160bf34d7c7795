"""Images in class-named folders, or in a zip of such folders."""

from __future__ import annotations

import io
import re
import stat
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgekd.config import Positive, Strict
from edgekd.errors import DataError
from edgekd.tasks.common import classification, existing, input_spec, split_by_count, take
from edgekd.types import Task

VERSION = 1
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm")
_FORMATS = ("JPEG", "PNG", "BMP", "PPM")
# A single photograph stays well below these; what is larger is a mistake or an attack.
_LARGEST_FILE_BYTES = 64 * 2**20
_LARGEST_IMAGE_PIXELS = 64 * 2**20
_LARGEST_RATIO = 1000
_LARGEST_TOTAL_BYTES = 16 * 2**30


class Options(Strict):
    """Options of the kind `image_folder`. Each of val and test comes from exactly one place."""

    train: str = Field(description="folder or zip: <class>/<image>; $VAR is filled in")
    val: str | None = Field(default=None, description="folder or zip of the same classes")
    test: str | None = Field(default=None, description="folder or zip of the same classes")
    val_fraction: float | None = Field(default=None, gt=0, lt=1, description="share of train, by class")
    test_fraction: float | None = Field(default=None, gt=0, lt=1, description="share of train, by class")
    val_range: tuple[int, int] | None = Field(
        default=None,
        strict=False,
        description="train images with a file number from..to, both included, are val",
    )
    unlabelled: str | None = Field(
        default=None, description="folder or zip of images of no known class, in whatever folders"
    )
    size: tuple[Positive, Positive] | None = Field(
        default=None, strict=False, description="height, width to resize to; left out: images must agree"
    )
    color: Literal["rgb", "gray"] = Field(default="rgb", description="channels of the task")

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if [self.val, self.val_fraction, self.val_range].count(None) != 2:
            raise ValueError("give exactly one of val, val_fraction and val_range")
        if [self.test, self.test_fraction].count(None) != 1:
            raise ValueError("give exactly one of test and test_fraction")
        if (self.val_fraction or 0) + (self.test_fraction or 0) >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing for train")
        if self.val_range is not None and self.val_range[0] > self.val_range[1]:
            raise ValueError("val_range ends before it starts")
        return self


@dataclass(frozen=True)
class Images:
    """Decoded images of one source: `names` (N,) are `<class>/<file>`, `pixels` (N, C, H, W) uint8."""

    names: NDArray[np.str_]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def sources(options: Options) -> tuple[Path, ...]:
    """The folders and zip files."""
    given = [(name, getattr(options, name)) for name in ("train", "val", "test", "unlabelled")]
    return tuple(existing(value, key) for key, value in given if value is not None)


def read(options: Options, seed: int) -> Task:
    """Images as uint8 (C, H, W); classes are the folders' names in alphabetical order."""
    sources(options)  # a missing one is told before the first is decoded
    images = load_images(existing(options.train, "train"), options)
    x, y = images.pixels, images.labels
    ids = np.array([f"train/{name}" for name in images.names], np.str_)
    rest, chosen = np.arange(len(y)), {}
    if options.val_range is not None:
        inside = _in_range(images, options.val_range)
        chosen["val"], rest = rest[inside], rest[~inside]
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    sizes = {name: max(1, round(f * len(y))) for name, f in fractions.items() if f is not None}
    index = split_by_count(x[rest], y[rest], sizes, seed) if sizes else {"train": np.arange(len(rest))}
    chosen.update({name: rest[i] for name, i in index.items()})
    splits = {name: take(name, i, ids, x, y) for name, i in chosen.items()}
    for name, value in (("val", options.val), ("test", options.test)):
        if value is None:
            continue
        other = load_images(existing(value, name), options, images)
        other_ids = np.array([f"{name}/{n}" for n in other.names], np.str_)
        splits[name] = take(name, np.arange(len(other_ids)), other_ids, other.pixels, other.labels)
    if options.unlabelled is not None:
        names, pixels = _decoded(existing(options.unlabelled, "unlabelled"), options, images, depth=None)
        other_ids = np.array([f"unlabelled/{n}" for n in names], np.str_)
        splits["unlabelled"] = take("unlabelled", np.arange(len(names)), other_ids, pixels, None)
    spec = input_spec(splits["train"].inputs, 255.0, (0.0, 255.0), options.train)
    name = existing(options.train, "train").stem
    ordered = [splits[split] for split in ("train", "val", "test", "unlabelled") if split in splits]
    return classification(name, ordered, spec, images.classes)


def _in_range(images: Images, bounds: tuple[int, int]) -> NDArray[np.bool_]:
    """Which images have a file number within `bounds`; an error where a class would be left empty."""
    numbers = []
    for name in map(str, images.names):
        digits = re.search(r"(\d+)$", PurePosixPath(name).stem)
        if digits is None:
            raise DataError(f"task.val_range: the name of {name!r} does not end in a number")
        numbers.append(int(digits[1]))
    inside = (np.array(numbers) >= bounds[0]) & (np.array(numbers) <= bounds[1])
    for label, class_name in enumerate(images.classes):
        count = int(inside[images.labels == label].sum())
        if count in (0, int((images.labels == label).sum())):
            raise DataError(
                f"task.val_range = {list(bounds)} takes {count or 'none'} of class {class_name!r}",
                hint="it has to leave every class some images for train and some for val",
            )
    return inside


def load_images(path: Path, options: Options, like: Images | None = None) -> Images:
    """Every image below a folder or in a zip, decoded, in name order.

    Args:
        path: folder or zip.
        options: size and colour.
        like: images whose classes and size these must have.

    Raises:
        DataError: no images, one that cannot be read, sizes or classes that do not agree.
    """
    names, pixels = _decoded(path, options, like)
    found = tuple(sorted({name.split("/")[0] for name in names}))
    classes = found if like is None else like.classes
    strange = sorted(set(found) ^ set(classes))
    if strange:
        raise DataError(f"{path}: class {strange[0]!r} is not both here and in train")
    if len(classes) < 2:
        raise DataError(f"{path}: only one class, {classes[0]!r}", hint="expected one folder a class")
    labels = np.array([classes.index(name.split("/")[0]) for name in names], np.int64)
    return Images(np.array(names, np.str_), pixels, labels, classes)


def _decoded(
    path: Path, options: Options, like: Images | None, depth: int | None = 2
) -> tuple[list[str], NDArray[np.uint8]]:
    """Names and pixels (N, C, H, W) of all images, which lie `depth` deep: <class>/<image> is 2."""
    names, decoded = [], []
    size = options.size or (None if like is None else like.pixels.shape[2:])
    for name, data in _zipped(path, depth) if path.is_file() else _loose(path, depth):
        image = _decode(f"{path}: {name}", data, options)
        if size is not None and image.shape[1:] != tuple(size):
            raise DataError(
                f"{path}: {name} is {image.shape[1]}x{image.shape[2]},"
                f" the images before it {size[0]}x{size[1]}",
                hint="task.size = [height, width] resizes them all",
            )
        size = image.shape[1:]
        names.append(name)
        decoded.append(image)
    if not names:
        raise DataError(f"{path}: no images", hint=f"expected <class>/<image> with {', '.join(SUFFIXES)}")
    return names, np.stack(decoded)


def _decode(where: str, data: bytes, options: Options) -> NDArray[np.uint8]:
    """One image as (C, H, W)."""
    from PIL import Image  # an extra: what the options are is told without it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of what it then guesses
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > _LARGEST_IMAGE_PIXELS:
                    raise DataError(f"{where}: {image.width}x{image.height} pixels")
                converted = image.convert("RGB" if options.color == "rgb" else "L")
        if options.size is not None and converted.size != options.size[::-1]:
            converted = converted.resize(options.size[::-1], Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: not a readable image: {error}") from None
    pixels = np.asarray(converted, np.uint8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _wanted(parts: tuple[str, ...]) -> bool:
    """Whether a file counts as an image; archivers and desktops leave other things beside them."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and parts[-1].lower().endswith(SUFFIXES)


def _loose(folder: Path, depth: int | None) -> Iterator[tuple[str, bytes]]:
    found = (p.relative_to(folder).parts for p in folder.rglob("*") if p.is_file())
    for parts in sorted(p for p in found if _wanted(p)):
        _check_depth(folder, parts, depth)
        yield "/".join(parts), folder.joinpath(*parts).read_bytes()


def _check_depth(where: Path, parts: tuple[str, ...], depth: int | None) -> None:
    if depth is not None and len(parts) != depth:
        raise DataError(f"{where}: {'/'.join(parts)} is not of the form <class>/<image>")


def _zipped(path: Path, depth: int | None) -> Iterator[tuple[str, bytes]]:
    """Images of a zip, which may come from anywhere: nothing in it is taken on trust."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = [e for e in archive.infolist() if not e.is_dir()]
            entries = {_safe_parts(path, e): e for e in files}
            if len(entries) != len(files):
                raise DataError(f"{path}: two entries have the same name")
            if sum(e.file_size for e in entries.values()) > _LARGEST_TOTAL_BYTES:
                raise DataError(f"{path}: unpacks to more than {_LARGEST_TOTAL_BYTES} bytes")
            wanted = sorted(parts for parts in entries if _wanted(parts))
            # Zips often hold one folder around it all.
            first = wanted[0][0] if wanted else ""
            wrapped = depth is not None and all(len(p) == depth + 1 and p[0] == first for p in wanted)
            for parts in wanted:
                inner = parts[1:] if wrapped else parts
                _check_depth(path, inner, depth)
                yield "/".join(inner), archive.read(entries[parts])
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
        raise DataError(f"{path}: not a readable zip file: {error}") from None


def _safe_parts(path: Path, entry: zipfile.ZipInfo) -> tuple[str, ...]:
    """The parts of an entry's name, or a DataError where the entry is not a plain small file."""
    parts = PurePosixPath(entry.filename).parts
    name = f"{path}: entry {entry.filename!r}"
    if (
        not parts
        or ".." in parts
        or entry.filename.startswith("/")
        or re.search(r"[\\:\x00]", entry.filename)
    ):
        raise DataError(f"{name} points outside the archive")
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise DataError(f"{name} is a link or a device, not a file")
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{name} is encrypted or packed in an unusual way", hint="store or deflate it")
    if entry.file_size > _LARGEST_FILE_BYTES or entry.file_size > _LARGEST_RATIO * max(
        1, entry.compress_size
    ):
        raise DataError(f"{name} unpacks from {entry.compress_size} to {entry.file_size} bytes")
    return parts
