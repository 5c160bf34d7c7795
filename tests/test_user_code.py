import sys

import pytest

from edgekd.errors import UsageError
from edgekd.user_code import check_call, function_of, sources_of

MARK = "import pathlib; pathlib.Path(__file__).with_name('imported').write_text('')\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with modules `mine_*`, to be found by being the current one; importing them leaves a mark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    files = {
        "mine_flat.py": MARK + "import numpy, mine_other\ndef make(): return 7\nnumber = 5\n",
        "mine_other.py": MARK + "def late():\n    import mine_third\n",
        "mine_third.py": MARK,
        "mine_unused.py": MARK,
        "mine_broken.py": MARK + "def (:\n",
        "mine_fails.py": "raise KeyError('oh')\n",
        "mine_pack/__init__.py": MARK,
        "mine_pack/inner/__init__.py": MARK,
        "mine_pack/inner/data.py": MARK + "from . import beside\nfrom ..up import x\n",
        "mine_pack/inner/beside.py": MARK,
        "mine_pack/up.py": MARK + "x = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    for loaded in [m for m in sys.modules if m.startswith("mine_")]:
        del sys.modules[loaded]


def names(name, project):
    return [path.relative_to(project).as_posix() for path in sources_of(name, "task")]


def test_sources_are_the_module_and_what_it_imports_beside_it(project):
    assert names("mine_flat:make", project) == ["mine_flat.py", "mine_other.py", "mine_third.py"]
    assert set(names("mine_pack.inner.data:f", project)) == {
        "mine_pack/inner/data.py",
        "mine_pack/inner/beside.py",
        "mine_pack/inner/__init__.py",
        "mine_pack/__init__.py",
        "mine_pack/up.py",
    }
    assert names("mine_pack.inner:f", project)[0] == "mine_pack/inner/__init__.py"


def test_sources_are_found_without_running_them(project):
    sources_of("mine_pack.inner.data:f", "task")
    sources_of("mine_flat:make", "task")
    assert not list(project.rglob("imported"))
    assert not [m for m in sys.modules if m.startswith("mine_")]


def test_of_an_installed_module_only_its_own_file_counts():
    import numpy.linalg

    assert [str(p) for p in sources_of("numpy.linalg:norm", "model")] == [numpy.linalg.__file__]


@pytest.mark.parametrize("name", ["no_such_module_here:f", "no.such:f", "mine_pack.nothing:f", "sys:f"])
def test_no_source(project, name):
    with pytest.raises(UsageError, match=r"^model kind '.*no module|^model kind '.*no source file"):
        sources_of(name, "model")


def test_a_source_that_is_not_python(project):
    with pytest.raises(UsageError, match=r"mine_broken.py:2: invalid syntax"):
        sources_of("mine_broken:f", "task")


def test_a_function_in_the_current_folder(project):
    assert function_of("mine_flat:make", "task")() == 7


def test_the_current_folder_hides_no_installed_library(project):
    (project / "numpy.py").write_text("raise RuntimeError\n")
    assert function_of("numpy:zeros", "task")(2).tolist() == [0.0, 0.0]
    assert sys.path[-1] == str(project)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:f", "importing no_such_module_here failed.*run from the folder that holds it"),
        ("mine_fails:f", "importing mine_fails failed: KeyError: 'oh'"),
        ("mine_broken:f", "importing mine_broken failed: SyntaxError"),
        ("mine_flat:mak", "mine_flat has no function 'mak'"),
        ("mine_flat:number", "mine_flat has no function 'number'"),
        ("mine_flat:", "not of the form package.module:function"),
        (":make", "not of the form package.module:function"),
        ("a/b:make", "not of the form package.module:function"),
    ],
)
def test_errors(project, name, message):
    with pytest.raises(UsageError, match=f"^model kind .*{message}"):
        function_of(name, "model")


OPTIONS = """
import functools
from numpy import zeros as nothing
def plain(shape, classes, /, width=3, *, depth, seed=1): pass
def any_options(shape, classes, width=1, **more): pass
def only(shape, classes, width, /): pass
def short(shape): pass
@functools.cache
def decorated(width): pass
aliased = plain
def none(): pass
class Net:
    def method(self): local = 1
def wrapped(shape, classes, width): pass
wrapped = functools.partial(wrapped, width=8)
def either(width): pass
if functools:
    def either(width, depth=1): pass
async def later(): pass
"""


@pytest.mark.parametrize(
    ("name", "given", "options", "message"),
    [
        ("plain", 2, {"depth": 2}, None),
        ("plain", 2, {"depth": 2, "width": 4, "seed": 5}, None),
        ("plain", 2, {}, "option 'depth' is missing, and it has no default"),
        ("plain", 2, {"depth": 2, "shape": 3}, r"unknown option 'shape' \(it takes: width, depth, seed\)"),
        ("plain", 2, {"dept": 2}, r"unknown option 'dept' \(did you mean 'depth'"),
        ("any_options", 2, {"anything": 1}, None),
        ("any_options", 2, {"shape": 1}, "unknown option 'shape'"),
        ("only", 2, {"width": 1}, "unknown option 'width'"),
        ("only", 2, {}, "option 'width' is missing"),
        ("short", 2, {}, "takes 1 leading arguments, 2 are given"),
        ("none", 0, {"anything": 1}, r"unknown option 'anything' \(it takes none\)"),
        ("method", 0, {}, "has no function 'method'"),
        ("local", 0, {}, "has no function 'local'"),
        # What these take is known only once they have run.
        ("decorated", 0, {"anything": 1}, None),
        ("aliased", 0, {"anything": 1}, None),
        ("nothing", 0, {"anything": 1}, None),
        ("Net", 0, {"anything": 1}, None),
        ("later", 0, {"anything": 1}, None),
        ("wrapped", 2, {}, None),
        ("either", 0, {"depth": 1}, None),
    ],
)
def test_a_call_is_checked_from_the_source(project, name, given, options, message):
    (project / "mine_calls.py").write_text(MARK + OPTIONS)
    if message is None:
        check_call(f"mine_calls:{name}", "model", options, given)
    else:
        with pytest.raises(UsageError, match=f"^model kind 'mine_calls:{name}': .*{message}"):
            check_call(f"mine_calls:{name}", "model", options, given)
    assert not list(project.rglob("imported"))


@pytest.mark.parametrize("text", ["from mine_flat import *\n", "def __getattr__(name): return 1\n"])
def test_a_module_that_may_hold_any_name_refuses_none(project, text):
    (project / "mine_open.py").write_text(text)
    check_call("mine_open:anything", "model", {"option": 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine_flat:mkae", r"mine_flat has no function 'mkae' \(did you mean 'make'\?\)"),
        ("mine_third:f", r"mine_third has no function 'f'"),
        ("mine_broken:f", r"mine_broken.py:2: invalid syntax"),
        ("no_such_module_here:f", "there is no module 'no_such_module_here'"),
    ],
)
def test_a_function_that_is_not_there(project, name, message):
    with pytest.raises(UsageError, match=message):
        check_call(name, "task", {})
