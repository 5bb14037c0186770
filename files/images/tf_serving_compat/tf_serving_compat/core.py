"""The server's configuration at run time: which models, which versions, which labels; reloads and polls."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from grpc import StatusCode

from tf_serving_compat import storage
from tf_serving_compat.errors import ServingError, invalid_argument
from tf_serving_compat.manager import ModelManager
from tf_serving_compat.protos import model_pb2, model_server_config_pb2, read_text_proto

logger = logging.getLogger(__name__)

ModelServerConfig = model_server_config_pb2.ModelServerConfig


class ServerCore:
    """Applies model configurations, and finds the version that a request means."""

    def __init__(
        self,
        manager: ModelManager,
        file_system_poll_seconds: int = 1,
        allow_labels_for_unavailable_models: bool = False,
    ) -> None:
        self.manager = manager
        self._poll_seconds = file_system_poll_seconds
        self._allow_labels_for_unavailable = allow_labels_for_unavailable_models
        self._reload_lock = threading.Lock()
        self._config = ModelServerConfig()
        self._labels: dict[str, dict[str, int]] | None = None
        # Held while the file system is read and acted on, so that a poll cannot bring back a model just taken out.
        self._sources_lock = threading.Lock()
        self._sources: list[model_server_config_pb2.ModelConfig] | None = None
        self._poll_warnings: dict[str, str] = {}
        self._stopped = threading.Event()

    def start(self, config: ModelServerConfig) -> None:
        """Apply the first configuration and wait until its models are available; raises ServingError."""
        if self._poll_seconds > 0:
            self._every(self._poll_seconds, "file-system-poll", self._poll_file_system)
        self.reload(config)
        self.manager.finish_initial_load()

    def poll_config_file(self, path: str, seconds: int) -> None:
        """Apply a model config file again and again; one that cannot be read or applied is logged."""

        def reload() -> None:
            try:
                self.reload(read_text_proto(path, ModelServerConfig))
            except ServingError as error:
                logger.error("Failed to reload model config file %s: %s", path, error)

        self._every(seconds, "config-file-poll", reload)

    def stop(self) -> None:
        """End the polls and whatever waits for models."""
        self._stopped.set()
        self.manager.stop()

    def reload(self, config: ModelServerConfig, timeout: float | None = None) -> None:
        """Replace the set of models, and wait until new ones are available.

        As in TF Serving labels come first: one that may not be assigned aborts the reload before any model changes.
        """
        with self._reload_lock:
            kind = config.WhichOneof("config")
            if kind is None:
                logger.info("Taking no action for empty config.")
                return
            if kind != "model_config_list":
                raise invalid_argument("custom_model_config is not implemented by this stand-in")
            _validate(config)
            changed = config != self._config
            self._config = config
            models = list(config.model_config_list.config)
            self._labels = self._new_labels(models)
            if changed:
                logger.info("Adding/updating models: %s", ", ".join(model.name for model in models))
            known = {source.name for source in self._sources or []}
            first = self._sources is None
            with self._sources_lock:
                for name in known - {model.name for model in models}:
                    self.manager.set_aspired_versions(name, {})
                self._sources = models
            if (first and self._poll_seconds >= 0) or changed:
                self._poll_file_system()
            self.manager.wait_until_available({model.name for model in models} - known, timeout)
            if changed:
                logger.info("Finished adding/updating models")

    def resolve(self, spec: model_pb2.ModelSpec) -> tuple[str, int | None]:
        """Model name and version (None: the latest ready one) of a request; raises ServingError."""
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return spec.name, spec.version.value
        if choice == "version_label":
            if self._labels is None:
                raise ServingError(StatusCode.UNAVAILABLE, f"Model labels does not init yet.{spec.version_label}")
            version = self._labels.get(spec.name, {}).get(spec.version_label)
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
            return spec.name, version
        return spec.name, None

    def _new_labels(self, models: list[model_server_config_pb2.ModelConfig]) -> dict[str, dict[str, int]]:
        old = self._labels or {}
        for model in models:
            for label, version in model.version_labels.items():
                moves = old.get(model.name, {}).get(label, version) != version
                unchecked = self._allow_labels_for_unavailable and not moves
                if not unchecked and not self.manager.is_available(model.name, version):
                    raise ServingError(
                        StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {model.name}, which is not currently "
                        "available for inference",
                    )
        return {model.name: dict(model.version_labels) for model in models if model.version_labels}

    def _poll_file_system(self) -> None:
        with self._sources_lock:
            try:
                # All or nothing: one unreadable base path leaves every model as it is.
                found = {source.name: storage.aspired_versions(source) for source in self._sources or []}
            except ServingError as error:
                self._warn_once({"": f"File system access error while looking for model versions: {error.message}"})
                return
            self._warn_once({name: warning for name, (_paths, warning) in found.items()})
            for name, (paths, _warning) in found.items():
                self.manager.set_aspired_versions(name, paths)

    def _warn_once(self, warnings: dict[str, str]) -> None:
        """Log what the last poll did not already say."""
        for name, warning in warnings.items():
            if warning and warning != self._poll_warnings.get(name):
                logger.warning("%s", warning)
        self._poll_warnings = warnings

    def _every(self, seconds: float, name: str, action: Callable[[], None]) -> None:
        def loop() -> None:
            while not self._stopped.wait(seconds):
                try:
                    action()
                except Exception:
                    # A poll that fails today must not end the polls of tomorrow.
                    logger.exception("%s failed", name)

        threading.Thread(target=loop, name=name, daemon=True).start()


def _validate(config: ModelServerConfig) -> None:
    names = set()
    for model in config.model_config_list.config:
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
        if not model.base_path.startswith("/"):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
        uses_deprecated_type = model.model_type == model_server_config_pb2.TENSORFLOW
        if uses_deprecated_type and model.model_platform:
            raise invalid_argument(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                f"ModelServerConfig::model_platform, model name is {model.name}"
            )
        if not model.model_platform and not uses_deprecated_type:
            raise invalid_argument(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                f"ModelServerConfig::model_platform, model name is {model.name}"
            )
        if model.model_platform not in ("", "tensorflow"):
            raise invalid_argument(f"Model {model.name} requests unsupported platform {model.model_platform}")
        if model.HasField("logging_config") and model.logging_config.ByteSize():
            raise invalid_argument(f"No request-logger-creator provided. (model {model.name} has a logging_config)")
