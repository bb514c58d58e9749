"""Answers: statuses and their phrases."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from twisted.web.test.requesthelper import DummyChannel

from mxflex import errors
from mxflex.errors import MXFlexError, RequestError
from mxflex.web.render import STATUSES, send_error, status_of
from mxflex.web.site import Request


@pytest.mark.parametrize("status", sorted({*STATUSES.values(), 404, 405, 500}))
def test_every_status_has_its_phrase(status):
    """The status line has the registered phrase, also of statuses that Twisted does not know."""
    request = Request(DummyChannel(), parsePOSTFormSubmission=False)
    send_error(request, status, "words")
    assert request.code == status
    assert request.code_message == HTTPStatus(status).phrase.encode()


def leaves(cls):
    """Give the classes below one that nothing derives from."""
    below = cls.__subclasses__()
    return [leaf for each in below for leaf in leaves(each)] if below else [cls]


@pytest.mark.parametrize("cls", leaves(MXFlexError), ids=lambda cls: cls.__name__)
def test_every_error_is_placed(cls):
    """Each error has a status, or is one that never reaches the web."""
    never = (
        errors.ConfigError,
        errors.RemoteProtocolError,
        errors.BadBody,
        errors.CertificateError,
        errors.StorageError,
    )
    error = cls.__new__(cls)
    assert (status_of(error) is None) == issubclass(cls, never)


@pytest.mark.parametrize("cls", leaves(RequestError), ids=lambda cls: cls.__name__)
def test_the_clients_faults_are_4xx(cls):
    """What the client did wrong is never told as a fault of the server."""
    assert 400 <= status_of(cls.__new__(cls)) < 500
