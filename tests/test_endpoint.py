"""The endpoint in this process, without Ray: every answer, and every request that is refused."""

import asyncio
import base64
import io
from typing import Any

import httpx2
import pytest
from PIL import Image

from mmbatch import schema
from mmbatch.endpoint import NOT_ANSWERED, Prediction, build_app
from mmbatch.image_access import ImageAccess
from mmbatch.limits import Limits
from mmbatch.online import Answers, OnlinePredictor
from mmbatch.source_types import Checked
from mmbatch.storage import StorageError
from mmbatch.workspace import Workspace
from tests.image_server import serving
from tests.published_shop import PDF, PRODUCTS, photo, rows_of
from tests.test_online import assert_same, load, published

SCRIPT = "<script>alert(1)</script>"


class Local:
    """A service in this process."""

    def __init__(self, online: OnlinePredictor | None) -> None:
        self.online = online

    async def check(self, product: dict[str, Any]) -> Checked:
        assert self.online is not None
        return self.online.check([product])

    async def answer(self, checked: Checked) -> Answers:
        assert self.online is not None
        return self.online.predict_checked(checked)

    def ready(self) -> str | None:
        return self.online.id if self.online else None


class Waiting(Local):
    """Answers when it is let go."""

    def __init__(self) -> None:
        super().__init__(None)
        self.begun, self.released = asyncio.Semaphore(0), asyncio.Event()

    async def check(self, product: dict[str, Any]) -> Checked:
        self.begun.release()
        await self.released.wait()
        raise StorageError("the store is gone")


class Broken(Local):
    async def check(self, product: dict[str, Any]) -> Checked:
        raise RuntimeError("a secret of the machine")


def client(service: Local, limits: Limits | None = None) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(build_app(service, limits or Limits()), raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://service")


def ask(service: Local, method: str, path: str, limits: Limits | None = None, **arguments: Any) -> httpx2.Response:
    async def answer() -> httpx2.Response:
        async with client(service, limits) as session:
            return await session.request(method, path, **arguments)

    return asyncio.run(answer())


def predict(service: Local, limits: Limits | None = None, **product: Any) -> httpx2.Response:
    return ask(service, "POST", "/predict", limits, json=product)


def as_json(product: dict[str, Any]) -> dict[str, Any]:
    return {key: base64.b64encode(value).decode() if key == "image" else value for key, value in product.items()}


@pytest.fixture(scope="module")
def service(shop: Workspace) -> Local:
    return Local(load(shop))


def test_the_answer_is_the_published_row(service: Local, shop: Workspace) -> None:
    batch = published(shop)
    for product in rows_of(PRODUCTS):
        response = predict(service, **as_json(product))
        assert response.status_code == 200, response.text
        found = response.json()
        expected = batch[product["product_id"]]
        assert [problem["modality"] for problem in found["problems"]] == expected["quarantined"]
        assert_same(found | {name: expected[name] for name in NOT_ANSWERED}, expected)


def test_the_answer_names_every_column_that_means_something() -> None:
    expected = [name for name in schema.PREDICTIONS.names if name not in NOT_ANSWERED]
    assert sorted(Prediction.model_fields) == sorted([*expected, "problems"])


def large_image() -> bytes:
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        pytest.param(PDF, "image_unknown_format", id="PDF"),
        pytest.param(large_image(), "image_too_large", id="100 megapixels"),
        pytest.param(photo(0)[:200], "image_truncated", id="cut"),
        pytest.param(b"", "image_empty", id="zero bytes"),
    ],
)
def test_an_image_that_cannot_be_used_is_a_problem_beside_a_text_and_alone_a_refusal(
    service: Local, image: bytes, reason: str
) -> None:
    encoded = base64.b64encode(image).decode()
    beside = predict(service, title="lamp", image=encoded)
    assert (beside.status_code, beside.json()["quarantined"]) == (200, ["image"])
    assert [problem["reason"] for problem in beside.json()["problems"]] == [reason]
    alone = predict(service, image=encoded)
    assert (alone.status_code, alone.json()["reason"]) == (422, "no_content")
    assert f"({reason})" in alone.json()["message"]


@pytest.mark.parametrize("product", [{}, {"title": "", "description": " "}, {"product_id": "a"}])
def test_an_empty_form_is_refused(service: Local, product: dict[str, str]) -> None:
    response = predict(service, **product)
    assert (response.status_code, response.json()["reason"]) == (422, "no_content")
    assert response.json()["message"] == "no title, no description, no image"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the request: Invalid JSON"),
        (b"[]", "the request: "),
        (b'{"title": 5}', "title: Input should be a valid string"),
        (b'{"titel": "lamp"}', "titel: Extra inputs"),
        (b'{"title": "\\ud800"}', "the request: Invalid JSON"),
        (b'{"image": "?"}', "image: "),
        (b'{"image": "YQ==", "image_url": "https://shop.example/a.jpg"}', "image and image_url are both given"),
        (b'{"image_vector": [1.5]}', "products: found image_vector, expected image or image_uri"),
        (b"[" * 10_000, "the request: Invalid JSON"),
    ],
)
def test_what_is_no_product_is_refused(service: Local, body: bytes, message: str) -> None:
    response = ask(service, "POST", "/predict", content=body)
    assert (response.status_code, response.json()["reason"]) == (400, "bad_request")
    assert response.json()["message"].startswith(message)


