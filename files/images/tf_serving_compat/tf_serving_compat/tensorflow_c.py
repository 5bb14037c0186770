"""SavedModels run by TensorFlow's C++ runtime, reached through its stable C interface.

The wheel's shared library is enough: no `import tensorflow`, so a server starts in a fraction of a second and calls
run outside Python's interpreter lock.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_void_p

import numpy as np

from tf_serving_compat.errors import ServingError, invalid_argument, status_code
from tf_serving_compat.protos import config_pb2, meta_graph_pb2, tensorflow_directory
from tf_serving_compat.tensors import STRING, Tensor, numpy_dtype, string_array

_STRING_SIZE = 24  # sizeof(TF_TString), part of TensorFlow's binary interface
_DEALLOCATOR = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)


class _Buffer(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


class _Output(ctypes.Structure):
    _fields_ = (("operation", c_void_p), ("index", c_int))


_SIGNATURES = {
    "TF_Version": (c_char_p, []),
    "TF_NewStatus": (c_void_p, []),
    "TF_DeleteStatus": (None, [c_void_p]),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_NewBuffer": (POINTER(_Buffer), []),
    "TF_DeleteBuffer": (None, [POINTER(_Buffer)]),
    "TF_NewGraph": (c_void_p, []),
    "TF_DeleteGraph": (None, [c_void_p]),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_DeleteSessionOptions": (None, [c_void_p]),
    "TF_SetConfig": (None, [c_void_p, c_char_p, c_size_t, c_void_p]),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        [
            c_void_p,
            POINTER(_Buffer),
            c_char_p,
            POINTER(c_char_p),
            c_int,
            c_void_p,
            POINTER(_Buffer),
            c_void_p,
        ],
    ),
    "TF_CloseSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteSession": (None, [c_void_p, c_void_p]),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_OperationNumOutputs": (c_int, [c_void_p]),
    "TF_SessionRun": (
        None,
        [
            c_void_p,
            POINTER(_Buffer),
            POINTER(_Output),
            POINTER(c_void_p),
            c_int,
            POINTER(_Output),
            POINTER(c_void_p),
            c_int,
            c_void_p,
            c_int,
            c_void_p,
            c_void_p,
        ],
    ),
    "TF_AllocateTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_size_t]),
    "TF_NewTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_void_p, c_size_t, _DEALLOCATOR, c_void_p]),
    "TF_DeleteTensor": (None, [c_void_p]),
    "TF_TensorType": (c_int, [c_void_p]),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_TensorByteSize": (c_size_t, [c_void_p]),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_StringInit": (None, [c_void_p]),
    "TF_StringCopy": (None, [c_void_p, c_char_p, c_size_t]),
    "TF_StringDealloc": (None, [c_void_p]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
}


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(tensorflow_directory() / "libtensorflow_cc.so.2"))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def version() -> str:
    """The version of the TensorFlow runtime."""
    return _library().TF_Version().decode()


class _Status:
    """TensorFlow's status object; leaving the block raises what it holds."""

    def __enter__(self) -> c_void_p:
        self._pointer = _library().TF_NewStatus()
        return self._pointer

    def __exit__(self, error_type: type | None, *_rest: object) -> None:
        library = _library()
        code = library.TF_GetCode(self._pointer)
        message = library.TF_Message(self._pointer).decode("utf-8", "replace")
        library.TF_DeleteStatus(self._pointer)
        if error_type is None and code != 0:
            raise ServingError(status_code(code), message)


# Memory of string tensors that TensorFlow still refers to, by address.
_string_memory: dict[int, ctypes.Array] = {}


@_DEALLOCATOR
def _free_strings(address: int, size: int, _argument: int | None) -> None:
    for offset in range(0, size, _STRING_SIZE):
        _library().TF_StringDealloc(address + offset)
    _string_memory.pop(address, None)


def _new_tensor(tensor: Tensor) -> int:
    library = _library()
    shape = tensor.array.shape
    dims = (c_int64 * len(shape))(*shape)
    if tensor.dtype == STRING:
        count = tensor.array.size
        memory = ctypes.create_string_buffer(max(count, 1) * _STRING_SIZE)
        address = ctypes.addressof(memory)
        for index, value in enumerate(tensor.array.reshape(-1)):
            library.TF_StringInit(address + index * _STRING_SIZE)
            library.TF_StringCopy(address + index * _STRING_SIZE, value, len(value))
        _string_memory[address] = memory
        return library.TF_NewTensor(tensor.dtype, dims, len(shape), address, count * _STRING_SIZE, _free_strings, None)
    array = np.ascontiguousarray(tensor.array)
    pointer = library.TF_AllocateTensor(tensor.dtype, dims, len(shape), array.nbytes)
    if not pointer:
        raise MemoryError(f"no memory for a tensor of {array.nbytes} bytes")
    if array.nbytes:
        ctypes.memmove(library.TF_TensorData(pointer), array.ctypes.data, array.nbytes)
    return pointer


