import shutil
import subprocess

import nets
import pytest
import torch
from snippet_files import IDS, TABLE, Made, Row, Words, metadata

from edgekd import exporters


@pytest.fixture(scope="session")
def made(exported, tmp_path_factory):
    """(kind, format, scheme) -> its file; each made once."""
    folder, found = tmp_path_factory.mktemp("snippets"), {}

    def make(kind, format, scheme):
        key = kind, format, scheme
        if key not in found:
            torch.manual_seed(0)
            spec = {"image": nets.SPEC, "table": TABLE, "ids": IDS}[kind]
            if kind == "image":
                # Signed activations, as Arm and TFLite have them.
                module, example = exported(format, scheme)[0], torch.from_numpy(nets.inputs(1))
            elif kind == "table":
                module, example = Row().eval(), torch.zeros(1, 6)
            else:
                module, example = Words().eval(), torch.zeros(1, 7, dtype=torch.int32)
            path = folder / ("-".join(key) + exporters.SUFFIXES[format])
            exporters.export(
                module,
                example,
                path,
                format=format,
                scheme=scheme,
                input_name=spec.name,
                metadata=metadata(spec, format, scheme),
            )
            found[key] = Made(path, spec, format)
        return found[key]

    return make


@pytest.fixture
def compiled(tmp_path):
    """(code, main function) -> a function from bytes on its input to bytes on its output."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is absent: install a C++ compiler to compile the snippets")

    def compile(code, main):
        source, program = tmp_path / "snippet.cpp", tmp_path / "snippet"
        source.write_text(f"{code}\n#include <cstdio>\n{main}\n")
        strict = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]
        done = subprocess.run(
            ["g++", *strict, source, "-o", program], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + code
        return lambda given: subprocess.run([program], input=given, capture_output=True, check=True).stdout

    return compile
