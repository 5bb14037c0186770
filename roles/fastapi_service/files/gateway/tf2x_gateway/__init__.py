"""HTTP gateway of image classifiers that TF Serving serves: images in, labels and scores out."""

__version__ = "0.1.0"
