import base64
import io
import os
import re

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.pages import checked
from tfssl.evaluation import features, report


def made(values, labels=None):
    count = len(values)
    labels = np.full(count, -1) if labels is None else np.asarray(labels)
    return features.Features(
        np.asarray(values, np.float32), labels.astype(np.int64), np.arange(count)
    )


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def everything():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    tiles = [{"image": image, "label": n, "similarity": 0.5} for n in ("cat", "dog")]
    return {
        "title": "SimCLR <on> digits",
        "settings": {"method": "simclr", "batch_size": 256},
        "curves": {
            "loss": [(1, 5.0), (2, 4.0)],
            "val_loss": [(1, 5.5), (2, 4.5)],
            "rank/teacher": [(1, 3.0)],
            "rank/student": [(1, 2.0)],
            "empty": [],
        },
        "views_png": png(image),
        "neighbors": [{"query": tiles[0], "neighbors": tiles}],
        "embedding": (np.eye(3)[:, :2], np.array([0, 1, 1])),
        "table": [
            {"features": "raw", "labels": "1 per class", "protocol": "linear probe",
             "accuracy": 0.684, "std": 0.021, "draws": 5},
            {"features": "SimCLR", "labels": "1 per class", "protocol": "linear probe",
             "accuracy": 0.71, "std": 0.02, "draws": 5},
            {"features": "SimCLR", "labels": "100 %", "protocol": "kNN, k = 20",
             "probe": "kNN", "accuracy": 0.976, "std": None, "draws": 1},
            {"features": "SimCLR", "labels": "100 %", "probe": "augmented",
             "protocol": "linear probe on augmented images", "accuracy": 0.953},
        ],
        "notes": ["First note.", "Second note."],
        "class_names": ("cat", "dog"),
    }  # fmt: skip


def test_one_well_formed_file_that_loads_nothing(tmp_path, everything):
    path = report.write(tmp_path / "report.html", **everything)
    text, checker = checked(path)
    assert os.listdir(tmp_path) == ["report.html"]
    assert checker.links and all(
        link.startswith("data:image/png;base64,") for link in checker.links
    )
    assert "script" not in checker.tags and "link" not in checker.tags
    assert "url(" not in text and "@import" not in text
    for expected in (
        "SimCLR <on> digits", "batch_size", "256", "First note.", "Second note.",
        "1 per class", "linear probe", "kNN, k = 20", "97.6", "± 2.1, 5 draws",
        "50 % of the neighbours", "trained on augmented images, top-1", "95.3",
    ):  # fmt: skip
        assert expected in checker.text


def test_curves_share_panels(tmp_path, everything):
    text, _ = checked(report.write(tmp_path / "r.html", **everything))
    assert re.findall(r"<figcaption><h3>(.*?)</h3>", text) == ["loss", "rank"]
    assert "val loss <b>4.5</b>" in text and "teacher <b>3</b>" in text


def test_single_draws_beside_several_say_so(tmp_path):
    few = {"features": "a", "labels": "1 per class", "accuracy": 0.5}
    several = few | {"std": 0.1, "draws": 5}
    alone = few | {"features": "b", "draws": 1}
    whole = few | {"labels": "100 %", "draws": 1}
    path = report.write(tmp_path / "r.html", title="x", table=[several, alone, whole])
    text, _ = checked(path)
    assert text.count("± 10.0, 5 draws") == 2  # In the table, and its protocol.
    assert text.count("<small>1 draw</small>") == 1


def test_accuracies_are_drawn_by_the_share_of_the_labels(tmp_path):
    rows = [
        {"features": features, "labels": labels, "probe": probe, "accuracy": accuracy}
        for features, probe, labels, accuracy in (
            ("SimCLR", "linear", "1 %", 0.5),
            ("SimCLR", "linear", "100 %", 0.75),
            ("SimCLR", "linear", "5 per class", 0.25),
            ("fine-tuned", "end to end", "1 %", 0.625),
            ("SimCLR", "kNN", "1 %", 0.125),
        )
    ]
    text, _ = checked(report.write(tmp_path / "r.html", title="t", table=rows))
    titles = re.findall(r"<title>(.*?) at labels in % ([\d.]+)</title>", text)
    # By kNN there is one share only, and nothing to draw.
    assert titles == [
        ("SimCLR: 50", "1"), ("SimCLR: 75", "100"), ("fine-tuned: 62.5", "1"),
    ]  # fmt: skip
    assert "(fine-tuned: trained end to end), top-1" in text


@pytest.mark.parametrize("stage", [None, "conv1"])
def test_what_was_trained_end_to_end_has_a_table_without_a_linear_probe(
    tmp_path, stage
):
    rows = [
        {"features": "SimCLR", "labels": "1 %", "probe": "kNN", "accuracy": 0.5},
        {"features": "s", "labels": "1 %", "probe": "end to end", "accuracy": 0.25},
    ]
    if stage:
        of_stage = {"probe": "linear", "stage": stage, "encoder": "SimCLR"}
        rows.append(rows[0] | of_stage)
    text, _ = checked(report.write(tmp_path / "r.html", title="t", table=rows))
    assert "Trained end to end, top-1 accuracy in %" in text
    assert "trained end to end)" not in text


