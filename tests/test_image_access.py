import pickle
from pathlib import Path

import pytest

from mmbatch.errors import InputError
from mmbatch.image_access import ImageAccess, parse_web, shown
from mmbatch.images import ImageError

SITE = ImageAccess.of(["https://img.example", "https://cdn.example:8443/shop/", "http://127.0.0.1:8080"])


def forbidden(access, reference, folder="/nowhere"):
    with pytest.raises(ImageError) as caught:
        access.locate(reference, folder=folder)
    assert caught.value.reason == "image_forbidden"
    return str(caught.value)


def test_values_of_the_flag_are_kept_absolute_sorted_and_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    values = ["a", f"file://{tmp_path}/a", "s3a://bucket/x/", "s3://bucket/x", "HTTPS://Img.Example/", "gs://b"]
    places = (str(tmp_path / "a"), "gs://b", "https://img.example", "s3://bucket/x")
    assert ImageAccess.of(values).places == places
    sites = ["https://[::1]:8080/a%2Fb/", "http://127.0.0.1:80", "https://bücher.example/ä"]
    assert ImageAccess.of(sites).places == (
        "http://127.0.0.1",
        "https://[::1]:8080/a%2Fb",
        "https://xn--bcher-kva.example/%C3%A4",
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("", "expected a folder, s3://bucket/prefix or https://host/prefix"),
        ("none", "no such folder"),
        ("ftp://host/x", "expected a folder"),
        ("s3://", "no bucket's name"),
        ("s3://bucket/../other", "leaves its bucket"),
        ("https://", "not a valid web address"),
        ("https://img.example:x", "not a valid web address"),
        ("https://img.example?a=secret", "without query"),
        ("https://user:secret@img.example", "user's name"),
        ("s3://key:secret@bucket/x", "no bucket's name"),
        ("https://img.example/a/../b", "'.' or '..' in its path"),
        ("http://img.example", "expected https://HOST, or a port as well"),
        ("https://10.0.0.1", "expected https://HOST, or a port as well, as in https://10.0.0.1:8080"),
        ("https://*.example", "neither a host's name nor an address"),
        ("https://2130706433:80", "neither a host's name nor an address"),
        ("https://127.1:80", "neither a host's name nor an address"),
        ("https://a..example", "neither a host's name nor an address"),
    ],
)
def test_bad_values_of_the_flag(value, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        ImageAccess.of([value])
    assert str(caught.value).startswith("--images-from ")
    assert found in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_is_no_folder_to_read_from(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="no such folder"):
        ImageAccess.of([f"{tmp_path}/a.jpg"])


def test_local_paths_lie_below_a_place_after_links_and_dots(tmp_path):
    for name in ("shop/img", "other", "shopping"):
        (tmp_path / name).mkdir(parents=True)
    shop = f"{tmp_path}/shop"
    Path(f"{shop}/out").symlink_to(tmp_path / "other")
    (tmp_path / "other/in").symlink_to(f"{shop}/img")
    Path(f"{shop}/loop").symlink_to("loop")
    access = ImageAccess().beside(shop)
    inside = ["a.jpg", "./a.jpg", "img/../a.jpg", "~/a.jpg", "%2e%2e/a.jpg", f"{shop}/img/a.jpg", "../shop/a.jpg"]
    for reference in [*inside, f"{tmp_path}/other/in/a.jpg", f"file://{shop}/a.jpg", "loop/a.jpg"]:
        assert access.locate(reference, folder=shop).startswith("/")
    assert access.locate("./img/a b.jpg", folder=shop) == f"{shop}/img/a b.jpg"
    outside = ["../a.jpg", "img/../../a.jpg", "out/a.jpg", "/etc/passwd", f"{tmp_path}/shopping/a.jpg", shop]
    for reference in [*outside, "file://shop/a.jpg", f"file://{shop}/../a.jpg"]:
        assert "neither below the source's folder nor below a place that --images-from names" in forbidden(
            access, reference, shop
        )
    assert repr(f"{tmp_path}/other/a.jpg") in forbidden(access, "out/a.jpg", shop)  # where the link leads
    wider = ImageAccess.of([f"{tmp_path}/other"]).beside(shop)
    assert wider.locate("out/a.jpg", folder=shop) == f"{shop}/out/a.jpg"


def test_a_place_that_is_a_link_counts_as_where_it_leads(tmp_path):
    (tmp_path / "v2").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "v2")
    access = ImageAccess.of([f"{tmp_path}/current"])
    assert access.locate(f"{tmp_path}/v2/a.jpg", folder="/nowhere") == f"{tmp_path}/v2/a.jpg"
    assert access.locate(f"{tmp_path}/current/a.jpg", folder="/nowhere") == f"{tmp_path}/current/a.jpg"


