"""What the commands that take `-f` share: from file names to resources and reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import click

from felixpy.ctl.connect import print_error, print_warning
from felixpy.ctl.manifests import Document, Manifest, Problem, Report, Severity, Source
from felixpy.ctl.reading.files import STDIN, NoText, decode, read_files
from felixpy.ctl.reading.intake import Intake, take_in
from felixpy.ctl.reading.yaml_text import YamlError, parse_documents


def collect(names: Sequence[str], recursive: bool, namespace: str) -> Intake:
    """All resources in the files; a file that is no text, or no YAML, is reported, and the others are still taken.

    No document at all is reported too: whatever was to write some has failed.

    Raises  click.UsageError when a file cannot be read.
    """
    documents: list[Document] = []
    broken: list[Report] = []
    try:
        for file, content in read_files(names, recursive):
            try:
                documents.extend(parse_documents(decode(content), file))
            except NoText as error:
                broken.append(Report("", Source(file), Problem((), str(error))))
            except YamlError as error:
                why = f"{error.why}: it is read no further"
                broken.append(Report("", Source(error.place), Problem((), why)))
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from None
    if not documents and not broken:
        files = ", ".join(STDIN if name == "-" else name for name in names)
        broken.append(Report("", Source(files), Problem((), "there is no document in it")))
    intake = take_in(documents, namespace)
    return replace(intake, reports=(*broken, *intake.reports))


def checked(manifests: Iterable[Manifest]) -> tuple[list[Manifest], list[Report]]:
    """The manifests that may be written, and what there is to say about all of them."""
    from felixpy.ctl.validate import check

    good: list[Manifest] = []
    reports: list[Report] = []
    for manifest in manifests:
        problems = check(manifest)
        reports += reports_of(manifest, problems)
        if not any(problem.severity is Severity.ERROR for problem in problems):
            good.append(manifest)
    return good, reports


def reports_of(manifest: Manifest, problems: Iterable[Problem]) -> list[Report]:
    """Each problem with the object's name and the field's line."""
    return [
        Report(
            str(manifest),
            replace(manifest.source, line=manifest.line_of(problem.path) or manifest.source.line),
            problem,
        )
        for problem in problems
    ]


def print_reports(reports: Iterable[Report]) -> int:
    """Prints them to standard error; how many were errors."""
    errors = 0
    for report in reports:
        if report.problem.severity is Severity.ERROR:
            errors += 1
            print_error(f"error: {report}")
        else:
            print_warning(str(report))
    return errors
