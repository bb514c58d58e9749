"""The configuration as JSON Schema, for editors: `twistd mxflex --config-schema`.

Which keys there are, their types, ranges and defaults are those of `mxflex.config`; here are the
words. A test holds them and mxflex.yaml.sample together.

Source: JSON Schema 2020-12, Core and Validation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import attrs

from mxflex import config


@attrs.frozen
class _Words:
    """What is said of a key.

    Attributes:
        text: What it means.
        example: A value, for a key without a default.
    """

    text: str
    example: object = None


_SECTIONS: Final[Mapping[str, str]] = {
    "mx": "The MX, and the account that MXFlex has there.",
    "token": "The tokens of those who log in.",
    "events": "The streams of events.",
    "calls": "Who may act on which call.",
    "numbers": "How telephone numbers are compared.",
    "login": "The limits of logging in.",
    "acme": "How a certificate is got from an ACME server, such as Let's Encrypt.",
    "tls": "A certificate of one's own, instead of one by ACME.",
    "monitor": "Where those who look after MXFlex find its state and its figures.",
    "log": "What is logged, and how.",
    "delivery": "How events wait for the receivers of webhooks.",
    "admin": "Who looks after MXFlex by the API.",
}

_WORDS: Final[Mapping[str, _Words]] = {
    "host": _Words(
        "Where clients find MXFlex: name, name:port, IPv4[:port] or [IPv6][:port]. Without "
        "a port: 80. 0.0.0.0:8080 is every interface. A public name without a port, or with "
        "port 443, is served by HTTPS and HTTP/2 with a certificate that MXFlex gets from "
        "Let's Encrypt (see acme below)."
    ),
    "listen": _Words(
        "Twisted endpoints that replace the port made from `host`.",
        ["tcp:8080:interface=127.0.0.1"],
    ),
    "listen_http": _Words(
        "With HTTPS on port 443: endpoints that replace port 80, which answers the CA's "
        "challenges and redirects all else. With HTTPS on another port there is no such "
        "port unless it is named here.",
        ["tcp:80"],
    ),
    "html": _Words("The folder with the static files; `/` is its index.html."),
    "mx.addr": _Words(
        "Name or address of the MX, with a port or without. The port is 7778 unless named.",
        "192.0.2.10",
    ),
    "mx.login": _Words(
        "The account of the server connection.",
        "mxflex",
    ),
    "mx.password": _Words(
        "The password of that account, in quotes.",
        "secret",
    ),
    "mx.password_file": _Words(
        "Instead of `password`: a file whose first line is the password.",
        "/run/credentials/mxflex.service/mx-password",
    ),
    "mx.verify": _Words(
        "The certificate of the MX. `none`: any is accepted, its fingerprint is logged with "
        "a warning. `system`: one for its name, by a CA that this system knows. Or the path "
        "of a CA file."
    ),
    "mx.fingerprint": _Words(
        "SHA-256 of the only certificate to accept, in hex with or without colons.",
        "9F:86:D0:81:88:4C:7D:65:9A:2F:EA:A0:C5:5A:D0:15:A3:BF:4F:1B:2B:0B:82:2C:D1:5D:6C:15:B0:F0:0A:08",
    ),
    "mx.timeout": _Words("Seconds to wait for an answer of the MX."),
    "mx.keepalive": _Words("Seconds without a word of ours before a keep-alive is sent."),
    "mx.tls_minimum": _Words(
        'The oldest TLS version to speak with the MX: "1.0", "1.1", "1.2" or "1.3". Lower '
        'than "1.2" is for old firmware only.'
    ),
    "mx.tls_security_level": _Words(
        "OpenSSL's security level for the MX, 0 to 5; unless named, OpenSSL's own. Old "
        'firmware may need 0, with tls_minimum "1.0".',
        1,
    ),
    "mx.clear_password": _Words(
        "Whether a password that the MX refuses as a hash may be tried in clear, inside "
        "TLS. MX servers that take their users from a directory (LDAP) need it. Where any "
        "certificate is accepted it is not done all the same, unless `verify: none` is "
        "written out above."
    ),
    "token.lifetime": _Words("Seconds that a token is valid."),
    "token.key": _Words(
        "The key that signs tokens, 32 bytes or more: for several servers behind one name, "
        "or for clients that go on over a restart. Unless named, each start makes a random "
        "one, and tokens from before the start are refused.",
        "a long random text that all those servers share",
    ),
    "token.storage": _Words(
        "With `key`, the file that remembers over a restart who has logged out. Only MXFlex may "
        "read it. It lies where `acme.storage` does."
    ),
    "token.max_age": _Words(
        "Seconds since the login that renewed tokens may last; then it needs the password "
        "again. 0: tokens are not renewed."
    ),
    "token.in_url": _Words(
        "Whether a token may stand in the URL (`?access_token=…`), which proxies and "
        "browsers write down. Where it may not, an EventSource needs a ticket "
        "(docs/api.md)."
    ),
    "events.heartbeat": _Words("Seconds between comments on a quiet stream of events, 55 at most."),
    "events.history": _Words(
        "Events kept for each extension and each other topic, for clients that come back "
        "with Last-Event-ID."
    ),
    "events.max_unsent": _Words(
        "Bytes that a slow reader may owe before it is cut off, 65536 at least."
    ),
    "events.max_per_token": _Words(
        "Streams that may be open with one token, and those renewed from it; one more is "
        "answered 429."
    ),
    "events.max_per_address": _Words(
        "Streams that may be open from one address (IPv6: one /64); one more is answered 429."
    ),
    "events.max_streams": _Words(
        "Streams that may be open in all; one more is answered 503. Each takes a file descriptor."
    ),
    "calls.restrict": _Words("Whether a token gives a right only to calls of its own extension."),
    "numbers.country": _Words(
        "The country that telephone numbers without + are from, in two letters (ISO 3166) "
        "and in quotes. With it callers are found in the address book however their numbers "
        "are written there. Unless named, only numbers with + are found in other spellings.",
        "US",
    ),
    "login.max_failures": _Words(
        "Failed logins for one name or one address within `window` seconds before the "
        "answer is 429."
    ),
    "login.window": _Words("Length of that window, in seconds."),
    "login.parallel": _Words("Logins that are asked of the MX side by side."),
    "login.queue": _Words("Logins that wait behind those; more are answered 503."),
    "login.refusal_step": _Words(
        "Seconds. A refused login is answered at the next multiple of them, so that the "
        "time of the answer does not tell which names exist. 0: at once."
    ),
    "proxies": _Words(
        "Addresses or networks of reverse proxies whose X-Forwarded-For is believed.",
        ["127.0.0.1", "10.0.0.0/8"],
    ),
    "cors": _Words(
        "Origins that may call the API from other sites.",
        ["https://crm.example.com"],
    ),
    "frames": _Words(
        "Origins of other sites whose pages may show the console, or what else is in the folder "
        "html, in a frame.",
        ["https://crm.example.com"],
    ),
    "acme.email": _Words(
        "Where the CA may write to when something is wrong with the certificate.",
        "admin@example.com",
    ),
    "acme.directory": _Words("The directory of the ACME server."),
    "acme.storage": _Words(
        "The folder for the certificate and the key of the account. Only MXFlex may read it. "
        "Unless it is absolute, it lies in the current directory; under systemd and in the "
        "container, in /var/lib/mxflex."
    ),
    "acme.ca_file": _Words(
        "CA of a private ACME server, in PEM.",
        "/etc/ssl/private-ca.pem",
    ),
    "acme.profile": _Words(
        "The certificate profile to ask for; unless named, the CA's default.",
        "tlsserver",
    ),
    "acme.eab_kid": _Words(
        "External account binding, for CAs that want one: the identifier of the key.",
        "kid-1",
    ),
    "acme.eab_key": _Words(
        "The secret of that key.",
        "dGhlIHNlY3JldCBpbiBiYXNlNjR1cmw",
    ),
    "tls.certificate": _Words(
        "A certificate of one's own instead of one by ACME: PEM files, the chain behind the "
        "certificate. They are read again when they change, and on SIGHUP.",
        "/etc/ssl/crm.example.com.pem",
    ),
    "tls.key": _Words(
        "The private key of that certificate, in PEM.",
        "/etc/ssl/private/crm.example.com.key",
    ),
    "monitor.listen": _Words(
        "Endpoints for those who look after MXFlex: /healthz, /readyz, and /metrics for "
        "Prometheus. There is no token there, so keep it to this machine, or to a network "
        "that only they can reach. Unless named, there is none.",
        ["tcp:9464:interface=127.0.0.1"],
    ),
    "log.level": _Words(
        "The lowest level that is logged: debug, info, warn, error or critical. Parts of MXFlex "
        'may have another one: "info,mxflex.mx=debug". The option --log-level wins.'
    ),
    "log.format": _Words(
        'Log lines as "text", or as "json": an object a line. The option --log-format wins.'
    ),
    "webhooks": _Words(
        "Where events are posted to, signed as Standard Webhooks has it; docs/webhooks.md "
        "explains each key. `extensions` are monitored from the start, whoever logs in. "
        "Without it, or with `all`, the events are those of extensions that are monitored "
        "anyhow.",
        [
            {
                "name": "crm",
                "url": "https://crm.example.com/events",
                "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "extensions": ["3095"],
            }
        ],
    ),
    "delivery.storage": _Words(
        "The file that keeps events until the receivers of webhooks have taken them. Only "
        "MXFlex may read it. It lies where `acme.storage` does."
    ),
    "delivery.max_queued": _Words(
        "Events that may wait for one receiver; what comes beyond is dropped, and told by a `gap`."
    ),
    "delivery.max_age": _Words(
        "Seconds after which an event is given up and becomes a dead letter."
    ),
    "delivery.max_dead": _Words("Dead letters that are kept for one receiver."),
    "admin.extensions": _Words("The extensions whose users may call /api/admin.", ["3095"]),
}


def config_schema() -> dict[str, Any]:
    """Give the schema.

    It refuses nothing that MXFlex takes, with one exception: `mx.addr` and `mx.login` are demanded
    here, and may come from the environment instead. What only MXFlex can tell, such as whether a
    file is there, it lets pass.
    """
    top: dict[str, Any] = {}
    for key, form in config.forms().items():
        section, _, name = key.rpartition(".")
        if section and section not in top:
            top[section] = {
                "description": _SECTIONS[section],
                # A section without a key that is not commented out is null in YAML.
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": {},
            }
        keys = top[section]["properties"] if section else top
        keys[name] = _property(key, form)
    top["mx"] |= {
        "type": "object",
        "required": ["addr", "login"],
        "not": {"required": ["password", "password_file"]},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of MXFlex",
        "type": "object",
        "additionalProperties": False,
        "required": ["mx"],
        "properties": top,
    }


def _property(key: str, form: Mapping[str, Any]) -> dict[str, Any]:
    words, default = _WORDS[key], config.default_of(key)
    told = {"examples": [words.example]} if default is None else {"default": default}
    secret = {"writeOnly": True} if key in config.SECRET_KEYS else {}
    return {"description": words.text, **form, **told, **secret}


def schema_text() -> str:
    """Give the schema as text."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"
