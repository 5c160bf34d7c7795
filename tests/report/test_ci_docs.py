"""The pipelines in docs/ci: against the published schemas, and their commands run on a real folder."""

import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import folders
import pytest
from junitparser import JUnitXml
from ruamel.yaml import YAML

from edgekd.report.fitting import BODY, LIMIT

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "ci"
GITHUB, GITLAB = DOCS / "github-gate.yml", DOCS / "gitlab-gate.yml"
# What needs the training half, a package registry or the service itself. The others are run; these are
# run with a stand-in for the command that they call, or not at all.
STOOD_IN = {"Compress", "Fetch the report of the main branch", "Comment"}
LEFT_OUT = {"Install the training half", "Install the release half"}


def load(path):
    return YAML(typ="safe").load(path)


def github_steps():
    """(job, name) -> script, with the environment of its step."""
    jobs = load(GITHUB)["jobs"]
    return {
        (job, step["name"]): step
        for job, content in jobs.items()
        for step in content["steps"]
        if "run" in step
    }


def environment(folder, stand_ins=None, **more):
    """What a step sees: the workflow's own variables, edgekd on the path, and stand-ins before it."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    scripts = {"edgekd": f'exec {sys.executable} -m edgekd "$@"\n', **(stand_ins or {})}
    for name, text in scripts.items():
        (tools / name).write_text("#!/bin/bash\n" + text)
        (tools / name).chmod(stat.S_IRWXU)
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": python_path,
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "EDGEKD_STORE": str(folder / "store"),
        **{key: str(value) for key, value in load(GITHUB)["env"].items()},
        **more,
    }


def bash(script, folder, env):
    """As GitHub runs `shell: bash`."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(make, tmp_path):
    """A checkout with a report, and the main branch's beside it."""
    for name, wrong in (("report", range(8)), ("baseline", range(4))):
        data = make("PASS", targets=("host", "x86-onnx"))
        folders.fill(data, tmp_path / "build" / name, wrong={"host": wrong}, seed=len(name))
    return tmp_path


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        (GITHUB, "vendor.github-workflows"),
        (GITHUB, "custom.github-workflows-require-timeout"),
        (GITLAB, "vendor.gitlab-ci"),
    ],
)
def test_the_published_schemas_hold(path, schema, tmp_path):
    def check(file):
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = check(path)
    assert found.returncode == 0, found.stdout
    # And they would not, were a key misspelt.
    broken = tmp_path / path.name
    key = "timeout-minutes:" if "timeout" in schema else "needs:"
    broken.write_text(path.read_text().replace(key, f"x-{key}", 1))
    assert check(broken).returncode == 1


def test_github_grants_as_little_as_it_can():
    workflow = load(GITHUB)
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow["on"]) == {"pull_request", "push"}  # pull_request_target would hand out secrets
    granted = {name: job.get("permissions") for name, job in workflow["jobs"].items()}
    assert granted == {
        "compress": None,
        "gate": {"contents": "read", "actions": "read"},
        "comment": {"pull-requests": "write"},
    }
    text = GITHUB.read_text()
    assert "secrets." not in text
    # The jobs with a right beyond reading run nothing of the pull request's.
    checkouts = {
        name: [s["with"] for s in job["steps"] if s.get("uses", "").startswith("actions/checkout")]
        for name, job in workflow["jobs"].items()
    }
    assert [len(found) for found in checkouts.values()] == [1, 1, 0]
    (policy,) = checkouts["gate"]
    assert policy["ref"] == "${{ github.event.pull_request.base.sha || github.sha }}"
    assert policy["sparse-checkout"] == "${{ env.POLICY }}"
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@(v\d+|[0-9a-f]{40})", step["uses"])
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False


def test_every_step_is_run_or_left_out_by_name(folder):
    names = {name for _, name in github_steps()}
    run = {"Gate", "Compare with the main branch"}
    assert names == run | STOOD_IN | LEFT_OUT
    for name in LEFT_OUT:  # only the registry is needed
        (script,) = [s["run"] for (_, n), s in github_steps().items() if n == name]
        assert re.fullmatch(r"pip install (edgekd|'edgekd\[compress\]')", script)


