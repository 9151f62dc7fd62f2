"""The probes that there are, by the name that users choose them by."""

import collections
import dataclasses

from tfssl.evaluation import (
    augmented_probe,
    clusters,
    dense_probe,
    judging,
    knn,
    linear_probe,
    supervised,
)

# In the order in which a report shows them.
PROBES = {
    probe.name: probe
    for probe in (
        linear_probe.Linear,
        augmented_probe.Augmented,
        dense_probe.Mlp,
        knn.Knn,
    )
}
_TITLES = {
    name: title
    for probe in (*PROBES.values(), clusters.Clusters, supervised.Supervised)
    for name, title in probe.titles.items()
}


def chosen(wanted, arguments=None, options=None):
    """The probes of these names, with their options.

    Args:
        wanted: keys of `PROBES`, or objects of `judging.Probe`, which stay as they are.
        arguments: dict, options of each probe by its name, chosen or not:
            `{"knn": {"k": 20}}`.
        options: dict, further options, which come before `arguments`. `epochs` is of
            every chosen probe that has such an option, `mlp.epochs` of one.

    Returns:
        List of `judging.Probe`.

    Raises:
        ValueError: for unknown or repeated names, and for options that no chosen probe
            has or takes.
    """
    names = [p.name if isinstance(p, judging.Probe) else p for p in wanted]
    for name, probe in zip(names, wanted):
        if name is probe and name not in PROBES:
            raise ValueError(
                f"probe {name!r} received, expected some of {', '.join(PROBES)}."
            )
        if names.count(name) > 1:
            raise ValueError(f"probe {name!r} received twice, expected each once.")
    by_name = [name for name, probe in zip(names, wanted) if name is probe]
    given = _assigned(options or {}, {name: _options(name) for name in by_name})
    return [
        PROBES[name](**(arguments or {}).get(name, {}) | given[name])
        if name is probe
        else probe
        for name, probe in zip(names, wanted)
    ]


def title(name):
    """What the report calls a probe, by the entry `probe` of its rows."""
    return _TITLES.get(name, name)


def place(name):
    """Where a probe stands in the report, by the entry `probe` of its rows."""
    return [*_TITLES].index(name) if name in _TITLES else len(_TITLES)


def _options(name):
    return [field.name for field in dataclasses.fields(PROBES[name])]


def _assigned(options, known):
    """The options of each probe: `{"mlp": {"units": 512}}`."""
    given = collections.defaultdict(dict)
    # What is said of one probe comes before what is said of all.
    for key in sorted(options, key=lambda key: "." in key):
        owner, _, option = key.rpartition(".")
        fitting = [n for n in known if owner in ("", n) and option in known[n]]
        if not fitting:
            every = [option for some in known.values() for option in some]
            raise ValueError(
                f"probe_option {key!r} received, expected some of "
                f"{', '.join(dict.fromkeys(every)) or 'none'} (the options of "
                f"{', '.join(known) or 'no probe'})."
            )
        for name in fitting:
            given[name][option] = options[key]
    return given
