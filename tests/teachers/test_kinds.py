import pytest

from edgekd import teachers
from edgekd.errors import UsageError


def test_what_a_path_holds(tmp_path):
    for suffix in ("onnx", "tflite", "keras"):
        path = tmp_path / f"a.{suffix}"
        path.touch()
        assert teachers.kind_of(path) == suffix
    for kind, name in (("saved_model", "saved_model.pb"), ("hugging_face", "config.json")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / name).touch()
        assert teachers.kind_of(tmp_path / kind) == kind
    assert set(teachers.FILES) | set(teachers.NETWORKS) == {
        "onnx",
        "tflite",
        "keras",
        "saved_model",
        "hugging_face",
    }


@pytest.mark.parametrize("name", ["a.pt", "folder"])
def test_what_is_none_of_them_is_refused(tmp_path, name):
    (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"no model that is known \(an .onnx, .tflite or .keras file"):
        teachers.kind_of(tmp_path / name)
