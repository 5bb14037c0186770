"""Models with all kinds of inputs, served at once: what each is sent for an image."""

from __future__ import annotations

import io

import grpc
import numpy as np
import pytest
from gateway_process import Gateway, encode_image, gateway_config, noise, plain, scores
from PIL import Image
from stub_serving import DT_FLOAT, DT_STRING, DT_UINT8, Failure, Model, answer_files

DT_DOUBLE, DT_INT32, DT_INT64, DT_HALF = 2, 3, 9, 19
MAX_PIXELS = 10_000
LABELS = {"labels": ["red", "green"]}
FLOAT_INPUT = (DT_FLOAT, (-1, 6, 8, 3))

# Name of a model -> its input, and what is declared beside its labels.
MODELS = {
    "pets": (FLOAT_INPUT, {}),
    "symmetric": (FLOAT_INPUT, {"scale": 1 / 127.5}),
    "unscaled": (FLOAT_INPUT, {"scale": 1}),
    "half": ((DT_HALF, (-1, 6, 8, 3)), {}),
    "double": ((DT_DOUBLE, (-1, 6, 8, 3)), {}),
    "uint8": ((DT_UINT8, (-1, 6, 8, 3)), {}),
    "int32": ((DT_INT32, (-1, 6, 8, 3)), {}),
    "int64": ((DT_INT64, (-1, 6, 8, 3)), {}),
    "grey": ((DT_FLOAT, (-1, 6, 8, 1)), {}),
    "grey-uint8": ((DT_UINT8, (-1, 6, 8, 1)), {}),
    "open": ((DT_FLOAT, (-1, -1, -1, 3)), {"height": 5, "width": 9}),
    "open-channels": ((DT_UINT8, (-1, -1, -1, -1)), {"height": 5, "width": 9}),
    "half-open": ((DT_FLOAT, (-1, 6, -1, 3)), {"height": 6, "width": 4}),
    "files": ((DT_STRING, (-1,)), {}),
    "file": ((DT_STRING, ()), {}),
    "one-file": ((DT_STRING, (1,)), {}),
    "upright": ((DT_UINT8, (-1, 6, 8, 3)), {"exif": "apply"}),
    "fast": ((DT_UINT8, (-1, 6, 8, 3)), {"decoding": "fast"}),
    "fast-upright": ((DT_UINT8, (-1, 6, 8, 3)), {"decoding": "fast", "exif": "apply"}),
    **{
        name: ((DT_UINT8, (-1, 6, 8, 3)), {"resize": name})
        for name in ("bilinear", "bicubic", "lanczos", "box", "hamming")
    },
}


@pytest.fixture(scope="module")
def inputs_gateway(shared_stub):
    declarations = {name: {**LABELS, **declared} for name, (_input, declared) in MODELS.items()}
    limits = {"max_image_pixels": MAX_PIXELS}
    gateway = Gateway(gateway_config(shared_stub.address, models=declarations, limits=limits))
    yield gateway
    gateway.stop()


@pytest.fixture
def gateway(inputs_gateway, stub):
    """In front of all MODELS."""
    for name, (image_input, _declared) in MODELS.items():
        model = Model(name, inputs={"image": image_input})
        if image_input[0] == DT_STRING:
            model.answer = answer_files
        stub.more_models.append(model)
    stub.model = stub.more_models.pop(0)
    return inputs_gateway


def sent(gateway, stub, name: str, file: bytes):
    """Have a model classify a file and return the call that it got."""
    asked = len(stub.calls)
    answer = gateway.upload(file, f"/models/{name}/predict")
    assert answer.status == 200, answer.body
    (call,) = stub.calls[asked:]
    assert call.name == name
    assert call.dtype == MODELS[name][0][0]
    return call


def test_all_models_are_ready_and_described(gateway):
    answer = gateway.get("/readyz")
    assert answer.status == 200
    assert answer.json["models"] == dict.fromkeys(MODELS, "1")
    assert gateway.get("/models").json == {
        "models": [
            {
                "name": name,
                "default": name == "pets",
                "labels": ["red", "green"],
                "label": None,
                "version": "1",
                "canary": None,
            }
            for name in MODELS
        ]
    }


# ---- numbers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pets", lambda pixels: pixels.astype("f4") / np.float32(255)),
        ("symmetric", lambda pixels: pixels.astype("f4") * np.float32(1 / 127.5)),
        ("unscaled", lambda pixels: pixels.astype("f4")),
        ("half", lambda pixels: (pixels.astype("f4") / np.float32(255)).astype("f2")),
        ("double", lambda pixels: (pixels.astype("f4") / np.float32(255)).astype("f8")),
        ("uint8", lambda pixels: pixels),
        ("int32", lambda pixels: pixels.astype("<i4")),
        ("int64", lambda pixels: pixels.astype("<i8")),
    ],
)
def test_pixels_come_in_the_models_type_and_scale(gateway, stub, name, expected):
    image = noise()
    call = sent(gateway, stub, name, encode_image(image))
    assert call.shape == (1, 6, 8, 3)
    assert call.content == expected(np.asarray(image)).tobytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
