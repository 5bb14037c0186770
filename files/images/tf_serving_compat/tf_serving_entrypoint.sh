#!/usr/bin/env bash
# As in the official image, but with exec: the server gets the container's SIGTERM and shuts down in good order.
exec tensorflow_model_server --port=8500 --rest_api_port=8501 \
  --model_name="${MODEL_NAME}" --model_base_path="${MODEL_BASE_PATH}/${MODEL_NAME}" "$@"
