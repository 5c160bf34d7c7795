"""The release half of the command line: what is asked of a finished run or of anyone's predictions.

As in `cli.py`: parse, call one function, print, exit code; nothing heavy is imported at the top.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Junit = Annotated[
    Path | None, typer.Option(help="Write the checks as JUnit XML: a case for each check, slice and target.")
]
JobSummary = Annotated[
    Path | None, typer.Option(help="Append a short Markdown summary to this file: $GITHUB_STEP_SUMMARY.")
]


def gate(
    report: Annotated[
        Path | None, typer.Argument(help="A report.json, or the folder that it lies in.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="The teacher's predictions: .csv, .parquet or .npz, in place of a report."),
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="A candidate's predictions, PATH or NAME=PATH; may stand again.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A TOML file with a table named gate.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="With --baseline: accuracy, top_5, f1_macro, auc, rmse, ndcg@10, hit@10."),
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="With --baseline: the column of queries, for ndcg@K and hit@K.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", help="Margin: percentage points, or the metric's own unit.")
    ] = None,
    assumed_drop: Annotated[
        float, typer.Option(min=0, help="With --baseline: the true drop that samples are counted for.")
    ] = 0.0,
    baseline_report: Annotated[
        Path | None,
        typer.Option(help="Another report, for the policy's max_latency_ratio and max_size_ratio."),
    ] = None,
    junit: Junit = None,
    summary: JobSummary = None,
    json_: Json = False,
) -> None:
    """Judge a report again from its stored predictions and timings, or anyone's predictions."""
    from edgekd import ci_files, terminal, terminal_report
    from edgekd.errors import UsageError

    if (report is None) == (baseline is None):
        raise UsageError("give a report, or --baseline and --candidate", hint="edgekd gate --help")
    if baseline is not None:
        from edgekd import own_predictions

        if baseline_report is not None:
            raise UsageError("--baseline-report goes with a report, not with --baseline")

        answer = own_predictions.judge(
            baseline,
            own_predictions.named(candidate or ()),
            own_predictions.policy_of(policy, metric, max_drop, query),
            assumed_drop,
        )
        ci_files.write(answer, junit, summary)
        if json_:
            terminal.emit_json(own_predictions.as_dict(answer))
        else:
            terminal_report.show_answer(answer)
        raise typer.Exit(answer.verdict.exit_code)
    from edgekd.rejudge import judge_again

    assert report is not None
    if candidate or metric is not None or query is not None or assumed_drop:
        raise UsageError(
            "--candidate, --metric, --query and --assumed-drop go with --baseline",
            hint="a report has its own",
        )
    judged = judge_again(report, max_drop, policy, baseline_report)
    ci_files.write(judged, junit, summary)
    if json_:
        terminal.emit_json(judged.verdict.model_dump(mode="json"))
    else:
        terminal_report.show_verdict(judged)
    raise typer.Exit(judged.verdict.exit_code)


def bundle(
    workdir: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The archive to write.")],
    license_: Annotated[
        str, typer.Option("--license", help="Of the files that ship, an SPDX expression: Apache-2.0, MIT ...")
    ],
    key: Annotated[
        Path | None,
        typer.Option(help="A private Ed25519 key (PEM); its password, if any, in EDGEKD_KEY_PASSWORD."),
    ] = None,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Pack the test split's inputs too: mind whose data they are.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an archive that is there.")] = False,
    json_: Json = False,
) -> None:
    """Pack a finished run: what ships, what its verdict rests on, a model card; signed with --key."""
    import os

    from edgekd import terminal, terminal_bundle
    from edgekd.bundle import pack

    signer = None
    if key is not None:
        from edgekd.bundle import signing

        signer = signing.private_key(key, os.environ.get("EDGEKD_KEY_PASSWORD"))
    packed = pack.bundle(workdir, output, license_=license_, signer=signer, inputs=inputs, force=force)
    if json_:
        terminal.emit_json(packed)
    else:
        terminal_bundle.show_packed(packed)


def verify(
    archive: Annotated[Path, typer.Argument(help="What `edgekd bundle` wrote.")],
    key: Annotated[Path | None, typer.Option(help="The signer's public Ed25519 key (PEM).")] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Take a bundle that nobody vouches for, instead of --key.")
    ] = False,
    json_: Json = False,
) -> None:
    """Check a bundle and judge again from it alone; exit code as of gate, 4 where it is not what it says."""
    from edgekd import terminal, terminal_bundle
    from edgekd.bundle import archive as archives
    from edgekd.bundle import verify as verification
    from edgekd.errors import UsageError

    archives.check_there(archive)  # before what is asked about its signature
    if (key is None) is not unsigned:
        raise UsageError("give --key pub.pem, or --unsigned where nobody is to vouch for the bundle")
    public = None
    if key is not None:
        from edgekd.bundle import signing

        public = signing.public_key(key)
    found = verification.verify(archive, public)
    if json_:
        verdict = found.report.verdict.model_dump(mode="json")
        terminal.emit_json(
            {
                "key_id": found.key_id,
                "license": found.license_,
                "num_files": found.num_files,
                "verdict": verdict,
            }
        )
    else:
        terminal_bundle.show_verified(found, archive)
    raise typer.Exit(found.report.verdict.exit_code)


def compare(
    old: Annotated[Path, typer.Argument(help="A report.json, or the folder that it lies in.")],
    new: Annotated[Path, typer.Argument(help="Another.")],
    html: Annotated[
        Path | None, typer.Option(help="Write a page of it, one file that works offline.")
    ] = None,
    json_: Json = False,
) -> None:
    """Compare two reports: what got better or worse, beyond noise or not. Informs; `gate` judges."""
    from edgekd import comparing, terminal, terminal_compare
    from edgekd.errors import UsageError
    from edgekd.report import compare as pages
    from edgekd.store import write_atomic

    if html is not None and (html.is_dir() or not html.parent.is_dir()):
        raise UsageError(f"--html {html}: no file can be written there", hint="its folder must exist")
    found = comparing.compare(old, new)
    if html is not None:
        write_atomic(html, pages.html(found))
    if json_:
        terminal.emit_json(comparing.as_dict(found))
    else:
        terminal_compare.show_comparison(found)