@pytest.mark.parametrize("size", [(8, 6), (31, 17)])
def test_grey_models_get_one_channel(gateway, stub, mode, size):
    """Luma after ITU-R 601, of the pixels that NEAREST picks: what Keras' color_mode="grayscale" makes."""
    image = noise("RGB", size).quantize(16) if mode == "P" else noise(mode, size)
    expected = np.asarray(image.convert("L").resize((8, 6), Image.Resampling.NEAREST))[np.newaxis, ..., np.newaxis]
    call = sent(gateway, stub, "grey-uint8", encode_image(image))
    assert call.shape == (1, 6, 8, 1)
    assert call.content == expected.tobytes()
    call = sent(gateway, stub, "grey", encode_image(image))
    assert call.content == (expected.astype("f4") / np.float32(255)).tobytes()


@pytest.mark.parametrize(
    ("name", "shape"), [("open", (1, 5, 9, 3)), ("open-channels", (1, 5, 9, 3)), ("half-open", (1, 6, 4, 3))]
)
def test_open_sizes_are_filled_as_declared(gateway, stub, name, shape):
    image = noise(size=(40, 30))
    call = sent(gateway, stub, name, encode_image(image))
    expected = np.asarray(image.resize((shape[2], shape[1]), Image.Resampling.NEAREST))
    assert call.shape == shape
    assert (np.rint(call.pixels[0] * (1 if call.dtype == DT_UINT8 else 255)) == expected).all()


@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_filters_mix_rgb_pixels(gateway, stub, resize, mode):
    image = noise("RGB", (40, 30)).quantize(16) if mode == "P" else noise(mode, (40, 30))
    expected = np.asarray(image.convert("RGB").resize((8, 6), Image.Resampling[resize.upper()]))
    assert sent(gateway, stub, resize, encode_image(image)).content == expected.tobytes()


# ---- EXIF, fast decoding


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_where_declared(gateway, stub, orientation):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode_image(noise(size=(40, 30)), "JPEG", exif=exif, quality=95)
    as_stored = Image.open(io.BytesIO(file)).convert("RGB")
    upright = as_stored.transpose(turns[orientation]) if orientation in turns else as_stored
    for name, expected in (("uint8", as_stored), ("upright", upright)):
        pixels = np.asarray(expected.resize((8, 6), Image.Resampling.NEAREST))
        assert sent(gateway, stub, name, file).content == pixels.tobytes()


def test_fast_decoding_gives_the_same_picture_roughly(gateway, stub):
    """A smooth picture: pixels may differ by rounding, so only a wrong size or place could make a great difference."""
    picture = Image.merge(
        "RGB", [Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90), Image.new("L", (256, 256), 90)]
    ).resize((96, 72))
    file = encode_image(picture, "JPEG", quality=95)
    fast, exact = sent(gateway, stub, "fast", file), sent(gateway, stub, "uint8", file)
    assert fast.shape == exact.shape == (1, 6, 8, 3)
    assert fast.content != exact.content
    assert np.abs(fast.pixels.astype(int) - exact.pixels.astype(int)).mean() < 16


