"""The gateway of the manual guide, in short: a program that somebody starts from a login."""

import io
import json
import urllib.request
from typing import Any

import numpy
from fastapi import FastAPI, UploadFile
from PIL import Image

_URL = "http://127.0.0.1:9501/v1/models/pets:predict"
_LABELS = ("cat", "dog")
_SIDE = 380

app = FastAPI()


@app.post("/model/predict/")
def predict(file: UploadFile) -> dict[str, Any]:
    """Answer as the guide's does."""
    image = Image.open(io.BytesIO(file.file.read())).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    pixels = numpy.asarray(image, dtype=numpy.float32) / 255
    with urllib.request.urlopen(_URL, json.dumps({"instances": [pixels.tolist()]}).encode()) as response:
        (scores,) = json.load(response)["predictions"]
    predictions = [{"label": label, "score": score} for label, score in zip(_LABELS, scores)]
    return {"success": True, "predictions": sorted(predictions, key=lambda prediction: -prediction["score"])}
