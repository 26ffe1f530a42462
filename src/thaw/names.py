"""Normalised names of classes, files, columns and experiments: the form in which they are compared."""

import unicodedata

INVISIBLE = "\u200b\u2060\ufeff\u00ad"  # of the category of those that join letters, which must stay
UNSEEN = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of line breaks and unprintable characters


def plain(name: str) -> str:
    """A name in Unicode's composed form (NFC), with line breaks and unprintable characters escaped."""
    composed = unicodedata.normalize("NFC", name)
    return "".join(
        character.encode("unicode_escape").decode() if is_unseen(character) else character for character in composed
    )


def trimmed(name: str) -> str:
    """The same without surrounding white space."""
    return plain(name.strip())


def is_unseen(character: str) -> bool:
    """Whether a character breaks lines or does not print."""
    return unicodedata.category(character) in UNSEEN or character in INVISIBLE
