from edgekd.report.schema import dumps


def write(report, folder):
    (folder / "report.json").write_text(dumps(report))
