"""The gateway as the manual procedure has it, in short: what a request costs that way.

The upload goes to a file, Keras loads and scales it, the tensor goes to TF Serving as JSON over REST, and all of that
blocks the event loop. Needs TensorFlow's Python environment.

    python benchmarks/reference_way.py 8501 9000
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import requests
import uvicorn
from fastapi import FastAPI, UploadFile
from keras.utils import img_to_array, load_img

_LABELS = ("cat", "dog")
_SIDE = 380


def create_app(serving_port: int, uploads: Path) -> FastAPI:
    """Return the application; it keeps uploaded files in a folder."""
    app = FastAPI()
    url = f"http://127.0.0.1:{serving_port}/v1/models/float32:predict"

    @app.get("/")
    def greeting() -> str:
        return "ready"

    @app.post("/model/predict/")
    async def predict(file: UploadFile) -> dict[str, Any]:
        path = uploads / Path(file.filename).name
        path.write_bytes(await file.read())
        pixels = img_to_array(load_img(path, target_size=(_SIDE, _SIDE))) / 255
        body = json.dumps({"signature_name": "serving_default", "instances": np.expand_dims(pixels, 0).tolist()})
        # Blocking inside a coroutine, without a timeout: that is how the procedure does it.
        answer = requests.post(url, data=body, headers={"Content-Type": "application/json"})
        scores = json.loads(answer.text)["predictions"][0]
        predictions = [{"label": label, "score": score} for label, score in zip(_LABELS, scores)]
        return {"success": True, "predictions": sorted(predictions, key=lambda item: -item["score"])}

    return app


def main() -> None:
    """Serve on 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("serving_port", type=int, help="TF Serving's REST port")
    parser.add_argument("port", type=int, help="the port to listen on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reference-way-") as uploads:
        app = create_app(options.serving_port, Path(uploads))
        uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
