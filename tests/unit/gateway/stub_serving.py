"""A gRPC server that answers like TF Serving, and badly on request."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Callable

import grpc
import numpy as np
from PIL import Image
from stub_protobuf import float_tensor, message, parse, shape

DT_FLOAT, DT_UINT8, DT_STRING, DT_BOOL = 1, 4, 7, 10
NUMPY_TYPES = {DT_FLOAT: "<f4", 2: "<f8", 3: "<i4", DT_UINT8: "u1", 9: "<i8", 19: "<f2"}
STATES = {"START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}


class Failure(Exception):
    """The RPC ends with this code and these details."""

    def __init__(self, code: grpc.StatusCode, details: str = "stub failure") -> None:
        super().__init__(details)
        self.code = code
        self.details = details


def red_and_green(pixels: np.ndarray) -> np.ndarray:
    """The stub's classifier: for every image the mean of its first and of its second channel; a grey one has just one.

    `pixels` has the shape (images, height, width, channels), the result (images, 2).
    """
    means = pixels.astype(np.float64).mean(axis=(1, 2))
    return means[:, [0, min(1, means.shape[1] - 1)]]


def answer_pixels(pixels: np.ndarray) -> bytes:
    scores = red_and_green(pixels)
    return float_tensor(scores.shape, scores.ravel().tolist())


def answer_files(files: np.ndarray) -> bytes:
    """A model that decodes image files by itself, of any sizes: the same scores of 8 bit pixels."""
    scores = []
    for file in files.ravel():
        try:
            pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        except OSError:
            raise Failure(grpc.StatusCode.INVALID_ARGUMENT, "Unknown image file format") from None
        scores += red_and_green(pixels[np.newaxis])[0].tolist()
    return float_tensor((len(scores) // 2, 2), scores)


@dataclass
class Model:
    """A model that the stub serves; `answer` makes an encoded TensorProto of the input that Predict was sent.

    It waits for `delay` seconds, and then ends every Predict with `failure`, if there is one.
    """

    name: str = "pets"
    version: int = 1
    state: str = "AVAILABLE"
    load_error: str = ""
    signature_name: str = "serving_default"
    inputs: dict = field(default_factory=lambda: {"image": (DT_FLOAT, (-1, 6, 8, 3))})
    outputs: dict = field(default_factory=lambda: {"scores": (DT_FLOAT, (-1, 2))})
    answer: Callable[[np.ndarray], bytes] = answer_pixels
    delay: float = 0.0
    failure: Failure | None = None


@dataclass
class PredictCall:
    """A PredictRequest as it came."""

    name: str
    signature_name: str
    version_label: str
    output_filter: list[str]
    input_name: str
    dtype: int
    shape: tuple[int, ...]
    content: bytes
    strings: list[bytes]
    seconds_left: float
    metadata: dict[str, str]
    peer: str

    @property
    def pixels(self) -> np.ndarray:
        """The tensor's values; strings as objects."""
        if self.dtype == DT_STRING:
            return np.array(self.strings, dtype=object).reshape(self.shape)
        return np.frombuffer(self.content, NUMPY_TYPES[self.dtype]).reshape(self.shape)


