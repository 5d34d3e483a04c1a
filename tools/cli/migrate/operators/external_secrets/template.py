"""Parse the templates of ExternalSecrets that only name the value of a key. Pure.

Other Go templates are programs, and they cannot be converted.
"""

import re

import msgspec

# `{{ .name }}` or `{{ index . "name" }}`, and functions after pipes.
# No character can match in two ways: otherwise the time would grow exponentially with the text.
_VALUE = re.compile(r'\{\{-?\s*(?:\.([A-Za-z_]\w*)|\(?index \. "([-.\w]+)"\)?)\s*(\|[\w"\s|]*)?-?\}\}')
_PARTS = {
    "b64dec|pkcs12cert": "tls.crt",
    "b64dec|pkcs12key": "tls.key",
    "base64decode|pkcs12cert|pemCertificate": "tls.crt",
    "base64decode|pkcs12key|pemPrivateKey": "tls.key",
    'filterPEM"CERTIFICATE"': "tls.crt",
    'filterPEM"PRIVATEKEY"': "tls.key",
}
_NOTHING = ("", "toString")
_DECODE = ("b64dec", "toString|b64dec", "base64decode")
# Templates of that form are shorter.
_MAX_TEXT = 500


class TemplateValue(msgspec.Struct, frozen=True):
    """The value of a key: the value of another key, or only the certificates or the private key in it.

    `decodes` means that the value is decoded from base64.
    """

    key: str
    part: str = ""
    decodes: bool = False


def parse(text: str) -> TemplateValue | None:
    """Return the value that a template names, or None if the template does more than that."""
    if len(text) > _MAX_TEXT:
        return None
    # Spaces and line breaks around a PEM have no effect, but in other values they do.
    for given, exact in ((text, True), (text.strip(), False)):
        if match := _VALUE.fullmatch(given):
            functions = re.sub(r"\s", "", match[3] or "").removeprefix("|")
            key = match[1] or match[2]
            if functions in _PARTS:
                return TemplateValue(key, _PARTS[functions])
            if exact and functions in (*_NOTHING, *_DECODE):
                return TemplateValue(key, decodes=functions in _DECODE)
    return None


def is_template(text: str) -> bool:
    """Return whether the text contains a template."""
    return "{{" in text
