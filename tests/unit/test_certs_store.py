"""Certificate and account key on disk: nobody else's to read, whole or not at all, or set aside."""

from __future__ import annotations

import os
import stat

import pem
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from mxflex.certs.store import CertificateFile, check_pair, is_for, private_bytes, write_secret
from mxflex.errors import CertificateError
from mxflex.simulator.certificate import Certificate

NAME = "mx.example.test"


def mode(path):
    """Give the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def objects_of(certificate):
    """Give key and certificate as txacme hands them about."""
    return pem.parse(private_bytes(certificate.key) + certificate.pem)


def result_of(deferred):
    """Give the result that a Deferred has already, or raise its error."""
    results = []
    deferred.addBoth(results.append)
    (result,) = results
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result


@pytest.fixture
def folder(tmp_path):
    """Give the folder; it is not there yet."""
    return tmp_path / "deep" / "certs"


@pytest.fixture
def kept(folder):
    """Give the file of a certificate that is stored, with its objects."""
    file = CertificateFile(folder, NAME)
    objects = objects_of(Certificate.issue("own", NAME))
    result_of(file.store(NAME, objects))
    return objects


# --- Writing --------------------------------------------------------------------------------------


def test_secrets_are_private_from_the_start(folder, monkeypatch):
    """File and folder are closed to others before the first byte is written, whatever the umask."""
    seen = []
    fsync = os.fsync

    def look(handle):
        seen.append([mode(path) for path in folder.iterdir()])
        fsync(handle)

    monkeypatch.setattr(os, "fsync", look)
    umask = os.umask(0)
    try:
        write_secret(folder / "secret", b"content")
    finally:
        os.umask(umask)
    assert mode(folder) == 0o700
    # The file is flushed to the disk before it has its name, and the folder after that.
    assert seen == [[0o600], [0o600]]
    assert (folder / "secret").read_bytes() == b"content"


def test_wide_folder_is_closed(folder):
    """A folder that others could look into is closed before a secret is written there."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    write_secret(folder / "secret", b"content")
    assert mode(folder) == 0o700


def test_wide_file_is_replaced_by_a_private_one(folder):
    """What was there before with wider permissions is replaced, not filled."""
    folder.mkdir(parents=True)
    path = folder / "secret"
    path.write_bytes(b"before")
    path.chmod(0o666)
    with path.open("rb") as before:
        write_secret(path, b"after")
        assert before.read() == b"before"
    assert mode(path) == 0o600


def test_a_failed_write_changes_nothing(folder, monkeypatch):
    """When the disk is full, the old file stays as it was, and no rest lies about."""
    write_secret(folder / "secret", b"before")

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_secret(folder / "secret", b"after")
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert (folder / "secret").read_bytes() == b"before"


# --- The certificate ------------------------------------------------------------------------------


def test_stored_and_read(folder, kept):
    """What was stored is read by the next start, and given by our name alone."""
    file = CertificateFile(folder, NAME)
    assert file.read() == kept
    assert result_of(file.get(NAME)) == kept
    with pytest.raises(KeyError):
        result_of(file.get("other.example.test"))
    with pytest.raises(KeyError):
        result_of(file.store("other.example.test", kept))
    assert [path.name for path in folder.iterdir()] == [f"{NAME}.pem"]


def test_nothing_yet(folder):
    """Without a file txacme is told that a certificate is wanted."""
    file = CertificateFile(folder, NAME)
    assert file.read() is None
    assert result_of(file.as_dict()) == {NAME: []}
    with pytest.raises(KeyError):
        result_of(file.get(NAME))
    assert not folder.exists()


def test_only_the_leaf_is_watched(folder):
    """The chain's own ends are no business of ours."""
    authority = Certificate.authority()
    own = Certificate.issue("own", NAME, issuer=authority)
    objects = objects_of(own) + pem.parse(authority.pem)
    file = CertificateFile(folder, NAME)
    result_of(file.store(NAME, objects))
    assert result_of(file.as_dict()) == {NAME: [objects[1]]}