def _read_tensor(pointer: int) -> Tensor:
    library = _library()
    dtype = library.TF_TensorType(pointer)
    shape = tuple(library.TF_Dim(pointer, index) for index in range(library.TF_NumDims(pointer)))
    address = library.TF_TensorData(pointer)
    if dtype == STRING:
        values = []
        for index in range(int(np.prod(shape, dtype=np.int64))):
            string = address + index * _STRING_SIZE
            size = library.TF_StringGetSize(string)
            values.append(ctypes.string_at(library.TF_StringGetDataPointer(string), size) if size else b"")
        return Tensor(dtype, string_array(values, shape))
    size = library.TF_TensorByteSize(pointer)
    data = ctypes.string_at(address, size) if size else b""
    return Tensor(dtype, np.frombuffer(data, dtype=numpy_dtype(dtype)).reshape(shape))


class Session:
    """A SavedModel loaded into a TensorFlow session; `run` may be called by many threads at once."""

    def __init__(self, path: str, tags: Sequence[str], config: config_pb2.ConfigProto) -> None:
        """Load the SavedModel in directory `path`; raises ServingError with TensorFlow's own code and text."""
        library = _library()
        self._outputs: dict[str, _Output] = {}
        self._outputs_lock = threading.Lock()
        self._graph = library.TF_NewGraph()
        self._session = None
        options = library.TF_NewSessionOptions()
        meta_graph = library.TF_NewBuffer()
        try:
            serialized = config.SerializeToString()
            with _Status() as status:
                library.TF_SetConfig(options, serialized, len(serialized), status)
            c_tags = (c_char_p * len(tags))(*(tag.encode() for tag in tags))
            with _Status() as status:
                self._session = library.TF_LoadSessionFromSavedModel(
                    options, None, path.encode(), c_tags, len(tags), self._graph, meta_graph, status
                )
            content = ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
            self.signatures = dict(meta_graph_pb2.MetaGraphDef.FromString(content).signature_def)
        except BaseException:
            self.close()
            raise
        finally:
            library.TF_DeleteBuffer(meta_graph)
            library.TF_DeleteSessionOptions(options)

    def run(self, feeds: Mapping[str, Tensor], fetches: Sequence[str], timeout_ms: int = 0) -> list[Tensor]:
        """The tensors named in `fetches` ("operation:index"), in that order; a `timeout_ms` of 0 means none.

        Raises ServingError: TensorFlow's own, DEADLINE_EXCEEDED when the time is over.
        """
        library = _library()
        inputs = (_Output * len(feeds))(*(self._output(name) for name in feeds))
        outputs = (_Output * len(fetches))(*(self._output(name) for name in fetches))
        input_tensors = (c_void_p * len(feeds))()
        output_tensors = (c_void_p * len(fetches))()
        serialized = config_pb2.RunOptions(timeout_in_ms=timeout_ms).SerializeToString()
        run_options = _Buffer(ctypes.cast(c_char_p(serialized), c_void_p), len(serialized), None)
        try:
            for index, tensor in enumerate(feeds.values()):
                input_tensors[index] = _new_tensor(tensor)
            with _Status() as status:
                library.TF_SessionRun(
                    self._session,
                    byref(run_options),
                    inputs,
                    input_tensors,
                    len(feeds),
                    outputs,
                    output_tensors,
                    len(fetches),
                    None,
                    0,
                    None,
                    status,
                )
            return [_read_tensor(pointer) for pointer in output_tensors]
        finally:
            for pointer in [*input_tensors, *output_tensors]:
                if pointer:
                    library.TF_DeleteTensor(pointer)

    def close(self) -> None:
        """Free the model; no `run` may be under way."""
        library = _library()
        if self._session:
            with _Status() as status:
                library.TF_CloseSession(self._session, status)
            with _Status() as status:
                library.TF_DeleteSession(self._session, status)
            self._session = None
        if self._graph:
            library.TF_DeleteGraph(self._graph)
            self._graph = None

    def _output(self, name: str) -> _Output:
        with self._outputs_lock:
            if name not in self._outputs:
                operation_name, _unused, index = name.partition(":")
                operation = _library().TF_GraphOperationByName(self._graph, operation_name.encode())
                number = int(index) if index.isdigit() else 0
                if not operation or number >= _library().TF_OperationNumOutputs(operation):
                    raise invalid_argument(f"Tensor {name}, specified in a signature, was not found in the graph")
                self._outputs[name] = _Output(operation, number)
            return self._outputs[name]
