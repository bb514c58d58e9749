"""Names in a configuration, as the certificates room needs them."""

from __future__ import annotations

import pytest

from mxflex.config import load


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("MX.Example.COM", "mx.example.com"),
        ("mx.example.com.", "mx.example.com"),
        ("ПРИМЕР.рф", "xn--e1afmkfd.xn--p1ai"),
        ("mx.example.com:443", "mx.example.com"),
    ],
)
def test_the_name_is_as_certificates_spell_it(host, name):
    """Capitals and the dot of the root are gone: CAs refuse both, and redirects go to this name."""
    text = f'host: "{host}"\nmx: {{addr: "192.0.2.1", login: "a", password: "b"}}'
    loaded = load(text, "test.yaml", {})
    assert loaded.host == name
    assert loaded.https
