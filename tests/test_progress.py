import io
import sys

import pytest
from nets import run_python
from rich.console import Console

from edgekd import progress
from edgekd.progress import Display


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def plain():
    out = io.StringIO()
    return Display(Console(file=out, width=80)), out


def test_off_a_terminal_a_line_comes_every_15_seconds(monkeypatch):
    clock = Clock(monkeypatch)
    display, out = plain()
    for _ in display.track(range(10), "student", 10):
        clock.now += 6
    # After 18 s three of ten are done: seven more take 42 s; after 36 s six, the rest 24 s; and so on.
    assert out.getvalue().splitlines() == [
        "  student: 3/10, about 42 s left",
        "  student: 6/10, about 24 s left",
        "  student: 9/10, about 6 s left",
    ]


def test_quick_work_says_nothing(monkeypatch):
    Clock(monkeypatch)
    display, out = plain()
    assert list(display.track("abc", "student", 3)) == ["a", "b", "c"]
    assert out.getvalue() == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_items_come_unchanged_and_one_by_one(terminal):
    taken = []

    def items():
        for i in range(4):
            taken.append(i)
            yield i

    display = Display(Console(file=io.StringIO(), force_terminal=terminal))
    tracked = display.track(items(), "x", 4)
    assert next(iter(tracked)) == 0
    assert taken == [0]
    assert list(tracked) == [1, 2, 3]


def test_on_a_terminal_a_bar_shows_after_two_seconds(monkeypatch):
    out = io.StringIO()
    display = Display(Console(file=out, force_terminal=True, width=100))
    monkeypatch.setattr(progress, "BAR_AFTER_S", 3600.0)
    list(display.track(range(5), "student", 5))
    assert "student" not in out.getvalue()
    monkeypatch.setattr(progress, "BAR_AFTER_S", -1.0)
    list(display.track(range(5), "student", 5))
    assert "student" in out.getvalue()
    assert "5/5" in out.getvalue()


CHATTER = """
import os, sys
from pathlib import Path
from edgekd.progress import chatter_to
log = Path(sys.argv[1])
print("before")
with chatter_to(log) as console:
    console.print("for people")
    print("from python")
    print("to stderr", file=sys.stderr)
    os.write(1, b"from C\\n")
    os.system("echo from a child >&2")
try:
    with chatter_to(log):
        print("again")
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
print("after")
"""


def test_chatter_goes_to_the_log_and_words_for_people_to_the_screen(tmp_path):
    log = tmp_path / "new" / "run.log"
    out = run_python(CHATTER, log)
    assert out.splitlines() == ["before", "for people", "after"]
    told = sorted(log.read_text().splitlines())
    assert told == ["again", "from C", "from a child", "from python", "to stderr"]


def test_chatter_ends_with_no_descriptor_left_open(tmp_path):
    code = """
import os, sys
from pathlib import Path
from edgekd.progress import chatter_to
count = lambda: len(os.listdir("/proc/self/fd"))
before = count()
for _ in range(3):
    with chatter_to(Path(sys.argv[1])):
        pass
print(count() - before)
"""
    assert run_python(code, tmp_path / "run.log").strip() == "0"


BAR_OF_FAILED_WORK = """
import sys
from rich.console import Console
from edgekd.progress import Display
def work(display):
    steps = iter(display.track(range(5), "student", 5))
    next(steps)
    raise ZeroDivisionError  # the traceback holds this frame, and the frame the bar
real = sys.stdout
try:
    with Display(Console(force_terminal=True)) as display:
        work(display)
except ZeroDivisionError as error:
    assert sys.stdout is real, "the bar still stands before the terminal"
    print("told")
"""


def test_work_that_fails_leaves_no_bar_behind():
    out = run_python(BAR_OF_FAILED_WORK)
    assert out.count("\x1b[?25l") == out.count("\x1b[?25h") == 1, "the cursor is hidden, and shown again"
    assert out.endswith("told\n")


def test_a_quiet_display_starts_no_bar():
    display = Display(Console(file=io.StringIO(), force_terminal=True, quiet=True))
    tracked = display.track(range(3), "x", 3)
    assert next(tracked) == 0
    assert "rich" not in type(sys.stdout).__module__, "a bar that nobody sees stands before stdout"
