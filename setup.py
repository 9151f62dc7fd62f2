import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "tfssl" / "version.py").read_text()
).group(1)

setup(
    name="tfssl",
    version=VERSION,
    description="Self-supervised visual representation learning on Keras 3",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["tfssl", "tfssl.*", "pipelines", "pipelines.*"]),
    package_data={
        "pipelines": ["recipes/*.flags"],
        "tfssl": ["*/templates/*"],
    },
    install_requires=[
        "absl-py>=2.1",
        "importlib_resources>=6.0",  # tensorflow-datasets needs it and does not say so.
        "jinja2>=3.1",
        "keras>=3.15,<3.16",
        "numpy>=1.26",
        "scikit-learn>=1.6",
        "scipy>=1.13",
        "tensorflow>=2.20,<2.21",
        "tensorflow-datasets>=4.9.10",
        "threadpoolctl>=3.1",
        "tqdm>=4.66",
    ],
    extras_require={
        "flow": ["opencv-python-headless>=4.10"],  # Optical flow of videos.
        "teachers": ["keras-hub>=0.32"],  # Backbones for feature distillation.
        "bench": ["faiss-cpu>=1.9"],  # Only for benchmarks/kmeans.py.
        "test": [
            "markdown-it-py>=3",
            "pillow>=10",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff==0.17.6",
        ],
        "tiff": ["pillow>=10"],
    },
    entry_points={
        "console_scripts": [
            "tfssl-pretrain = pipelines.pretrain:run",
            "tfssl-evaluate = pipelines.evaluate:run",
            "tfssl-distill = pipelines.distill:run",
            "tfssl-embed = pipelines.embed:run",
            "tfssl-pair-frames = pipelines.pair_frames:run",
            "tfssl-predict = pipelines.predict:run",
            "tfssl-retrieve = pipelines.retrieve:run",
            "tfssl-export = pipelines.export:run",
            "tfssl-finetune = pipelines.finetune:run",
            "tfssl-make-tfrecords = pipelines.make_tfrecords:run",
            "tfssl-data-service = pipelines.data_service:run",
            "tfssl-show-views = pipelines.show_views:run",
            "tfssl-train-segmenter = pipelines.train_segmenter:run",
            "tfssl-train-tokenizer = pipelines.train_tokenizer:run",
        ],
    },
)
