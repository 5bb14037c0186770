"""`tf_serving_model_source`: models from folders, archives, HTTPS and Cloud Storage, and what is not taken."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import model_builder
import pytest
import storage_stub
from ansible_collections.tf2x.serving.plugins.module_utils import _archive

MODULE = "tf_serving_model_source"


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def make_zip(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return file


def make_tar(folder: Path, file: Path, mode: str) -> Path:
    with tarfile.open(file, mode) as archive:
        archive.add(folder, ".")
    return file


MAKERS: dict[str, Callable[[Path, Path], Path]] = {
    "zip": make_zip,
    "tar": lambda folder, file: make_tar(folder, file, "w"),
    "tar.gz": lambda folder, file: make_tar(folder, file, "w:gz"),
}


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "work" / "pets"


@pytest.fixture
def bring(run_module: Any, dest: Path) -> Any:
    return lambda source, **options: run_module(MODULE, source=str(source), dest=str(dest), **options)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with one version in a numbered folder below another."""
    model_builder.build(tmp_path / "models" / "pets" / "3")
    return tmp_path / "models"


@pytest.fixture
def archive(models: Path, tmp_path: Path) -> Path:
    return make_tar(models, tmp_path / "pets.tar.gz", "w:gz")


def nothing_left(dest: Path) -> bool:
    return not dest.parent.exists() or list(dest.parent.iterdir()) == []


@pytest.mark.parametrize("check", [False, True])
def test_a_folder_is_used_in_place(bring: Any, models: Path, dest: Path, check: bool) -> None:
    for source in (models, models / "pets", models / "pets" / "3"):
        result = bring(source, check=check)

        assert (result["changed"], result["kind"], result["version"]) == (False, "folder", 3)
        assert result["folder"] == str(models / "pets" / "3")
    assert nothing_left(dest)


def test_versions_side_by_side_are_all_told(bring: Any, models: Path) -> None:
    model_builder.build(models / "pets" / "12")
    result = bring(models)

    assert result["folder"] == str(models / "pets")
    assert (result["version"], result["versions"]) == (None, [3, 12])


def test_a_model_without_a_number_has_no_version(bring: Any, saved_model: Path) -> None:
    result = bring(saved_model)
    assert (result["folder"], result["version"], result["versions"]) == (str(saved_model), None, [])


def test_two_models_are_one_too_many(bring: Any, models: Path) -> None:
    model_builder.build(models / "birds" / "3")
    assert "saved_model.pb in birds/3, pets/3; one SavedModel, or its versions" in bring(models)["msg"]


def test_a_folder_without_a_model_is_refused(bring: Any, tmp_path: Path) -> None:
    assert "saved_model.pb in no folder" in bring(tmp_path)["msg"]
    assert "does not exist" in bring(tmp_path / "nothing")["msg"]


def test_the_checksum_of_a_folder_is_the_digest_that_inspecting_tells(
    bring: Any, run_module: Any, models: Path
) -> None:
    digest = run_module("tf_serving_model", state="inspected", source=str(models / "pets"))["digest"]

    assert not bring(models, checksum=digest).get("failed")
    other = "sha256:" + 64 * "0"
    assert bring(models, checksum=other)["msg"] == f"{models}/pets/3 is {digest}, but checksum asks for {other}"


@pytest.mark.parametrize("kind", MAKERS)
def test_an_archive_is_unpacked(bring: Any, models: Path, dest: Path, tmp_path: Path, kind: str) -> None:
    file = MAKERS[kind](models, tmp_path / "model.bin")
    predicted = bring(file, check=True)
    assert nothing_left(dest)
    result = bring(file)

    assert (result["changed"], result["kind"], result["version"]) == (True, "archive", 3)
    assert predicted["folder"] == result["folder"]
    assert predicted["versions"] == result["versions"] == [3]
    assert result["checksum"] == sha256(file.read_bytes())
    assert tree(Path(result["folder"])) == tree(models / "pets" / "3")
    assert (Path(result["folder"]) / "assets").is_dir()
    assert list(dest.parent.iterdir()) == [dest]


