"""What a plan of a training refuses by its numbers."""

import numpy as np
import pytest

from tfssl import data
from tfssl.tasks import trainer


def test_executions_end_where_the_epoch_in_progress_does():
    source = data.open_source(np.zeros((80, 8, 8, 3), np.uint8))
    recipe = data.recipes.SIMCLR.scaled(8)
    plan = trainer.Plan(source, recipe, epochs=2, batch_size=8)
    told = (
        "=5 does not divide the 7 steps that are left of an epoch at step 13; .* 1, 7"
    )
    with pytest.raises(ValueError, match=told):
        plan.check_rest(13, 5)
    for step, together in ((13, 7), (13, 1), (10, 5), (5, 5), (23, 5)):
        plan.check_rest(step, together)  # At 23 the training is finished.
