"""Telephone numbers in one form, so that two spellings of a number can be compared.

Source: ITU-T E.164; the numbering plans are those of the library `phonenumbers`.
"""

from __future__ import annotations

import re
from functools import lru_cache

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat, ValidationResult

_NO_DIGITS = re.compile("[^0-9]+")
# Spellings that are remembered with their form; finding a form takes some 15 µs.
MAX_REMEMBERED = 4096


def digits_of(text: str) -> str:
    """Give the digits of a text, those of other scripts as ASCII; all else is left out."""
    # Nearly all are; it takes a tenth of the time.
    if text.isascii():
        return _NO_DIGITS.sub("", text)
    return phonenumbers.normalize_digits_only(text)


class Numbers:
    """Brings numbers to their form.

    Args:
        country: Where numbers without `+` are from, as ISO 3166 spells it; "" if that is unknown.
    """

    def __init__(self, country: str) -> None:
        self._country = country
        self.form = lru_cache(MAX_REMEMBERED)(self._form)

    def readings(self, text: str) -> set[str]:
        """Give the forms of all numbers that a text may mean; two with one in common are the same.

        An MX leaves out the `+` of numbers, so without one the digits may be all that E.164 has:
        also where they could be a number of the country, or no plan knows them.
        """
        digits = "" if "+" in text else digits_of(text)
        return {each for each in (self.form(text), digits and "+" + digits) if each}

    def _form(self, text: str) -> str:
        """Give the form that a number has in all spellings.

        It is `+` and the digits of E.164. What is no number of any plan, such as an extension, or
        has no country, is its digits alone; "" where there are none.
        """
        number = _parse(text, self._country or None)
        if number is None:
            return digits_of(text)
        return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def _parse(text: str, country: str | None) -> PhoneNumber | None:
    try:
        number = phonenumbers.parse(text, country)
    except NumberParseException:
        return None
    reason = phonenumbers.is_possible_number_with_reason(number)
    return number if reason == ValidationResult.IS_POSSIBLE else None
