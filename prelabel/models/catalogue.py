"""The checkpoints that the configs can name: what each is, how large, and under which licence.

Nothing here is fetched or read: it is one table, and every number in it is either counted from the
architecture (parameters) or published with the file (bytes and sha256 of an original).
"""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.errors import ConfigError
from prelabel.validation import nearest

__all__ = ["CATALOGUE", "Entry", "Original", "find_entry", "published_file"]

_APACHE = "Apache-2.0"
_UNSAID = "see its page"
_CLIPSEG_NOTE = (
    "the authors' licence is MIT and says that it does not cover the weights; read the model's "
    "page, or ask them, before you build on these"
)
_MM_NOTE = (
    "the code that trained it, mmdetection, is Apache-2.0; its page says what its weights are"
)
_SAM2_NOTE = "the file also holds what follows objects through a video, which is left unread"
_EMBEDDED_NOTE = "trained by this project; knows drawn scenes only"


@dataclass(frozen=True, slots=True)
class Original:
    """The file that a network's authors published, which `weights` may name directly."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint."""

    name: str
    """A hub id, or `embedded/` and a kind."""
    role: str
    """The section of the config it is for."""
    kind: str
    parameters: int | None
    """How many the loaded network has; None: its file tells."""
    licence: str
    note: str = ""
    original: Original | None = None
    stored: int | None = None
    """How many are in the file, where the network takes only some of them."""
    revision: str | None = None
    """The commit that was looked at, where one was."""

    @property
    def embedded(self) -> bool:
        """Whether it ships with this package."""
        return self.name.startswith("embedded/")

    @property
    def weights(self) -> str:
        """What `weights` in a config says."""
        return "embedded" if self.embedded else self.name

    @property
    def bytes(self) -> int | None:
        """About how much is fetched, four bytes a parameter; None: its file tells."""
        count = self.stored or self.parameters
        return None if count is None else 4 * count


def _sam(size: str, parameters: int, original: Original) -> Entry:
    return Entry(f"facebook/sam-vit-{size}", "segment", "sam", parameters, _APACHE, "", original)


def _sam2(size: str, parameters: int, stored: int) -> Entry:
    name = f"facebook/sam2.1-hiera-{size}"
    return Entry(name, "segment", "sam2", parameters, _APACHE, _SAM2_NOTE, stored=stored)


def _dino(size: str, parameters: int, original: Original) -> Entry:
    name = f"IDEA-Research/grounding-dino-{size}"
    return Entry(name, "detect", "grounding-dino", parameters, _APACHE, "", original)


def _mm_dino(variant: str, parameters: int) -> Entry:
    name = f"openmmlab-community/mm_grounding_dino_{variant}"
    return Entry(name, "detect", "mm-grounding-dino", parameters, _UNSAID, _MM_NOTE)


def _embedded(role: str, kind: str) -> Entry:
    return Entry(f"embedded/{kind}", role, kind, None, _APACHE, _EMBEDDED_NOTE)


CATALOGUE: tuple[Entry, ...] = (
    _embedded("detect", "grounding-dino"),
    _embedded("segment", "sam"),
    _embedded("stuff", "clipseg"),
    _dino(
        "tiny",
        172_250_626,
        Original(
            "groundingdino_swint_ogc.pth",
            693_997_677,
            "3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799",
        ),
    ),
    _dino(
        "base",
        232_315_264,
        Original(
            "groundingdino_swinb_cogcoor.pth",
            938_057_991,
            "46270f7a822e6906b655b729c90613e48929d0f2bb8b9b76fd10a856f3ac6ab7",
        ),
    ),
    _mm_dino("tiny_o365v1_goldg", 172_913_693),
    _mm_dino("tiny_o365v1_goldg_grit", 172_913_693),
    _mm_dino("tiny_o365v1_goldg_v3det", 172_913_693),
    _mm_dino("tiny_o365v1_goldg_grit_v3det", 172_913_693),
    _mm_dino("base_o365v1_goldg_v3det", 232_978_331),
    _mm_dino("base_all", 232_978_331),
    _mm_dino("large_o365v2_oiv6_goldg", 343_055_703),
    _mm_dino("large_all", 343_055_703),
    _sam(
        "base",
        93_735_728,
        Original(
            "sam_vit_b_01ec64.pth",
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
    ),
    _sam(
        "large",
        312_343_088,
        Original(
            "sam_vit_l_0b3195.pth",
            1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
    ),
    _sam(
        "huge",
        641_090_864,
        Original(
            "sam_vit_h_4b8939.pth",
            2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    ),
    _sam2("tiny", 31_440_721, 38_962_498),
    _sam2("small", 38_538_577, 46_060_354),
    _sam2("base-plus", 73_328_401, 80_850_178),
    _sam2("large", 216_924_865, 224_446_642),
    Entry("CIDAS/clipseg-rd64-refined", "stuff", "clipseg", 150_747_746, _UNSAID, _CLIPSEG_NOTE),
)
"""In the order of the stages, the smallest of each kind first."""

_BY_FILE = {entry.original.file: entry for entry in CATALOGUE if entry.original is not None}


def published_file(file_name: str) -> Original | None:
    """What is known of a file of that name, or None."""
    entry = _BY_FILE.get(file_name)
    return None if entry is None else entry.original


def find_entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    by_name = {entry.name: entry for entry in CATALOGUE}
    if name in by_name:
        return by_name[name]
    raise ConfigError(
        f"the catalogue holds no {name!r}, `prelabel models list` shows all{nearest(name, by_name)}"
    )
