import numpy as np
import pytest

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