def test_best_of_each_column_is_marked(tmp_path, everything):
    text, _ = checked(report.write(tmp_path / "r.html", **everything))
    best = re.findall(r'class="number best">([\d.]+)', text)
    assert best == ["71.0", "95.3", "97.6"]


def test_images_arrive_unchanged(tmp_path, everything):
    _, checker = checked(report.write(tmp_path / "r.html", **everything))
    for link in checker.links:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(link[22:]))))
        np.testing.assert_array_equal(pixels.ravel(), np.arange(48))


@pytest.mark.parametrize(
    "shape, mode",
    [((5, 4), "L"), ((5, 4, 1), "L"), ((5, 4, 2), "L"), ((5, 4, 4), "RGBA"),
     ((5, 4, 13), "RGB")],
)  # fmt: skip
def test_any_number_of_channels(tmp_path, shape, mode):
    tile = {"image": np.zeros(shape, np.uint8)}
    neighbors = [{"query": tile, "neighbors": [tile]}]
    path = report.write(tmp_path / "r.html", title="t", neighbors=neighbors)
    _, checker = checked(path)
    image = Image.open(io.BytesIO(base64.b64decode(checker.links[0][22:])))
    assert image.mode == mode and image.size == (4, 5)
    tile["image"] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match="uint8 or uint16, got float32"):
        report.write(tmp_path / "r.html", title="t", neighbors=neighbors)


def with_names(path, everything, name):
    """A report with a name in every place where text enters, and those names."""
    names = []

    def new():
        names.append(f"{name} {len(names)}")
        return names[-1]

    tile = everything["neighbors"][0]["query"]
    row = {"accuracy": 0.5, "std": 0.1, "draws": 2}
    stage = {"encoder": new(), "stage": new(), "labels": new(), "probe": new()}
    report.write(
        path,
        title=new(),
        settings={new(): new(), "list": [1]},
        curves={new(): [(1, 1.0)], f"panel/{new()}": [(1, 1.0)]},
        neighbors=[
            {"query": tile | {"label": new()}, "neighbors": [tile | {"label": new()}]}
        ],
        embedding=report.Embedding(np.eye(2), np.arange(2), np.arange(2), new()),
        table=[
            row | {"features": new(), "labels": new(), "protocol": new()},
            row | stage | {"features": new(), "protocol": new()},
        ],
        notes=[new(), new()],
        class_names=(new(), new()),
        step_name=new(),
    )
    return names


@pytest.mark.parametrize(
    "hostile",
    [
        # No slash, which splits the names of curves.
        "<!-- <script>alert(1)<style>",
        "\" onload=alert(1) '>`",
        "&lt;b&gt; &amp; &#60; &copy; ]]>",
        "{{ 7*7 }}{% include 'report.css' %}{# gone #}",
    ],
)
def test_names_are_shown_letter_for_letter(tmp_path, everything, hostile):
    """Whatever a name holds: no tag or attribute more than with a plain one."""
    with_names(tmp_path / "plain.html", everything, "name")
    names = with_names(tmp_path / "r.html", everything, hostile)
    _, plain = checked(tmp_path / "plain.html")
    _, checker = checked(tmp_path / "r.html")
    assert checker.structure == plain.structure
    shown = checker.text + "".join(checker.values)
    assert [name for name in names if name not in shown] == []


def test_every_text_is_escaped(tmp_path, everything):
    evil = "</title></style><script>alert(1)</script><img src=http://x/y>"
    everything.update(
        title=evil,
        settings={evil: evil},
        curves={evil: [(1, 1.0)]},
        notes=evil,
        class_names=(evil, evil),
        step_name=evil,
        table=[{"features": evil, "labels": evil, "protocol": evil, "accuracy": 0.5}],
    )
    everything["neighbors"][0]["query"]["label"] = evil
    _, checker = checked(report.write(tmp_path / "r.html", **everything))
    assert "script" not in checker.tags
    assert all(link.startswith("data:") for link in checker.links)


def test_every_part_may_be_missing(tmp_path):
    text, checker = checked(report.write(tmp_path / "r.html", title="Bare"))
    assert "section" not in checker.tags and "Bare" in checker.text
    report.write(tmp_path / "r.html", title="Again")  # Replaces it.
    assert "Again" in checked(tmp_path / "r.html")[0]


def test_views_by_path(tmp_path):
    data = png(np.zeros((3, 3, 3), np.uint8))
    (tmp_path / "views.png").write_bytes(data)
    path = report.write(
        tmp_path / "r.html", title="t", views_png=tmp_path / "views.png"
    )
    text, _ = checked(path)
    assert base64.b64encode(data).decode() in text
    assert 'class="sheet" width="9"' in text  # 3 pixels, enlarged 3 times.


