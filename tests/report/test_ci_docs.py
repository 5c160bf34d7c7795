"""The pipelines in docs/ci: against the published schemas, and their commands run on a real folder."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import folders
import pytest
from junitparser import JUnitXml
from ruamel.yaml import YAML

from edgekd.report.fitting import LIMIT

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
    scripts = {"edgekd": f'exec {sys.executable} -P -m edgekd "$@"\n', **(stand_ins or {})}
    for name, text in scripts.items():
        (tools / name).write_text("#!/bin/bash\n" + text)
        (tools / name).chmod(stat.S_IRWXU)
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": python_path,
        "GITHUB_STEP_SUMMARY": str(folder / "page.md"),
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
    run = {"Clear the way", "Gate", "Compare with the main branch"}
    assert names == run | STOOD_IN | LEFT_OUT
    for name in LEFT_OUT:  # only the registry is needed
        (script,) = [s["run"] for (_, n), s in github_steps().items() if n == name]
        assert re.fullmatch(r'pip install "edgekd(\[compress\])?==\$EDGEKD_VERSION"', script)


def test_what_is_installed_is_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert load(GITHUB)["env"]["EDGEKD_VERSION"] == load(GITLAB)["variables"]["EDGEKD_VERSION"] == version
    lines = [
        line for path in (GITHUB, GITLAB) for line in path.read_text().splitlines() if "pip install" in line
    ]
    assert len(lines) == 4 and all('==$EDGEKD_VERSION"' in line for line in lines)


def test_github_gate_and_comparison_run(folder):
    steps, env = github_steps(), environment(folder)
    done = bash(steps["gate", "Gate"]["run"], folder, env)
    assert done.returncode == 0, done.stderr
    done = bash(steps["gate", "Compare with the main branch"]["run"], folder, env)
    assert done.returncode == 0, done.stderr
    assert len(JUnitXml.fromfile(str(folder / "junit.xml"))) == 2
    assert (folder / "compare.html").read_text().startswith("<!doctype html>")
    summary = (folder / "page.md").read_text()
    said = "# Gate: PASS\n\nBy the recipe's own policy:\n## edgekd: fashion-mnist: ✅ PASS"
    assert summary.startswith(said)
    assert "\n\nThe main branch has no gate.toml. By the recipe's own policy alone.\n" in summary
    assert "### Against the main branch\n```text\n" in summary and summary.rstrip().endswith("```")
    assert "accuracy" in summary.split("```text")[1] and summary.count("```") == 2


def test_github_gate_is_red_where_the_gate_blocks(folder, make):
    step = github_steps()["gate", "Gate"]["run"]
    shutil.rmtree(folder / "build" / "baseline")
    for wrong, code in ((range(60), 1), (range(17), 3)):
        data = make("PASS", targets=("host", "x86-onnx"))
        folders.fill(data, folder / "build" / "report", wrong={"host": wrong})
        done = bash(step, folder, environment(folder))
        assert done.returncode == code and "no size or latency ratio" in done.stdout
        assert (folder / "junit.xml").exists() and not (folder / "junit-main.xml").exists()
        verdict = {1: "FAIL", 3: "INCONCLUSIVE"}[code]
        assert (folder / "summary.md").read_text().startswith(f"# Gate: {verdict}\n\nBy the recipe's")


def gated(service, folder, policy=None):
    """The gate of a service, with a policy where that service puts it: that of docs/ci where left out."""
    policy = policy or DOCS / "gate.toml"
    if service == "github":
        shutil.copy(policy, folder / "gate.toml")
        return bash(github_steps()["gate", "Gate"]["run"], folder, environment(folder))
    git = f'echo "$@" >> calls\n[ "$1" != show ] || cat {policy}\n'
    done = gitlab_gate(folder, folder / "build" / "baseline", git)
    assert (folder / "calls").read_text().splitlines() == [
        "fetch --quiet --depth 1 origin refs/heads/main",
        "show FETCH_HEAD:gate.toml",
    ]
    return done


def gitlab_gate(folder, mains, git, shell=bash):
    """GitLab's gate; curl stands in for its API and gives the default branch's artifacts, as a zip."""
    job = load(GITLAB)["gate"]
    with zipfile.ZipFile(folder / "stored.zip", "w") as archive:
        for path in sorted(mains.rglob("*")):
            archive.write(path, Path("build/report") / path.relative_to(mains))
    curl = (
        "exit 22\n"
        if not mains.exists()
        else 'echo "$@" > asked\nwhile [ "$1" != --output ]; do shift; done\ncp stored.zip "$2"\n'
    )
    more = {"CI_API_V4_URL": "API", "CI_PROJECT_ID": "5", "CI_DEFAULT_BRANCH": "main", "CI_JOB_TOKEN": "T"}
    env = environment(folder, {"curl": curl, "pip": "true\n", "git": git}, **more)
    return shell("\n".join([*job["before_script"], *job["script"]]), folder, env)


def outcomes(path):
    """Case -> what it is."""
    return {
        case.name: type(case.result[0]).__name__ if case.result else "passed"
        for suite in JUnitXml.fromfile(str(path))
        for case in suite
    }


@pytest.mark.parametrize("service", ["github", "gitlab"])
@pytest.mark.parametrize("slower", [1.0, 1.3])
def test_the_policy_holds_files_to_the_main_branchs(folder, make, service, slower):
    data = make("PASS", targets=("host", "x86-onnx"))
    shutil.rmtree(folder / "build" / "report")
    folders.fill(data, folder / "build" / "report", slower={"host": slower}, seed=9)
    done = gated(service, folder)
    assert done.returncode == (0 if slower == 1.0 else 1), done.stderr
    cases = outcomes(folder / "junit-main.xml")
    expected = "passed" if slower == 1.0 else "Failure"
    assert cases["latency_ratio_median on host"] == cases["latency_ratio_p90 on host"] == expected
    assert cases["size_ratio on host"] == cases["same_teacher on host"] == "passed"
    assert cases["latency_ratio_median on x86-onnx"] == "passed"
    own = outcomes(folder / "junit.xml")
    assert own["accuracy on host"] == "passed" and not any("ratio" in name for name in own)
    summary = (folder / "summary.md").read_text()
    assert summary.startswith(
        f"# Gate: {'PASS' if slower == 1.0 else 'FAIL'}\n\nBy the recipe's own policy:\n##"
    )
    assert "\n\nBy the " in summary and " branch's gate.toml, beside its report:\n##" in summary
    assert summary.count("## edgekd: fashion-mnist:") == 2


# Wrong answers of the host's file: 60 of 2,000 fail a margin of 1 pp, 17 leave it open, 8 pass.
@pytest.mark.parametrize("service", ["github", "gitlab"])
@pytest.mark.parametrize(
    ("wrong", "margin", "slower", "code", "said"),
    [
        (8, 9, 1.0, 0, "PASS"),
        (60, 9, 1.0, 1, "FAIL"),  # a looser policy file does not let it through
        (17, 9, 1.0, 3, "INCONCLUSIVE"),
        (17, 9, 1.3, 1, "FAIL"),
        (8, 0.6, 1.0, 3, "INCONCLUSIVE"),  # a stricter one does not either
        (60, 2.9, 1.0, 1, "FAIL"),  # FAIL by the recipe, INCONCLUSIVE by the file
        (8, None, 1.0, 2, "nothing could be judged, exit code 2"),
        (60, None, 1.0, 2, "nothing could be judged, exit code 2"),
    ],
)
def test_the_worse_of_two_judgements_counts(folder, make, service, wrong, margin, slower, code, said):
    data = make("PASS", targets=("host",))
    shutil.rmtree(folder / "build" / "report")
    places = {"host": range(wrong)}
    folders.fill(data, folder / "build" / "report", wrong=places, slower={"host": slower}, seed=9)
    policy = folder / "asked.toml"
    ratio = "max_latency_ratio = 1.1\nmax_size_ratio = 1.0\n"
    policy.write_text(f"[gate]\nmax_drop_pp = {margin}\n{ratio}" if margin else "[gate]\n")
    done = gated(service, folder, policy)
    assert done.returncode == code, done.stderr
    summary = (folder / "summary.md").read_text()
    assert summary.startswith(f"# Gate: {said}\n\nBy the recipe's own policy:\n")
    assert ("❌ FAIL" in summary) is (wrong == 60 or slower > 1)
    if service == "github":
        assert (folder / "page.md").read_text() == summary


def test_github_compares_with_nothing_where_main_has_no_report(folder):
    shutil.rmtree(folder / "build" / "baseline")
    done = bash(github_steps()["gate", "Compare with the main branch"]["run"], folder, environment(folder))
    assert done.returncode == 0 and not (folder / "compare.html").exists()
    assert "nothing to compare with" in (folder / "page.md").read_text()


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
    (folder / "gate").mkdir()
    (folder / "gate" / "summary.md").write_text("# Gate: FAIL\n\nwhat it decided\n")
    (folder / "build" / "report" / "report.md").write_text("what the pull request's own job wrote\n")
    env = environment(folder, {"gh": GH}, GH_REPO="o/r", NUMBER="7", FOUND=found)
    done = bash(github_steps()["comment", "Comment"]["run"], folder, env)
    assert done.returncode == 0, done.stderr
    assert (folder / "calls").read_text().splitlines()[-1] == call
    body = (folder / "comment.md").read_text()
    assert body == "<!-- edgekd gate -->\n# Gate: FAIL\n\nwhat it decided\n"


def test_a_comment_is_no_longer_than_one_may_be(folder):
    (folder / "gate").mkdir()
    lines = ["# Gate: FAIL", *(f"- ❌ line {i:05d}" for i in range(9000))]
    (folder / "gate" / "summary.md").write_text("\n".join(lines) + "\n")
    env = environment(folder, {"gh": GH}, GH_REPO="o/r", NUMBER="7", FOUND="")
    done = bash(github_steps()["comment", "Comment"]["run"], folder, env)
    assert done.returncode == 0, done.stderr
    mark, *body, last = (folder / "comment.md").read_bytes().decode().splitlines()
    assert mark == "<!-- edgekd gate -->" and last == "_Left out for length: see the page of this run._"
    assert body[-1] == "" and body[:-1] == lines[: len(body) - 1] and len(body) > 3000
    assert len((folder / "comment.md").read_text()) <= LIMIT


def test_the_comment_is_of_what_the_gate_decided():
    jobs = load(GITHUB)["jobs"]
    (upload,) = [s["with"] for s in jobs["gate"]["steps"] if s.get("uses", "").startswith("actions/upload")]
    (download,) = [
        s["with"] for s in jobs["comment"]["steps"] if s.get("uses", "").startswith("actions/down")
    ]
    assert upload["name"] == download["name"] == "edgekd-gate" and download["path"] == "gate"
    assert upload["path"].split() == ["junit.xml", "junit-main.xml", "summary.md", "compare.html"]
    jobs = load(GITLAB)
    assert jobs["comment"]["needs"] == ["gate"] and jobs["comment"]["rules"][0]["when"] == "always"
    assert jobs["comment"]["variables"] == {"GIT_STRATEGY": "empty"}
    assert "summary.md" in jobs["gate"]["artifacts"]["paths"]
    for path in (GITHUB, GITLAB):
        assert "report.md" not in path.read_text()


PLANTED = "judged by whoever made this merge request\n"


def plant(folder, make):
    """What a pull request may commit, so that it lies where its gate works."""
    shutil.rmtree(folder / "build" / "baseline")
    slow = make("PASS", targets=("host", "x86-onnx"))
    folders.fill(slow, folder / "build" / "baseline", slower={"host": 3.0})
    for name in ("summary.md", "judged.md", "main.zip", "policy.toml", "compare.html"):
        (folder / name).write_text(PLANTED)
    (folder / "junit.xml").mkdir()
    shutil.copytree(folder / "build" / "baseline", folder / "main" / "build" / "report")
    for module in ("zipfile", "json", "edgekd", "typer"):
        (folder / f"{module}.py").write_text("open('ran', 'a').write(__name__)\n")


@pytest.mark.parametrize("service", ["github", "gitlab"])
@pytest.mark.parametrize("has_baseline", [True, False])
def test_nothing_that_a_pull_request_plants_is_judged_by(folder, make, service, has_baseline):
    honest = folder / "mains"
    shutil.copytree(folder / "build" / "baseline", honest)
    plant(folder, make)
    data = make("PASS", targets=("host", "x86-onnx"))
    shutil.rmtree(folder / "build" / "report")
    folders.fill(data, folder / "build" / "report", slower={"host": 1.3}, seed=9)
    if service == "gitlab":
        git = f'[ "$1" = fetch ] || cat {DOCS / "gate.toml"}\n'
        done = gitlab_gate(folder, honest if has_baseline else folder / "absent", git)
    else:
        report = folder / "report"
        shutil.copytree(folder / "build" / "report", report)
        steps, env = github_steps(), environment(folder)
        assert bash(steps["gate", "Clear the way"]["run"], folder, env).returncode == 0
        assert not (folder / "build" / "report").exists()  # what else is there is what compress left
        shutil.move(report, folder / "build" / "report")
        if has_baseline:
            shutil.move(honest, folder / "build" / "baseline")
        done = gated(service, folder)
    assert done.returncode == (1 if has_baseline else 0), done.stderr
    assert ("no size or latency ratio" in done.stdout) is not has_baseline
    assert not (folder / "ran").exists()
    text = (folder / "summary.md").read_text()
    assert PLANTED not in text and text.startswith(f"# Gate: {'FAIL' if has_baseline else 'PASS'}\n")
    assert len(JUnitXml.fromfile(str(folder / "junit.xml"))) == 2


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_gitlab_gate_runs(folder, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")

    def run(script, folder, env):
        options = ["-eo", "pipefail"] if shell == "bash" else ["-e"]
        command = [shell, *options, "-c", script]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)

    job = load(GITLAB)["gate"]
    shutil.move(folder / "build" / "baseline", folder / "mains")
    git = f'[ "$1" = fetch ] || cat {DOCS / "gate.toml"}\n'
    done = gitlab_gate(folder, folder / "mains", git, run)
    assert done.returncode == 0, done.stderr
    asked = (folder / "asked").read_text()
    assert "JOB-TOKEN: T" in asked and "API/projects/5/jobs/artifacts/main/download?job=compress" in asked
    for name in ("compare.html", "junit.xml", "junit-main.xml", "summary.md"):
        assert (folder / name).stat().st_size > 500
    assert "Accuracy of host: paired on the same 2,000 samples" in " ".join(done.stdout.split())
    assert job["artifacts"]["reports"]["junit"] == ["junit.xml", "junit-main.xml"]
    assert job["artifacts"]["when"] == "always"


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
    assert not (folder / "calls").exists()  # the gate left nothing
    (folder / "summary.md").write_text("# Gate: FAIL\n")
    assert bash("\n".join(job["script"]), folder, env).returncode == 0
    calls = (folder / "calls").read_text().splitlines()
    assert calls[-3:] == [
        "--data-urlencode",
        "body@summary.md",
        "API/projects/5/merge_requests/8/notes",
    ]


def test_the_readme_names_what_there_is():
    text = (DOCS / "README.md").read_text()
    for path in (*DOCS.glob("*.yml"), *DOCS.glob("*.toml")):
        assert f"({path.name})" in text
    assert "tests/report/test_ci_docs.py" in text and (ROOT / "tests/report/test_ci_docs.py").exists()
