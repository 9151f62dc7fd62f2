import dataclasses

import pytest

from tfssl.evaluation import dense_probe, judging, knn, probes


@dataclasses.dataclass(frozen=True)
class Own(judging.Probe):
    name = "own"

    rate: float = 1.0


def test_names_become_probes_with_their_options():
    arguments = {"knn": {"k": 5, "temperature": 0.5}, "mlp": {"batch_size": 8}}
    found = probes.chosen(("mlp", "knn"), arguments, {"k": 3, "units": (4, 2)})
    assert found == [
        dense_probe.Mlp(units=(4, 2), batch_size=8),
        knn.Knn(k=3, temperature=0.5),
    ]
    assert probes.chosen(list(probes.PROBES))[0] == probes.PROBES["linear"]()


def test_an_option_is_of_all_that_have_it_or_of_one():
    names = ("linear", "augmented", "knn")
    linear, augmented, _ = probes.chosen(names, None, {"min_steps": 7})
    assert (linear.min_steps, augmented.min_steps) == (7, 7)
    options = {"augmented.min_steps": 9, "min_steps": 7}
    linear, augmented, _ = probes.chosen(names, None, options)
    assert (linear.min_steps, augmented.min_steps) == (7, 9)


def test_own_probes_keep_their_options():
    own = Own(rate=2.0)
    found = probes.chosen((own, "mlp"), None, {"rate": 0.5})
    assert found[0] is own and found[1].rate == 0.5
    with pytest.raises(ValueError, match="some of none .the options of no probe"):
        probes.chosen((own,), None, {"rate": 0.5})


@pytest.mark.parametrize(
    "wanted, options, sentence",
    [
        (("svm",), {}, "probe 'svm' received, expected some of linear, aug.*mlp, knn"),
        (("own",), {}, "probe 'own' received, expected some of linear"),
        (("knn", "mlp", "knn"), {}, "probe 'knn' received twice"),
        ((Own(), Own()), {}, "probe 'own' received twice"),
        (("knn",), {"units": 4}, "probe_option 'units' received, .* k, temperature"),
        (("knn",), {"mlp.units": 4}, "probe_option 'mlp.units' received, expected"),
        (("knn",), {"k": "few"}, "k='few' received, expected a whole number"),
        (("linear",), {"scaling": "none"}, "scaling='none' received, .*unit, standard"),
        (("augmented",), {"recipe": "simclr"}, "recipe='simclr' received .* views"),
    ],
)
def test_wrong_choices_are_named(wanted, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        probes.chosen(wanted, None, options)


def test_the_report_has_a_title_and_a_place_for_every_row():
    assert probes.title("kNN") == "Weighted kNN" and probes.title("own") == "own"
    order = ["linear", "augmented", "mlp", "kNN", "purity", "NMI", "end to end", "own"]
    assert sorted(reversed(order), key=probes.place) == order
