"""Settings of the tests that run TensorFlow; they need the environment with tensorflow-cpu."""

import os

# Before anything imports TensorFlow, and for the servers that the tests start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
