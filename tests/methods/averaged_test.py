import numpy as np
import pytest

from tests.methods import cases
from tests.methods.case_table import CASES, KINDS
from tfssl.methods import averaged

AVERAGED = [name for name, (_, given) in CASES.items() if given.get("averaging")]


def test_cases_of_three_methods_have_an_average():
    kinds = {KINDS[CASES[name][0]].__name__ for name in AVERAGED}
    assert kinds == {"Classification", "DVAE", "Segmentation"}
    assert issubclass(KINDS["distillation"], averaged.Averaged)


@pytest.mark.parametrize("name", AVERAGED)
def test_evaluation_is_of_what_leaves_the_training(name):
    method = cases.make(name)
    cases.train(method, cases.batches(name))
    before = cases.evaluate(method, cases.batches(name))
    product = [network for network in method.product() if network is not None]
    rng = np.random.default_rng(0)
    for variable in method.learned_variables:
        variable.assign(rng.normal(size=variable.shape))
    assert cases.evaluate(method, cases.batches(name)) == before
    for network in product:
        for variable in network.trainable_variables:
            variable.assign(rng.normal(size=variable.shape))
    assert cases.evaluate(method, cases.batches(name))["loss"] != before["loss"]
