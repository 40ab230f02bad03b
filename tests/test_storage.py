"""URIs, options and errors of stores; what needs a server is in tests/s3."""

from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError
from s3fs.errors import translate_boto_error

from mmbatch.errors import InputError
from mmbatch.storage import (
    StorageError,
    again,
    create_file,
    delta_options,
    filesystem_of,
    is_local,
    is_outage,
    is_s3,
    make_folder,
    probe_conditional_put,
    put_files,
    replace_file,
    replacing,
    storage_error,
    storage_errors,
)

REFUSED = """Kernel error -> The operation lacked the necessary privileges
  Error performing GET http://h/b in 1ms - Server returned non-2xx status code
  403 Forbidden
  <Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA1</AWSAccessKeyId></Error>"""
CUT = "Generic S3 error\n  Error getting list response body\n  HTTP error\n  end of file before message length reached"


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "for AKIA1"}}, "GetObject")


def test_kinds_of_uris(tmp_path: Path) -> None:
    assert [is_local(uri) for uri in (str(tmp_path), "w", "file:///w", "s3://b/w", "memory://w")] == [True] * 3 + [
        False
    ] * 2
    assert [is_s3(uri) for uri in ("s3://b", "S3a://b", "gs://b", "/s3/b")] == [True, True, False, False]


@pytest.mark.parametrize("uri", ["s3://AKIA1:hush@bucket/w", "s3://hush@bucket", "gs://a:hush@b/c@d"])
def test_credentials_in_a_uri_are_refused_without_repeating_them(uri: str) -> None:
    with pytest.raises(InputError, match="credentials in a URI are refused") as refused:
        filesystem_of(uri)
    assert "hush" not in str(refused.value)
    assert "AKIA1" not in str(refused.value)


def test_an_at_sign_in_a_key_is_no_credential(tmp_path: Path) -> None:
    assert filesystem_of("s3://bucket/models/encoder/e@1")[1] == "bucket/models/encoder/e@1"
    assert filesystem_of(f"{tmp_path}/e@1")[1] == f"{tmp_path}/e@1"


def test_an_unknown_scheme_says_what_is_expected() -> None:
    with pytest.raises(InputError, match="Protocol not known: ftq; expected a folder or s3://bucket/prefix"):
        filesystem_of("ftq://bucket/w")


def test_folders_are_made_on_a_disk_only(tmp_path: Path) -> None:
    make_folder(f"{tmp_path}/a/b")
    assert (tmp_path / "a/b").is_dir()
    make_folder("s3://bucket/prefix")


def test_a_local_file_is_created_once(tmp_path: Path) -> None:
    create_file(f"{tmp_path}/f", b"1")
    with pytest.raises(FileExistsError):
        create_file(f"{tmp_path}/f", b"2")
    assert (tmp_path / "f").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    probe_conditional_put(str(tmp_path))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "f"
    replace_file(str(file), b"1")
    replace_file(str(file), b"2")
    assert file.read_bytes() == b"2"

    def fill_the_disk() -> None:
        with replacing(str(file)) as sink:
            sink.write(b"t")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fill_the_disk()
    assert file.read_bytes() == b"2"
    assert list(tmp_path.iterdir()) == [file]


def test_an_object_is_replaced(tmp_path: Path) -> None:
    uri = f"memory://{tmp_path.name}/f"
    for content in (b"1", b"2"):
        replace_file(uri, content)
        filesystem, path = filesystem_of(uri)
        assert filesystem.cat_file(path) == content


def test_delta_is_told_of_endpoint_and_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert delta_options("/w") is None
    assert not {"aws_endpoint", "allow_http", "aws_region"} & set(delta_options("s3://b/w") or {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "x")
    found = delta_options("s3://b/w") or {}
    assert {name: found[name] for name in ("aws_endpoint", "allow_http", "aws_region")} == {
        "aws_endpoint": "http://store:1",
        "allow_http": "true",
        "aws_region": "x",
    }


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (client_error("NoSuchBucket"), "GetObject was refused with NoSuchBucket: no such bucket"),
        (translate_boto_error(client_error("403")), "403: access denied: wrong credentials"),
        (EndpointConnectionError(endpoint_url="http://h"), "EndpointConnectionError: no usable answer"),
        (NoCredentialsError(), "no credentials; set AWS_ACCESS_KEY_ID"),
        (OSError(REFUSED), "refused with SignatureDoesNotMatch: the secret access key is wrong"),
        (OSError(CUT), "no usable answer after several attempts"),
    ],
)
def test_a_failure_is_one_line_without_credentials(error: Exception, line: str) -> None:
    with pytest.raises(StorageError, match=line) as found, storage_errors():
        raise error
    assert "\n" not in str(found.value)
    assert "AKIA1" not in str(found.value)


def test_other_errors_stay_as_they_are() -> None:
    assert storage_error(FileNotFoundError("local")) is None
    with pytest.raises(IsADirectoryError), storage_errors():
        raise IsADirectoryError("local")


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (translate_boto_error(client_error("SlowDown")), True),
        (ConnectTimeoutError(endpoint_url="http://h"), True),
        (EndpointConnectionError(endpoint_url="http://h"), True),
        (OSError(CUT), True),
        (OSError(REFUSED), False),
        (translate_boto_error(client_error("NoSuchKey")), False),
        (PermissionError("local"), False),
    ],
)
def test_what_may_work_later_is_told_from_what_will_not(error: Exception, outage: bool) -> None:
    assert is_outage(error) is outage


def test_what_may_work_later_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmbatch.storage._WAITS_S", (0.0, 0.0))
    outcomes: list[Exception] = [OSError(CUT), OSError(CUT)]

    def act() -> str:
        if outcomes:
            raise outcomes.pop()
        return "done"

    assert again(act) == "done"
    outcomes += [OSError(CUT)] * 3
    with pytest.raises(OSError, match="end of file"):
        again(act)
    outcomes[:] = [OSError(REFUSED)]
    with pytest.raises(OSError, match="SignatureDoesNotMatch"):
        again(act)


@pytest.mark.parametrize("slash", ["", "/"])
def test_files_are_put_in_order_into_a_folder_that_is_made(tmp_path: Path, slash: str) -> None:
    folder = f"{tmp_path}/new/folder"
    assert put_files(f"{folder}{slash}", {"b.csv": b"1", "a.md": b"2"}) == [f"{folder}/b.csv", f"{folder}/a.md"]
    assert put_files(folder, {"b.csv": b"3"}) == [f"{folder}/b.csv"]
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == {"a.md": b"2", "b.csv": b"3"}


def test_no_file_is_put_below_a_uri_with_credentials() -> None:
    with pytest.raises(InputError, match="credentials in a URI are refused"):
        put_files("s3://AKIA1:hush@bucket/w", {"a.md": b"1"})
