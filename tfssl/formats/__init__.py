"""Trained encoders as files: SavedModel for serving, `.keras` for fine-tuning."""

from tfssl.formats import dall_e, keras_file
from tfssl.formats.classifier import Classifier
from tfssl.formats.encoder import Encoder
from tfssl.formats.keras_file import load
from tfssl.formats.serving import saved_model

__all__ = ["Classifier", "Encoder", "dall_e", "keras_file", "load", "saved_model"]