class StubServing:
    """The server: listens on `address` from `start` to `stop`, on the same port each time."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self._server: grpc.Server | None = None
        self.reset()

    def reset(self) -> None:
        """Be a healthy server of one model again, with nothing remembered. Without `labels`, any label means it."""
        self.model = Model()
        self.more_models: list[Model] = []
        self.labels: dict[str, Model] = {}
        self.calls: list[PredictCall] = []
        self.failures: list[Failure] = []
        self.delay = 0.0
        self.raw_reply: bytes | None = None
        self.answering_version: int | None = None
        self.reloads: list[bytes] = []
        self.released = threading.Event()

    def start(self) -> StubServing:
        self._server = grpc.server(
            ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
        )
        prediction = "/tensorflow.serving.PredictionService/"
        methods = {
            prediction + "Predict": self._predict,
            prediction + "GetModelMetadata": self._metadata,
            "/tensorflow.serving.ModelService/GetModelStatus": self._status,
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest": self._reload,
        }
        self._server.add_generic_rpc_handlers([_Methods(methods)])
        self._server.add_insecure_port(self.address)
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self.released.set()
            self._server.stop(0).wait()
            self._server = None

    def _predict(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        fields = parse(request)
        spec = parse(fields[1][0])
        entry = parse(fields[2][0])
        proto = parse(entry[2][0])
        dims = tuple(parse(dim)[1][0] for dim in parse(proto[2][0]).get(2, []))
        call = PredictCall(
            name=spec[1][0].decode(),
            signature_name=spec.get(3, [b""])[0].decode(),
            version_label=spec.get(4, [b""])[0].decode(),
            output_filter=[name.decode() for name in fields.get(3, [])],
            input_name=entry[1][0].decode(),
            dtype=proto[1][0],
            shape=dims,
            content=proto.get(4, [b""])[0],
            strings=proto.get(8, []),
            seconds_left=context.time_remaining(),
            metadata=dict(context.invocation_metadata()),
            peer=context.peer(),
        )
        self.calls.append(call)
        if self.failures:
            raise self.failures.pop(0)
        if self.delay:
            self.released.wait(self.delay)
        if self.raw_reply is not None:
            return self.raw_reply
        model = self._require(spec)
        if model.delay:
            self.released.wait(model.delay)
        if model.failure is not None:
            raise model.failure
        wanted = model.inputs.get(call.input_name)
        if wanted is None or wanted[0] != call.dtype or not _fits(call.shape, wanted[1]):
            raise Failure(grpc.StatusCode.INVALID_ARGUMENT, f"wanted {model.inputs}, got {call.input_name} {dims}")
        output = message((1, call.output_filter[0]), (2, model.answer(call.pixels)))
        version = self.answering_version or model.version
        return message((1, output), (2, message((1, model.name), (2, message((1, version))))))

    def _metadata(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        model = self._require(parse(parse(request)[1][0]))
        signature = b""
        for number, tensors in ((1, model.inputs), (2, model.outputs)):
            for name, (dtype, dims) in tensors.items():
                info = message((1, f"{name}:0"), (2, dtype), (3, shape(dims)))
                signature += message((number, message((1, name), (2, info))))
        signatures = message((1, message((1, model.signature_name), (2, signature))))
        packed = message((1, "type.googleapis.com/tensorflow.serving.SignatureDefMap"), (2, signatures))
        spec = message((1, model.name), (2, message((1, model.version))))
        return message((1, spec), (2, message((1, "signature_def"), (2, packed))))

    def _status(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        """As TF Serving does, it heeds no label here."""
        name = parse(parse(request)[1][0])[1][0].decode()
        models = self._versions(name)
        if not models:
            raise Failure(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model")
        return message(
            *(
                (1, message((1, model.version), (2, STATES[model.state]), (3, message((2, model.load_error)))))
                for model in models
            )
        )

    def _reload(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        self.reloads.append(request)
        if self.failures:
            raise self.failures.pop(0)
        return self.raw_reply or message((1, message((1, 0))))

    def _versions(self, name: str) -> list[Model]:
        found = {id(model): model for model in (self.model, *self.more_models, *self.labels.values())}
        return [model for model in found.values() if model.name == name]

    def _require(self, spec: dict[int, list]) -> Model:
        name, wanted = spec[1][0].decode(), "Latest"
        models = self._versions(name)
        if 2 in spec:
            version = parse(spec[2][0])[1][0]
            models, wanted = [model for model in models if model.version == version], f"Specific, {version}"
        elif 4 in spec and self.labels:
            label = spec[4][0].decode()
            if label not in self.labels:
                raise Failure(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
            models = [self.labels[label]]
        if not models or models[0].state != "AVAILABLE":
            raise Failure(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}({name})")
        return models[0]


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(size in (-1, found) for found, size in zip(shape, wanted))


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, methods: dict[str, Callable[[bytes, grpc.ServicerContext], bytes]]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = self._methods.get(details.method)
        if method is None:
            return None

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return method(request, context)
            except Failure as failure:
                context.abort(failure.code, failure.details)

        return grpc.unary_unary_rpc_method_handler(handle)


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return as soon as the condition holds; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not so after {seconds} s"
        time.sleep(0.02)
