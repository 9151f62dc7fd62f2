"""A manifest of video frames that belong together, of a manifest of single frames."""

import collections
import csv
import hashlib
import io
import json
import os
from typing import Annotated

import numpy as np
import tensorflow as tf

from tfssl import files, locks
from tfssl import progress as progress_lib
from tfssl.data import bad_files, running
from tfssl.data.sources import aligned, image_folder, manifest, manifest_rows
from tfssl.tasks import arguments, groups
from tfssl.tasks.arguments import Path, Range

INSTALL = "pip install 'tfssl[flow]'"
BOUND = 20  # Pixels between two frames, in each direction, that a flow file holds.
_AXES = ("x", "y")
_LATER = f"{aligned.PREFIX}later:rgb"


@arguments.task
def pair_frames(
    frames: Path,
    out: Path,
    *,
    ahead: groups.CountOrNone = None,
    flow_fields: Annotated[int, Range(0, 100)] = 0,
    root: Path | None = None,
    verbose: groups.Verbose = 1,
):
    """Writes a manifest whose images are a frame with a later one, or with its flow.

    A frame becomes an image of further files (see `data.sources.manifest`): behind its
    red, green and blue the frame `ahead` numbers later (channels 3 to 5), and behind
    that `flow_fields` fields of optical flow around it, two channels each, right and
    down. So nothing else is needed to learn from video. A frame whose clip does not
    have all of the frames that this takes, in the frame's own split, is left out.

    A field is the motion of every pixel from a frame to the next, of grey frames, by
    OpenCV's DIS (preset medium). The fields of frame t begin at t - flow_fields // 2.
    They are stored as PNG files beside `out`, where 128 is 0 and 255 is 20 pixels;
    faster pixels are held as these. Files that are there are kept, so that a run that
    was stopped goes on, in a folder for each clip, which is another one if the clip's
    name, or the path or number of one of its frames, is; delete it when a file of
    frames has other content.

    Args:
        frames: manifest of the frames, with the columns `path`, `clip` (any text; a
            number is the text of it) and `frame` (a whole number). Other columns that
            manifests know are kept.
        out: the manifest that is written, in the folder of `frames` and of its kind.
        ahead: how many numbers later the other frame is; None takes no other. Frames
            that are taken as later ones are PNG, JPEG or TIFF files in RGB.
        flow_fields: fields of flow for each frame, 10 in Simonyan and Zisserman, 2014.
        root: a second folder that frames may lie in, as of manifests.
        verbose: 0 silent, 1 progress.

    Returns:
        `out`.

    Raises:
        ValueError: for a manifest without these columns, a frame that comes twice,
            lies elsewhere or cannot be read, a later frame that is not in RGB or of
            another size, clips that are too short, and where OpenCV is not installed.
    """
    if ahead is None and not flow_fields:
        raise ValueError(
            "Neither ahead nor flow_fields received; give the frame that is wanted "
            "beside each (ahead=10), or how many fields of flow, or both."
        )
    _check_out(frames, out)
    flow_of = _flow() if flow_fields else None
    rows = manifest_rows.read(frames, ("clip", "frame"))
    again = sorted(set(_titles(ahead, flow_fields)) & set(rows[0][1]))
    if again:
        raise ValueError(
            f"{frames} has the column {again[0]} already; give the manifest of single "
            "frames."
        )
    clips = _clips(frames, rows)
    folder = os.path.dirname(frames)
    allowed = [folder or "."] + ([root] if root else [])
    (of_frames,) = manifest.files_of(frames, rows, folder, allowed, [])
    splits = [row["split"] for _, row in rows]
    found = _windows(clips, splits, ahead, flow_fields)
    if not found:
        longest = max(map(len, clips.values()))
        raise ValueError(
            f"No frame of {frames} has ahead={ahead} and flow_fields={flow_fields}: "
            f"the longest of {len(clips)} clips has {longest} frames; ask for less, or "
            "give longer clips, numbered without gaps."
        )
    if ahead:
        later = [clips[clip][t + ahead] for (clip, t), _ in found]
        pairs = [(place, other) for (_, place), other in zip(found, later)]
        _check_pairs(frames, of_frames, pairs, bool(verbose))
    with locks.hold(folder or ".", os.path.basename(out)):
        stored = {}
        if flow_fields:
            fields_in = f"{os.path.splitext(os.path.basename(out))[0]}_flow"
            wanted = {pair for pair, _ in found for pair in _fields(*pair, flow_fields)}
            stored = _write_flow(
                image_folder.FileSource(of_frames, name=frames, channels=1),
                rows,
                clips,
                sorted(wanted),
                os.path.join(folder, fields_in),
                flow_of,
                bool(verbose),
            )
        written = [
            _row(rows[place][1], rows, clips, clip, t, ahead, flow_fields, stored)
            for (clip, t), place in found
        ]
        files.write_text(out, _text(out, written))
    if verbose:
        print(
            f"{out}: {len(written)} images of {len(rows)} frames in {len(clips)} "
            f"clips; {len(rows) - len(written)} have not all that they take in their "
            "split."
        )
    return out