def test_nearest_leaves_the_query_out():
    # Angles in degrees: the neighbours of 10 are 12, then 5, then 0.
    angles = np.radians([0, 5, 10, 12, 90])
    found = made(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    rows, similarity = report.nearest(found, [2, 4], 3)
    assert rows.tolist() == [[3, 1, 0], [3, 2, 1]]
    np.testing.assert_allclose(similarity[0], np.cos(np.radians([2, 5, 10])), atol=1e-6)
    with pytest.raises(ValueError, match="k=5 .* 4 others"):
        report.nearest(found, [0], 5)


def test_nearest_with_twins():
    # All rows alike: row 4 is not among its own first neighbours 0, 1, 2.
    rows, _ = report.nearest(made(np.ones((5, 2))), [4, 0], 2)
    assert rows.tolist() == [[0, 1], [1, 2]]


def test_embed_by_pca_keeps_the_two_largest_directions():
    rng = np.random.default_rng(0)
    # Unit-norm rows that vary most in coordinate 3, then in 1.
    values = np.zeros((200, 5)) + [5, 0, 0, 0, 0]
    values[:, 3] = rng.normal(size=200) * 2
    values[:, 1] = rng.normal(size=200)
    found = report.embed_2d(made(values), method="pca")
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    for axis, column in ((0, 3), (1, 1)):
        correlation = np.corrcoef(found.points[:, axis], unit[:, column])[0, 1]
        assert abs(correlation) > 0.98
    assert found.description.startswith("PCA of 200 of 200 images")


def test_embed_by_tsne_separates_clusters_and_is_capped():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    centers = 4 * np.eye(8)[:3]
    found = report.embed_2d(
        made(centers[labels] + rng.normal(size=(300, 8)) * 0.2, labels), max_points=90
    )
    assert found.points.shape == (90, 2) and "90 of 300" in found.description
    np.testing.assert_array_equal(found.labels, labels[found.rows])
    for point, label in zip(found.points, found.labels):
        distance = np.linalg.norm(found.points - point, axis=1)
        assert found.labels[np.argsort(distance)[1]] == label


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("shape", [(3, 4), (5, 1)])
def test_embed_few_or_narrow_features(method, shape):
    values = np.random.default_rng(0).normal(size=shape)
    found = report.embed_2d(made(values), method=method)
    assert found.points.shape == (shape[0], 2) and np.isfinite(found.points).all()


def test_embed_refuses():
    with pytest.raises(ValueError, match="Unknown embedding 'umap'"):
        report.embed_2d(made(np.eye(5)), method="umap")
    with pytest.raises(ValueError, match="3 features or more, got 2"):
        report.embed_2d(made(np.eye(2)))


def test_stages_get_a_table_and_a_chart_per_probe_and_budget(tmp_path):
    rows = [
        {"features": f"{encoder} {stage}", "encoder": encoder, "stage": stage,
         "labels": "100 %", "probe": probe, "accuracy": accuracy, "draws": 1,
         "protocol": f"{probe} probe"}
        for probe in ("linear", "mlp")
        for encoder, accuracies in (("trained", (0.25, 0.5)), ("<random>", (0.3, 0.1)))
        for stage, accuracy in zip(("conv1", "conv2"), accuracies)
    ]  # fmt: skip
    path = report.write(tmp_path / "report.html", title="Stages", table=rows)
    text, checker = checked(path)
    section = re.search(r"<h2>Stages of the encoder</h2>(.*?)</section>", text, re.S)
    section = section.group(1)
    tables = re.findall(
        r"<h3>([^<]*)</h3>\s*<div.*?<tbody>(.*?)</tbody>", section, re.S
    )
    assert [title for title, _ in tables] == [
        "Linear probe, labels: 100 %, top-1 accuracy in %",
        "MLP probe, labels: 100 %, top-1 accuracy in %",
    ]
    for _, body in tables:
        cells = re.findall(r'<td class="number( best)?">([^<]*)', body)
        assert cells == [
            ("", "25.0"),
            (" best", "50.0"),
            (" best", "30.0"),
            ("", "10.0"),
        ]
        assert "&lt;random&gt;" in body
    assert section.count("<svg") == 2
    # They are in no other table but that of the protocols.
    assert "<h2>Accuracy</h2>" not in text
    assert text.count("mlp probe") == 4


def test_attention_is_drawn_head_by_head(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    maps = np.array([[[0.0, 0.2], [0.1, 0.4]], [[0.0, 0.0], [0.0, 0.0]]])
    path = report.write(tmp_path / "r.html", title="t", attention=[(image, maps)])
    _, checker = checked(path)
    assert "Attention" in checker.text and "head 2" in checker.text
    pixels = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(link[22:]))))
        for link in checker.links
    ]
    assert [x.shape for x in pixels] == [(4, 4, 3), (2, 2), (2, 2)]
    # The brightest patch is white; a head that looks nowhere stays black.
    np.testing.assert_array_equal(pixels[1], [[0, 128], [64, 255]])
    np.testing.assert_array_equal(pixels[2], np.zeros((2, 2)))
    text, _ = checked(report.write(tmp_path / "none.html", title="t", attention=[]))
    assert "<h2>Attention</h2>" not in text
