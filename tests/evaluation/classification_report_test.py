import base64
import io
import os
import re
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.pages import checked
from tfssl.evaluation import classification, classification_report

HOSTILE = [
    "<script>alert(1)</script><style>",
    "\" onload=alert(1) '>`",
    "&lt;b&gt; &amp; &#60; ]]>",
    "{{ 7*7 }}{% include 'report.css' %}{# gone #}",
]


def outputs(classes=3, n=60, seed=0):
    """Probabilities, right three times of four, and labels, some unknown."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 2.0 * np.eye(classes)[labels]
    labels[::10] = -1
    return classification.softmax(logits), labels


def pictures_of(rows):
    """A picture that tells its row."""
    return [np.full((2, 3, 3), row, np.uint8) for row in rows]


def written(tmp_path, **changes):
    probabilities, labels = outputs()
    given = dict(
        title="Fine-tuned",
        outputs={"fine-tuned": probabilities},
        labels=labels,
        class_names=["cat", "dog", "owl"],
        images=pictures_of,
    )
    path = classification_report.write(tmp_path / "report.html", **given | changes)
    assert os.listdir(tmp_path) == ["report.html"]
    return checked(path)


def cells(text, heading):
    """The rows of the table below a heading, as lists of texts."""
    section = re.search(f"<h2>{heading}</h2>(.*?)</section>", text, re.S).group(1)
    body = re.search("<tbody>(.*?)</tbody>", section, re.S).group(1)
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)", row) for row in body.split("</tr>")]
    return [row for row in rows if row]


def test_scores_of_all_and_everything_else_of_the_first(tmp_path):
    probabilities, labels = outputs()
    scratch, _ = outputs(seed=5)
    text, checker = written(
        tmp_path, outputs={"fine-tuned": probabilities, "from scratch": scratch}
    )
    found = [classification.single_label(x, labels) for x in (probabilities, scratch)]
    assert cells(text, "Scores") == [
        [name, f"{100 * s.top1:.1f}", f"{100 * s.mean_per_class:.1f}"]
        for name, s in zip(("fine-tuned", "from scratch"), found)
    ]
    assert "54 images of 3 classes, 6 unlabelled ones left out." in checker.text
    assert checker.text.count("Of fine-tuned alone.") == 3
    counts = [[row[0], *(int(c or 0) for c in row[1:])]
              for row in cells(text, "Confusion matrix")]  # fmt: skip
    assert counts == [
        [name, *row] for name, row in zip(("cat", "dog", "owl"), found[0].confusion)
    ]
    lowest = np.argsort(found[0].per_class)
    names = ["cat", "dog", "owl"]
    assert [row[0] for row in cells(text, "Classes")] == [names[i] for i in lowest]
    assert "script" not in checker.tags and "link" not in checker.tags
    assert all(link.startswith("data:image/png;base64,") for link in checker.links)


def test_the_surest_mistakes_are_shown_with_their_pictures(tmp_path):
    probabilities, labels = outputs()
    _, checker = written(tmp_path)
    found = classification.mistakes(probabilities, labels, most=24)
    assert len(checker.links) == len(found) > 3
    assert "alone." not in checker.text
    told = re.findall(r"said (\w+) \((\d+) %\), is (\w+)", checker.text)
    names = ["cat", "dog", "owl"]
    assert told == [
        (names[p], f"{100 * sure:.0f}", names[t])
        for p, sure, t in zip(found.predicted, found.probability, found.true)
    ]
    for link, row in zip(checker.links, found.rows):
        pixels = Image.open(io.BytesIO(base64.b64decode(link[22:])))
        assert np.asarray(pixels)[0, 0, 0] == row


@pytest.mark.parametrize("hostile", ["photo", "\udcff", *HOSTILE])
def test_mistakes_are_named_by_their_images(tmp_path, hostile):
    probabilities, labels = outputs()
    rows = classification.mistakes(probabilities, labels, most=24).rows
    long = f"folder/{hostile}".replace("</", "<") + "x" * 180

    def names(rows):
        return [f"{long}{row}.png" for row in rows]

    _, checker = written(tmp_path, image_names=names)
    for name in (name.replace("\udcff", "?") for name in names(rows)):
        assert name in checker.values  # As the title of what is shown short.
        assert any(str(value).startswith(f"{name}: said ") for value in checker.values)
        assert name.removeprefix("folder/") in checker.text
    _, checker = written(tmp_path)
    assert all(str(row) in checker.values for row in rows)


def test_many_classes_have_pairs_in_place_of_a_matrix(tmp_path):
    probabilities, labels = outputs(classes=50, n=2000)
    text, checker = written(
        tmp_path, outputs={"x": probabilities}, labels=labels, class_names=None
    )
    found = classification.single_label(probabilities, labels)
    assert "Confusion matrix" not in text and "The 40 lowest of 50." in checker.text
    assert cells(text, "Scores")[0][2] == f"{100 * found.top5:.1f}"
    pairs = cells(text, "Most confused classes")
    wrong = found.confusion - np.diag(found.confusion.diagonal())
    assert [int(pair[2]) for pair in pairs] == sorted(wrong.ravel())[::-1][:20]
    for true, predicted, count, percent in pairs:
        assert wrong[int(true), int(predicted)] == int(count)
        share = int(count) / found.confusion[int(true)].sum()
        assert percent == f"{100 * share:.1f}"


def test_very_many_classes_take_no_matrix_in_memory(tmp_path):
    probabilities = np.zeros((6, 20_000), np.float32)
    probabilities[:, 3] = 1
    tracemalloc.start()
    text, checker = written(
        tmp_path,
        outputs={"x": probabilities},
        labels=np.array([3, 3, 4, 19_999, 4, 5]),
        class_names=None,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6  # The matrix would have 3.2e9.
    pairs = cells(text, "Most confused classes")
    assert pairs == [
        ["4", "3", "2", "100.0"],
        ["5", "3", "1", "100.0"],
        ["19999", "3", "1", "100.0"],
    ]


def test_several_classes_per_image(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, (50, 3))
    labels[:, 2] = np.minimum(labels[:, 2], 0)
    scores = rng.random((50, 3))
    found = classification.multi_label(scores, labels)
    text, checker = written(tmp_path, outputs={"fine-tuned": scores}, labels=labels)
    percent = [f"{100 * x:.1f}" for x in (found.mean_ap, found.mean_ap_11_points)]
    assert cells(text, "Scores") == [["fine-tuned", *percent]]
    assert f"50 images, {found.positives.sum()} labels of 2 classes" in checker.text
    assert "1 of the classifier's classes have no image" in checker.text
    rows = {row[0]: row[1:] for row in cells(text, "Classes")}
    for number, name in enumerate(("cat", "dog")):
        assert rows[name] == [
            str(found.positives[number]),
            f"{100 * found.ap[number]:.1f}",
            f"{100 * found.ap_11_points[number]:.1f}",
        ]
    assert not checker.links


def test_curves_of_several_trainings_share_a_panel(tmp_path):
    lines = [
        {"step": 5, "epoch": 1.0, "loss": 2.0, "val_accuracy": 0.5, "x": "text"},
        {"step": 10, "epoch": 2.0, "loss": float("nan"), "val_accuracy": 0.75},
    ]
    text, _ = written(
        tmp_path, histories={"fine-tuned": lines, "from scratch": lines[:1]}
    )
    panels = re.findall(r"<figcaption><h3>(.*?)</h3>(.*?)</figcaption>", text)
    assert [title for title, _ in panels] == ["loss", "val accuracy"]
    assert "fine-tuned <b>0.75</b>" in panels[1][1]
    assert "from scratch <b>0.5</b>" in panels[1][1]
    assert "1 not finite" in panels[0][1]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("classes", [3, 25])
def test_names_are_shown_letter_for_letter(tmp_path, hostile, classes):
    """Whatever a name holds: no tag or attribute more than with a plain one."""
    structures = []
    for name in ("name", hostile):
        probabilities, labels = outputs(classes, n=200)
        names = [f"{name} {i}" for i in range(classes + 6)]
        a, b, c, d, e, f = names[classes:]
        _, checker = written(
            tmp_path,
            title=a,
            outputs={b: probabilities},
            labels=labels,
            class_names=names[:classes],
            histories={c: [{"epoch": 1, f"loss{d}": 1.0}]},
            settings={e: e},
            notes=[f],
        )
        shown = checker.text + "".join(checker.values)
        missing = [x for x in names if x not in shown]
        assert not missing or (classes > 20 and set(missing) <= set(names[:classes]))
        structures.append(checker.structure)
    assert structures[0] == structures[1]


def test_long_names_do_not_widen_the_matrix(tmp_path):
    long = 180 * "x"
    text, _ = written(tmp_path, class_names=["cat", "dog", long])
    assert f'<th scope=row title="{long}">{long}</th>' in text
    (rule,) = re.findall(r"\.matrix tbody th {(.*?)}", text, re.S)
    assert "max-width" in rule and "text-overflow: ellipsis" in rule


def test_a_classifier_without_a_mistake(tmp_path):
    labels = np.arange(6) % 3
    text, _ = written(tmp_path, outputs={"x": np.eye(3)[labels]}, labels=labels)
    assert "mistakes" not in text and cells(text, "Scores")[0][1] == "100.0"


def test_refusals_leave_the_file_as_it_was(tmp_path):
    with pytest.raises(ValueError, match="2 class names received for .* 3 classes"):
        written(tmp_path, class_names=["cat", "dog"])
    with pytest.raises(ValueError, match="None of the 60 images has a label"):
        written(tmp_path, labels=np.full(60, -1))
    assert not os.listdir(tmp_path)