def _check_out(frames, out):
    ending = os.path.splitext(frames)[1].lower()
    same = os.path.realpath(os.path.dirname(frames) or ".") == os.path.realpath(
        os.path.dirname(out) or "."
    )
    if not same or not out.lower().endswith(ending):
        raise ValueError(
            f"out={out!r} received, expected a file that ends in {ending} in the "
            f"folder of {frames!r}, since a manifest names files from its own folder."
        )
    if os.path.basename(out) == os.path.basename(frames):
        raise ValueError(f"out={out!r} is the manifest of the frames; name another.")


def _clips(path, rows):
    """Dict of a clip's name to a dict of frame number to the place of its row."""
    clips = collections.defaultdict(dict)
    for place, (line, row) in enumerate(rows):
        clip, frame = row["clip"], row["frame"]
        if isinstance(clip, int) and not isinstance(clip, bool):
            clip = str(clip)
        if not isinstance(clip, str) or not clip:
            raise manifest_rows.refused(
                path, line, f"clip {clip!r}, expected a name, or a whole number."
            )
        try:
            number = int(frame)
            whole = str(number) == str(frame).lstrip("0") or number == 0
        except (TypeError, ValueError):
            whole = False
        if not whole or number < 0 or isinstance(frame, bool):
            raise manifest_rows.refused(
                path, line, f"frame {frame!r}, expected a whole number from 0."
            )
        if number in clips[clip]:
            other = rows[clips[clip][number]][0]
            raise manifest_rows.refused(
                path,
                line,
                f"frame {number} of clip {clip!r} again, as in line {other}; list it "
                "once.",
            )
        clips[clip][number] = place
    return dict(clips)


