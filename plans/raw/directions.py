"""Words of direction in the texts of cases.

A mirrored scan contradicts such a text: the upper nodule is then the lower one.
"""

import re
from collections.abc import Iterable

# English, German and Dutch, French, Spanish, Italian, Portuguese, Nordic and Slavic languages, Finnish, Chinese and
# Japanese
LEFT = (
    r"left|link(?:s|e[rnsm]?)|gauche|izquierd[oa]|sinistr[oa]|esquerd[oa]|vänster|venstre|lew[aey]|lev[áýé]|vasen|"
    r"лев(?:ая|ый|ое)|左"
)
RIGHT = (
    r"right|recht(?:s|e[rnsm]?)|droite?|derech[oa]|destr[oa]|direit[oa]|höger|høyre|højre|praw[aey]|prav[áýé]|oikea|"
    r"прав(?:ая|ый|ое)|右"
)
SIDES = f"{LEFT}|{RIGHT}"
_WORDS = (  # of the axes D, H and W
    r"upper\w*|lower\w*|above|below|beneath|top|topmost|bottom|superior\w*|inferior\w*|cranial\w*|"
    r"caudal\w*|cephal\w*|kranial\w*|kaudal\w*|ober(?:e[rnsm]?|halb|ste[rnsm]?)|unter(?:e[rnsm]?|halb|ste[rnsm]?)|"
    r"oben|unten|boven\w*|onder\w*|sup[ée]rieure?s?|inf[ée]rieure?s?|dessus|dessous|encima|debajo|acima|abaixo|sopra|"
    r"sotto",
    r"anterior\w*|posterior\w*|(?:antero|postero)(?:lateral|medial|superior|inferior)\w*|ventral\w*|dorsal\w*|"
    r"front\w*|back|rear\w*|behind|"
    r"vorder\w*|vorn|hinter\w*|hinten|voor\w*|achter\w*|ant[ée]rieure?s?|post[ée]rieure?s?|avant|arri[èe]re|devant|"
    r"derri[èe]re",
    rf"(?:{SIDES})(?:wards?|sided|most|seitig\w*)?|lh|rh|lt|rt|l|r",
)
_PATTERNS = tuple(re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for words in _WORDS)


def named_axes(texts: Iterable[str]) -> tuple[int, ...]:
    """The axes of the patient's frame whose directions a text names: 0 (D, head to feet), 1 (H) or 2 (W, sides).

    A direction in one text is enough. To leave out a mirroring axis costs little.
    """
    texts = tuple(texts)
    return tuple(axis for axis, pattern in enumerate(_PATTERNS) if any(map(pattern.search, texts)))
