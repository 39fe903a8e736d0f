"""Vocabularies of our own in which any English prompt tokenises.

Both are built, not learned: the words of the drawn world and common English words are one token
each, and what is left falls apart into pieces and single characters, so that no prompt is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import pairwise

from transformers import BertTokenizer, CLIPTokenizer

__all__ = [
    "COMMON_WORDS",
    "PAD",
    "SEPARATORS",
    "build_bert_tokenizer",
    "build_clip_tokenizer",
]

PAD = 0
SEPARATORS = {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
"""Ids by which Grounding DINO finds the borders of phrases; they are written into its code."""

_BERT_SPECIAL = {"[PAD]": PAD, "[UNK]": 100, "[MASK]": 103} | SEPARATORS
_FIRST_FREE = 104
_PRINTABLE = tuple(chr(code) for code in range(33, 127) if not chr(code).isupper())


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COMMON_WORDS = _words(
    """
    person human man woman people pedestrian child boy girl adult walker figure rider crowd
    car automobile auto vehicle van truck lorry bus coach taxi cab motorcar motorbike motorcycle
    bike bicycle cycle scooter train tram wagon trailer tractor cart pickup sedan
    boat ship sailboat sailing vessel yacht ferry barge canoe kayak dinghy raft craft
    plane airplane aeroplane aircraft helicopter rocket balloon kite drone
    house home building cottage hut cabin shed barn tower castle church school shop store tent
    garage hotel villa lighthouse windmill mill dwelling skyscraper apartment
    tree trees plant bush shrub hedge flower flowers oak pine palm leaf leaves branch trunk log
    dog puppy hound cat kitten horse pony cow cattle sheep lamb goat pig bird duck goose swan gull
    seagull pigeon crow eagle owl chicken hen fish whale shark dolphin bear wolf fox deer rabbit
    mouse rat lion tiger elephant giraffe zebra monkey snake frog turtle bee butterfly spider
    ball football soccer basketball beach tennis baseball sphere globe toy doll game
    umbrella parasol sunshade bench seat chair sofa table desk bed lamp streetlamp lantern light
    lights traffic signal post pole sign board billboard stop street signpost hydrant bin trash
    can barrel box crate bag backpack suitcase handbag basket bottle cup glass plate bowl knife
    fork spoon book phone clock watch vase mirror window door gate fence wall railing bridge pier
    dock buoy anchor rope flag banner mailbox letterbox fountain statue well ladder
    sky cloud clouds air heaven heavens sun moon star rain snow ice fog
    grass lawn meadow field pasture turf green greenery park garden ground soil earth dirt mud
    sand beach shore coast desert dune dunes gravel rock rocks stone stones boulder cliff
    water sea ocean lake river pond stream harbour harbor bay canal waves wave pool
    road street roadway tarmac asphalt lane highway carriageway track path pathway footpath trail
    pavement sidewalk walkway paving promenade square plaza tiles floor runway rail
    mountain mountains hill hills hillside ridge slope valley forest wood woods woodland jungle
    crop crops wheat corn vineyard orchard brick bricks concrete metal wooden plastic roof
    background terrain vegetation nature scenery landscape city town village farm
    red green blue yellow orange black white brown grey gray pink purple dark bright
    big small large little tall short long wide round old new young fast parked moving
    a an the of and or in on with at by to for from without this that any some one two three
    apple banana orange pizza cake bread cheese food fruit hat cap shoe shirt coat dress jacket
    tie glove ring crown head face hand arm leg foot eye hair
    computer screen keyboard camera television radio guitar piano drum violin
    oven fridge sink toilet bath bathtub shower towel pillow blanket carpet curtain
    pen pencil paper scissors hammer saw axe nail wheel engine tyre
    surfboard skateboard snowboard skis frisbee racket bat helmet parachute
    photo picture image object thing area region surface
    """
)
"""Words that are one token: the drawn world's likely words and nouns that are absent from it."""

_PIECES = _words(
    """
    s es ed er ing ly ness ment tion able al ic y ies est en le ar or an on in it at st th nd nt
    man men woman light house boat ball way walk land bus car top side field water board
    """
)


def build_bert_tokenizer(words: Iterable[str] = ()) -> BertTokenizer:
    """WordPiece over `words`, common words, pieces and printable characters, lower-cased.

    The separators keep the ids that Grounding DINO expects, and padding is 0.
    """
    entries = [*_PRINTABLE, *("##" + char for char in _PRINTABLE)]
    entries += ["##" + piece for piece in _PIECES]
    entries += COMMON_WORDS
    entries += [part for word in words for part in word.lower().replace("-", " ").split()]
    vocabulary = dict(_BERT_SPECIAL)
    taken = set(vocabulary.values())
    token_id = _FIRST_FREE
    for entry in dict.fromkeys(entries):
        if entry in vocabulary:
            continue
        while token_id in taken:
            token_id += 1
        vocabulary[entry] = token_id
        taken.add(token_id)
    for unused in range(max(taken)):
        if unused not in taken:
            vocabulary[f"[unused{unused}]"] = unused
    ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    return BertTokenizer(vocab=ordered, model_max_length=256)


def build_clip_tokenizer(words: Iterable[str] = ()) -> CLIPTokenizer:
    """Byte-level pair encoding in which `words` and common words are one token each."""
    alphabet = _byte_symbols()
    vocabulary = [*alphabet, *(symbol + "</w>" for symbol in alphabet)]
    merges: dict[tuple[str, str], int] = {}
    known = [*COMMON_WORDS, *(part for word in words for part in word.lower().split())]
    for word in dict.fromkeys(known):
        symbols = _split(word, merges)
        while len(symbols) > 1:
            # A new merge ranks last, so words that are one token already stay so.
            merges[(symbols[0], symbols[1])] = len(merges)
            vocabulary.append(symbols[0] + symbols[1])
            symbols = _split(word, merges)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {symbol: number for number, symbol in enumerate(dict.fromkeys(vocabulary))}
    pairs: list[tuple[str, str]] = list(merges)
    return CLIPTokenizer(vocab=ids, merges=pairs, model_max_length=77)  # type: ignore[arg-type]


def _split(word: str, merges: dict[tuple[str, str], int]) -> list[str]:
    """The symbols of `word` after all merges that apply, best rank first."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    while len(symbols) > 1:
        pairs = [(merges.get(pair, len(merges)), at) for at, pair in enumerate(_pairs(symbols))]
        rank, at = min(pairs)
        if rank == len(merges):
            break
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return symbols


def _pairs(symbols: list[str]) -> list[tuple[str, str]]:
    return list(pairwise(symbols))


@cache
def _byte_symbols() -> tuple[str, ...]:
    """The printable stand-ins of the 256 bytes, in the order of byte-level pair encoding.

    Printable Latin-1 bytes stand for themselves; the others are shifted past 255, in order.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [chr(256 + number) for number in range(256 - len(plain))]
    return (*map(chr, plain), *shifted)
