"""What an untrained AlexNet knows: linear and MLP probes of its last convolution.

DeepCluster (https://arxiv.org/abs/1807.05520) starts from the remark that an MLP on the
last convolution of a random AlexNet is far above chance: 12 % of ImageNet's 1,000
classes (Noroozi and Favaro, 2016). Prints accuracies on images that no choice has
seen. Run:

    python -m benchmarks.random_encoder
    python -m benchmarks.random_encoder --data=cifar10/train --train=150 --test=50
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf

from tfssl import data, models
from tfssl.evaluation import dense_probe, features, stages


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits, or a folder")
    parser.add_argument("--train", type=int, help="images per class of a folder")
    parser.add_argument("--test", type=int, help="others per class of a folder")
    parser.add_argument("--stages", nargs="+", default=["conv5"])
    parser.add_argument(
        "--units", type=int, nargs="+", default=[512], help="of the MLP"
    )
    parser.add_argument("--width", type=float, default=1, help="factor on the filters")
    parser.add_argument("--size", type=int, default=32, help="image side in pixels")
    parser.add_argument("--sobel", action="store_true", help="filter the images first")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()

    train, test = _sources(parser, arguments)
    preprocessing = data.Preprocessing(size=arguments.size, channels=train.channels)
    classes = len(np.unique(train.labels))
    print(
        f"random AlexNet (CIFAR stem, width {arguments.width:g}) on {arguments.data}, "
        f"{train.num_images} train / {test.num_images} test images, {classes} classes, "
        f"{arguments.size} px; tensorflow {tf.__version__}, keras {keras.__version__}"
    )
    print(
        f"{'seed':>4}  {'stage':<8}{'features':>8}{'linear %':>10}{'MLP %':>8}  seconds"
    )
    for seed in arguments.seeds:
        keras.utils.set_random_seed(seed)
        encoder = models.encoder(
            "alexnet",
            input_shape=(arguments.size, arguments.size, train.channels),
            stem="cifar",
            width=arguments.width,
            sobel=arguments.sobel,
        )
        for stage in arguments.stages:
            begin = time.perf_counter()
            extract = features.Extractor(stages.pooled(encoder, stage))
            bank, queries = (
                extract(data.labeled(source, preprocessing, batch_size=64))
                for source in (train, test)
            )
            linear, mlp = (
                dense_probe.fit(bank, queries, units=units, seed=seed)
                for units in ((), arguments.units)
            )
            print(
                f"{seed:4d}  {stage:<8}{bank.values.shape[1]:8,}"
                f"{100 * linear.accuracy:10.1f}{100 * mlp.accuracy:8.1f}"
                f"{time.perf_counter() - begin:9.0f}",
                flush=True,
            )
    print(f"chance {100 / classes:.1f}\n{linear.protocol}\n{mlp.protocol}")


def _sources(parser, arguments):
    """Training and test images; of a folder, disjoint and equally many per class."""
    if arguments.data == "digits":
        if arguments.train or arguments.test:
            parser.error("--train and --test choose images of a folder, not of digits")
        return data.open_source("digits"), data.open_source("digits", split="test")
    if (
        not (arguments.train and arguments.test)
        or min(arguments.train, arguments.test) < 1
    ):
        parser.error("a folder needs --train and --test, images per class, from 1")
    source = data.open_source(arguments.data, labels="folders")
    few, all_ = (
        data.labels.select(source.labels, per_class=count, seed=0).indices
        for count in (arguments.train, arguments.train + arguments.test)
    )
    # A smaller selection lies inside a larger one.
    return source.subset(few), source.subset(np.setdiff1d(all_, few))


if __name__ == "__main__":
    main()
