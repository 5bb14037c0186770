"""What the OpenAPI document says about requests and answers: their shapes, units and errors."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Optional, Union

from pydantic import BaseModel, Field


class ErrorKind(NamedTuple):
    """An error code: the HTTP status that it comes with, when it does, and a message as an example."""

    status: int
    when: str
    example: str


ERRORS = {
    "bad_request": ErrorKind(
        400,
        "The request cannot be read, or a form has more files than it may: one, or `limits.max_batch_images`.",
        "the multipart body ends before its closing boundary",
    ),
    "unauthorized": ErrorKind(
        401,
        "The gateway asks for an API key, and none came or one that it does not know.",
        "no key, or no known one, came as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
    ),
    "forbidden": ErrorKind(
        403, "The API key is known, but does not open this.", "the key 'prometheus' opens metrics; this needs predict"
    ),
    "model_not_found": ErrorKind(
        404, "No model of this name is declared.", "there is no model 'cows'; there are: pets"
    ),
    "not_found": ErrorKind(404, "There is nothing at this path.", "GET /modles: Not Found"),
    "method_not_allowed": ErrorKind(
        405, "There is something at this path, but not for this method.", "GET /model/predict/: Method Not Allowed"
    ),
    "read_timeout": ErrorKind(
        408,
        "The headers took more than `limits.header_seconds`, or the body more than `limits.body_seconds` (seconds).",
        "4096 bytes of the body arrived within 30 s, and no end",
    ),
    "file_too_large": ErrorKind(
        413,
        "A file is larger than `limits.max_upload_bytes`, or a batch than `limits.max_batch_bytes` (bytes).",
        "the file is larger than the 20971520 bytes allowed",
    ),
    "image_too_large": ErrorKind(
        413,
        "The image has more pixels than `limits.max_image_pixels`, by its header: it is not decoded.",
        "Image size (169000000 pixels) is more than the 50000000 pixels allowed",
    ),
    "unsupported_type": ErrorKind(
        415,
        "The body is of a type that is not taken, or the file does not begin like JPEG, PNG, WebP, GIF or BMP.",
        "the file starts with 25 50 44 46 2d 31 2e 37; JPEG, PNG, WebP, GIF, BMP are supported",
    ),
    "missing_file": ErrorKind(
        422, "There is no file, or it is empty.", "the form has no field 'file'; its fields: 'picture'"
    ),
    "image_truncated": ErrorKind(
        422, "The image ends too early.", "the WebP image is not complete: it is shorter than its header says"
    ),
    "image_invalid": ErrorKind(
        422, "The image is damaged.", "the file is no valid PNG image: its header is damaged or cut off"
    ),
    "too_many_requests": ErrorKind(
        429,
        "This client has `limits.max_in_flight_per_client` requests under way; `Retry-After` (seconds) says when to "
        "come back.",
        "this client has 4 requests under way, as many as it may have",
    ),
    "headers_too_large": ErrorKind(
        431, "The request's headers are too long.", "the headers have more than the 65536 bytes allowed"
    ),
    "internal_error": ErrorKind(
        500, "The gateway failed; its log says more.", "the gateway failed unexpectedly; its log says more"
    ),
    "model_contract": ErrorKind(
        500,
        "The served model and its declaration in the gateway's configuration do not fit each other.",
        "model 'pets' version 2 returned 3 scores in the shape [1, 3]; 2 labels are declared: cat, dog",
    ),
    "upstream_error": ErrorKind(
        502,
        "TF Serving answered, but with nothing that could be used.",
        "model 'pets' version 1: model returned NaN for label 'cat'",
    ),
    "overloaded": ErrorKind(
        503,
        "As many requests are under way and wait as the `limits` of the gateway's configuration allow; `Retry-After` "
        "(seconds) says when to come back.",
        "16 predictions are under way and 32 requests wait",
    ),
    "upstream_unavailable": ErrorKind(
        503,
        "No TF Serving answers, or none has the model loaded or knows its version label; `Retry-After` (seconds) says "
        "when to come back.",
        "model 'pets': no version is AVAILABLE: version 1 is LOADING",
    ),
    "not_ready": ErrorKind(
        503,
        "At least one model cannot be asked for predictions; the message names it and says why.",
        "model 'pets': no version is AVAILABLE: version 1 is LOADING",
    ),
    "upstream_timeout": ErrorKind(
        504,
        "No prediction came within `upstream.deadline_seconds` (seconds), counted from the end of the upload.",
        "model 'pets': no answer within 10 s",
    ),
}

# In a batch they concern one image only, and stand in its result.
_ITEM_ERRORS = ("image_too_large", "image_truncated", "image_invalid")
_ACCESS_ERRORS = ("unauthorized", "forbidden")
_PREDICT_ERRORS = (
    "bad_request",
    *_ACCESS_ERRORS,
    "model_not_found",
    "read_timeout",
    "file_too_large",
    "unsupported_type",
    "missing_file",
    *_ITEM_ERRORS,
    "too_many_requests",
    "internal_error",
    "model_contract",
    "upstream_error",
    "overloaded",
    "upstream_unavailable",
    "upstream_timeout",
)


class Score(BaseModel):
    """A label and its score."""

    label: str = Field(description="One of the labels that the gateway's configuration declares for the model.")
    score: float = Field(
        description="The model's own output, not rounded: 0 to 1 for a model that ends in softmax or sigmoid. No unit."
    )


class ModelVersion(BaseModel):
    """The model that answered."""

    name: str
    version: Optional[str] = Field(
        description="A decimal number as text, since 64 bits do not fit a JSON number everywhere; null if TF Serving "
        "did not say."
    )
    label: Optional[str] = Field(
        description="The version label by which TF Serving was asked: the declared one, or `canary`; null if none is "
        "declared, so that the newest version answers."
    )


class PredictAnswer(BaseModel):
    """The predictions for one image."""

    success: Literal[True]
    predictions: list[Score] = Field(description="Every label once, best score first.")
    model: ModelVersion


class Error(BaseModel):
    """What went wrong."""

    code: Literal[tuple(ERRORS)] = Field(description="For programs: stable.")
    message: str = Field(description="For people: names what was found and what would be right; may change.")


class ErrorAnswer(BaseModel):
    """Every answer with a status of 400 or more."""

    success: Literal[False]
    error: Error


class BatchFailure(BaseModel):
    """One image of a batch that could not be classified; the others are not affected."""

    success: Literal[False]
    error: Error


class BatchAnswer(BaseModel):
    """The results of all images of a batch."""

    success: Literal[True] = Field(description="The batch was worked through; each result has its own `success`.")
    results: list[Union[PredictAnswer, BatchFailure]] = Field(description="One for each image, in the order sent.")


class CanaryDescription(BaseModel):
    """The version of a model that gets a share of its requests."""

    version: Optional[str] = Field(description="The version that answered last; null as long as none is known.")
    percent: float = Field(ge=0, le=100, description="Share of the requests, in percent; a batch is one request.")
    mode: Literal["split", "shadow"] = Field(
        description="`split`: the canary answers them. `shadow`: it is asked as well, its answers are only compared."
    )
    sticky: bool = Field(description="Whether requests are chosen by who asks instead of at random.")


class ModelDescription(BaseModel):
    """A model that can be asked for predictions."""

    name: str
    default: bool = Field(description="Whether `/model/predict/` asks this model; true for exactly one.")
    labels: list[str] = Field(description="In the order of the model's outputs.")
    label: Optional[str] = Field(description="The declared version label; null if the newest version is asked.")
    version: Optional[str] = Field(description="The version that answered last; null as long as none is known.")
    canary: Optional[CanaryDescription] = Field(description="Null where there is none.")


class ModelsAnswer(BaseModel):
    """All declared models."""

    models: list[ModelDescription]


class ReadinessAnswer(BaseModel):
    """Every model can be asked for predictions."""

    ready: Literal[True]
    models: dict[str, Optional[str]] = Field(description="The version that answers, by the model's name.")


class HealthAnswer(BaseModel):
    """The process lives."""

    ok: Literal[True]


_REQUEST_ID = {
    "X-Request-Id": {
        "description": "Names this request in the gateway's log.",
        "schema": {"type": "string"},
    }
}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "integer", "minimum": 0},
    }
}
_IMAGE = {"type": "string", "format": "binary", "description": "A JPEG, PNG, WebP, GIF or BMP file."}
_SCORES = [{"label": "cat", "score": 0.98}, {"label": "dog", "score": 0.02}]
_MODEL = {"name": "pets", "version": "2", "label": "stable"}
_CANARY = {"version": "3", "percent": 10, "mode": "split", "sticky": False}


def _answer(model: type[BaseModel], example: Any) -> dict[str, Any]:
    return {
        "model": model,
        "description": (model.__doc__ or "").strip(),
        "headers": _REQUEST_ID,
        "content": {"application/json": {"example": example}},
    }


def _errors(codes: Iterable[str]) -> dict[int, dict[str, Any]]:
    answers: dict[int, dict[str, Any]] = {}
    for code in codes:
        kind = ERRORS[code]
        answer = answers.setdefault(
            kind.status,
            {
                "model": ErrorAnswer,
                "description": "",
                "headers": {**_REQUEST_ID, **(_RETRY_AFTER if kind.status in (429, 503) else {})},
                "content": {"application/json": {"examples": {}}},
            },
        )
        answer["description"] = f"{answer['description']}\n\n`{code}`: {kind.when}".strip()
        answer["content"]["application/json"]["examples"][code] = {
            "summary": kind.when,
            "value": {"success": False, "error": {"code": code, "message": kind.example}},
        }
    return dict(sorted(answers.items()))


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [field], "properties": {field: schema}}}


PREDICT_DOCS: dict[str, Any] = {
    "description": "Send one image as the field `file` of a form, or as the body itself. The answer holds every label "
    "with its score, best first, and the version of the model that gave them.",
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": _form("file", _IMAGE), "image/*": {"schema": _IMAGE}},
        }
    },
    "responses": {
        200: _answer(PredictAnswer, {"success": True, "predictions": _SCORES, "model": _MODEL}),
        **_errors(_PREDICT_ERRORS),
    },
}

BATCH_DOCS: dict[str, Any] = {
    "description": "Send up to `limits.max_batch_images` images, each as a field `files` of one form. An image that "
    "cannot be classified costs only its own result.",
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": _form("files", {"type": "array", "minItems": 1, "items": _IMAGE})},
        }
    },
    "responses": {
        200: _answer(
            BatchAnswer,
            {
                "success": True,
                "results": [
                    {"success": True, "predictions": _SCORES, "model": _MODEL},
                    {
                        "success": False,
                        "error": {"code": "image_truncated", "message": ERRORS["image_truncated"].example},
                    },
                ],
            },
        ),
        **_errors(code for code in _PREDICT_ERRORS if code not in _ITEM_ERRORS),
    },
}

MODELS_DOCS: dict[str, Any] = {
    "description": "The models of the gateway's configuration, with their labels, versions and canaries.",
    "responses": {
        200: _answer(
            ModelsAnswer,
            {"models": [{"default": True, "labels": ["cat", "dog"], **_MODEL, "canary": _CANARY}]},
        ),
        **_errors((*_ACCESS_ERRORS, "internal_error")),
    },
}

READINESS_DOCS: dict[str, Any] = {
    "description": "For load balancers and monitoring: asks TF Serving for every declared model that answered no "
    "prediction within the last second.",
    "responses": {
        200: _answer(ReadinessAnswer, {"ready": True, "models": {"pets": "2"}}),
        **_errors(("internal_error", "not_ready")),
    },
}

HEALTH_DOCS: dict[str, Any] = {
    "description": "For process supervision: asks nobody else.",
    "responses": {200: _answer(HealthAnswer, {"ok": True})},
}


def add_api_keys(schema: dict[str, Any]) -> None:
    """Declare in an OpenAPI document that the operations that can answer 401 ask for an API key, either way."""
    schema.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY"},
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for methods in schema["paths"].values():
        for operation in methods.values():
            if "401" in operation["responses"]:
                operation["security"] = [{"bearer": []}, {"api_key": []}]
