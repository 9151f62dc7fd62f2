import numpy as np
import pytest

from tfssl.evaluation import retrieval


def slow_average_precision(ranking, positives, junk):
    """Area under precision over recall, a trapezoid for each image of the ranking."""
    area, recall, precision, hits, seen = 0.0, 0.0, 1.0, 0, 0
    for name in ranking:
        if name in junk:
            continue
        seen += 1
        hits += name in positives
        now = (hits / len(positives), hits / seen)
        area += (now[0] - recall) * (now[1] + precision) / 2
        recall, precision = now
    return area


def test_average_precision_by_hand():
    ap = retrieval.average_precision
    # First hit (1 + 1) / 2; the second at rank 3: (1/2 + 2/3) / 2 = 7/12.
    assert ap(["a", "x", "b"], {"a", "b"}) == pytest.approx((1 + 7 / 12) / 2)
    # Junk leaves no trace, wherever it stands.
    with_junk = ["j", "a", "k", "x", "b", "l"]
    assert ap(with_junk, {"a", "b"}, {"j", "k", "l"}) == ap(["a", "x", "b"], {"a", "b"})
    assert ap(["x", "a"], {"a"}) == pytest.approx((0 + 1 / 2) / 2)
    # One that the ranking does not hold is not found.
    assert ap(["a", "x"], {"a", "gone"}) == 0.5
    assert ap(["a", "b"], {"a", "b"}) == 1
    assert ap(["x", "y"], {"a"}) == 0
    assert ap([], {"a"}) == 0


def test_average_precision_equals_the_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        names = [str(i) for i in rng.permutation(20)]
        kinds = rng.choice(3, 20, p=[0.3, 0.3, 0.4])
        positives = {n for n, k in zip(names, kinds) if k == 0} | {"gone"}
        junk = {n for n, k in zip(names, kinds) if k == 1}
        expected = slow_average_precision(names, positives, junk)
        assert retrieval.average_precision(names, positives, junk) == pytest.approx(
            expected
        )


def write_query(folder, name, query, good="", ok="", junk=""):
    for part, text in (("query", query), ("good", good), ("ok", ok), ("junk", junk)):
        (folder / f"{name}_{part}.txt").write_text(text)


def test_ground_truth_files(tmp_path):
    write_query(
        tmp_path, "hall_2", "oxc1_hall_000007 1.5 2 30.25 40\n", "a\r\nb\n", "c\n", "d"
    )
    write_query(tmp_path, "eiffel_1", "paris_eiffel_000001 0 0 9 9", ok="x\n\n")
    first, second = retrieval.read_ground_truth(str(tmp_path))
    assert (first.name, first.image) == ("eiffel_1", "paris_eiffel_000001")
    assert first.positives == {"x"} and first.junk == frozenset()
    assert second == retrieval.Query(
        "hall_2",
        "hall_000007",
        (1.5, 2.0, 30.25, 40.0),
        frozenset("abc"),
        frozenset("d"),
    )


@pytest.mark.parametrize(
    "query, good, sentence",
    [
        ("image 1 2 3", "a", "holds 'image 1 2 3', expected one line"),
        ("image 1 2 3 x", "a", "expected one line"),
        ("image 1 2 3 nan", "a", "expected one line"),
        ("image 1 2 3 4\nimage 1 2 3 4", "a", "expected one line"),
        ("", "a", "expected one line"),
        ("image 1 2 3 4", "", "has no image to find"),
    ],
)
def test_bad_ground_truth(tmp_path, query, good, sentence):
    write_query(tmp_path, "q_1", query, good)
    with pytest.raises(ValueError, match=sentence):
        retrieval.read_ground_truth(str(tmp_path))


def test_an_image_to_find_and_to_leave_out_is_refused(tmp_path):
    write_query(tmp_path, "q_1", "image 1 2 3 4", "a\nb", junk="c\nb")
    with pytest.raises(ValueError, match=r"q_1 .* has b \(1 image\(s\)\) to find and"):
        retrieval.read_ground_truth(str(tmp_path))


def test_ground_truth_that_is_no_text(tmp_path):
    write_query(tmp_path, "q_1", "image 1 2 3 4", "a")
    (tmp_path / "q_1_good.txt").write_bytes("Übung".encode("latin-1"))
    with pytest.raises(ValueError, match="q_1_good.txt is no text in UTF-8"):
        retrieval.read_ground_truth(str(tmp_path))


def test_missing_ground_truth(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="No ground truth in"):
            retrieval.read_ground_truth(str(folder))
    write_query(tmp_path, "q_1", "image 1 2 3 4", "a")
    (tmp_path / "q_1_junk.txt").unlink()
    with pytest.raises(ValueError, match="q_1_junk.txt is missing"):
        retrieval.read_ground_truth(str(tmp_path))


def test_score_ranks_by_similarity_and_keeps_the_order_of_equals():
    queries = [
        retrieval.Query("q", "a", None, frozenset("a"), frozenset("b")),
        retrieval.Query("r", "c", None, frozenset("c"), frozenset()),
    ]
    found = retrieval.score(queries, ["a", "b", "c"], [[0.5, 0.9, 0.5], [0, 1, 0.5]])
    # b is junk, a stands before c; then b before c: (0 + 1/2) / 2.
    assert found == {"q": 1.0, "r": 0.25}
    with pytest.raises(ValueError, match=r"expected 2 queries times 3 images"):
        retrieval.score(queries, ["a", "b", "c"], [[0.5, 0.9, 0.5]])
    with pytest.raises(ValueError, match="NaN or infinite"):
        retrieval.score(queries, ["a", "b"], [[0, np.nan], [0, 1]])


def test_bad_rankings():
    with pytest.raises(ValueError, match="one or more positives"):
        retrieval.average_precision(["a"], set())
    with pytest.raises(ValueError, match="a name twice"):
        retrieval.average_precision(["a", "a"], {"a"})
