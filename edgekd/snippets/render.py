"""From the facts of a file to code: one template a language, with constants as that language has them."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from edgekd.errors import UsageError, nearest
from edgekd.snippets.facts import Facts, facts_of

LANGUAGES = ("kotlin", "cpp")
_WIDTH = 96
_CPP = {"float32": "float", **{name: f"std::{name}_t" for name in ("int8", "uint8", "int32", "int64")}}
_KOTLIN = {"float32": "Float", "int8": "Byte", "uint8": "Byte", "int32": "Int", "int64": "Long"}


def snippet(path: Path, language: str) -> str:
    """Code that prepares a sample, runs the file and reads its outputs.

    Args:
        path: a file that `edgekd run` exported.
        language: one of `LANGUAGES`.

    Raises:
        UsageError: the language is not known, or the file does not tell what is needed; see `facts_of`.
        MeasurementError: the file does not load.
    """
    if language not in LANGUAGES:
        hint = nearest(language, LANGUAGES, f"known: {', '.join(LANGUAGES)}")
        raise UsageError(f"--language {language}: there is no snippet in it", hint=hint)
    return render(facts_of(path), language)


def render(facts: Facts, language: str) -> str:
    """The same of facts that are at hand."""
    types = _CPP if language == "cpp" else _KOTLIN
    heads = {name: _identifier(name) for name in facts.heads}
    if len(set(heads.values())) < len(heads):
        raise UsageError(f"{facts.file}: heads {', '.join(heads)}: names that code cannot tell apart")
    integers = facts.taken.dtype in ("int8", "uint8")
    text = (
        _environment()
        .get_template(f"{language}.jinja")
        .render(
            facts=facts,
            spec=facts.input,
            raw=types[facts.input.raw_dtype],
            fed=types[facts.taken.dtype],
            read=types[facts.given.dtype],
            fed_limits=_limits(facts.taken.dtype) if integers else None,
            read_limits=None if facts.given.dtype == "float32" else _limits(facts.given.dtype),
            shape=facts.taken.shape[1:],
            is_classes=len(facts.class_names) > 1,
            heads=[(heads[name], name, names) for name, names in facts.heads.items()],
            title=type_name(facts.file),
        )
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def floats(values: Iterable[float]) -> str:
    """Constants of type float, comma by comma: the shortest digits that give the same float32 again."""
    return _wrapped([number(value) for value in values])


def number(value: float) -> str:
    """One constant of type float, as C++ and Kotlin both read it."""
    return f"{np.float32(value)!s}f"


def texts(values: Iterable[str], language: str) -> str:
    """Constants of a text type, comma by comma."""
    return _wrapped([_quoted(value, language) for value in values])


def type_name(file: str) -> str:
    """A name for the class: `host.tflite` -> Host."""
    words = re.findall(r"[A-Za-z0-9]+", Path(file).stem)
    name = "".join(word[0].upper() + word[1:] for word in words) or "Model"
    return name if name[0].isalpha() else f"Model{name}"


def _identifier(name: str) -> str:
    found = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower()
    return found if found[:1].isalpha() else f"head_{found}"


def _limits(dtype: str) -> tuple[int, int]:
    found = np.iinfo(np.dtype(dtype))
    return int(found.min), int(found.max)


def _quoted(text: str, language: str) -> str:
    # JSON's escapes of quotes, backslashes and control characters; those of code points Kotlin shares.
    found = json.dumps(text, ensure_ascii=False)
    if language == "kotlin":
        return found.replace("$", "\\$").replace("\\f", "\\u000c")
    # C++ has no \u of a control character, and \x takes every digit behind it; octal takes three.
    found = re.sub(r"\\u00([0-9a-f]{2})", lambda m: f"\\{int(m[1], 16):03o}", found)
    return found.replace("??", "?\\?")  # a trigraph, before C++17


def _wrapped(items: list[str]) -> str:
    # Blanks inside of an item must not end a line.
    kept = [item.replace(" ", "\0") for item in items]
    lines = textwrap.wrap(", ".join(kept), _WIDTH, break_long_words=False, break_on_hyphens=False)
    if len(lines) < 2:
        return "".join(lines).replace("\0", " ")
    return ("\n" + "\n".join(f"    {line}" for line in lines) + "\n").replace("\0", " ")


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("edgekd.snippets", "templates"),
        autoescape=False,  # code, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {"floats": floats, "number": number, "texts": texts}
    found.filters.update(filters)
    return found
