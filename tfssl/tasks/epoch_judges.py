"""What judges the epochs of a training, by which the best one is found.

The images that judge may change from start to start, as may the settings of a monitor.
Numbers of epochs before such a change and after it are not to be compared.
"""

import hashlib

from tfssl.tasks import settings

SINCE = "since"  # The step of the last epoch that was judged otherwise.
# What older versions did, whose records do not say: they cut segmenters' images.
_EARLIER = {"whole_images": False}


def judging(validation, bank=None, **others):
    """What the numbers of the epochs depend on beside the weights.

    Args:
        validation: source of the images that judge.
        bank: source of other images that they are compared with, or None.
        **others: plain values of settings that count too.

    Returns:
        JSON-able dict, settings by name; of images what they are.
    """
    digest = hashlib.sha256()
    for source in (validation, bank):
        if source is None:
            continue
        digest.update(source.identity().encode())
        if source.known_labels is not None:
            digest.update(source.known_labels.astype("<i8").tobytes())
    return {
        "validation_data": {
            "name": validation.name,
            "count": validation.num_images,
            "identity": digest.hexdigest(),
        }
    } | others


def differences(before, now):
    """What judges otherwise than it did, list of `settings.Difference`.

    Args:
        before: as recorded, or None where nothing judged or it is not known.
        now: of `judging`, or None where nothing judges.
    """
    if before is None or now is None:
        return []
    before = _EARLIER | before
    return [
        settings.Difference(name, name, told(before[name]), told(value))
        for name, value in now.items()
        if name in before and _compared(before[name]) != _compared(value)
    ]


def after(differ, before, last):
    """The step after which epochs are judged as they are now.

    Args:
        differ: of `differences`.
        before: as recorded, or None.
        last: step of the last epoch that has its numbers.
    """
    return last if differ else min((before or {}).get(SINCE, 0), last)


def notes(record, validation):
    """For a page: which images its scores are of, and by which its curves are.

    Args:
        record: run.json, a dict.
        validation: source of the images of the scores.

    Returns:
        List of texts.
    """
    now = judging(validation)
    return [
        f"The scores are of {told(now['validation_data'])}.",
        *earlier(record),
        *(
            f"The curves are of {one.before}, and not of these images."
            for one in differences(record.get("judged"), now)
        ),
    ]


def earlier(record):
    """For a page: how epochs were judged before a change, list of texts.

    Args:
        record: run.json, a dict.
    """
    judged = record.get("judged", {})
    return [
        "Up to step {step} epochs were judged by {setting}={before}.".format(**change)
        for change in record.get("changes", [])
        if change["setting"] in judged
    ]


def told(value):
    """A value of `judging` in words."""
    if isinstance(value, dict):
        short = value["identity"][:8]
        return f"{value['name']}, {value['count']:,} images, {short}"
    return value


def _compared(value):
    """Images by what they are, wherever they lie."""
    return value["identity"] if isinstance(value, dict) else value