def test_github_gate_and_comparison_run(folder):
    steps, env = github_steps(), environment(folder)
    done = bash(steps["gate", "Gate"]["run"], folder, env)
    assert done.returncode == 0, done.stderr
    done = bash(steps["gate", "Compare with the main branch"]["run"], folder, env)
    assert done.returncode == 0, done.stderr
    assert len(JUnitXml.fromfile(str(folder / "junit.xml"))) == 2
    assert (folder / "compare.html").read_text().startswith("<!doctype html>")
    summary = (folder / "summary.md").read_text()
    said = "Judged by the recipe's own policy, beside no other report.\n"
    assert summary.startswith(f"{said}## edgekd: fashion-mnist: ✅ PASS")
    assert "### Against the main branch\n```text\n" in summary and summary.rstrip().endswith("```")
    assert "accuracy" in summary.split("```text")[1] and summary.count("```") == 2


def test_github_gate_is_red_where_the_gate_blocks(folder, make):
    step = github_steps()["gate", "Gate"]["run"]
    shutil.rmtree(folder / "build" / "baseline")
    for wrong, code in ((range(60), 1), (range(17), 3)):
        data = make("PASS", targets=("host", "x86-onnx"))
        folders.fill(data, folder / "build" / "report", wrong={"host": wrong})
        assert bash(step, folder, environment(folder)).returncode == code
        assert (folder / "junit.xml").exists()


def gated(service, folder):
    """The gate of a service, with the policy of docs/ci where that service puts it."""
    if service == "github":
        shutil.copy(DOCS / "gate.toml", folder / "gate.toml")
        return bash(github_steps()["gate", "Gate"]["run"], folder, environment(folder))
    job = load(GITLAB)["gate"]
    git = f'echo "$@" >> calls\n[ "$1" != show ] || cat {DOCS / "gate.toml"}\n'
    stand_ins = {"curl": "exit 22\n", "pip": "true\n", "git": git}
    env = environment(folder, stand_ins, CI_DEFAULT_BRANCH="main")
    done = bash("\n".join([*job["before_script"], *job["script"]]), folder, env)
    assert (folder / "calls").read_text().splitlines() == [
        "fetch --quiet --depth 1 origin main",
        "show FETCH_HEAD:gate.toml",
    ]
    return done


@pytest.mark.parametrize("service", ["github", "gitlab"])
@pytest.mark.parametrize("slower", [1.0, 1.3])
def test_the_policy_holds_files_to_the_main_branchs(folder, make, service, slower):
    data = make("PASS", targets=("host", "x86-onnx"))
    shutil.rmtree(folder / "build" / "report")
    folders.fill(data, folder / "build" / "report", slower={"host": slower}, seed=9)
    done = gated(service, folder)
    assert done.returncode == (0 if slower == 1.0 else 1), done.stderr
    cases = {
        case.name: type(case.result[0]).__name__ if case.result else "passed"
        for suite in JUnitXml.fromfile(str(folder / "junit.xml"))
        for case in suite
    }
    expected = "passed" if slower == 1.0 else "Failure"
    assert cases["latency_ratio_median on host"] == cases["latency_ratio_p90 on host"] == expected
    assert cases["size_ratio on host"] == cases["same_teacher on host"] == "passed"
    assert cases["latency_ratio_median on x86-onnx"] == "passed"


def test_github_compares_with_nothing_where_main_has_no_report(folder):
    shutil.rmtree(folder / "build" / "baseline")
    done = bash(github_steps()["gate", "Compare with the main branch"]["run"], folder, environment(folder))
    assert done.returncode == 0 and not (folder / "compare.html").exists()
    assert "nothing to compare with" in (folder / "summary.md").read_text()


@pytest.mark.parametrize(
    ("code", "passed_on"), [(0, 0), (1, 0), (3, 0), (2, 2), (4, 4), (70, 70), (130, 130)]
)
def test_a_run_without_a_report_stops_the_pipeline(folder, code, passed_on):
    env = environment(folder, {"edgekd": f'echo "$@" > called\nexit {code}\n'})
    scripts = [github_steps()["compress", "Compress"]["run"], *load(GITLAB)["compress"]["script"]]
    for script in scripts:
        assert bash(script, folder, env).returncode == passed_on
        assert (folder / "called").read_text() == "run recipe.toml --workdir build/report\n"


# Writes down how it was called; what is asked for by number gives FOUND.
GH = """echo "$@" >> calls
case "$1 $2" in "api --paginate" | "run list") echo "$FOUND" ;; esac
"""


@pytest.mark.parametrize("found", ["", "41"])
def test_the_main_branchs_report_is_that_of_a_push(folder, found):
    step = github_steps()["gate", "Fetch the report of the main branch"]
    env = environment(folder, {"gh": GH}, WORKFLOW="edgekd gate", FOUND=found)
    assert bash(step["run"], folder, env).returncode == 0
    calls = (folder / "calls").read_text().splitlines()
    assert "--branch main --event push --status success" in calls[0]
    assert calls[1:] == (["run download 41 --name edgekd-report --dir build/baseline"] if found else [])


