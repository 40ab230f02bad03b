"""Downloads against a real server on the loopback address, which the policy names by address and port."""

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mmbatch.image_access import ImageAccess
from mmbatch.image_addresses import is_public
from mmbatch.image_web import MAX_REDIRECTS, WebImages, WebLimits, _retry_after
from mmbatch.images import ImageError
from tests.image_server import BODY, LARGE, Server, serving

FAST = WebLimits(connect=5, read=5, total=20, attempts=3, backoff=0.001, longest_wait=0.01, parallel=8)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.together = FAST.parallel
        yield server


def download(server: Server, path: str, *, limits: WebLimits = FAST, access: ImageAccess | None = None) -> bytes:
    with WebImages(access or ImageAccess.of([server.site]), limits=limits) as web:
        return web.start(f"{server.site}{path}").result()


def refused(server: Server, path: str, **how: object) -> ImageError:
    with pytest.raises(ImageError) as caught:
        download(server, path, **how)
    return caught.value


def test_an_image_and_what_is_sent_for_it(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert download(server, "/good/a%2Fb?X-Sig=1%2F2") == BODY
    ((path, headers),) = server.asked
    assert path == "/good/a%2Fb?X-Sig=1%2F2"
    assert {name.lower() for name in headers} == {"host", "accept", "accept-encoding", "user-agent"}


@pytest.mark.parametrize(
    ("status", "reason", "requests"),
    [
        (404, "image_missing", 1),
        (410, "image_missing", 1),
        (403, "image_http_status", 1),
        (500, "image_http_status", 1),
        (204, "image_http_status", 1),
        (304, "image_http_status", 1),
        (302, "image_http_status", 1),
        (429, "image_http_status", 3),
        (502, "image_http_status", 3),
        (503, "image_http_status", 3),
        (504, "image_http_status", 3),
    ],
)
def test_other_statuses(server, status, reason, requests):
    error = refused(server, f"/status/{status}?sig=secret")
    assert (error.reason, str(error)) == (reason, f"HTTP status {status}: '{server.site}/status/{status}'")
    assert len(server.asked) == requests


@pytest.mark.parametrize("wait", ["0", "", "soon", "-1", "999999999999999", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_busy_server_is_asked_again(server, wait):
    assert download(server, f"/busy/{wait.replace(' ', '%20')}") == BODY
    assert len(server.asked) == 2


def test_the_wait_a_server_asks_for_is_kept_and_capped():
    limits = WebLimits(backoff=1, longest_wait=30)
    with WebImages(ImageAccess(), limits=limits) as web:
        wait = web._downloads._wait
        assert (wait(1, 7.0), wait(1, 0.0), wait(1, 1e9)) == (7.0, 0.0, 30)
        first, third, ninth = ([wait(attempt, None) for _ in range(200)] for attempt in (1, 3, 9))
    assert (min(first) >= 0.5, max(first) <= 1.5, len(set(first)) > 100) == (True, True, True)
    assert (min(third) >= 2, max(third) <= 6, set(ninth)) == (True, True, {30})
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < _retry_after({"Retry-After": later}) <= 100


def test_a_wait_that_is_longer_than_the_time_left_is_not_begun(server):
    limits = WebLimits(total=5, longest_wait=1000, attempts=4)
    with (
        WebImages(ImageAccess.of([server.site]), limits=limits) as web,
        pytest.raises(ImageError, match="HTTP status 429") as caught,
    ):
        web.start(f"{server.site}/busy/600").result(timeout=4)
    assert caught.value.reason == "image_http_status"


@pytest.mark.parametrize("what", ["body", "header"])
def test_a_slow_answer_ends_at_the_time_cap(server, what):
    error = refused(server, f"/slow/{what}?sig=secret", limits=WebLimits(total=0.2))
    assert (error.reason, str(error)) == ("image_timeout", f"not done after 0.2 s: '{server.site}/slow/{what}'")


def test_a_server_that_stops_talking_is_asked_again(server):
    error = refused(server, "/slow/body?sig=secret", limits=WebLimits(read=0.1, attempts=2, backoff=0.001))
    assert (error.reason, server.count("/slow/body?sig=secret")) == ("image_timeout", 2)
    assert str(error) == f"no answer (10 s to connect, 0.1 s to read): '{server.site}/slow/body'"


@pytest.mark.parametrize("how", ["said", "unsaid"])
def test_too_large(server, monkeypatch, how):
    monkeypatch.setattr("mmbatch.image_web.MAX_IMAGE_BYTES", LARGE // 2)
    assert refused(server, f"/large/{how}").reason == "image_too_large"
    assert len(server.asked) == 1


@pytest.mark.parametrize("target", ["good", "absolute", str(MAX_REDIRECTS)])
def test_redirects_are_followed(server, target):
    assert download(server, f"/redirect/{target}") == BODY


@pytest.mark.parametrize(
    "target", ["private", "name", "other-port", "file", "password", "garbage", "loop", str(MAX_REDIRECTS + 1)]
)
def test_redirects_that_are_not_followed(server, target):
    error = refused(server, f"/redirect/{target}")
    assert error.reason == "image_forbidden"
    assert "secret" not in str(error)
    assert len(server.asked) <= MAX_REDIRECTS + 1
    assert server.count("/good") == 0


def test_a_redirect_out_of_the_named_path_is_not_followed(server):
    access = ImageAccess.of([f"{server.site}/redirect"])
    assert refused(server, "/redirect/good", access=access).reason == "image_forbidden"
    assert refused(server, "/good", access=access).reason == "image_forbidden"
    assert server.count("/good") == 0


def test_a_lost_connection_is_tried_again(server):
    assert download(server, "/reset") == BODY
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("path", "message", "requests"),
    [
        ("/reset/always", "Connection reset by peer", 6),  # aiohttp repeats each of the three once
        ("/short", "the answer broke off", 3),
        ("/garbage", "the answer is not HTTP", 3),
    ],
)
def test_connections_that_fail_every_time(server, path, message, requests):
    error = refused(server, f"{path}?sig=secret")
    assert (error.reason, str(error)) == ("image_unreadable", f"'{server.site}{path}': {message}")
    assert len(server.asked) == requests


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        site = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with WebImages(ImageAccess.of([site]), limits=FAST) as web, pytest.raises(ImageError) as caught:
        web.start(f"{site}/a.jpg").result()
    assert caught.value.reason == "image_unreadable"


def test_many_at_the_same_time_but_no_more_than_that(server):
    with WebImages(ImageAccess.of([server.site]), limits=FAST) as web:
        found = [web.start(f"{server.site}/together/{number}") for number in range(5 * FAST.parallel)]
        assert [future.result() for future in found] == [BODY] * len(found)
    assert server.most_under_way == FAST.parallel


def test_leaving_cancels_what_is_under_way(server):
    with WebImages(ImageAccess.of([server.site]), limits=FAST) as web:
        futures = [web.start(f"{server.site}/slow/header") for _ in range(20)]
    assert all(future.cancelled() for future in futures)


def resolved(addresses: dict[str, list[str]], *, port: int = 443, scheme: str = "https") -> Callable[[str], ImageError]:
    def attempt(host: str) -> ImageError:
        access = ImageAccess.of([f"{scheme}://{host}:{port}"])
        with WebImages(access, limits=FAST, lookup=addresses.__getitem__) as web:
            future: Future[bytes] = web.start(f"{scheme}://{host}:{port}/good")
            with pytest.raises(ImageError) as caught:
                future.result()
        return caught.value

    return attempt


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
def test_a_name_that_leads_into_a_private_network(server, address):
    attempt = resolved({"img.example": ["8.8.8.8", address]}, port=server.server_port, scheme="http")
    error = attempt("img.example")
    assert error.reason == "image_forbidden"
    assert str(error) == f"img.example has the address {address}, which is not public"
    assert server.asked == []


def test_an_address_of_this_machine_is_refused_although_its_port_is_named_by_address(server):
    access = ImageAccess.of([server.site, f"http://img.example:{server.server_port}"])
    with WebImages(access, limits=FAST, lookup=lambda host: ["127.0.0.1"]) as web:
        assert web.start(f"{server.site}/good").result() == BODY
        with pytest.raises(ImageError, match="not public"):
            web.start(f"http://img.example:{server.server_port}/good").result()


def test_the_connection_goes_to_the_address_that_was_checked(server, monkeypatch):
    monkeypatch.setattr("mmbatch.image_addresses.is_public", lambda address: address == "127.0.0.1")
    answers = [["127.0.0.1"], ["10.0.0.1"]]  # a name that changes its address between two questions
    asked = []

    def lookup(host: str) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    with WebImages(ImageAccess.of([f"http://img.example:{server.server_port}"]), limits=FAST, lookup=lookup) as web:
        assert web.start(f"http://img.example:{server.server_port}/good").result() == BODY
    assert asked == ["img.example"]
    assert server.asked[0][1]["Host"] == f"img.example:{server.server_port}"


def test_a_name_that_does_not_exist():
    def lookup(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with (
        WebImages(ImageAccess.of(["https://img.example"]), limits=FAST, lookup=lookup) as web,
        pytest.raises(ImageError, match=r"'https://img\.example/a\.jpg': Name or service not known") as caught,
    ):
        web.start("https://img.example/a.jpg?sig=secret").result()
    assert caught.value.reason == "image_unreadable"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("2002:808:808::1", True),
        *[
            (address, False)
            for address in (
                *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1"),
                *("192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1"),
                *("fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "::7f00:1"),
                *("64:ff9b:1::1", "2002:7f00:1::", "2001:db8::1", "not an address"),
            )
        ],
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(address) is public


@pytest.fixture
def tls(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server behind TLS, with a certificate of its own for img.example and 127.0.0.1 that the system trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "img.example")])
    names = x509.SubjectAlternativeName([x509.DNSName("img.example"), x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    (tmp_path / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    monkeypatch.setattr("mmbatch.image_addresses.is_public", lambda address: True)
    return server


def fetch_tls(server: Server, host: str) -> bytes:
    site = f"https://{host}:{server.server_port}"
    with WebImages(ImageAccess.of([site]), limits=FAST, lookup=lambda host: ["127.0.0.1"]) as web:
        return web.start(f"{site}/good").result()


def test_https_by_name_and_by_address(tls):
    assert fetch_tls(tls, "img.example") == BODY
    assert fetch_tls(tls, "127.0.0.1") == BODY


def test_a_certificate_for_another_name_is_refused_at_once(tls):
    with pytest.raises(ImageError, match=r"its certificate is refused.*Hostname mismatch") as caught:
        fetch_tls(tls, "other.example")
    assert caught.value.reason == "image_unreadable"


def test_an_unknown_authority_is_refused(tls, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ImageError, match="its certificate is refused"):
        fetch_tls(tls, "img.example")
