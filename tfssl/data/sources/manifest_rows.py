"""The rows of a manifest, from a CSV file or JSON lines; see `manifest`."""

import csv
import io
import json

import tensorflow as tf

from tfssl.data.sources import aligned

ENDINGS = (".csv", ".jsonl")
BETWEEN = "|"  # Classes of an image in CSV.
_COLUMNS = ("path", "label", "labels", "split")


def refused(path, line, what):
    """The `ValueError` for a line of a manifest that cannot be used."""
    return ValueError(f"{path}, line {line}: {what}")


def read(path, more=()):
    """The lines of a manifest, with nothing but the columns that count.

    Args:
        path: see `manifest.manifest`.
        more: names of columns besides.

    Returns:
        `[(line number, row dict)]`, None where a row does not have a column.

    Raises:
        ValueError: for another file.
    """
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
        raise ValueError(f"There is no manifest at {path!r}; check the path.")
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise refused(path, line, "not UTF-8; save the manifest as UTF-8.") from error
    if path.lower().endswith(".jsonl"):
        rows = _json_rows(path, text, (*_COLUMNS, *more))
    elif path.lower().endswith(".csv"):
        rows = _csv_rows(path, text, (*_COLUMNS, *more))
    else:
        raise ValueError(
            f"The manifest {path!r} received, expected a file that ends in "
            f"{' or '.join(ENDINGS)}."
        )
    rows = [(line, _counting(row, more)) for line, row in rows]
    for line, row in rows:
        _check_spaces(path, line, row, (*_COLUMNS[1:], *more))
    if not rows:
        raise ValueError(f"The manifest {path!r} lists no image; add rows to it.")
    return rows


def _check_titles(path, line, titles, known):
    """Refuses columns that count but for a space or a capital, or stand there twice."""
    for title in titles:
        meant = title.strip().lower()
        if meant in known and meant not in titles:
            raise refused(
                path, line, f"a column {title!r}, expected {meant!r}; write it so."
            )
        if title in known and titles.count(title) > 1:
            raise refused(path, line, f"several columns {title!r}; leave one of them.")


def _csv_rows(path, text, known):
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = list(reader.fieldnames or [])
        _check_titles(path, 1, header, known)
        if header and "path" not in header:
            raise refused(
                path, 1, f"columns {', '.join(header)}, but none is called 'path'."
            )
        for row in reader:
            if None in row or None in row.values():
                found = sum(v is not None for k, v in row.items() if k is not None)
                found += len(row.get(None, ()))
                raise refused(
                    path,
                    reader.line_num,
                    f"{found} values for {len(header)} columns; quote values that "
                    "hold commas.",
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise refused(
            path, reader.reader.line_num, f"not CSV ({error}); repair the line."
        ) from error


def _json_rows(path, text, known):
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            row = json.loads(row)
        except (json.JSONDecodeError, RecursionError) as error:
            what = getattr(error, "msg", "nested too deeply")
            raise refused(path, line, f"not JSON ({what}); repair the line.") from error
        if not isinstance(row, dict) or "path" not in row:
            raise refused(path, line, "no 'path'; expected an object that has one.")
        _check_titles(path, line, list(row), known)
        yield line, row


def _counting(row, more):
    """The columns that count of a row."""
    return {key: row.get(key) for key in (*_COLUMNS, *more)} | {
        key: row[key] for key in further(row)
    }


def _check_spaces(path, line, row, titles):
    """Refuses names with a space at an end, which would be others than those without.

    Files may have such names.
    """
    for title in titles:
        given = row[title]
        if title == "labels" and isinstance(given, str):
            given = given.split(BETWEEN)
        for name in given if isinstance(given, list) else [given]:
            if isinstance(name, str) and name != name.strip():
                raise refused(
                    path,
                    line,
                    f"{title} {name!r}, with a space before or behind; write it as "
                    f"{name.strip()!r}.",
                )


def further(row):
    """The columns of a row that name further files of its image."""
    return [key for key in row if key.startswith(aligned.PREFIX)]
