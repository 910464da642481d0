"""Words of direction in the texts of cases.

A mirrored scan contradicts such a text: the upper nodule is then the lower one.
"""

import re
from collections.abc import Iterable

SIDES = (  # English, German and Dutch, French, Spanish, Italian, Portuguese
    "left|right|link(?:s|e[rnsm]?)|recht(?:s|e[rnsm]?)|gauche|droite?|izquierd[oa]|derech[oa]|sinistr[oa]|destr[oa]|"
    "esquerd[oa]|direit[oa]"
)
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