def test_a_second_run_changes_nothing(bring: Any, archive: Path, dest: Path) -> None:
    first = bring(archive)
    inode = dest.stat().st_ino
    second = bring(archive)

    assert second["changed"] is False
    assert {**second, "changed": True, "msg": first["msg"]} == first
    assert dest.stat().st_ino == inode


def test_a_model_that_was_changed_in_the_destination_is_brought_again(bring: Any, archive: Path, dest: Path) -> None:
    folder = Path(bring(archive)["folder"])
    whole = tree(folder)
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"x")

    assert bring(archive)["changed"] is True
    assert tree(folder) == whole
    (dest / "source.json").write_text("{")
    assert bring(archive)["changed"] is True


def test_another_archive_takes_the_place_of_the_first(
    bring: Any, archive: Path, models: Path, dest: Path, tmp_path: Path
) -> None:
    bring(archive)
    shutil.move(models / "pets" / "3", models / "pets" / "4")
    result = bring(make_zip(models, tmp_path / "pets.zip"))

    assert (result["changed"], result["version"]) == (True, 4)
    assert [path.name for path in (dest / "model" / "pets").iterdir()] == ["4"]
    assert list(dest.parent.iterdir()) == [dest]


def test_a_failure_leaves_the_model_that_was_there(bring: Any, archive: Path, dest: Path, tmp_path: Path) -> None:
    bring(archive)
    before = tree(dest)
    content = archive.read_bytes()
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_bytes(content[: len(content) // 2])

    assert "damaged" in bring(damaged)["msg"]
    assert tree(dest) == before
    assert list(dest.parent.iterdir()) == [dest]


def test_a_folder_of_somebody_else_is_not_replaced(bring: Any, archive: Path, dest: Path) -> None:
    dest.mkdir(parents=True)
    assert bring(archive, check=True)["changed"] is True
    (dest / "thesis.tex").write_text("years of work")

    for check in (True, False):
        assert "did not put there" in bring(archive, check=check)["msg"]
    assert tree(dest) == {"thesis.tex": b"years of work"}


def test_leftovers_of_a_broken_run_do_no_harm(bring: Any, archive: Path, dest: Path) -> None:
    (dest.parent / ".pets.incoming" / "model").mkdir(parents=True)
    (dest.parent / ".pets.removed").mkdir()
    bring(archive)
    assert list(dest.parent.iterdir()) == [dest]


def test_the_checksum_of_an_archive_is_checked(bring: Any, archive: Path, dest: Path) -> None:
    right = sha256(archive.read_bytes())
    other = "sha256:" + 64 * "0"

    assert bring(archive, checksum=other)["msg"] == f"{archive} is {right}, but checksum asks for {other}"
    assert nothing_left(dest)
    assert bring(archive, checksum=right.upper().replace("SHA", "sha"))["changed"] is True


@pytest.mark.parametrize("checksum", ["md5:abc", "sha256:abc", "0" * 64])
def test_a_checksum_of_another_kind_is_refused(bring: Any, archive: Path, checksum: str) -> None:
    assert "64 hexadecimal digits would be right" in bring(archive, checksum=checksum)["msg"]


def entry(name: str, content: bytes = b"x", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in (entry("saved_model.pb"), *members):
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        for name, content in (("saved_model.pb", b"x"), *members):
            archive.writestr(name, content)
    return out.getvalue()


def zip_kind(mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("assets/thing")
    info.external_attr = mode << 16
    return info


def encrypted_zip() -> bytes:
    """The flag is what tells; set in both places where a zip file has it."""
    content = bytearray(zip_of())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    return bytes(content)


def lying_zip(claimed: int) -> bytes:
    """Claims a size of an entry from which a million bytes come out."""
    content = bytearray(zip_of(("assets/bomb", bytes(1_000_000)), compression=zipfile.ZIP_DEFLATED))
    size = (1_000_000).to_bytes(4, "little")
    while size in content:
        position = content.index(size)
        content[position : position + 4] = claimed.to_bytes(4, "little")
    return bytes(content)


def damaged_header() -> bytes:
    """The second of three headers is no header, which some readers take for the end."""
    content = bytearray(tar_of(entry("assets/a"), entry("assets/b")))
    content[1024 : 1024 + 8] = b"\xff" * 8
    return bytes(content)


def endless_gzip(name: str) -> bytes:
    """A header that claims a name of 3 GB, and the first of them."""
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(8 << 20), 1)


# Cannot be written to, should an archive get that far.
NOWHERE = "/proc/nowhere"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute path": (lambda: tar_of(entry(f"{NOWHERE}/x")), f"'{NOWHERE}/x' leads out of"),
    "path upwards": (lambda: tar_of(entry("assets/../../x")), "'assets/../../x' leads out of"),
    "symbolic link": (
        lambda: tar_of(entry("assets", b"", type=tarfile.SYMTYPE, linkname="/etc"), entry("assets/x")),
        "'assets' is a link to '/etc'",
    ),
    "hard link": (
        lambda: tar_of(entry("assets/x", b"", type=tarfile.LNKTYPE, linkname="/etc/shadow")),
        "is a link to '/etc/shadow'",
    ),
    "device": (lambda: tar_of(entry("assets/x", b"", type=tarfile.CHRTYPE)), "neither a plain file nor a folder"),
    "pipe": (lambda: tar_of(entry("assets/x", b"", type=tarfile.FIFOTYPE)), "neither a plain file nor a folder"),
    "twice": (lambda: tar_of(entry("assets/x"), entry("./assets//x")), "'assets/x' is there twice"),
    "file and folder": (lambda: tar_of(entry("assets"), entry("assets/x")), "'assets' is there twice"),
    "the top as a file": (lambda: tar_of(entry("./")), "'.' is there twice"),
    "cut tar": (lambda: tar_of(entry("assets/x"))[:1600], "damaged or cut off"),
    "tar cut between entries": (lambda: tar_of(entry("assets/x"))[:1024], "damaged or cut off"),
    "damaged header": (damaged_header, "damaged or cut off"),
    "cut gzip": (lambda: gzip.compress(tar_of())[:-9], "damaged or cut off"),
    "gzip with a wrong checksum": (lambda: gzip.compress(tar_of())[:-8] + bytes(8), "damaged or cut off"),
    "gzip of something else": (lambda: gzip.compress(b"hello"), "damaged or cut off"),
    "a name without end": (lambda: endless_gzip("x"), "more than 1048576 bytes"),
    "zip with an absolute path": (lambda: zip_of((f"{NOWHERE}/x", b"x")), "leads out of"),
    "zip with a path upwards": (lambda: zip_of(("../x", b"x")), "leads out of"),
    "zip with backslashes": (lambda: zip_of(("pets\\3\\x", b"x")), "leads out of"),
    "zip with a link": (lambda: zip_of((zip_kind(0o120777), b"/etc")), "neither a plain file nor a folder"),
    "zip with a device": (lambda: zip_of((zip_kind(0o060644), b"")), "neither a plain file nor a folder"),
    "encrypted zip": (encrypted_zip, "'saved_model.pb' is encrypted; plain files and folders would be right"),
    "zip with another compression": (lambda: zip_of(compression=zipfile.ZIP_LZMA), "other than deflate"),
    "zip that claims less": (lambda: lying_zip(1), "damaged or cut off"),
    "zip that claims more": (lambda: lying_zip(1_000_001), "does not have the 1000001 bytes that it claims"),
    "zip with a wrong checksum": (lambda: zip_of(("assets/x", b"unique")).replace(b"unique", b"unikue", 1), "damaged"),
    "cut zip": (lambda: zip_of()[:-30], "damaged or cut off"),
    "no archive": (lambda: b"<html>Not found</html>", "it is neither zip nor tar nor tar.gz: it begins with b'<html>"),
    "nothing": (lambda: b"", "it is neither zip nor tar nor tar.gz"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", REFUSED)
def test_an_archive_that_cannot_be_trusted_is_refused(bring: Any, dest: Path, tmp_path: Path, what: str) -> None:
    make, message = REFUSED[what]
    file = tmp_path / "model.archive"
    file.write_bytes(make())
    before = tree(tmp_path)
    result = bring(file)

    assert result.get("failed"), result
    assert message in result["msg"]
    assert str(file) in result["msg"]
    assert nothing_left(dest)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_more_bytes_or_entries_than_allowed_are_refused(
    bring: Any, dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    file = tmp_path / "model.archive"
    name = ("assets/big", bytes(5000)) if make is zip_of else entry("assets/big", bytes(5000))
    file.write_bytes(make(name))

    for check in (True, False):
        assert "unpacks to more than 5000 bytes" in bring(file, max_bytes=5000, check=check)["msg"]
    assert nothing_left(dest)
    assert bring(file, max_bytes=5001)["changed"] is True
    monkeypatch.setattr(_archive, "MAX_ENTRIES", 1)
    assert "more than 1 entries" in bring(file, max_bytes=5002, checksum=sha256(file.read_bytes()))["msg"]


def test_memory_stays_small_however_large_the_archive(tmp_path: Path, dest: Path) -> None:
    """A real process that may not have more memory than a fraction of what comes out."""
    file = tmp_path / "big.tar.gz"
    size = 600 << 20
    info = tarfile.TarInfo("variables/big")
    info.size = size
    with gzip.open(file, "wb", 1) as stream:
        stream.write(tar_of()[:1024])
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        for _chunk in range(size >> 20):
            stream.write(bytes(1 << 20))
        stream.write(bytes(1024))
    script = """
import resource, sys
from pathlib import Path
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
_AnsibleCollectionFinder(paths=[sys.argv[1]])._install()
from ansible_collections.tf2x.serving.plugins.module_utils import _archive
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
print(sum(entry.size for entry in _archive.entries(Path(sys.argv[2]))))
"""
    collections = str(Path(__file__).resolve().parents[4] / "build" / "collections")
    done = subprocess.run(
        [sys.executable, "-c", script, collections, str(file)], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (str(size + 1), "")


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[storage_stub.WebServer]:
    with storage_stub.web_server(tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture
def get(bring: Any, web: storage_stub.WebServer, archive: Path) -> Any:
    web.files["/pets.tar.gz"] = archive.read_bytes()

    def run(path: str = "/pets.tar.gz", **options: Any) -> dict[str, Any]:
        checksum = sha256(archive.read_bytes())
        return bring(web.url + path, **{"checksum": checksum, "ca_path": str(web.certificate), **options})

    return run


def test_a_model_comes_over_https(get: Any, web: storage_stub.WebServer, archive: Path, models: Path) -> None:
    predicted = get(check=True)
    assert (predicted["changed"], predicted["folder"]) == (True, None)
    assert "would be brought" in predicted["msg"]
    assert web.seen == []
    result = get()

    assert (result["changed"], result["kind"], result["version"]) == (True, "https", 3)
    assert result["checksum"] == sha256(archive.read_bytes())
    assert tree(Path(result["folder"])) == tree(models / "pets" / "3")
    assert len(web.seen) == 1


def test_what_has_come_once_is_not_downloaded_again(get: Any, web: storage_stub.WebServer, dest: Path) -> None:
    get()
    web.files.clear()
    for check in (False, True):
        result = get(check=check)
        assert (result["changed"], result["version"]) == (False, 3)
    assert len(web.seen) == 1
    assert not (dest / "download").exists()


def test_https_needs_a_checksum(get: Any, web: storage_stub.WebServer) -> None:
    assert "needs checksum, the archive's sha256:<hex> would be right" in get(checksum=None)["msg"]
    assert web.seen == []


def test_a_wrong_checksum_is_refused_before_unpacking(get: Any, archive: Path, dest: Path) -> None:
    result = get(checksum="sha256:" + 64 * "0")
    assert f"/pets.tar.gz is {sha256(archive.read_bytes())}, but checksum asks for" in result["msg"]
    assert nothing_left(dest)


@pytest.mark.parametrize("lengths", [True, False])
def test_a_download_goes_on_where_it_broke_off(
    get: Any, web: storage_stub.WebServer, dest: Path, lengths: bool
) -> None:
    web.lengths = lengths
    web.breaks = [700, 300]
    result = get()

    if lengths:
        assert result["changed"] is True
        assert [wanted for _path, wanted in web.seen] == [None, "bytes=700-", "bytes=1000-"]
    else:
        # Without a length only the checksum tells.
        assert "but checksum asks for" in result["msg"]
        assert nothing_left(dest)


def test_a_download_starts_again_where_the_server_knows_no_ranges(get: Any, web: storage_stub.WebServer) -> None:
    web.ranges = False
    web.breaks = [700]
    assert get()["changed"] is True
    assert [wanted for _path, wanted in web.seen] == [None, "bytes=700-"]


def test_a_server_that_falls_silent_is_asked_again(get: Any, web: storage_stub.WebServer) -> None:
    web.stalls, web.breaks = True, [700]
    assert get(timeout=2)["changed"] is True
    assert len(web.seen) == 2


def test_an_overloaded_server_is_asked_again(get: Any, web: storage_stub.WebServer) -> None:
    web.failures = [503, 429]
    assert get()["changed"] is True


def test_a_server_that_never_sends_all_is_given_up(
    get: Any, web: storage_stub.WebServer, dest: Path, archive: Path
) -> None:
    web.breaks = [1] * 20
    assert f"broke off after 5 of {archive.stat().st_size} bytes" in get()["msg"]
    assert len(web.seen) == 5
    assert nothing_left(dest)


def test_redirects_are_followed_to_https_only(get: Any, web: storage_stub.WebServer, dest: Path) -> None:
    web.moved = {"/a": "/b", "/b": f"{web.url}/pets.tar.gz", "/http": "http://127.0.0.1:1/x", "/loop": "/loop"}

    assert "http://127.0.0.1:1/x is not an https:// address" in get("/http")["msg"]
    assert "redirects more than 10 times" in get("/loop")["msg"]
    assert nothing_left(dest)
    assert get("/a")["changed"] is True


def test_a_server_that_is_not_trusted_is_refused(get: Any, web: storage_stub.WebServer) -> None:
    assert "certificate verify failed" in get(ca_path=None)["msg"].lower()
    assert web.seen == []


def test_more_than_allowed_is_not_downloaded(get: Any, web: storage_stub.WebServer, dest: Path) -> None:
    assert "it has more than 1000 bytes (max_bytes)" in get(max_bytes=1000)["msg"]
    web.lengths = False
    assert "it has more than 1000 bytes (max_bytes)" in get(max_bytes=1000)["msg"]
    assert nothing_left(dest)


def test_a_missing_file_is_named_without_secrets(get: Any, web: storage_stub.WebServer) -> None:
    result = get("/other.tar.gz?signature=secret")
    assert result["msg"] == f"{web.url}/other.tar.gz answers 404 Not Found"
    assert len(web.seen) == 1


def test_secrets_of_an_address_are_not_kept(get: Any, web: storage_stub.WebServer, dest: Path) -> None:
    result = get("/pets.tar.gz?signature=secret")
    assert result["source"] == f"{web.url}/pets.tar.gz"
    assert "secret" not in (dest / "source.json").read_text()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://127.0.0.1:1/pets.zip", "anybody could change the model on its way"),
        ("ftp://example.com/pets.zip", "has the scheme ftp, a folder, an archive, https:// or gs:// would be right"),
        ("https:///pets.zip", "is not an https:// address"),
        ("https://user:secret@[::1/pets.zip", "https://… is not an address: Invalid IPv6 URL"),
        ("gs:///pets", "names no bucket"),
    ],
)
def test_other_addresses_are_refused(bring: Any, source: str, message: str) -> None:
    assert message in bring(source, checksum="sha256:" + 64 * "0")["msg"]


@pytest.fixture
def storage(models: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[storage_stub.CloudStorage]:
    # google-auth asks Google about the account in the background, whatever the endpoint: not from a test.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with storage_stub.cloud_storage() as server:
        for name, content in tree(models).items():
            server.objects[name] = content
            server.objects[f"all/{name}"] = content
        server.objects["pets/3/"] = b""
        server.objects["pets-of-others/3/saved_model.pb"] = b"x"
        server.objects["archives/pets.tar.gz"] = archive.read_bytes()
        yield server


@pytest.fixture
def pull(bring: Any, storage: storage_stub.CloudStorage, tmp_path: Path) -> Any:
    key = storage.write_key(tmp_path / "key.json")

    def run(path: str, bucket: str = "models", **options: Any) -> dict[str, Any]:
        given = {"service_account_file": str(key), "gcs_endpoint": storage.url, **options}
        return bring(f"gs://{bucket}/{path}", **given)

    return run


@pytest.mark.parametrize(("path", "below"), [("pets/3", ""), ("pets/3/", ""), ("pets", "3"), ("all", "pets/3")])
def test_a_folder_comes_from_cloud_storage(
    pull: Any, storage: storage_stub.CloudStorage, models: Path, path: str, below: str
) -> None:
    predicted = pull(path, check=True)
    assert storage.downloads == []
    assert not Path(predicted["folder"]).exists()
    result = pull(path)

    assert (result["changed"], result["kind"], result["version"]) == (True, "gs", 3)
    assert result["folder"] == predicted["folder"]
    assert result["folder"].endswith(f"/pets/model/{below}".rstrip("/"))
    assert predicted["version"] == 3
    assert tree(Path(result["folder"])) == tree(models / "pets" / "3")


def test_a_second_run_downloads_nothing(pull: Any, storage: storage_stub.CloudStorage) -> None:
    first = pull("pets/3")
    downloads = len(storage.downloads)
    second = pull("pets/3")

    assert second["changed"] is False
    assert second["version"] == first["version"] == 3
    assert len(storage.downloads) == downloads
    storage.objects["pets/3/assets/words.txt"] = b"cat"
    assert pull("pets/3")["changed"] is True


def test_an_archive_comes_from_cloud_storage(pull: Any, archive: Path, models: Path, dest: Path) -> None:
    assert pull("archives/pets.tar.gz", check=True)["folder"] is None
    checksum = sha256(archive.read_bytes())
    result = pull("archives/pets.tar.gz", checksum=checksum)

    assert (result["changed"], result["version"], result["checksum"]) == (True, 3, checksum)
    assert tree(Path(result["folder"])) == tree(models / "pets" / "3")
    assert pull("archives/pets.tar.gz", checksum=checksum)["changed"] is False
    other = "sha256:" + 64 * "0"
    assert f"is {checksum}, but checksum asks for {other}" in pull("archives/pets.tar.gz", checksum=other)["msg"]
    shutil.rmtree(dest)
    assert "but checksum asks for" in pull("archives/pets.tar.gz", checksum=other)["msg"]
    assert nothing_left(dest)


def test_the_digest_of_a_folder_in_cloud_storage_is_checked(pull: Any, run_module: Any, models: Path) -> None:
    digest = run_module("tf_serving_model", state="inspected", source=str(models / "pets"))["digest"]
    assert pull("pets", checksum=digest)["changed"] is True
    other = "sha256:" + 64 * "0"
    assert f"is {digest}, but checksum asks for {other}" in pull("pets", checksum=other)["msg"]
    assert f"is {digest}, but checksum asks for {other}" in pull("all", checksum=other)["msg"]


def test_the_environment_gives_credentials(
    pull: Any, storage: storage_stub.CloudStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(storage.write_key(tmp_path / "other.json")))
    assert pull("pets", service_account_file=None)["changed"] is True


def test_missing_credentials_are_told(pull: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-login"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    result = pull("pets", service_account_file=None)

    assert "there are no credentials for Google Cloud" in result["msg"]
    assert "service_account_file" in result["msg"]


def test_a_key_that_is_none_is_told(pull: Any, tmp_path: Path) -> None:
    file = tmp_path / "no-key.json"
    assert f"service_account_file {file} cannot be used" in pull("pets", service_account_file=str(file))["msg"]
    file.write_text("{}")
    assert f"service_account_file {file} cannot be used" in pull("pets", service_account_file=str(file))["msg"]


def test_a_key_that_is_not_accepted_is_told(pull: Any, storage: storage_stub.CloudStorage, tmp_path: Path) -> None:
    with storage_stub.cloud_storage() as stranger:
        stranger.token = "token-2"
        key = stranger.write_key(tmp_path / "stranger.json")
        assert (
            "gs://models answers 401, the credentials are not accepted"
            in pull("pets", service_account_file=str(key))["msg"]
        )
        stranger.url = storage.url
        stranger.write_key(key)
    assert "no access token for gs://models: " in pull("pets", service_account_file=str(key))["msg"]
    assert storage.downloads == []


def test_a_denial_names_the_role(pull: Any, storage: storage_stub.CloudStorage) -> None:
    storage.denied = True
    result = pull("pets")
    assert "answers 403" in result["msg"]
    assert "Storage Object Viewer" in result["msg"]
    assert "does not have storage.objects.list access" in result["msg"]


def test_what_is_not_in_the_bucket_is_told(pull: Any) -> None:
    assert "gs://models/dogs does not exist" in pull("dogs")["msg"]
    assert "gs://models/pet does not exist" in pull("pet")["msg"]
    other = pull("pets", bucket="other")["msg"]
    assert "gs://other answers 404" in other
    assert "The specified bucket does not exist" in other


@pytest.mark.parametrize("kind", ["MD5", "CRC32C"])
def test_an_object_that_was_damaged_on_its_way_is_refused(
    pull: Any, storage: storage_stub.CloudStorage, dest: Path, kind: str
) -> None:
    name = "pets/3/variables/variables.index"
    storage.composite = {name} if kind == "CRC32C" else set()
    assert pull("pets")["changed"] is True
    storage.damaged = {name}
    result = pull("pets/3")

    assert f"gs://models/{name} was damaged on its way: its {kind} is" in result["msg"]
    assert list(dest.parent.iterdir()) == [dest]


def test_a_passing_error_of_cloud_storage_is_sat_out(pull: Any, storage: storage_stub.CloudStorage) -> None:
    storage.failures = [503, 500]
    assert pull("archives/pets.tar.gz")["changed"] is True


def test_an_object_goes_on_where_it_broke_off(pull: Any, storage: storage_stub.CloudStorage) -> None:
    name = "pets/3/a-big-file"
    storage.objects[name] = os.urandom(3 << 20)
    storage.breaks = [(2 << 20) + 5]
    result = pull("pets/3")

    assert (Path(result["folder"]) / "a-big-file").read_bytes() == storage.objects[name]
    wanted = [wanted for one, wanted in storage.downloads if one == name]
    assert len(wanted) == 2
    assert wanted[1] in (f"bytes={2 << 20}-", f"bytes={(2 << 20) + 5}-")


def test_an_object_with_a_content_encoding_is_refused(pull: Any, storage: storage_stub.CloudStorage) -> None:
    storage.encoded = {"pets/3/saved_model.pb"}
    assert "stored with Content-Encoding gzip; upload it as it is" in pull("pets")["msg"]


def test_an_object_whose_name_leads_elsewhere_is_refused(
    pull: Any, storage: storage_stub.CloudStorage, dest: Path
) -> None:
    storage.objects["pets/3/../../../x"] = b"x"
    assert "leads out of" in pull("pets")["msg"]
    del storage.objects["pets/3/../../../x"]
    storage.objects["pets/3//saved_model.pb"] = b"x"
    assert "differ in slashes only" in pull("pets")["msg"]
    assert nothing_left(dest)


def test_a_folder_that_is_larger_than_allowed_is_refused(pull: Any, storage: storage_stub.CloudStorage) -> None:
    assert "but max_bytes is 100" in pull("pets", max_bytes=100)["msg"]
    assert storage.downloads == []


def test_a_token_is_not_sent_in_the_clear(pull: Any) -> None:
    assert "an https:// address would be right" in pull("pets", gcs_endpoint="http://storage.example.com")["msg"]


def test_a_destination_that_cannot_be_written_is_told(bring: Any, archive: Path, dest: Path) -> None:
    dest.parent.write_text("a file")
    result = bring(archive)
    assert result["failed"]
    assert os.strerror(errno.ENOTDIR) in result["msg"] or os.strerror(errno.EEXIST) in result["msg"]
