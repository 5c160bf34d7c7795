"""Archives of one form only: every byte of them is looked at, and nothing in them can do harm."""

import random
import stat
import subprocess
import zipfile

import pytest

from edgekd.bundle import archive
from edgekd.errors import EvidenceError, UsageError

FILES = {"a.txt": b"first\n", "folder/b.bin": bytes(range(256)), "folder/deep/c": b""}


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "made.zip"
    archive.write(path, FILES)
    return path


def read(path, tmp_path, name="out"):
    folder = tmp_path / name
    folder.mkdir()
    return archive.read(path, folder)


def test_what_is_written_is_read_by_us_and_by_others(made, tmp_path):
    assert read(made, tmp_path) == ("a.txt", "folder/b.bin", "folder/deep/c")
    for name, content in FILES.items():
        assert (tmp_path / "out" / name).read_bytes() == content
    with zipfile.ZipFile(made) as other:
        assert {i.filename: other.read(i) for i in other.infolist()} == FILES
        assert {i.date_time[0] for i in other.infolist()} == {1980}


def test_the_same_files_give_the_same_bytes_wherever_they_lie(made, tmp_path):
    source = tmp_path / "elsewhere"
    source.write_bytes(FILES["a.txt"])
    archive.write(tmp_path / "other.zip", dict(reversed([*{**FILES, "a.txt": source}.items()])))
    assert (tmp_path / "other.zip").read_bytes() == made.read_bytes()


def test_one_changed_bit_anywhere_is_told(made, tmp_path):
    """Every byte of the file in turn: contents, headers, what lies between and behind them."""
    good, rng = made.read_bytes(), random.Random(3)
    bad = tmp_path / "bad.zip"
    for at in range(len(good)):
        changed = bytearray(good)
        changed[at] ^= 1 << rng.randrange(8)
        bad.write_bytes(changed)
        with pytest.raises(EvidenceError, match=r"bad\.zip: "):
            read(bad, tmp_path, f"out-{at}")


def test_a_changed_content_names_its_file(made, tmp_path):
    good = made.read_bytes()
    at = good.index(bytes(range(256))) + 99
    (tmp_path / "bad.zip").write_bytes(good[:at] + b"\x00" + good[at + 1 :])
    with pytest.raises(EvidenceError, match=r"folder/b\.bin"):
        read(tmp_path / "bad.zip", tmp_path)


@pytest.mark.parametrize(
    "spoil", [lambda d: b"x" + d, lambda d: d + b"x", lambda d: d[:-1], lambda d: d[:40]]
)
def test_bytes_before_and_behind_are_told(made, tmp_path, spoil):
    (tmp_path / "bad.zip").write_bytes(spoil(made.read_bytes()))
    with pytest.raises(EvidenceError, match=r"bad\.zip"):
        read(tmp_path / "bad.zip", tmp_path)


def entry(name, mode=stat.S_IFREG | 0o644, packed=zipfile.ZIP_STORED):
    found = zipfile.ZipInfo("placeholder", (1980, 1, 1, 0, 0, 0))
    found.filename = found.orig_filename = name
    found.external_attr, found.create_system, found.compress_type = mode << 16, 3, packed
    return found


HOSTILE = {
    "absolute": [entry("/etc/evil")],
    "above": [entry("../evil")],
    "above, deeper": [entry("a/../../evil")],
    "a drive": [entry("C:/evil")],
    "backslashes": [entry("..\\evil")],
    "hidden": [entry("a/.ssh")],
    "empty part": [entry("a//evil")],
    "a line break": [entry("a\nevil")],
    "a folder": [entry("a/")],
    "a folder by its mode": [entry("a", stat.S_IFDIR | 0o755)],
    "a link": [entry("a", stat.S_IFLNK | 0o777)],
    "a device": [entry("a", stat.S_IFCHR | 0o644)],
    "runs": [entry("a", stat.S_IFREG | 0o4755)],
    "twice": [entry("a"), entry("a")],
    "twice where capitals are the same": [entry("a"), entry("A")],
    "packed": [entry("a", packed=zipfile.ZIP_DEFLATED)],
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_entries_are_refused_before_anything_is_written(tmp_path, case):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as made:
        for one in HOSTILE[case]:
            # 10 MB of zeros: packed they are 10 kB.
            made.writestr(one, bytes(10_000_000) if case == "packed" else b"../../etc/passwd")
    with pytest.raises(EvidenceError, match=r"bad\.zip: entry "):
        read(tmp_path / "bad.zip", tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bad.zip", "out"]


def test_sizes_that_are_not_there_are_refused(made, tmp_path):
    """The directory says that a file has 4 GB; nothing is set aside for them."""
    data = bytearray(made.read_bytes())
    for at in (data.index(b"PK\x01\x02") + 20, data.index(b"PK\x01\x02") + 24):
        data[at : at + 4] = (4_000_000_000).to_bytes(4, "little")
    (tmp_path / "bad.zip").write_bytes(data)
    with pytest.raises(EvidenceError, match=r"'a.txt': packed, or larger than the archive"):
        read(tmp_path / "bad.zip", tmp_path)


def test_many_entries_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_FILES", 2)
    archive.write(tmp_path / "many.zip", FILES)
    with pytest.raises(EvidenceError, match="3 entries, more than any bundle has"):
        read(tmp_path / "many.zip", tmp_path)


def test_an_encrypted_entry_is_refused(made, tmp_path):
    data = bytearray(made.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "bad.zip").write_bytes(data)
    with pytest.raises(EvidenceError, match="encrypted"):
        read(tmp_path / "bad.zip", tmp_path)


def test_no_archive(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        archive.read(tmp_path / "none.zip", tmp_path)
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(EvidenceError, match="no sound archive"):
        read(tmp_path / "text.zip", tmp_path)


def test_a_name_that_could_lead_elsewhere_is_not_written(tmp_path):
    with pytest.raises(UsageError, match=r"'../a' cannot be a name"):
        archive.write(tmp_path / "made.zip", {"../a": b""})
    assert list(tmp_path.iterdir()) == []


def test_the_tool_finds_nothing_wrong(made):
    subprocess.run(["python3", "-m", "zipfile", "-t", str(made)], check=True, capture_output=True)
