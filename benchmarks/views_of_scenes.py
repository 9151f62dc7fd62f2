"""What views of rendered scenes teach the encoders of colour alone.

kNN (k 20) of the held-out scenes by the features of runs whose encoder has branches: by
brightness alone, by brightness and colour, and by all views that the run has; and the
same of untrained encoders. Run:

    python -m benchmarks.views_of_scenes runs/cmc_scenes runs/cmc_scenes_core
"""

import argparse

import keras
import tensorflow as tf

import tfssl
from tfssl import data
from tfssl.evaluation import features, knn

_PARTS = (("L",), ("L", "ab"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders of runs on scenes")
    parser.add_argument("--seed", type=int, default=0, help="of untrained encoders")
    arguments = parser.parse_args()
    scenes = [data.open_source("scenes", split=split) for split in ("train", "test")]
    print(f"kNN, k 20; tensorflow {tf.__version__}, keras {keras.__version__}")
    for run in arguments.runs:
        encoder = tfssl.load(run)
        shown = [data.labeled(source, encoder.preprocessing) for source in scenes]
        network = encoder.network
        keras.utils.set_random_seed(arguments.seed)
        untrained = type(network).from_config(network.get_config())
        for name, model in ((run, network), (f"{run}, untrained", untrained)):
            numbers = []
            for views in (*_PARTS, tuple(model.branches)):
                both = [
                    features.extract(model.part(views), batches) for batches in shown
                ]
                accuracy = 100 * knn.accuracy(*both, k=20)
                numbers.append(f"{' + '.join(views)}: {accuracy:.1f} %")
            print(f"{name}: {', '.join(numbers)}", flush=True)


if __name__ == "__main__":
    main()
