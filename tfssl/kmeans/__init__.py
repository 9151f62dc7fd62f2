"""K-means and PCA-whitening of features, for methods that learn from clusters."""

from tfssl.kmeans.lloyd import Clustering, assign, fit, split_empty
from tfssl.kmeans.rows import on_gpu, unit_norm
from tfssl.kmeans.starts import plus_plus
from tfssl.kmeans.whitening import PCA, Moments, pca

__all__ = [
    "PCA",
    "Clustering",
    "Moments",
    "assign",
    "fit",
    "on_gpu",
    "pca",
    "plus_plus",
    "split_empty",
    "unit_norm",
]