def test_object_stores_are_compared_by_segments():
    access = ImageAccess.of(["s3://bucket/shop", "gs://all"])
    allowed = {
        "s3://bucket/shop/a.jpg": "s3://bucket/shop/a.jpg",
        "S3A://bucket/shop/./x/../a.jpg": "s3://bucket/shop/a.jpg",
        "s3://bucket/shop//a.jpg": "s3://bucket/shop//a.jpg",
        "gcs://all/a.jpg": "gs://all/a.jpg",
    }
    for reference, uri in allowed.items():
        assert access.locate(reference, folder="/nowhere") == uri
    refused = [
        "s3://bucket/shopping/a.jpg",
        "s3://bucket/a.jpg",
        "s3://bucket/shop/../a.jpg",
        "s3://bucket/../bucket/shop/a.jpg",
        "s3://other/shop/a.jpg",
        "s3://Bucket/shop/a.jpg",
        "gs://bucket/shop/a.jpg",
        "s3:///shop/a.jpg",
    ]
    for reference in refused:
        forbidden(access, reference)
    assert "secret" not in forbidden(access, "s3://key:secret@bucket/shop/a.jpg")


def test_a_remote_source_reads_beside_itself():
    access = ImageAccess().beside("s3://bucket/feed")
    assert access.locate("img/../a.jpg", folder="s3://bucket/feed/day") == "s3://bucket/feed/day/a.jpg"
    assert access.locate("../img/a.jpg", folder="s3://bucket/feed/day") == "s3://bucket/feed/img/a.jpg"
    forbidden(access, "../../a.jpg", "s3://bucket/feed/day")
    forbidden(access, "/etc/passwd", "s3://bucket/feed/day")
    assert ImageAccess().beside("abfs://box/feed") == ImageAccess()  # images cannot be read from there


@pytest.mark.parametrize(
    "reference",
    [
        "https://img.example/a.jpg",
        "https://IMG.example:443/a%20b.jpg?X-Amz-Signature=1%2F2",
        "https://img.example/ä b.jpg",
        "https://cdn.example:8443/shop/a.jpg",
        "https://cdn.example:8443/%73hop/a.jpg",
        "http://127.0.0.1:8080/a.jpg",
    ],
)
def test_web_addresses_of_a_named_site(reference):
    assert SITE.locate(reference, folder="/nowhere") == reference


def test_a_web_address_without_scheme_is_https():
    assert SITE.locate("//img.example/a.jpg", folder="/nowhere") == "https://img.example/a.jpg"


@pytest.mark.parametrize(
    "reference",
    [
        "http://img.example/a.jpg",
        "https://img.example:444/a.jpg",
        "https://img.example.evil.example/a.jpg",
        "https://evil.example/img.example/a.jpg",
        "https://sub.img.example/a.jpg",
        "https://img.example@evil.example/a.jpg",
        "https://evil.example#@img.example/a.jpg",
        "https://evil.example\\@img.example/a.jpg",
        "https://user:secret@img.example/a.jpg",
        "https://:secret@img.example/a.jpg",
        "https://user:se/secret@img.example/a.jpg",
        "https://cdn.example:8443/shopping/a.jpg?X-Amz-Signature=secret",
        "https://cdn.example:8443/a.jpg?shop/=secret",
        "https://cdn.example:8443/shop/../a.jpg",
        "https://cdn.example:8443/shop/%2e%2e/a.jpg",
        "https://cdn.example:8443/shop/..%2fa.jpg",
        "https://cdn.example:8443/shop%2Fx/a.jpg",
        "https://cdn.example:8443/shop/..\\a.jpg",
        "http://127.0.0.1:8081/a.jpg",
        "http://127.1:8080/a.jpg",
        "http://2130706433:8080/a.jpg",
        "http://localhost:8080/a.jpg",
        "https://127.0.0.1:8080/a.jpg",
        "https:///a.jpg",
        "ftp://img.example/a.jpg",
        "data:image/png;base64,AAAA",
    ],
)
def test_web_addresses_that_are_refused(reference):
    assert "secret" not in forbidden(SITE, reference)


def test_a_signed_address_is_sent_as_it_is_written():
    query = "X-Amz-Credential=A%2F20260101%2Fs3&sig=a%2Bb%3D+c~%7E&p=%2f"
    assert str(parse_web(f"https://img.example/a%2Fb%20c.jpg?{query}")) == f"https://img.example/a%2Fb%20c.jpg?{query}"
    assert str(parse_web("https://img.example/ä b.jpg?q=ö")) == "https://img.example/%C3%A4%20b.jpg?q=%C3%B6"


def test_what_messages_show():
    assert shown("https://user:pw@h:1/a?sig=1#f") == "'https://h:1/a'"
    assert shown("https://user:p/w@h/a") == "'https://...'"
    assert shown("s3://key:pw@bucket/a") == "'s3://bucket/a'"
    assert shown("/a?b@c") == "'/a?b@c'"
    assert len(shown("x" * 5000)) == 202


def test_the_policy_survives_pickling_and_decides_alike(tmp_path):
    access = ImageAccess.of([str(tmp_path)])
    access.locate(f"{tmp_path}/a.jpg", folder="/nowhere")
    again = pickle.loads(pickle.dumps(access))
    assert again == access
    assert again.locate(f"{tmp_path}/a.jpg", folder="/nowhere") == f"{tmp_path}/a.jpg"