def test_texts_and_requests_have_a_size(service: Local) -> None:
    long = predict(service, title="lamp", description="x" * 10_000_000)
    assert (long.status_code, long.json()["reason"]) == (413, "text_too_large")
    assert long.json()["message"] == "title and description have 10,000,004 bytes; at most 1,048,576 are taken"
    assert predict(service, Limits(text_bytes=8), title="ääää").status_code == 200
    assert predict(service, Limits(text_bytes=7), title="ääää").status_code == 413
    whole = predict(service, Limits(body_bytes=20), title="a longer title")
    assert (whole.status_code, whole.json()["reason"]) == (413, "request_too_large")


def test_an_address_that_may_not_be_read_is_a_problem(service: Local) -> None:
    private, unknown = ("http://169.254.169.254/latest", "http://127.0.0.1:1/a.jpg"), ("https://x.example/a.jpg",)
    for url in (*private, *unknown, "/etc/passwd"):
        found = predict(service, title="lamp", image_url=url).json()
        assert [problem["reason"] for problem in found["problems"]] == ["image_forbidden"], url


def test_an_image_behind_an_address_that_may_be_read_is_used(shop: Workspace) -> None:
    with serving() as server:
        access = ImageAccess.of([server.site])
        reading = Local(load(shop, access=access))
        found = predict(reading, image_url=f"{server.site}/good").json()
        gone = predict(reading, title="lamp", image_url=f"{server.site}/status/404").json()
    assert (found["problems"], found["image_hash"] is None) == ([], False)
    assert [problem["reason"] for problem in gone["problems"]] == ["image_missing"]


def test_a_script_is_data(service: Local) -> None:
    response = predict(service, product_id=SCRIPT, title=SCRIPT)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json()["product_id"] == SCRIPT


def test_too_many_requests_at_a_time_are_refused_and_later_ones_are_not() -> None:
    async def many() -> tuple[list[int], httpx2.Response, int]:
        waiting = Waiting()
        async with client(waiting, Limits(waiting=2)) as session:
            held = [asyncio.create_task(session.post("/predict", json={"title": "lamp"})) for _ in range(2)]
            for _ in held:
                await waiting.begun.acquire()
            refused = await session.post("/predict", json={"title": "lamp"})
            waiting.released.set()
            answers = [answer.status_code for answer in await asyncio.gather(*held)]
            return answers, refused, (await session.post("/predict", json={"title": "lamp"})).status_code

    answers, refused, later = asyncio.run(many())
    assert (refused.status_code, refused.json()["reason"]) == (429, "too_many_requests")
    assert refused.headers["retry-after"] == "1"
    assert (answers, later) == ([503, 503], 503), "the store of this service is gone"


def test_a_request_has_its_time() -> None:
    response = predict(Waiting(), Limits(seconds=0.05), title="lamp")
    assert (response.status_code, response.json()["reason"]) == (504, "timeout")
    assert response.json()["message"] == "not done after 0.05 s"


def test_a_process_is_live_before_it_is_ready(service: Local) -> None:
    loading = Local(None)
    assert ask(loading, "GET", "/health").json() == {"status": "ok"}
    response = ask(loading, "GET", "/ready")
    assert (response.status_code, response.json()["reason"]) == (503, "loading")
    assert ask(service, "GET", "/ready").json() == {"predictor": service.ready()}


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [("GET", "/nothing", 404, "not_found"), ("GET", "/predict", 405, "method_not_allowed")],
)
def test_what_is_not_served_is_said_in_json(service: Local, method: str, path: str, status: int, reason: str) -> None:
    response = ask(service, method, path)
    assert (response.status_code, response.json()["reason"]) == (status, reason)


def test_a_defect_is_no_traceback() -> None:
    response = predict(Broken(None), title="lamp")
    assert response.status_code == 500
    assert response.json() == {"reason": "internal_error", "message": "RuntimeError", "problems": []}


def test_it_describes_itself(service: Local) -> None:
    found = ask(service, "GET", "/openapi.json").json()
    assert set(found["paths"]) == {"/predict", "/health", "/ready"}
    asked = found["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(asked["properties"]) == {"product_id", "title", "description", "image", "image_url", "image_vector"}
    assert set(found["paths"]["/predict"]["post"]["responses"]) >= {"200", "400", "413", "422", "429", "504"}
    assert "text/html" in ask(service, "GET", "/docs").headers["content-type"]
