"""A stand-in for TensorFlow Serving: TensorFlow's own C++ runtime behind TF Serving's published interface."""
