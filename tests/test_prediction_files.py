"""Files of predictions: what they say, and every way in which one is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import DataError, EdgeKDError, UsageError
from edgekd.metric_names import metric_named
from edgekd.prediction_files import predictions, read

ACCURACY, RMSE, NDCG, AUC = (metric_named(n) for n in ("accuracy", "rmse", "ndcg@5", "auc"))
CLASSES = "sample_id,label,prediction,device\na,shirt,shirt,phone\nb,coat,shirt,desk\nc,coat,coat,phone\n"


@pytest.fixture
def write(tmp_path):
    def call(text, name="p.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return call


def test_classes_by_name(write):
    other = "sample_id,label,prediction\na,shirt,coat\nb,coat,coat\nc,coat,coat\n"
    one, two = predictions([read(write(CLASSES)), read(write(other, "q.csv"))], ACCURACY)
    assert one.correct.tolist() == [True, False, True]
    assert two.correct.tolist() == [False, True, True]
    assert one.sample_ids.tolist() == ["a", "b", "c"]
    # One list of classes for both: coat, shirt.
    assert (one.labels.tolist(), one.answers.tolist(), two.answers.tolist()) == (
        [1, 0, 0],
        [1, 1, 0],
        [0, 0, 0],
    )
    assert one.columns["device"].texts.tolist() == ["phone", "desk", "phone"]
    assert one.columns["label"].texts.tolist() == ["shirt", "coat", "coat"]


def test_scores_of_classes(write):
    text = "score_1,sample_id,score_0,label\n0.9,a,0.1,1\n0.2,b,0.8,1\n"
    (found,) = predictions([read(write(text))], ACCURACY)
    assert found.scores.tolist() == [[0.1, 0.9], [0.8, 0.2]]
    assert found.correct.tolist() == [True, False]
    mixed = "sample_id,label,prediction\na,1,1\nb,1,1\n"
    _, said = predictions([read(write(text)), read(write(mixed, "q.csv"))], ACCURACY)
    assert said.correct.tolist() == [True, True]


def test_whole_numbers_are_the_same_class_however_they_are_written(write):
    (found,) = predictions([read(write("sample_id,label,prediction\na,3,3.0\nb, 4,4\n"))], ACCURACY)
    assert found.correct.tolist() == [True, True]


def test_class_1_is_named(write):
    text = "sample_id,label,prediction\na,fraud,legit\nb,legit,legit\n"
    with pytest.raises(DataError, match=r"f1 is of class 1 against 0, the classes are fraud, legit"):
        predictions([read(write(text))], metric_named("f1"))


def test_one_score_is_that_of_class_1(write):
    (found,) = predictions([read(write("sample_id,label,score\na,0,0.25\nb,1,0.75\n"))], AUC)
    assert (found.labels.tolist(), found.scores.tolist()) == ([0, 1], [[0.25], [0.75]])


def test_values_and_relevances(write):
    text = "sample_id,label,prediction,q\na,1.5,1.25,x\nb,-2,1e3,y\n"
    (found,) = predictions([read(write(text))], RMSE)
    assert (found.labels.tolist(), found.scores.tolist()) == ([1.5, -2.0], [[1.25], [1000.0]])
    (ranked,) = predictions([read(write(text.replace("prediction", "score")))], NDCG)
    assert ranked.columns["q"].values == ("x", "y")


def test_columns_of_numbers_are_in_their_order(write):
    rows = "".join(f"s{i},0,0,{size}\n" for i, size in enumerate(("10", "9", "big", "10")))
    (found,) = predictions([read(write(f"sample_id,label,prediction,size\n{rows}"))], ACCURACY)
    assert found.columns["size"].values == ("9", "10", "big")
    assert found.columns["size"].codes.tolist() == [1, 0, 2, 1]


@pytest.mark.parametrize(
    "names", [("scores", "sample_ids", "labels"), ("predictions", "sample_ids", "labels")]
)
def test_arrays(tmp_path, names):
    scores = np.array([[0.5, 0.25, 0.125], [0.0, 1.0, 2.0]], np.float32)
    first = scores if names[0] == "scores" else np.array([0.0, 1.0])
    path = tmp_path / "p.npz"
    np.savez(
        path,
        **dict(zip(names, (first, np.array(["a", "b"]), np.array([0, 1])), strict=True)),
        user=[7.0, 8.0],
    )
    (found,) = predictions([read(path)], ACCURACY)
    assert found.correct.tolist() == [True, names[0] == "predictions"]
    assert found.columns["user"].values == ("7", "8")


def test_parquet_is_as_csv(write, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    source = write(CLASSES)
    parquet.write_table(csv.read_csv(source), tmp_path / "p.parquet")
    found, expected = predictions([read(tmp_path / "p.parquet"), read(source)], ACCURACY)
    assert arrow.__version__
    for name in ("sample_ids", "labels", "answers"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    assert found.columns["device"].values == expected.columns["device"].values
    with pytest.raises(DataError, match="not a Parquet file"):
        read(write("PAR1 and no more", "q.parquet"))


REFUSED = {
    "empty": ("", r"p\.csv: empty, or its first line is"),
    "a mark of UTF-8 alone": (b"\xef\xbb\xbf", "empty, or"),
    "an empty line first": ("\nsample_id,label,prediction\na,1,1\n", "empty, or"),
    "semicolons": ("sample_id;label;prediction\na;1;1\n", "semicolons .save it again with commas"),
    "semicolons and quotes": ('"sample_id";"label";"prediction"\n"a";1;0,5\n', "separated by semicolons"),
    "tabs": ("sample_id\tlabel\tprediction\na\t1\t1\n", "separated by tabs"),
    "another column": ("id,label;a,prediction\na,1,1\n", "no column 'sample_id'"),
    "head alone": ("sample_id,label,prediction\n", "no samples"),
    "no label": ("sample_id,prediction\na,1\n", "no column 'label'"),
    "no answer": ("sample_id,label\na,1\n", "neither prediction nor scores"),
    "two answers": ("sample_id,label,prediction,score\na,1,1,0.5\n", "several of"),
    "a score is missing": ("sample_id,label,score_0,score_2\na,0,1,2\n", "score_2 without all before it"),
    "one score of several": ("sample_id,label,score_0\na,0,1\n", "score_0 without"),
    "short row": ("sample_id,label,prediction\na,1,1\nb,1\n", r":3: 2 values for 3 columns"),
    "no number": ("sample_id,label,score_0,score_1\na,0,1,much\n", "score_1 of row 1 is no number: 'much'"),
    "no value": ("sample_id,label,prediction\na,1,1\nb,,1\n", "'label' has no value in row 2"),
    "label is no class": ("sample_id,label,score_0,score_1\na,2,0,1\n", "label '2' of 'a' is no class"),
    "a class that is no label": (
        "sample_id,label,prediction\na,cat,Cat\n",
        "prediction 'Cat' of 'a' is no label",
    ),
    "no number is no class": ("sample_id,label,prediction\na,1,1\nb,1,nan\n", "no value in row 2: 'nan'"),
    "column twice": ("sample_id,label,label,prediction\na,1,1,1\n", "stands twice"),
    "no text": (b"sample_id,label,prediction\na,\xff\xfe,1\n", "not a CSV file"),
    "open quote": ('sample_id,label,prediction\n"a,1,1\n', "not a CSV file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(write, name):
    text, said = REFUSED[name]
    with pytest.raises(DataError, match=said):
        predictions([read(write(text))], ACCURACY)


def test_refused_files(write, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"no file of predictions .*\.csv, \.parquet, \.npz"):
        read(write(CLASSES, "p.txt"))
    with pytest.raises(DataError, match="not a file of predictions"):
        read(write(b"PK\x03\x04 and no more", "p.npz"))
    np.savez(tmp_path / "o.npz", sample_ids=np.array(["a"], object), labels=[1], scores=[[0.0, 1.0]])
    with pytest.raises(DataError, match="not a file of predictions"):  # objects would be unpickled
        read(tmp_path / "o.npz")
    np.savez(tmp_path / "d.npz", sample_ids=["a"], labels=[1], scores=[[0.0, 1.0]], user=[[1, 2]])
    with pytest.raises(DataError, match=r"user has shape \(1, 2\)"):
        read(tmp_path / "d.npz")
    np.savez(tmp_path / "n.npz", sample_ids=["a"], labels=[1], predictions=[np.nan])
    with pytest.raises(DataError, match="'prediction' has no value in row 1"):
        read(tmp_path / "n.npz")
    np.savez(tmp_path / "c.npz", sample_ids=["a"], labels=[1], scores=[[1j, 0]])
    with pytest.raises(DataError, match="scores holds neither numbers nor texts"):
        read(tmp_path / "c.npz")
    np.savez(tmp_path / "b.npz", sample_ids=["a"], labels=[1], label=[2], scores=[[1.0, 0]])
    with pytest.raises(DataError, match="labels and label both"):
        read(tmp_path / "b.npz")
    np.save(tmp_path / "y.npy", np.zeros(3))
    (tmp_path / "y.npy").rename(tmp_path / "y.npz")
    with pytest.raises(DataError, match="it holds one array"):
        read(tmp_path / "y.npz")
    np.savez(tmp_path / "l.npz", sample_ids=["a", "b"], labels=[1], scores=[[0.0, 1.0]])
    with pytest.raises(DataError, match="different length"):
        read(tmp_path / "l.npz")


@given(
    st.binary(max_size=200)
    | st.text(alphabet='sample_id,label.predictionscore01"\n\r;x', max_size=200).map(str.encode)
)
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    for start in (b"", b"sample_id,label,prediction\n"):
        path.write_bytes(start + content)
        try:
            predictions([read(path)], ACCURACY)
        except EdgeKDError:
            pass
