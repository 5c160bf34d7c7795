"""Reports: report.json with its schema, and the Markdown and HTML made from it."""

from edgekd.report.schema import Report, dumps, json_schema, parse

__all__ = ["Report", "dumps", "json_schema", "parse"]
