import os

import numpy as np
import pytest

from tests.tasks import pretrain_test as small
from tests.tasks.finetune_test import tuned
from tfssl import data, files
from tfssl.evaluation import classification
from tfssl.tasks import classification_results


@pytest.mark.parametrize("classes", [3, 1000, 1001])
def test_many_classes_have_cells_in_place_of_a_matrix(classes):
    labels = np.array([0, 1, 1, 2])
    outputs = np.eye(classes)[[0, 1, 2, 2]]
    scored = classification.single_label(outputs, labels)
    told = classification_results._told(scored)
    if classes > 1000:
        assert "confusion" not in told
        cells = [[0, 0, 1], [1, 1, 1], [1, 2, 1], [2, 2, 1]]
        assert told["confusion_cells"] == cells
    else:
        assert told["confusion"] == scored.confusion.tolist()
        assert "confusion_cells" not in told
    assert told["top1"] == 0.75 and len(told["per_class"]) == classes
    # Every start reads run.json.
    brief = classification_results._brief(told)
    assert set(brief) == {"top1", "top5", "mean_per_class"}


def test_mistakes_say_which_image_and_whose_they_are(tmp_path, capsys):
    pixels, labels = small.images(seed=1)
    wrong = data.open_source((pixels, 1 - labels))
    run = tuned(tmp_path, validation_data=wrong, epochs=6, baseline=True, verbose=1)
    found = files.read_json(os.path.join(run.path, "classification.json"))
    mistakes, page = found["mistakes"], (tmp_path / "classification.html").read_text()
    assert len(mistakes) > 3
    for mistake in mistakes:
        number = int(mistake["image"].removeprefix("array[").removesuffix("]"))
        assert mistake["is"] == str(1 - labels[number]) != mistake["said"]
        assert f'title="{mistake["image"]}"' in page
    sure = [mistake["probability"] for mistake in mistakes]
    assert sure == sorted(sure, reverse=True)
    assert "Of fine-tuned alone." in page
    told = "Now the baseline, the same network from scratch, in "
    assert capsys.readouterr().out.count(told) == 1