def test_fast_decoding_keeps_enough_of_an_image_that_is_turned(gateway, stub):
    """Halved, 13 rows would be too few for the 8 columns that they are turned into."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encode_image(noise(size=(200, 13)), "JPEG", exif=exif)
    assert sent(gateway, stub, "fast-upright", file).content == sent(gateway, stub, "upright", file).content


def test_fast_decoding_leaves_other_formats_alone(gateway, stub):
    file = encode_image(noise(size=(96, 72)))
    assert sent(gateway, stub, "fast", file).content == sent(gateway, stub, "uint8", file).content


# ---- whole files


@pytest.mark.parametrize(("name", "shape"), [("files", (1,)), ("file", ()), ("one-file", (1,))])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_models_that_decode_get_the_file_as_it_is(gateway, stub, name, shape, image_format):
    file = encode_image(noise(size=(40, 30)), image_format)
    call = sent(gateway, stub, name, file)
    assert (call.shape, call.strings) == (shape, [file])


@pytest.mark.parametrize(("name", "sizes"), [("files", [3]), ("file", [1, 1, 1]), ("one-file", [1, 1, 1])])
def test_batches_of_files(gateway, stub, name, sizes):
    """Files of different sizes; one request for all, if the model takes more than one at a time."""
    files = [plain(0, 51), encode_image(Image.new("RGB", (50, 20), (51, 102, 0))), plain(102, 153)]
    answer = gateway.upload_batch(files, f"/models/{name}/predict/batch")
    assert answer.status == 200, answer.body
    assert [scores(result) for result in answer.json["results"]] == [
        {"red": red, "green": red + 51} for red in (0, 51, 102)
    ]
    assert [len(call.strings) for call in stub.calls] == sizes
    assert sorted(file for call in stub.calls for file in call.strings) == sorted(files)


def damaged(image_format: str = "PNG") -> bytes:
    """A file with a good header and nothing of its pixels."""
    whole = encode_image(noise(size=(90, 60)), image_format)
    return whole[: len(whole) // 2]


@pytest.mark.parametrize("name", ["files", "file"])
def test_files_that_the_model_refuses_are_the_callers_fault(gateway, stub, name):
    answer = gateway.upload(damaged(), f"/models/{name}/predict")
    assert answer.error == (422, "image_invalid")
    assert "Unknown image file format" in answer.message
    assert gateway.upload(plain(1, 2), f"/models/{name}/predict").status == 200


@pytest.mark.parametrize("name", ["files", "file"])
def test_files_that_the_model_refuses_cost_only_their_own_results(gateway, stub, name):
    files = [plain(0, 51), damaged(), b"no image", plain(51, 102), damaged("JPEG")]
    answer = gateway.upload_batch(files, f"/models/{name}/predict/batch")
    assert answer.status == 200, answer.body
    results = answer.json["results"]
    codes = [None if result["success"] else result["error"]["code"] for result in results]
    assert codes == [None, "image_invalid", "unsupported_type", None, "image_invalid"]
    assert scores(results[0]) == {"red": 0, "green": 51}
    assert scores(results[3]) == {"red": 51, "green": 102}
    assert not [call for call in stub.calls if b"no image" in call.strings]


def test_other_failures_about_files_are_not_the_callers(gateway, stub):
    for code, expected in (
        (grpc.StatusCode.INTERNAL, (502, "upstream_error")),
        (grpc.StatusCode.FAILED_PRECONDITION, (502, "upstream_error")),
    ):
        stub.failures = [Failure(code)]
        assert gateway.upload(plain(1, 2), "/models/files/predict").error == expected


def test_pixel_tensors_that_the_model_refuses_are_not_the_callers_fault(gateway, stub):
    stub.failures = [Failure(grpc.StatusCode.INVALID_ARGUMENT)]
    assert gateway.upload(plain(1, 2), "/models/uint8/predict").error == (500, "model_contract")


@pytest.mark.parametrize("name", ["files", "uint8", "grey", "fast", "upright"])
def test_pixel_limit_holds_for_every_input(gateway, stub, name):
    assert gateway.upload(encode_image(Image.new("RGB", (100, 100))), f"/models/{name}/predict").status == 200
    stub.calls.clear()
    answer = gateway.upload(encode_image(Image.new("RGB", (100, 101))), f"/models/{name}/predict")
    assert answer.error == (413, "image_too_large")
    assert str(MAX_PIXELS) in answer.message
    assert stub.calls == []


def test_files_are_told_by_their_content_for_every_input(gateway, stub):
    for name in ("files", "uint8"):
        answer = gateway.send(b"GIF80 is no GIF", "image/gif", f"/models/{name}/predict")
        assert answer.error == (415, "unsupported_type")
    assert stub.calls == []


# ---- other versions


def test_new_version_with_another_kind_of_input(new_stub, new_gateway):
    stub = new_stub().start()
    gateway = new_gateway(stub.address)
    file = encode_image(noise())
    kinds = [(DT_UINT8, (-1, 6, 8, 3)), (DT_STRING, (-1,)), (DT_FLOAT, (-1, 4, 4, 1)), (DT_FLOAT, (-1, 6, 8, 3))]
    for version, image_input in enumerate(kinds, 2):
        stub.model = Model(version=version, inputs={"image": image_input})
        if image_input[0] == DT_STRING:
            stub.model.answer = answer_files
        answer = gateway.upload(file)
        assert answer.status == 200, answer.body
        assert answer.json["model"]["version"] == str(version)
        assert (stub.calls[-1].dtype, stub.calls[-1].shape[1:]) == (image_input[0], image_input[1][1:])


def test_new_version_with_another_number_of_dimensions(new_stub, new_gateway):
    """With one file a request, only the tensor's shape tells the versions apart."""
    stub = new_stub().start()
    gateway = new_gateway(stub.address, model={"labels": ["red", "green"], "batch_size": 1})
    for version, shape in enumerate([(), (-1,), ()], 2):
        stub.model = Model(version=version, inputs={"image": (DT_STRING, shape)}, answer=answer_files)
        answer = gateway.upload(encode_image(noise()))
        assert answer.status == 200, answer.body
        assert answer.json["model"]["version"] == str(version)
