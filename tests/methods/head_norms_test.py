"""The batch norms of heads have the settings that the method was given for them."""

import inspect

import pytest

from tests.methods import case_table, cases
from tfssl import internals
from tfssl.models import norms

# Methods with batch norms of their own, by the case that has some.
_CASES = ("simclr", "byol", "swav", "dino", "deepcluster_v2", "pretext_jigsaw",
          "predictive", "feature_distillation")  # fmt: skip


def taken_by(name, setting):
    kind = case_table.KINDS[case_table.CASES[name][0]]
    return setting in inspect.signature(kind).parameters


def of_heads(name, monkeypatch, **changes):
    """The batch norms of the case but for those of encoders, its method so changed."""
    key, arguments = case_table.CASES[name]
    monkeypatch.setitem(cases.CASES, name, (key, arguments | changes))
    method = cases.make(name)
    # A teacher has the names of its student.
    encoder = {layer.name for layer in internals.layers_of(method.encoder)}
    return [
        layer
        for layer in internals.layers_of(method)
        if isinstance(layer, norms.BatchNorm) and layer.name not in encoder
    ]


def test_every_method_with_the_setting_is_tested():
    found = {name for name in case_table.CASES if taken_by(name, "norm_statistics")}
    kinds = {case_table.CASES[name][0] for name in _CASES}
    assert {case_table.CASES[name][0] for name in found} == kinds


@pytest.mark.parametrize("name", _CASES)
def test_statistics_reach_every_head(name, monkeypatch):
    assert {layer.statistics for layer in of_heads(name, monkeypatch)} == {"global"}
    changed = of_heads(name, monkeypatch, norm_statistics="local")
    assert {layer.statistics for layer in changed} == {"local"}


@pytest.mark.parametrize(
    "name", [name for name in _CASES if taken_by(name, "norm_replica_groups")]
)
def test_groups_of_replicas_reach_every_head(name, monkeypatch):
    assert {layer.replica_groups for layer in of_heads(name, monkeypatch)} == {1}
    changed = of_heads(name, monkeypatch, norm_replica_groups=3)
    assert {layer.replica_groups for layer in changed} == {3}