def test_other_files_are_let_be(folder, kept):
    """Whatever else lies in the folder is neither read nor renewed."""
    (folder / "other.example.test.pem").write_bytes(b"somebody else's")
    file = CertificateFile(folder, NAME)
    file.read()
    assert list(result_of(file.as_dict())) == [NAME]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"MII", b"AAA"),
        lambda content: content + content,
        lambda content: content[content.index(b"-----BEGIN CERT") :],
        lambda content: bytes(range(256)) * 100,
        lambda content: (
            private_bytes(ec.generate_private_key(ec.SECP256R1()))
            + content[content.index(b"-----BEGIN CERT") :]
        ),
        lambda content: b"".join(
            each.as_bytes() for each in objects_of(Certificate.issue("x", "other.example.test"))
        ),
    ],
    ids=["empty", "half", "bits", "twice", "keyless", "bytes", "key", "name"],
)
def test_damage(folder, kept, damage):
    """A file that is not the certificate of our name with its key is kept aside, as it is."""
    path = folder / f"{NAME}.pem"
    content = damage(path.read_bytes())
    path.write_bytes(content)
    assert CertificateFile(folder, NAME).read() is None
    assert not path.exists()
    aside = folder / f"{NAME}.pem.damaged"
    assert aside.read_bytes() == content
    assert mode(aside) == 0o600


def test_something_else_in_its_place(folder):
    """A folder where the file should be is an error line, not the end of the daemon."""
    (folder / f"{NAME}.pem").mkdir(parents=True)
    assert CertificateFile(folder, NAME).read() is None


def test_reading_closes_files(folder, kept):
    """Permissions that have become wider are taken back when the file is read."""
    path = folder / f"{NAME}.pem"
    path.chmod(0o644)
    folder.chmod(0o755)
    assert CertificateFile(folder, NAME).read() == kept
    assert mode(path) == 0o600
    assert mode(folder) == 0o700


# --- The account's key ----------------------------------------------------------------------------


def test_account_key_is_kept(folder):
    """The key is made once, and is nobody else's to read."""
    first = CertificateFile(folder, NAME).account_key()
    second = CertificateFile(folder, "other.example.test").account_key()
    assert first.private_numbers() == second.private_numbers()
    assert isinstance(first.curve, ec.SECP256R1)
    path = folder / "account.key"
    assert mode(path) == 0o600
    path.chmod(0o644)
    CertificateFile(folder, NAME).account_key()
    assert mode(path) == 0o600


def _pkcs8(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"nonsense",
        lambda: _pkcs8(rsa.generate_private_key(65537, 2048)),
        lambda: _pkcs8(ec.generate_private_key(ec.SECP384R1())),
        lambda: _pkcs8(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"x")),
    ],
    ids=["empty", "nonsense", "rsa", "p-384", "password"],
)
def test_account_key_of_another_kind(folder, make):
    """A file that is no key of ours is kept aside, and a new key made."""
    content = make()
    folder.mkdir(parents=True)
    (folder / "account.key").write_bytes(content)
    assert isinstance(CertificateFile(folder, NAME).account_key().curve, ec.SECP256R1)
    assert (folder / "account.key.damaged").read_bytes() == content


def test_account_key_has_no_place(tmp_path):
    """A folder that cannot be made is one sentence."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CertificateError, match="cannot be used: "):
        CertificateFile(tmp_path / "file" / "certs", NAME).account_key()


# --- Judging --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "name", "good"),
    [
        ([NAME], NAME, True),
        (["MX.Example.Test"], NAME, True),
        (["other.example.test", NAME], NAME, True),
        (["*.example.test"], NAME, True),
        (["*.example.test"], "a.b.example.test", False),
        (["*.example.test"], "example.test", False),
        (["example.test"], NAME, False),
        (["192.0.2.1"], "192.0.2.1", True),
        ([], NAME, False),
    ],
)
def test_names(hosts, name, good):
    """A certificate is for a host that stands in it, or whose domain does behind a `*`."""
    assert is_for(Certificate.issue(NAME, *hosts).certificate, name) is good


def test_the_certificate_comes_first():
    """The first certificate is the one that the key belongs to; the rest is the chain."""
    authority = Certificate.authority()
    own = Certificate.issue("own", NAME, issuer=authority)
    objects = objects_of(own) + pem.parse(authority.pem)
    assert check_pair(objects) == own.certificate
    with pytest.raises(ValueError, match="does not belong"):
        check_pair(objects[:1] + objects[:0:-1])
