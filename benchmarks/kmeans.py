"""k-means here, in scikit-learn and, where it is, in faiss: seconds for the same work.

The same rows, the same first centroids, the same number of updates and a last
assignment, all with the threads they take by themselves. A round runs each once, in
turn, so that other work on the machine meets all alike; medians of the rounds after
the first are printed, and ratios. CPU seconds are of all threads; those of OpenMP
(scikit-learn, faiss) also count while they wait for each other. The objective is that
of the found centroids, computed in one way for all. `make bench-kmeans` installs
faiss-cpu; or:

    python -m benchmarks.kmeans --rows=100000 --dim=256 --clusters=1000
"""

import argparse
import os
import time

import numpy as np
import sklearn
import sklearn.cluster
import tensorflow as tf

from tfssl import kmeans

try:
    import faiss
except ImportError:
    faiss = None


def _rows(count, dim, clusters, seed=0):
    """Rows around twice as many centres as clusters, so that k-means has work."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(2 * clusters, dim))
    rows = centres[rng.integers(len(centres), size=count)]
    return (rows + rng.normal(size=rows.shape)).astype(np.float32)


def _ours(x, start, iterations):
    found = kmeans.fit(
        x, num_clusters=len(start), iterations=iterations, init=start, empty="split"
    )
    return found.centroids


def _sklearn(x, start, iterations):
    model = sklearn.cluster.KMeans(
        len(start),
        init=start,
        n_init=1,
        max_iter=iterations,
        tol=0,
        algorithm="lloyd",
    )
    return model.fit(x).cluster_centers_


def _faiss(x, start, iterations):
    model = faiss.Kmeans(
        x.shape[1],
        len(start),
        niter=iterations,
        nredo=1,
        max_points_per_centroid=len(x),  # As DeepCluster: leaves no row out.
    )
    model.train(x, init_centroids=start)
    model.index.search(x, 1)
    return model.centroids


def _time(sides, rounds):
    """`(seconds, CPU seconds)` of every round per side, and what each found last."""
    times, found = {name: [] for name in sides}, {}
    for number in range(rounds + 1):
        for name, side in sides.items():
            begin, cpu = time.perf_counter(), time.process_time()
            found[name] = side()
            spent = time.perf_counter() - begin, time.process_time() - cpu
            print(f"    round {number}: {name} {spent[0]:.2f} s", flush=True)
            if number:  # The first round starts threads and traces graphs.
                times[name].append(spent)
    return times, found


def _print(times, objectives):
    """Medians, and the ratio of the first side to each."""
    medians = {n: np.median(np.array(values), axis=0) for n, values in times.items()}
    first = next(iter(medians))
    for name, (wall, cpu) in medians.items():
        ratios = medians[first] / medians[name]
        remark = ""
        if name in objectives:
            change = objectives[name] / objectives[first] - 1
            remark = f"objective {objectives[name]:.6g} ({change:+.4%})"
        print(
            f"  {name:14s} {wall:7.2f} s, {cpu:7.2f} CPU s; {first} / {name} "
            f"{ratios[0]:.2f}, CPU {ratios[1]:.2f}  {remark}"
        )


def _compare_starts(x, k, iterations, rounds):
    """The choice of rows alone, and whole fits from both starts."""
    print(f"k-means++ start, {k} rows chosen:")
    times, _ = _time(
        {
            "tfssl": lambda: kmeans.plus_plus(x, k, np.random.default_rng(0)),
            "scikit-learn": lambda: sklearn.cluster.kmeans_plusplus(
                x, k, random_state=0
            ),
        },
        1,
    )
    _print(times, {})
    print(f"{iterations} updates from either start:")

    def fit(init):
        return kmeans.fit(x, num_clusters=k, iterations=iterations, init=init)

    times, found = _time(
        {
            "k-means++": lambda: fit("k-means++"),
            "random": lambda: fit("random"),
        },
        rounds,
    )
    _print(times, {name: clusters.objective for name, clusters in found.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--plus_plus",
        action="store_true",
        help="compare starts: k-means++, random",
    )
    arguments = parser.parse_args()

    x = _rows(arguments.rows, arguments.dim, arguments.clusters)
    k = arguments.clusters
    start = x[np.random.default_rng(1).choice(len(x), k, replace=False)]
    print(
        f"{len(x)} rows of {x.shape[1]}, {k} clusters, {arguments.iterations} updates, "
        f"{arguments.rounds} rounds, {os.cpu_count()} cores: TensorFlow "
        f"{tf.__version__}, scikit-learn {sklearn.__version__}, "
        f"{'faiss ' + faiss.__version__ if faiss else 'no faiss'}"
    )
    sides = {
        "tfssl": lambda: _ours(x, start, arguments.iterations),
        "scikit-learn": lambda: _sklearn(x, start, arguments.iterations),
    }
    if faiss:
        sides["faiss"] = lambda: _faiss(x, start, arguments.iterations)
    times, found = _time(sides, arguments.rounds)
    objectives = {
        name: float(np.sum(kmeans.assign(x, centroids)[1], dtype=np.float64))
        for name, centroids in found.items()
    }
    _print(times, objectives)
    if arguments.plus_plus:
        _compare_starts(x, k, arguments.iterations, arguments.rounds)


if __name__ == "__main__":
    main()
