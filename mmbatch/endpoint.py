"""The HTTP endpoint of online prediction: what is asked and answered, and what is refused. What predicts is given."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from mmbatch.errors import InputError
from mmbatch.limits import Limits
from mmbatch.online import Answers
from mmbatch.source_types import Checked
from mmbatch.storage import StorageError

NOT_ANSWERED = ("title_hash", "description_hash", "run_id", "bucket")
"""Columns of `schema.PREDICTIONS` that mean nothing outside a workspace."""

_RETRY_S = 1


def _decoded(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


class Product(BaseModel):
    """What is asked: a product, by any of title, description and image."""

    model_config = ConfigDict(extra="forbid", strict=True)

    product_id: str | None = Field(None, description="Comes back with the answer.")
    title: str | None = None
    description: str | None = None
    image: Annotated[bytes | None, BeforeValidator(_decoded)] = Field(
        None,
        description="A JPEG, PNG, WebP, GIF or BMP file, as base64.",
        json_schema_extra={"contentEncoding": "base64"},
    )
    image_url: str | None = Field(None, description="In place of `image`: an address that the service may read.")
    image_vector: list[float] | None = Field(None, description="For a predictor that was trained on vectors.")

    def fields(self) -> dict[str, Any]:
        """By the names of `online.PRODUCTS`."""
        return self.model_dump(exclude={"image_url"}) | {"image_uri": self.image_url}


class Problem(BaseModel):
    """What of a product could not be used."""

    modality: Literal["text", "image"] | None = Field(description="Null: the whole product.")
    reason: str = Field(description="Reason code, as in the quarantine of the batch jobs.")
    message: str


class Prediction(BaseModel):
    """What is answered: the product's row of `predictions`, as the batch jobs would publish it."""

    product_id: str | None
    label: list[str] | None
    category: str | None
    confidence: float
    top_categories: list[str | None]
    top_probabilities: list[float]
    model_categories: dict[str, str | None]
    model_probabilities: dict[str, float]
    decision: Literal["accepted", "backed_off", "review"]
    decided_category: str | None
    modality_text: float
    modality_image: float
    modality_fused: float
    predictor: str
    text_hash: str | None
    image_hash: str | None
    quarantined: list[str]
    problems: list[Problem]


class Refusal(BaseModel):
    """Why there is no prediction."""

    reason: str
    message: str
    problems: list[Problem] = []


class Service(Protocol):
    """What predicts."""

    async def check(self, product: dict[str, Any]) -> Checked:
        """Clean one product of `online.PRODUCTS`; its position is that of no other product under way."""

    async def answer(self, checked: Checked) -> Answers:
        """Predict it."""

    def ready(self) -> str | None:
        """What answers, as in the column `predictor`; None: it is being loaded."""


class RefusedError(Exception):
    """A request that is not answered with a prediction."""

    def __init__(self, status: int, reason: str, message: str, problems: list[Problem] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.refusal = Refusal(reason=reason, message=message, problems=problems or [])


def build_app(service: Service, limits: Limits) -> FastAPI:
    """The application: `POST /predict`, `GET /health` and `GET /ready`, described at `/docs` and `/openapi.json`."""
    app = FastAPI(title="mmbatch", description="The category of a product, as the batch jobs would publish it.")
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(Exception, _failed)
    under_way: set[Request] = set()
    body = {"required": True, "content": {"application/json": {"schema": Product.model_json_schema()}}}
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": Refusal} for status in (400, 413, 422, 429, 500, 503, 504)
    }

    @app.post("/predict", response_model=Prediction, responses=refusals, openapi_extra={"requestBody": body})
    async def predict(request: Request) -> JSONResponse:
        async with _admitted(request, under_way, limits):
            product = await _read(request, limits)
            try:
                checked = await service.check(product.fields())
                answers = await service.answer(checked)
            except StorageError as error:
                raise RefusedError(503, "storage", str(error)) from None
            except InputError as error:
                raise RefusedError(400, "bad_request", str(error)) from None
            return JSONResponse(_prediction(product, answers).model_dump())

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"model": Refusal}})
    async def ready() -> dict[str, str]:
        """The models are loaded; which predictor answers."""
        loaded = service.ready()
        if loaded is None:
            raise RefusedError(503, "loading", "the models are being loaded")
        return {"predictor": loaded}

    return app


@asynccontextmanager
async def _admitted(request: Request, under_way: set[Request], limits: Limits) -> AsyncIterator[None]:
    """Refuses what is too much at a time, and ends what takes too long."""
    if len(under_way) >= limits.waiting:
        raise RefusedError(429, "too_many_requests", f"{limits.waiting} requests are under way: try again")
    under_way.add(request)
    try:
        async with asyncio.timeout(limits.seconds):
            yield
    except TimeoutError:
        raise RefusedError(504, "timeout", f"not done after {limits.seconds:g} s") from None
    finally:
        under_way.discard(request)


async def _read(request: Request, limits: Limits) -> Product:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limits.body_bytes:
            raise RefusedError(413, "request_too_large", f"more than {limits.body_bytes:,} bytes")
    try:
        product = Product.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise RefusedError(400, "bad_request", f"{where}: {first['msg']}") from None
    if product.image is not None and product.image_url is not None:
        raise RefusedError(400, "bad_request", "image and image_url are both given; expected one of them")
    size = sum(len((text or "").encode()) for text in (product.title, product.description))
    if size > limits.text_bytes:
        message = f"title and description have {size:,} bytes; at most {limits.text_bytes:,} are taken"
        raise RefusedError(413, "text_too_large", message)
    return product


def _prediction(product: Product, answers: Answers) -> Prediction:
    """What is answered; `RefusedError` where nothing of the product could be used."""
    names = list(Problem.model_fields)
    problems = [Problem(**row) for row in answers.rejects.select(names).to_pylist()]
    if not len(answers.predictions):
        raise RefusedError(422, problems[0].reason, problems[0].message, problems)
    (row,) = answers.predictions.drop_columns(list(NOT_ANSWERED)).to_pylist()
    maps = {name: dict(row[name]) for name in ("model_categories", "model_probabilities")}
    return Prediction(**row | maps | {"product_id": product.product_id, "problems": problems})


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    headers = {"Retry-After": str(_RETRY_S)} if error.status in (429, 503) else None
    return JSONResponse(error.refusal.model_dump(), error.status, headers)


async def _not_served(_: Request, error: Exception) -> JSONResponse:
    """An address or a method that there is not."""
    assert isinstance(error, HTTPException)
    refusal = Refusal(reason=HTTPStatus(error.status_code).name.lower(), message=str(error.detail))
    return JSONResponse(refusal.model_dump(), error.status_code, error.headers)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    """A defect, of which the log says more than the answer."""
    return JSONResponse(Refusal(reason="internal_error", message=type(error).__name__).model_dump(), 500)
