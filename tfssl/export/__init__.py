"""Trained encoders as files: SavedModel for serving, `.keras` for fine-tuning."""

from tfssl.export import keras_file
from tfssl.export.encoder import Encoder
from tfssl.export.keras_file import load
from tfssl.export.serving import saved_model

__all__ = ["Encoder", "keras_file", "load", "saved_model"]