@pytest.mark.parametrize(
    ("found", "call"),
    [
        ("", "pr comment 7 --body-file comment.md"),
        ("3\n9", "api --method PATCH repos/o/r/issues/comments/9 --field body=@comment.md"),
    ],
)
def test_one_comment_is_kept_up_to_date(folder, found, call):
    env = environment(folder, {"gh": GH}, GH_REPO="o/r", NUMBER="7", FOUND=found)
    done = bash(github_steps()["comment", "Comment"]["run"], folder, env)
    assert done.returncode == 0, done.stderr
    assert (folder / "calls").read_text().splitlines()[-1] == call
    body = (folder / "comment.md").read_text()
    assert body.startswith("<!-- edgekd gate -->\n# fashion-mnist: PASS")
    assert len("<!-- edgekd gate -->\n") + BODY < LIMIT


def test_gitlab_gate_runs(folder):
    """The curl stands in for GitLab's API and gives the default branch's artifacts as a zip."""
    job = load(GITLAB)["gate"]
    shutil.move(folder / "build" / "baseline", folder / "mains")
    with zipfile.ZipFile(folder / "stored.zip", "w") as archive:
        for path in sorted((folder / "mains").rglob("*")):
            archive.write(path, Path("build/report") / path.relative_to(folder / "mains"))
    curl = 'echo "$@" > calls\nwhile [ "$1" != --output ]; do shift; done\ncp stored.zip "$2"\n'
    more = {"CI_API_V4_URL": "API", "CI_PROJECT_ID": "5", "CI_DEFAULT_BRANCH": "main", "CI_JOB_TOKEN": "T"}
    env = environment(folder, {"curl": curl, "pip": "true\n", "git": '[ "$1" = fetch ]\n'}, **more)
    done = bash("\n".join([*job["before_script"], *job["script"]]), folder, env)
    assert done.returncode == 0, done.stderr
    called = (folder / "calls").read_text()
    assert "JOB-TOKEN: T" in called and "API/projects/5/jobs/artifacts/main/download?job=compress" in called
    for name in ("compare.html", "junit.xml", "summary.md"):
        assert (folder / name).stat().st_size > 500
    assert "Accuracy of host: paired on the same 2,000 samples" in " ".join(done.stdout.split())
    assert job["artifacts"]["reports"]["junit"] == "junit.xml" and job["artifacts"]["when"] == "always"


def test_gitlab_goes_on_without_a_report_of_the_default_branch(folder):
    job = load(GITLAB)["gate"]
    shutil.rmtree(folder / "build" / "baseline")
    git = '[ "$1" = fetch ]\n'  # the default branch has no policy
    env = environment(folder, {"curl": "exit 22\n", "pip": "true\n", "git": git})
    done = bash("\n".join([*job["before_script"], *job["script"]]), folder, env)
    assert done.returncode == 0, done.stderr
    assert "nothing to compare with" in done.stdout and (folder / "junit.xml").exists()


def test_gitlab_gate_is_red_where_the_gate_blocks(folder, make):
    folders.fill(make("PASS", targets=("host",)), folder / "build" / "report", wrong={"host": range(60)})
    assert bash("\n".join(load(GITLAB)["gate"]["script"]), folder, environment(folder)).returncode == 1


def test_gitlab_comments_only_where_there_is_a_token(folder):
    job = load(GITLAB)["comment"]
    assert "$EDGEKD_NOTE_TOKEN" in job["rules"][0]["if"]
    more = {
        "CI_API_V4_URL": "API",
        "CI_PROJECT_ID": "5",
        "CI_MERGE_REQUEST_IID": "8",
        "EDGEKD_NOTE_TOKEN": "N",
    }
    env = environment(folder, {"curl": 'printf "%s\\n" "$@" > calls\n'}, **more)
    assert bash("\n".join(job["script"]), folder, env).returncode == 0
    calls = (folder / "calls").read_text().splitlines()
    assert calls[-3:] == [
        "--data-urlencode",
        "body@build/report/report.md",
        "API/projects/5/merge_requests/8/notes",
    ]


def test_the_readme_names_what_there_is():
    text = (DOCS / "README.md").read_text()
    for path in (*DOCS.glob("*.yml"), *DOCS.glob("*.toml")):
        assert f"({path.name})" in text
    assert "tests/report/test_ci_docs.py" in text and (ROOT / "tests/report/test_ci_docs.py").exists()