def _fields(clip, t, count):
    """The fields of a frame, each by the frame that it begins at."""
    return [(clip, j) for j in range(t - count // 2, t - count // 2 + count)]


def _windows(clips, splits, ahead, count):
    """`[((clip, frame), place)]` of the frames whose clip has all that they take.

    All of it in the frame's own split.
    """
    found = []
    for clip, numbers in clips.items():
        for t, place in numbers.items():
            needed = [t + ahead] if ahead else []
            for _, j in _fields(clip, t, count):
                needed += [j, j + 1]
            taken = [numbers.get(j) for j in needed]
            if all(p is not None and splits[p] == splits[place] for p in taken):
                found.append(((clip, t), place))
    return sorted(found, key=lambda pair: pair[1])


def _titles(ahead, count):
    """The columns that are added."""
    later = [_LATER] if ahead else []
    fields = [f"channels:flow{n}{axis}:gray" for n in range(count) for axis in _AXES]
    return later + fields


def _row(row, rows, clips, clip, t, ahead, count, stored):
    """A row of the new manifest."""
    added = [rows[clips[clip][t + ahead]][1]["path"]] if ahead else []
    for field in _fields(clip, t, count):
        added += stored[field]
    kept = {key: value for key, value in row.items() if value is not None}
    return kept | dict(zip(_titles(ahead, count), added, strict=True))


def _text(out, rows):
    if out.lower().endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in rows)
    titles = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, titles, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _flow():
    """Function of two grey frames: flow `(height, width, 2)`, right and down."""
    try:
        import cv2
    except ImportError as error:
        raise ValueError(f"Optical flow needs OpenCV: {INSTALL}.") from error
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return lambda first, second: dis.calc(first, second, None)


def _check_pairs(frames, of_frames, pairs, progress):
    """Raises `ValueError` for a frame and a later one that no reader could stack.

    They are read as the images of the new manifest are.

    Args:
        frames: path of the frames' manifest.
        of_frames: list of their files.
        pairs: list of the places of a frame and of the later one.
        progress: whether to show how far it is.
    """
    files, later = ([of_frames[place] for place in some] for some in zip(*pairs))
    # As 16 bits files of both depths can be read.
    source = aligned.AlignedSource(
        files, {aligned.column(_LATER): later}, name=frames, bit_depth=16
    )

    @running.as_written
    def read(number):
        with tf.control_dependencies([source.decode(source.read(number))]):
            return tf.identity(number)

    numbers = tf.data.Dataset.range(len(pairs)).map(
        read, num_parallel_calls=running.parallel()
    )
    numbers = numbers.ignore_errors().with_options(running.options())
    expected = 0
    for number in progress_lib.bar(
        numbers.as_numpy_iterator(),
        wanted=progress,
        total=len(pairs),
        desc="pairs",
        unit="pair",
        leave=False,
    ):
        if number != expected:
            break
        expected += 1
    if expected < len(pairs):
        reasons = bad_files.BadFiles(log=False).reasons([expected], source)
        raise ValueError(
            f"The frame {source.describe(expected)} cannot be read together with the "
            f"later one, {os.path.basename(later[expected])} "
            f"({reasons[source.describe(expected)] or 'damaged'}); save the frames as "
            "PNG, JPEG or TIFF files in RGB, of one size, or take them out of "
            f"{frames}."
        )


def _write_flow(source, rows, clips, fields, folder, flow_of, progress):
    """Writes the fields that are not there; `{(clip, frame): their two files}`.

    The files as the new manifest names them, from its own folder.
    """
    root, name_of_folder = os.path.split(folder)
    marks = {clip: _mark(clip, clips[clip], rows) for clip in clips}
    stored, last = {}, (None, None)

    def gray(clip, j):
        nonlocal last
        place = clips[clip][j]
        if last[0] != place:
            try:
                raw = source.read(tf.constant(place, tf.int64))
                last = place, source.decode(raw)[..., 0].numpy()
            except (tf.errors.OpError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"The frame {source.describe(place)} cannot be read; repair it, or "
                    f"take it out of {source.name}."
                ) from error
        return last[1]

    for clip, j in progress_lib.bar(fields, wanted=progress, unit="field"):
        names = [
            os.path.join(name_of_folder, marks[clip], f"{j:06d}_{axis}.png")
            for axis in _AXES
        ]
        stored[clip, j] = names
        paths = [os.path.join(root, name) for name in names]
        if all(map(tf.io.gfile.exists, paths)):
            continue
        first, second = gray(clip, j), gray(clip, j + 1)
        if first.shape != second.shape:
            raise ValueError(
                f"Frames {j} and {j + 1} of clip {clip!r} are of sizes {first.shape} "
                f"and {second.shape}; flow needs frames of one size."
            )
        for path, channel in zip(
            paths, np.moveaxis(_as_gray(flow_of(first, second)), 2, 0)
        ):
            png = tf.io.encode_png(channel[..., np.newaxis]).numpy()
            files.write_bytes(path, png)
    return stored


def _mark(clip, numbers, rows):
    """What tells a clip from others, and from itself with other frames: 16 digits."""
    paths = {number: rows[place][1]["path"] for number, place in numbers.items()}
    told = json.dumps([clip, sorted(paths.items())])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _as_gray(flow):
    """Pixels of motion as uint8: 128 is none, 255 is `BOUND` and more."""
    scaled = np.rint(128 + flow * (127 / BOUND))
    return np.clip(scaled, 1, 255).astype(np.uint8)
